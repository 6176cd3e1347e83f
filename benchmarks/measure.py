"""Two sides in one process on one thread, in turn: medians of interleaved repetitions, in CPU time, which neighbours on
the machine change least."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

REPEATS = 7


def interleaved(*sides: Callable[[], object]) -> list[float]:
    """Median CPU seconds of each side; a repetition times all sides once, each for about 20 ms or one call."""
    loops = []
    for side in sides:
        side()
        start = time.process_time()
        side()
        loops.append(max(1, round(0.02 / (time.process_time() - start))))
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(REPEATS):
        for side, count, seen in zip(sides, loops, times, strict=True):
            start = time.process_time()
            for _ in range(count):
                side()
            seen.append((time.process_time() - start) / count)
    return [statistics.median(seen) for seen in times]


def row(name: str, ours: float, reference: float, ratio: float, wanted: str) -> dict:
    sign, bound = wanted.split()
    ok = ratio >= float(bound) if sign == ">=" else ratio <= float(bound)
    return {"name": name, "ours_s": ours, "reference_s": reference, "ratio": ratio, "wanted": wanted, "ok": ok}


def report(*sources: Callable[[], list[dict]]) -> list[dict]:
    """The rows of all sources, printed as they come."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = []
    try:
        for source in sources:
            for r in source():
                times = f"{r['ours_s'] * 1e3:10.3f} ms {r['reference_s'] * 1e3:10.3f} ms"
                missed = "" if r["ok"] else "  MISSED"
                print(f"{r['name']:58} {times} {r['ratio']:9.2f}  wanted {r['wanted']}{missed}", flush=True)
                found.append(r)
    finally:
        torch.set_num_threads(threads)
    return found
