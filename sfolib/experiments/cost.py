"""What a grid of runs would cost, before it is trained: budgets from the specs, times from a few steps of each kind."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from tqdm import tqdm

from sfolib._utils import provenance
from sfolib.analysis import step_time
from sfolib.experiments.registry import Planned
from sfolib.problems.specs import Images
from sfolib.schedules.base import Constant
from sfolib.schedules.plan import Plan
from sfolib.training import records
from sfolib.training.loop import Trainer, resolve_device
from sfolib.training.spec import Spec

TIMED = 0.2  # seconds of steps that are timed at each batch size
_WARM = 1.0  # seconds, from which on a first measuring point tells what another would take
_STRIDE = 0.01  # of the steps so far, taken at one batch size when a plan is walked


class Budget(NamedTuple):
    """What a run takes at most: steps, gradient evaluations a seed, measuring points; batch sizes least and largest."""

    steps: int
    samples: int
    points: int
    least: int
    largest: int


class Kind(NamedTuple):
    """What runs of one kind cost here: seconds a step, a gradient evaluation of all seeds and a measuring point, bytes
    a row, bytes of memory."""

    latency: float
    per_sample: float
    measuring: float
    row: float
    memory: int

    def __str__(self) -> str:
        return (
            f"{self.latency * 1e3:.3g} ms a step, {self.per_sample * 1e6:.3g} µs an evaluation of all seeds, "
            f"{self.measuring * 1e3:.3g} ms a measuring point"
        )

    def seconds(self, budget: Budget) -> float:
        training = budget.steps * self.latency + budget.samples * self.per_sample
        return training + budget.points * self.measuring


def budget(spec: Spec, samples_per_epoch: int) -> Budget:
    """An upper bound: a run may reach its target_grad_norm before. A plan is walked in strides of 1 %; a policy
    is taken at its first batch size, the least it has."""
    most, n = spec.max_steps or math.inf, samples_per_epoch
    step = samples = 0
    sizes = set()
    while step < most and samples < spec.max_samples:
        batch_size = _batch(spec, step, samples, n)
        stride = max(1, int(_STRIDE * step))
        if spec.policy or isinstance(spec.plan.batch_size, Constant):
            stride = math.ceil((spec.max_samples - samples) / batch_size)
        stride = int(min(stride, most - step))
        mean = (
            n / math.ceil(n / batch_size) if spec.sampling == "permutation" else batch_size
        )  # an epoch ends with a short one
        step, samples = step + stride, samples + math.ceil(stride * mean)
        sizes.add(min(batch_size, n) if spec.sampling == "permutation" else batch_size)
    if samples >= spec.max_samples:  # the step that reaches it is the last one
        samples = spec.max_samples + max(sizes) - 1
    points = samples / n if spec.eval_every == "epoch" else _geometric(step, spec.eval_every)
    return Budget(step, samples, math.ceil(points) + 1, min(sizes), max(sizes))


def measured(spec: Spec, least: int, largest: int, device: str) -> Kind:
    """Time a few steps of `spec`'s problem and seeds at two batch sizes, and a measuring point."""
    together = not isinstance(spec.problem, Images)  # whose seeds are trained one after another
    seeds, times = (spec.seeds, 1) if together else (spec.seeds[:1], len(spec.seeds))
    spec, sizes = spec.model_copy(update={"seeds": seeds}), sorted({least, largest})
    seconds, trainers = zip(*(_steps(spec, batch_size, device) for batch_size in sizes), strict=True)
    per_sample = max(0.0, (seconds[-1] - seconds[0]) / (sizes[-1] - sizes[0])) if len(sizes) > 1 else 0.0
    trainer, measuring = trainers[0], math.inf
    for _ in range(2):
        started = time.perf_counter()
        rows = trainer.rows()
        measuring = min(measuring, time.perf_counter() - started)
        if measuring > _WARM:
            break
    if trainer.device.startswith("cuda"):
        memory = torch.cuda.max_memory_allocated(trainer.device)
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # of this process, with all kinds so far
    row = sum(len(records.line(row)) for row in rows) / len(rows)
    latency = max(0.0, seconds[0] - per_sample * sizes[0])
    return Kind(*(times * cost for cost in (latency, per_sample, measuring)), row, memory)


