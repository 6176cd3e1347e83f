"""Two sides in one process on one thread, in turn: medians of interleaved repetitions, in CPU time, which neighbours on
the machine change least."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

import torch

REPEATS = 7


def interleaved(
    *sides: Callable[[], object], repeats: int = REPEATS, clock: Callable[[], float] = time.process_time
) -> list[float]:
    """Median CPU seconds of each side; a repetition times all sides once, each for about 20 ms or one call."""
    loops = []
    for side in sides:
        side()
        start = clock()
        side()
        loops.append(max(1, round(0.02 / (clock() - start))))
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for side, count, seen in zip(sides, loops, times, strict=True):
            start = clock()
            for _ in range(count):
                side()
            seen.append((clock() - start) / count)
    return [statistics.median(seen) for seen in times]


def row(name: str, ours: float, reference: float, ratio: float, wanted: str, unit: str = "s") -> dict:
    """What one side took and the other, in `unit`, and whether their ratio is `wanted`: "<= 1.15" or ">= 4"."""
    sign, bound = wanted.split()
    ok = ratio >= float(bound) if sign == ">=" else ratio <= float(bound)
    return {
        "name": name,
        "ours": ours,
        "reference": reference,
        "unit": unit,
        "ratio": ratio,
        "wanted": wanted,
        "ok": ok,
    }


def report(*sources: Callable[[], Iterable[dict]]) -> list[dict]:
    """The rows of all sources, printed as they come."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = []
    try:
        for source in sources:
            for r in source():
                sides = " ".join(_shown(r[side], r["unit"]) for side in ("ours", "reference"))
                missed = "" if r["ok"] else "  MISSED"
                print(f"{r['name']:58} {sides} {r['ratio']:9.2f}  wanted {r['wanted']}{missed}", flush=True)
                found.append(r)
    finally:
        torch.set_num_threads(threads)
    return found


def _shown(value: float, unit: str) -> str:
    return f"{value * 1e3:10.3f} ms" if unit == "s" else f"{value:10.3g} {unit}"
