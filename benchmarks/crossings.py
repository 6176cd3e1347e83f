"""`python -m benchmarks.crossings`: what the intervals over a few seeds are worth, in crossings.json. Some 15 minutes.

Runs of many seeds, none of which the estimators were chosen on, are drawn from in groups of a few. Truth: the exact
recursion on the quadratic; on digits the estimate from all seeds of the pool, whose own interval is told. Levels are
told by their ratio to the noise floor, the mean of the last half of the steps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from sfolib._utils import provenance
from sfolib.analysis.crossings import drawn_crossings, front_batch_size, minimizers
from sfolib.analysis.fits import fit_exponent
from sfolib.problems.specs import Digits, Quadratic
from sfolib.schedules.plan import Plan
from sfolib.training import estimates, records
from sfolib.training.loop import Trainer
from sfolib.training.records import Run
from sfolib.training.spec import Spec

FIRST_SEED = 10_000  # seeds below were used to choose the estimators
GROUPS = 200
SEEDS = (3, 5, 8)
MORE = (*SEEDS, 16, 32)  # of crossings: whether more seeds, where they are cheap, come nearer
LEVELS = (0.9, 0.95, 1.05, 1.1, 1.2, 1.5, 2.0, 4.0)
GRID = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Case:
    """A run of a pool of seeds. named: a level ε² to try beside those of `LEVELS`."""

    name: str
    problem: Any
    batch_size: int
    lr: float
    max_steps: int
    named: tuple[float, ...] = ()


CASES = (
    Case("quadratic, d = 400", Quadratic(), 8, 0.5, 4000),
    Case("quadratic, d = 200, curvature noise", Quadratic(d=200, noise="curvature"), 16, 0.5, 6000),
    Case("digits, softmax", Digits(), 4, 0.1, 3000, (1e-2,)),
    Case("digits, softmax", Digits(), 16, 0.1, 8000, (1e-3,)),
    Case("digits, softmax", Digits(), 32, 0.1, 20_000, (3e-4,)),
    Case("digits, softmax", Digits(), 128, 0.1, 10_000, (1e-4,)),
)


def pool(case: Case, seeds: int, at_once: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """steps, (points,), and ‖∇f‖², (seeds, points)."""
    curves = []
    for first in range(FIRST_SEED, FIRST_SEED + seeds, at_once):
        spec = Spec(
            problem=case.problem, plan=Plan(case.batch_size, case.lr), sampling="replacement", eval_every=1.02,
            seeds=tuple(range(first, min(first + at_once, FIRST_SEED + seeds))), max_samples=10**12,
            max_steps=case.max_steps,
        )  # fmt: skip
        trainer, steps, rows = Trainer(spec, "cpu"), [], []
        while trainer.status == "running":
            if trainer.probes:
                trainer.advance()
            new = trainer.rows()
            steps.append(new[0]["step"])
            rows.append([row["grad_sqnorm"] for row in new])
        curves.append(np.transpose(rows))
    return np.array(steps), np.concatenate(curves)


def as_run(steps: np.ndarray, curves: np.ndarray, batch_size: int) -> Run:
    """The part of a record of a run that estimates need."""
    seeds = np.repeat(np.arange(len(curves)), len(steps))
    columns = {"seed": seeds, "step": np.tile(steps, len(curves)), "grad_sqnorm": curves.ravel()}
    rows = pd.DataFrame(columns | {"batch_size": batch_size})
    return Run({}, {"status": "finished"}, rows.assign(samples=rows["step"] * batch_size))


def groups(curves: np.ndarray, seeds: int) -> Iterator[np.ndarray]:
    """`GROUPS` groups of that many seeds, without one twice in a group; always the same."""
    rng = np.random.default_rng(seeds)
    for _ in range(GROUPS):
        yield curves[rng.choice(len(curves), seeds, replace=False)]


def median_bias(ratios: np.ndarray, independent: int) -> tuple[float, float]:
    """The median of found/true, less 1, and half of its 95 % interval, by order statistics of so many groups that share
    no seed."""
    reach = min(0.98 / np.sqrt(independent), 0.5)
    low, middle, high = np.quantile(ratios, [0.5 - reach, 0.5, 0.5 + reach])
    return float(middle - 1), float((high - low) / 2)


def crossing_rows(case: Case, steps: np.ndarray, curves: np.ndarray) -> Iterator[dict[str, Any]]:
    """Bias, coverage, misses and false crossings at each level, and coverage of means at fixed steps."""
    samples = steps * case.batch_size
    known = isinstance(case.problem, Quadratic)
    exact = curves.mean(0)
    if known:
        exact = case.problem.exact.grad_sqnorm_path(case.batch_size, np.full(steps[-1], case.lr))[steps]
    floor = exact[steps >= steps[-1] / 2].mean()
    levels = [*case.named, *(ratio * floor for ratio in LEVELS)]

    def true(level: float) -> tuple[float, float, float]:
        if known:
            return (estimates.first_points(samples, np.log(exact[None]), np.log(level))[0],) * 3
        return estimates.first_crossing(steps, samples, curves, level)[1:]

    truths = [true(level) for level in levels]
    fixed = np.unique(np.searchsorted(steps, np.geomspace(10, steps[-1], 10)))
    for n in MORE:
        found = [as_run(steps, group, case.batch_size) for group in groups(curves, n)]
        independent = min(GROUPS, len(curves) // n)
        about = {"problem": case.name, "batch_size": case.batch_size, "lr": case.lr, "seeds": n}
        for level, (truth, low, high) in zip(levels, truths, strict=True):
            at = [run.first_crossing(level**0.5) for run in found]
            got = np.array([crossing.samples for crossing in at])
            reached = np.isfinite(got)
            never = bool(np.isinf(truth))
            bias, error = (None, None) if never or not reached.any() else median_bias(got[reached] / truth, independent)
            yield about | {
                "what": "crossing", "eps2": float(level), "over_floor": float(level / floor),
                "truth_error": None if never else float(np.log(high / low) / 2),
                "bias": bias, "bias_error": error, "independent": independent,
                "covered": float(np.mean([crossing.low <= truth <= crossing.high for crossing in at])),
                "missed": None if never else float(1 - reached.mean()),
                "false": float(reached.mean()) if never else None,
            }  # fmt: skip
        bands = np.array([run.mean_ci() for run in found])[..., fixed]  # (groups, 3, points)
        inside = (bands[:, 1] <= exact[fixed]) & (exact[fixed] <= bands[:, 2])
        bias = np.median(bands[:, 0] / exact[fixed] - 1)
        yield about | {"what": "mean at a fixed time", "bias": float(bias), "covered": float(inside.mean())}


def minimizer_rows(seeds: int) -> Iterator[dict[str, Any]]:
    """b* and N* on a grid of the quadratic, whose truth is exact."""
    problem, lr, eps2 = Quadratic(), 0.5, (1e-2, 3e-3)
    pools = {b: pool(Case("", problem, b, lr, 4000), seeds) for b in GRID}
    for target in eps2:
        truth = np.array([problem.exact.samples_to(b, lr, target**0.5) for b in GRID])
        b_star, least = GRID[truth.argmin()], truth.min()
        for n in SEEDS:
            drawn = {b: [*groups(curves, n)] for b, (_, curves) in pools.items()}
            found = pd.concat(
                minimizers([as_run(pools[b][0], drawn[b][i], b) for b in GRID], [target]) for i in range(GROUPS)
            )
            about = {"problem": "quadratic, d = 400", "lr": lr, "seeds": n, "eps2": target}
            low, high = found["batch_low"] <= b_star, b_star <= found["batch_high"]
            hit = float((found["batch_size"] == b_star).mean())
            yield about | {"what": "b* on a grid", "bias": None, "covered": float((low & high).mean()), "hit": hit}
            bias = float(found["samples"].median() / least - 1)
            low, high = found["low"] <= least, least <= found["high"]
            yield about | {"what": "N* on a grid", "bias": bias, "covered": float((low & high).mean())}


def statistic_rows(seeds: int) -> Iterator[dict[str, Any]]:
    """What is computed from means: a slope, a ratio, B of the front; and where one more seed falls. On the quadratic,
    whose truth is exact (of one more seed: the seeds that are in no group)."""
    problem, lr, target = Quadratic(), 0.5, 3e-3
    pools = {b: pool(Case("", problem, b, lr, 4000), seeds) for b in GRID}
    exact = {b: problem.exact.grad_sqnorm_path(b, np.full(4000, lr)) for b in GRID}
    about, (steps, curves) = {"problem": "quadratic, d = 400", "batch_size": 64, "lr": lr}, pools[64]
    early = np.flatnonzero((steps >= 10) & (steps <= 300))
    samples, path = steps[early] * 64, exact[64][steps[early]]
    slope = fit_exponent(samples, path).value
    ratio = exact[128][-1] / exact[64][-1]
    front = front_batch_size(np.array(GRID), np.array([problem.exact.samples_to(b, lr, target**0.5) for b in GRID]))

    def rows_of(what: str, n: int, truth: float, found: list[estimates.Interval]) -> dict[str, Any]:
        value, low, high = np.array(found, dtype=float).T
        covered = float(np.mean((low <= truth) & (truth <= high)))
        return about | {"what": what, "seeds": n, "bias": float(np.median(value) / truth - 1), "covered": covered}

    for n in SEEDS:
        drawn = {b: [*groups(curves, n)] for b, (_, curves) in pools.items()}
        of = [estimates.of_means(lambda mean: fit_exponent(samples, mean).value, c[:, early]) for c in drawn[64]]
        yield rows_of("slope of the mean", n, slope, of)
        ends = zip(drawn[128], drawn[64], strict=True)
        yield rows_of("ratio of means", n, ratio, [estimates.ratio_of_means(a[:, -1], b[:, -1]) for a, b in ends])
        of = [estimates.further(np.log(c[:, -1])) for c in drawn[64]]
        everyone = np.log(curves[:, -1])
        inside = [np.mean((low <= everyone) & (everyone <= high)) for _, low, high in of]
        yield about | {"what": "one more seed", "seeds": n, "bias": None, "covered": float(np.mean(inside))}
        fits = []
        for i in range(GROUPS):
            runs = [as_run(pools[b][0], drawn[b][i], b) for b in GRID]
            found, draws = drawn_crossings(runs, target, count=200)
            reached = np.isfinite(found)
            sizes = np.array(GRID)[reached]
            fits.append(estimates.wide(
                estimates.of_draws(partial(front_batch_size, sizes), found[reached], draws[reached].T)))  # fmt: skip
        of_grid = rows_of("B of a fitted front", n, front, fits)
        yield {name: value for name, value in of_grid.items() if name != "batch_size"} | {"eps2": target}


PARTS = {
    "crossings": lambda seeds: (row for case in CASES for row in crossing_rows(case, *pool(case, seeds))),
    "minimizers": minimizer_rows,
    "statistics": statistic_rows,
}
_PART = {"crossing": "crossings", "mean at a fixed time": "crossings", "b* on a grid": "minimizers",
         "N* on a grid": "minimizers"}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=512, help="in a pool (default: 512)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "crossings.json")
    parser.add_argument("--only", choices=PARTS, help="of the file, make this part again")
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = json.loads(args.out.read_text())["rows"] if args.only else []
    found = []
    for part, rows in PARTS.items():
        if args.only not in (None, part):
            found += [row for row in kept if _PART.get(row["what"], "statistics") == part]
            continue
        for row in rows(args.seeds):
            print(row, flush=True)
            found.append(row)
    made_by = provenance.machine("cpu") | {
        "seeds": args.seeds,
        "groups": GROUPS,
        "command": "python -m benchmarks.crossings",
    }
    records.write_json(args.out, {"provenance": made_by, "rows": found})


if __name__ == "__main__":
    main()