def table(plans: Sequence[Planned], jobs: int) -> str:
    """A line a notebook and their sum, for people: runs, how many are on record, and at most how long the others take.

    A run that several notebooks ask for is counted with the first. Training is timed on one thread where runs are so
    trained; nothing is written.
    """
    counted: set[str] = set()
    kinds: dict[str, Kind] = {}
    lines = [f"{'notebook':28}{'runs':>6}{'on record':>11}{'to train':>10}{'evaluations':>13}{'hours':>9}"]
    hours = disk = 0.0
    missing = [asked for plan in plans for asked in plan.missing.values()]
    bar = tqdm(total=len({_kind(spec) for spec, *_ in missing}), desc="timing kinds of runs", unit="kind", leave=False)
    for plan in plans:
        if plan.error:
            lines.append(f"{plan.name:28}  not known: {plan.error}")
            continue
        own = {key: asked for key, asked in plan.missing.items() if key not in counted}
        counted |= set(own)
        costs = []
        for asked in own.values():
            costs.append(_cost(asked, missing, kinds))
            bar.update(len(kinds) - bar.n)
        evaluations, seconds, size = (sum(column) for column in zip(*costs, strict=True)) if costs else (0, 0.0, 0.0)
        more = "" if plan.complete else "  and runs that depend on their results, if any"
        numbers = (
            f"{len(own) + plan.on_record:6}{plan.on_record:11}{len(own):10}{evaluations:13.2g}{seconds / 3600:9.2g}"
        )
        lines.append(f"{plan.name:28}{numbers}{more}")
        hours, disk = hours + seconds / 3600, disk + size
    bar.close()
    lines += [f"  {name}: {kind}" for name, kind in kinds.items()]
    device = resolve_device("auto")
    unit = "GPU-hours" if device == "cuda" else "core-hours"
    memory = max((kind.memory for kind in kinds.values()), default=0)
    wall = "" if device == "cuda" or not hours else f", {hours / jobs:.2g} h with {jobs} processes"
    rest = "".join(f"without {plan.name}: " for plan in plans if plan.error)
    lines.append(
        f"{rest}{len(counted)} runs to train: at most {hours:.2g} {unit} on {provenance.machine(device)['device']}"
        f"{wall}; {memory / 2**30:.2g} GiB of memory a process; {disk / 2**20:.2g} MiB on disk"
    )
    if device != "cuda" and hours:
        lines.append("Timed without a GPU: on a machine that has one the same command tells GPU-hours.")
    return "\n".join(lines)


def _cost(asked: tuple, missing: Iterable[tuple], kinds: dict[str, Kind]) -> tuple[int, float, float]:
    """Gradient evaluations of all seeds, seconds, and bytes on disk of a run; its kind is timed when first met."""
    spec, _, device = asked
    name, size = _kind(spec), spec.problem.samples_per_epoch
    own = budget(spec, size)
    if name not in kinds:
        alike = [budget(other, size) for other, *_ in missing if _kind(other) == name]
        kinds[name] = measured(spec, min(b.least for b in alike), max(b.largest for b in alike), device)
    kind, seeds = kinds[name], len(spec.seeds)
    return own.samples * seeds, kind.seconds(own), own.points * seeds * kind.row


def _kind(spec: Spec) -> str:
    """Runs of one name cost the same a step, but for the batch size."""
    fields = spec.problem.model_dump(mode="json")
    problem = " ".join(f"{k}={v}" for k, v in fields.items() if k != "kind" and v is not None)
    how = [
        spec.optimizer.kind,
        *(f"{k}={v}" for k, v in spec.optimizer.model_dump(exclude_defaults=True).items()),
        spec.dtype,
        spec.precision,
        spec.sampling,
        *(["train metrics"] if spec.log_train_metrics else []),
        *([f"measured on {spec.eval_samples}"] if spec.eval_samples else []),
    ]
    return f"{spec.problem.kind} {problem}, {len(spec.seeds)} seeds, {' '.join(how)}"


def _batch(spec: Spec, step: int, samples: int, n: int) -> int:
    if spec.policy:
        return spec.policy.build().batch_size
    return spec.plan.at(spec.plan.reading(step, samples, n))[0]


def _geometric(steps: int, ratio: float) -> int:
    points = step = 0
    while step < steps:
        step, points = max(step + 1, math.ceil(step * ratio)), points + 1
    return points


def _steps(spec: Spec, batch_size: int, device: str) -> tuple[float, Trainer]:
    """Seconds a step, without the first, and the trainer that took them."""
    far = {"max_samples": 2**62, "max_steps": None, "eval_every": 2.0, "policy": None, "target_grad_norm": None}
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.problem.threads or threads)
    try:
        trainer = Trainer(spec.model_copy(update=far | {"plan": Plan(batch_size, 1e-3)}), device)
        trainer.advance()
        step_time.wait(trainer.device)
        first, started = trainer.step, time.perf_counter()
        while time.perf_counter() - started < TIMED:
            trainer.advance()
            step_time.wait(trainer.device)
        return (time.perf_counter() - started) / (trainer.step - first), trainer
    finally:
        torch.set_num_threads(threads)
