"""`python -m benchmarks.plan`: what docs/the_schedule_to_use.md tells, measured. Ten minutes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from sfolib import HorizonRamp, Plan, Spec, late_ramp, run
from sfolib.analysis.recommend import recommend, stable_lr
from sfolib.problems.specs import named
from sfolib.schedules.base import exponential

BUDGET, SEEDS = 287_400, (0, 1, 2)
EPOCH = 60_000
NEVER = 1e9  # measure at the end alone


def digits(model: str) -> Iterator[list[str]]:
    """Rows of (schedule, ‖∇f‖², loss, steps) after `BUDGET` gradient evaluations on digits, means over seeds."""
    own = Plan(exponential(16, 2.0, 20), exponential(0.1, 1.4, 20), max_batch_size=4096)
    base = Spec(problem=named("digits", model), plan=own, max_samples=BUDGET, eval_every=NEVER)
    found = recommend(base, budget=BUDGET)
    predicted = found.table.set_index("schedule")
    ends = {
        name: [f"{row['grad_sqnorm']:.2g}", f"{row['loss']:.4f}", f"{row['steps']:,.0f}"]
        for name, row in predicted.iterrows()
    }
    yield ["`plan`, predicted", *ends["recommended"]]
    yield ["the same, trained", *_trained(found.spec)]
    yield ["the config's own, predicted", *ends["config"]]
    yield ["the same, trained", *_trained(base)]
    print("\n".join(found.notes))
    for name, leader in {
        "constant": {"plan": Plan(16, 0.1)},
        "`late_ramp`": {"plan": late_ramp(16, 0.1, BUDGET)},
        "`HorizonRamp`": {"plan": None, "policy": HorizonRamp(16, 0.1, BUDGET)},
    }.items():
        yield [name, *_trained(Spec(**dict(base) | leader))]


def learning_rates(model: str) -> Iterator[list[str]]:
    """Rows of (lr over the largest stable one, ‖∇f‖², loss) of `late_ramp` on digits, forty epochs, two seeds."""
    problem = named("digits", model)
    start, budget = Spec(problem=problem, plan=Plan(1, 1.0), max_samples=1), 40 * problem.size
    found = stable_lr(start)
    stable = found.lr
    print(f"largest stable lr {stable:.3g}, for {found.samples:,} gradient evaluations")
    for factor in (1 / 8, 1 / 4, 1 / 2, 1, 2, 4):
        plan = late_ramp(16, factor * stable, budget)
        ends = run(Spec(problem=problem, plan=plan, max_samples=budget, seeds=(0, 1), eval_every=NEVER)).rows.iloc[-2:]
        yield [f"{factor:g} × {stable:.3g}", f"{ends['grad_sqnorm'].mean():.2g}", f"{ends['loss'].mean():.4f}"]


def fashion() -> Iterator[list[str]]:
    """Rows of (schedule, ‖∇f‖², loss, test accuracy, steps, gradient evaluations of looks) after one epoch of
    Fashion-MNIST, CNN, lr 0.1, one seed."""
    for name, leader in {
        "constant b = 16": {"plan": Plan(16, 0.1)},
        "`late_ramp`": {"plan": late_ramp(16, 0.1, EPOCH)},
        "`share=0`, the mirror": {"plan": late_ramp(16, 0.1, EPOCH, share=0)},
        "`q=1`": {"plan": late_ramp(16, 0.1, EPOCH, q=1)},
        "`growth=128`, at most 512": {"plan": late_ramp(16, 0.1, EPOCH, growth=128, max_batch_size=512)},
        "from b = 8": {"plan": late_ramp(8, 0.1, EPOCH)},
        "`HorizonRamp`": {"policy": HorizonRamp(16, 0.1, EPOCH)},
        '`HorizonRamp`, objective "loss"': {"policy": HorizonRamp(16, 0.1, EPOCH, "loss")},
    }.items():
        spec = Spec(problem=named("fashion_mnist", "cnn"), max_samples=EPOCH, eval_every=NEVER, **leader)
        rows = run(spec).rows
        end, looked = rows.iloc[-1], rows["probes"].iloc[-1] - len(rows) * rows["probes"].iloc[0]
        accuracy = f"{100 * end['test_accuracy']:.1f} %"
        yield [
            name, f"{end['grad_sqnorm']:.2g}", f"{end['loss']:.3f}", accuracy, f"{end['step']:,.0f}", f"{looked:,.0f}",
        ]  # fmt: skip


def _trained(spec: Spec) -> list[str]:
    """‖∇f‖², loss and steps at the end, means over seeds: a policy's each adapt."""
    ends = [run(spec.model_copy(update={"seeds": (seed,)})).rows.iloc[-1] for seed in SEEDS]
    norm, loss, steps = (np.mean([end[name] for end in ends]) for name in ("grad_sqnorm", "loss", "step"))
    return [f"{norm:.2g}", f"{loss:.4f}", f"{steps:,.0f}"]


def _print(title: str, head: list[str], rows: Iterator[list[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in tqdm(rows, desc=title):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    for model in ("softmax", "mlp"):
        _print(f"digits, {model}", ["", "‖∇f‖²", "training loss", "steps"], digits(model))
        _print(f"digits, {model}, by lr", ["lr", "‖∇f‖²", "training loss"], learning_rates(model))
    _print("Fashion-MNIST, CNN", ["", "‖∇f‖²", "training loss", "test accuracy", "steps", "looks"], fashion())
