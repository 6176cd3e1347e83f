"""10: AutoWU, which finds a learning rate by warming up, and AdaScale, which finds what a batch is worth."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from sfolib import plotting
from sfolib.analysis.adascale import by_iterations, exact_gain, lagged_gain
from sfolib.analysis.claims import Check
from sfolib.experiments import notebook
from sfolib.experiments.notebook import Field, by_scale
from sfolib.plotting import Band
from sfolib.plotting.autowu import WarmUp, peaks, scales, warm_ups
from sfolib.schedules import base
from sfolib.schedules.adaptive import AutoWU, autowu, loss_gp
from sfolib.schedules.plan import Plan
from sfolib.training import estimates
from sfolib.training.loop import Trainer
from sfolib.training.pooling import pooled
from sfolib.training.records import Run
from sfolib.training.spec import Spec

LRS = [0.1 * 2**k for k in range(6)]


class Parameters(notebook.DatasetParameters):
    SCALES: ClassVar = notebook.scales(
        model=("mlp",) * 3,
        seeds=(3, 5, 20),
        epochs=(60, 100, 200),
        lrs=(LRS[2:], LRS, [0.025 * 2 ** (k / 2) for k in range(18)]),
        iterations=(600, 3000, 40000),
        ratio=(1.03,) * 3,
    )
    IMAGES: ClassVar = notebook.scales(
        model=("cnn8",) * 3,
        seeds=(1, 2, 3),
        epochs=(12, 40, 50),
        epoch=(1024, 2048, None),
        lrs=(LRS[:3:2], LRS[:4], [0.025 * 2 ** (k / 2) for k in range(18)]),
        iterations=(64, 1000, 40000),
        ratio=(4.0, 1.5, 1.2),
    )

    model: str = by_scale('of the data set; on digits "softmax" or "mlp"')
    l2: NonNegativeFloat = Field(0.001, description="ℓ2 coefficient; digits only")
    seeds: PositiveInt = by_scale("independent runs")
    batch_sizes: notebook.Counts = Field([64, 256], description="AutoWU; batch sizes, the last one for all variants")
    epochs: PositiveInt = by_scale("AutoWU; budget of a run")
    epoch: PositiveInt | None = Field(
        None,
        description="AutoWU; evaluations between its looks at the losses, its epoch; None: by scale, all images",
    )
    min_lr: PositiveFloat = Field(0.0001, description="AutoWU; where the warm-up starts …")
    max_lr: PositiveFloat = Field(10.0, description="… and where it would end, after half of the budget")
    cooldown: PositiveFloat = Field(0.2, description="AutoWU; share of the cosine in constant-then-cosine")
    lrs: notebook.Values = by_scale("constant learning rates of the sweep")
    workers: notebook.Counts = Field([4, 16], description="AdaScale; S")
    worker_batch_size: PositiveInt = Field(16, description="AdaScale; batch of one worker …")
    worker_lr: PositiveFloat = Field(0.1, description="… and its constant learning rate")
    iterations: PositiveInt = by_scale("AdaScale; steps of the single worker")
    ratio: notebook.Above1 = by_scale("AdaScale; of the steps of successive measuring points")

    @property
    def samples(self) -> int:
        """Gradient evaluations of an epoch as AutoWU counts it, by default the training set's."""
        return self.epoch or self.problem(self.model).size


FITS = {"greatest likelihood": "likelihood", "100 Adam steps (authors)": "adam"}


def schedules(p):
    """AutoWU at each batch size and its variants at the last one, by name."""
    large = p.batch_sizes[-1]

    def autowu(b, **further):
        steps = -(-p.samples // b)  # an epoch
        return AutoWU(steps * p.epochs, steps, batch_size=b, min_lr=p.min_lr, max_lr=p.max_lr, **further)

    return {f"AutoWU, $b={b}$": autowu(b) for b in p.batch_sizes} | {
        "linear warm-up": autowu(large, warmup="linear"),
        "constant, then cosine": autowu(large, cooldown_fraction=p.cooldown),
    }


class WarmUpPlan(NamedTuple):
    """The warm-up of AutoWU as a plan, by batch size: steps an epoch, steps to max_lr, and lr over steps."""

    steps_per_epoch: int
    longest: int
    lr: base.Schedule


def warm_up_of(p: Parameters, b: int) -> WarmUpPlan:
    steps = -(-p.samples // b)
    longest = steps * p.epochs // 2
    return WarmUpPlan(steps, longest, base.exponential(p.min_lr, (p.max_lr / p.min_lr) ** (1 / longest), 1))


def specs(p: Parameters, schedules: Mapping[str, Any], runs: Mapping[Hashable, Run]) -> dict[Hashable, Spec]:
    problem, seeds = p.problem(p.model), tuple(range(p.seeds))
    common = {"problem": problem, "max_samples": p.samples * p.epochs}
    common["eval_every"] = 4.0 if p.epoch else "epoch"  # few epochs of all images, and at each of their ends a point
    found: dict[Hashable, Spec] = {
        ("constant", b, lr): Spec(plan=Plan(b, lr), seeds=seeds, **common) for b in p.batch_sizes for lr in p.lrs
    }
    for name, policy in schedules.items():
        for seed in seeds:
            found["AutoWU", name, seed] = Spec(policy=policy, seeds=(seed,), log_train_metrics=True, **common)
    if p.dataset == "digits":
        found["warm-up"] = warm_up_spec(p)
    if all(("AutoWU", f"AutoWU, $b={b}$", seed) in runs for b in p.batch_sizes for seed in seeds):
        for b in p.batch_sizes:
            warm, lr = warm_up_of(p, b), lr_found(p, runs, b)
            turn = round(warm.longest * np.log(lr / p.min_lr) / np.log(p.max_lr / p.min_lr))
            steps = warm.steps_per_epoch * p.epochs
            back = base.cosine(lr, 0.0, steps - turn + 1)
            found["turned back", b] = Spec(
                plan=Plan(b, base.join([warm.lr, back], [turn]), clock="step"), seeds=seeds,
                max_steps=steps if p.epoch else None, **common,
            )  # fmt: skip
    problem = p.problem_with_variance(p.model)
    single = {"problem": problem, "seeds": seeds, "sampling": "replacement", "eval_every": p.ratio}
    b, lr, largest = p.worker_batch_size, p.worker_lr, p.workers[-1]
    found["single worker"] = Spec(plan=Plan(b, lr), max_steps=p.iterations, max_samples=b * p.iterations, **single)
    found["linear scaling"] = Spec(
        plan=Plan(largest * b, largest * lr), max_steps=p.iterations // largest, max_samples=b * p.iterations, **single
    )
    for s in p.workers:
        how = {"scale": s, "iterations": p.iterations}
        found["AdaScale", s] = Spec(plan=Plan(s * b, lr), workers=how, max_samples=s * b * p.iterations, **single)
    return found


def warm_up_spec(p: Parameters) -> Spec:
    """Of a warm-up that nothing stops, with a measuring point every step."""
    large = p.batch_sizes[-1]
    warm = warm_up_of(p, large)
    return Spec(
        problem=p.problem(p.model), plan=Plan(large, warm.lr, clock="step"), max_samples=p.samples * p.epochs,
        max_steps=warm.longest, seeds=tuple(range(p.seeds)), eval_every=1 + 1e-6, log_train_metrics=True,
    )  # fmt: skip


def losses_of(spec: Spec, device: str) -> np.ndarray:
    """Of each step's batch, (seeds, steps), where measuring at every step would take too long."""
    trainer, losses = Trainer(spec, device), []
    for _ in range(spec.max_steps):
        trainer.advance()
        losses.append(trainer.task.running_metrics.take()["running_loss"].cpu().numpy())
    return np.array(losses).T


def peaks_of(p: Parameters, runs: Mapping[Hashable, Run], name: str) -> list[autowu.Decision]:
    """AutoWU's decision in each seed's run."""
    of_seeds = [runs["AutoWU", name, seed] for seed in range(p.seeds)]
    if p.epoch is None:
        return [autowu.decision(run.curves("lr")[0]) for run in of_seeds]
    steps = of_seeds[0].spec.policy.steps_per_epoch  # its epochs are not those of the rows
    return [autowu.Decision(-(-step // steps), peak) for step, peak in (run.provenance["decided"] for run in of_seeds)]


def lr_found(p: Parameters, runs: Mapping[Hashable, Run], b: int) -> float:
    """Median over seeds of the lr that AutoWU goes back to at batch size b."""
    return float(np.median([d.peak for d in peaks_of(p, runs, f"AutoWU, $b={b}$")]))


def ending(run: Run) -> np.ndarray:
    """Training loss over the last tenth of a run, a seed each."""
    return run.curves("loss")[:, run.samples >= 0.9 * run.samples[-1]].mean(1)


def between(values: np.ndarray) -> list[float]:
    """95 % interval of a mean over seeds."""
    return [*map(float, estimates.mean(values, log=False)[1:])]


def of_median(found: Sequence[float]) -> list[float]:
    """The least and the greatest; of fewer than five they hold the median too seldom, and are none."""
    return [min(found), max(found)] if len(found) >= 5 else [np.nan, np.nan]


def apart(found: Sequence[float], best: Any) -> dict[str, list[float]]:
    """|log₂| of a median over seeds over `best`, or over the median of such, with the interval that the least and the
    greatest of them make: it holds a median with probability 1 − 2^(1 − seeds), 94 % for five; none of fewer."""
    low, middle, high = np.log2(np.quantile(found, [0, 0.5, 1]) / np.quantile(best, [1, 0.5, 0]))
    if len(found) < 5:
        return {"measured": [abs(middle)], "interval": [[np.nan, np.nan]]}
    return {"measured": [abs(middle)], "interval": [magnitude(low, high)]}


def magnitude(low: float, high: float) -> list[float]:
    """Of |x|, where x is between low and high."""
    return [0.0 if low <= 0 <= high else min(abs(low), abs(high)), max(abs(low), abs(high))]


def joined(parts: Sequence[dict[str, list[float]]]) -> dict[str, list[float]]:
    """The values of several as those of one claim."""
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}


def replay(p: Parameters, policy: AutoWU, fit: str, losses: np.ndarray) -> tuple[int, float, Any]:
    """The step of the decision on recorded losses, where its lr lies in the run so far, and the fit it is made of."""
    decider = policy.description.model_copy(update={"fit": fit}).build()
    for loss in losses:
        decider.update(policy.batch_size, loss)
        if decider.switched is not None:
            break
    longest = warm_up_of(p, policy.batch_size).longest
    share = np.log(decider.peak / p.min_lr) / np.log(p.max_lr / p.min_lr) * longest / decider.switched
    behind = partial(loss_gp.adam, state=list(decider.adam)) if fit == "adam" else loss_gp.maximize_likelihood
    return decider.switched, share, behind


def paired(first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    """exp of the mean over seeds (the first axis) of ln first/second, with its interval."""
    found = estimates.mean(np.log(first / second), log=False)
    return {"measured": np.atleast_1d(np.exp(found.value)), "interval": np.reshape(np.exp(found[1:]), (2, -1)).T}


def seeds_at(run: Run, column: str, iterations: Any) -> np.ndarray:
    """The column at these iterations, (seeds, iterations)."""
    return np.array([np.interp(iterations, run.steps, curve) for curve in run.curves(column)])


def gains(run: Run, column: str) -> np.ndarray:
    """A gain's integral over the iterations, (seeds,)."""
    return np.trapezoid(run.curves(column), run.steps)


def results(p: Parameters, runs: Mapping[Hashable, Run]) -> SimpleNamespace:
    """swept, final: constant learning rates, their runs and final losses (lrs, seeds) by batch size; best_lr, stable_lr
    of them. adapted, decided, peak, ended: AutoWU's runs of each seed, their decisions, lr found and final losses, by
    name. losses: of a warm-up that nothing stops, (seeds, steps), replayed: the decisions on them, by fit. direct:
    final losses of turning back at the same lr without the excursion. raw, along: AdaScale's runs by number of workers,
    against steps and against iterations; one, scaled_up: a single worker, and linear scaling."""
    large, seeds = p.batch_sizes[-1], tuple(range(p.seeds))
    swept = {key[1:]: run for key, run in runs.items() if key[0] == "constant"}
    final = {b: np.array([ending(swept[b, lr]) for lr in p.lrs]) for b in p.batch_sizes}
    start = {b: swept[b, p.lrs[0]].curves("loss")[:, 0] for b in p.batch_sizes}
    policies = schedules(p)
    adapted = {name: [runs["AutoWU", name, seed] for seed in seeds] for name in policies}
    decided = {name: peaks_of(p, runs, name) for name in policies}
    if p.dataset == "digits":
        losses = runs["warm-up"].curves("running_loss")[:, 1:]
    else:
        losses = losses_of(warm_up_spec(p), p.device)
    policy = policies[f"AutoWU, $b={large}$"]
    raw = {s: runs["AdaScale", s] for s in p.workers}
    along = {
        s: by_iterations(
            run,
            p.iterations,
            p.worker_batch_size,
            exact=exact_gain(run, p.worker_batch_size, s),
            lagged=lagged_gain(run, p.worker_batch_size, s),
        )
        for s, run in raw.items()
    }
    return SimpleNamespace(p=p, large=large,
        steps_per_epoch={b: warm_up_of(p, b).steps_per_epoch for b in p.batch_sizes},
        longest={b: warm_up_of(p, b).longest for b in p.batch_sizes},
        grow={b: warm_up_of(p, b).lr for b in p.batch_sizes}, swept=swept, final=final,
        best_lr={b: p.lrs[int(np.argmin(final[b].mean(1)))] for b in p.batch_sizes}, stable_lr={
            b: max((lr for lr, of_lr in zip(p.lrs, final[b], strict=True) if (of_lr < start[b] / 2).all()),
                   default=np.nan)
            for b in p.batch_sizes}, adapted=adapted, decided=decided,
        peak={name: np.array([d.peak for d in of_seeds]) for name, of_seeds in decided.items()},
        ended={name: np.concatenate([ending(run) for run in of_seeds]) for name, of_seeds in adapted.items()},
        lr_found={b: lr_found(p, runs, b) for b in p.batch_sizes}, losses=losses,
        direct={b: ending(runs["turned back", b]) for b in p.batch_sizes},
        replayed={name: [replay(p, policy, fit, of_seed) for of_seed in losses] for name, fit in FITS.items()},
        S_max=p.workers[-1], one=runs["single worker"], scaled_up=runs["linear scaling"], raw=raw, along=along,
        at=np.array([0.1, 0.3, 1.0]) * p.iterations)  # fmt: skip


def figures(res: SimpleNamespace) -> notebook.Figures:
    p = res.p

    def behind(seed, decided, fit):
        mean, deviation = autowu.smoothed(res.losses[seed][:decided], fit)
        return (
            p.min_lr * (p.max_lr / p.min_lr) ** (np.linspace(0, 1, len(mean)) * decided / res.longest[res.large]),
            mean,
            deviation,
        )

    lr_of_step = np.array([res.grow[res.large](t) for t in range(res.losses.shape[1])])
    seen = {
        f"$b={res.large}$, seed {seed}": WarmUp(
            lr_of_step,
            res.losses[seed],
            {name: behind(seed, res.replayed[name][seed][0], res.replayed[name][seed][2]) for name in FITS},
            res.grow[res.large](res.replayed["greatest likelihood"][seed][0]),
        )
        for seed in range(min(2, p.seeds))
    }
    warm_figure = warm_ups(seen)

    def sweep(b):
        low, high = np.array([between(losses) for losses in res.final[b]]).T
        return Band("constant lr", "measured", np.array(p.lrs), res.final[b].mean(1), low, high)

    rows = {b: {f"AutoWU, $b={b}$": "AutoWU"} for b in p.batch_sizes}
    rows[res.large] |= {"linear warm-up": "AutoWU, linear warm-up"}
    peak_figure = peaks(
        {f"$b={b}$": (sweep(b), {label: res.peak[name] for name, label in rows[b].items()}) for b in p.batch_sizes}
    )
    shown = {name: pooled(runs) for name, runs in res.adapted.items() if name != f"AutoWU, $b={p.batch_sizes[0]}$"}
    system_figure = plotting.trajectories(
        shown | {f"constant lr {res.best_lr[res.large]:g}": res.swept[res.large, res.best_lr[res.large]]},
        ("lr", "loss", "grad_sqnorm", "test_error"),
    )
    NAMES = {1: "$S=1$"} | {s: f"AdaScale, $S={s}$" for s in p.workers}
    LINEAR = f"linear scaling, $S={res.S_max}$"

    def loss_band(label, run, x):
        return Band(label, "measured", x[1:], *(part[1:] for part in run.mean_ci("loss")))

    by_step = [
        loss_band(NAMES[1], res.one, res.one.steps),
        *(loss_band(NAMES[s], run, run.mean_ci("true_steps").value) for s, run in res.along.items()),
        loss_band(LINEAR, res.scaled_up, res.scaled_up.steps),
    ]
    by_iteration = [
        loss_band(NAMES[1], res.one, res.one.steps),
        *(loss_band(NAMES[s], run, run.steps) for s, run in res.along.items()),
        loss_band(LINEAR, res.scaled_up, res.S_max * res.scaled_up.steps),
    ]
    gains = {
        NAMES[s]: tuple(
            Band("", "measured", run.steps[1:], run.mean_ci(c).value[1:]) for c in ("gain", "exact", "lagged")
        )
        for s, run in res.along.items()
    }
    scale_figure = scales(by_step, by_iteration, gains, r"scale-invariant iterations $\tau$")
    worker_figure = plotting.trajectories(
        {NAMES[1]: res.one} | {NAMES[s]: run for s, run in res.raw.items()} | {LINEAR: res.scaled_up}
    )
    return {
        "peaks": (peak_figure,
            "Training loss over the last tenth of the budget against a constant learning rate (mean; band: 95 % "
            "interval over seeds), and below it, on no scale, "
            "the learning rate that AutoWU found, a marker a seed."),
        "warm": (warm_figure,
            "Losses of a warm-up that nothing stops, at their learning rate. Lines: what the process fitted up to "
            "the decision (dotted) sees behind them, ± 2 standard deviations; "
            "star: its least value, to which the learning rate goes back. Solid: greatest likelihood; dashed: as the "
            "authors fit."),
        "systems": (system_figure,
            f"AutoWU at b = {res.large}, which it leaves as it is, and its variants beside the best constant "
            "learning rate: means over seeds, bands 95 % intervals over seeds. Every seed decides by "
            "itself."),
        "scales": (scale_figure,
            "Left and middle: the same runs against steps and against scale-invariant iterations (means over seeds; "
            "bands: 95 % intervals). Right: the gain as AdaScale "
            "used it; thin: the exact gain at each point of its run; dashed: the gain of running means of the exact "
            "values, with AdaScale's weights."),
        "workers": (worker_figure,
            "The same runs against gradient evaluations (means over seeds; bands: 95 % intervals over seeds).",
        )}  # fmt: skip


def claims(res: SimpleNamespace) -> list[Check]:
    p = res.p
    both = {b: f"AutoWU, $b={b}$" for b in p.batch_sizes}
    at_best = {b: res.final[b][p.lrs.index(res.best_lr[b])] for b in p.batch_sizes}
    epochs_of = {b: [d.epoch for d in res.decided[name]] for b, name in both.items()}
    TRUE = "true_steps"
    share = np.mean([np.mean(epochs_of[b]) for b in p.batch_sizes]) / p.epochs
    resolution = (p.max_lr / p.min_lr) ** (0.2 * np.mean(epochs_of[res.large]) * 2 / p.epochs)
    by_epoch = (
        res.losses[:, : res.losses.shape[1] // res.steps_per_epoch[res.large] * res.steps_per_epoch[res.large]]
        .reshape(p.seeds, -1, res.steps_per_epoch[res.large])
        .mean(2)
    )
    raw_lr = np.median(
        [res.grow[res.large](int((k + 0.5) * res.steps_per_epoch[res.large])) for k in by_epoch.argmin(1)]
    )
    saved = np.mean([np.log(res.ended[name] / res.direct[b]) for b, name in both.items()], axis=0)
    likelihood, adam = (np.array([found[:2] for found in res.replayed[name]]).T for name in FITS)
    exact, second_half = res.along[res.S_max].curves("exact"), res.along[res.S_max].steps >= p.iterations / 2
    grown = [exact[:, 0], exact[:, second_half].mean(1)]
    # what is said of all seeds is judged by where one more would fall
    steps_apart, places = estimates.further(adam[0] / likelihood[0]), estimates.further(adam[1] - likelihood[1])
    decides = {b: estimates.further(np.array(epochs)) for b, epochs in epochs_of.items()}
    later = estimates.further(res.ended["constant, then cosine"] - res.ended[both[res.large]])
    checks = [
        Check(f"AutoWU, b = {p.batch_sizes}: the lr found, in the median over seeds, is not above the largest constant "
            "lr at which all seeds train", "upper_bound", measured=[res.lr_found[b] for b in p.batch_sizes],
            interval=[of_median(res.peak[name]) for name in both.values()],
            theory=[res.stable_lr[b] for b in p.batch_sizes], source="Kim et al. 2021", figure="peaks"),
        Check(f"AutoWU, b = {p.batch_sizes}: the lr found, in the median over seeds, is within a factor 2 of the best "
            "constant lr (|log₂|)", "upper_bound",
            **joined([apart(res.peak[name], res.best_lr[b]) for b, name in both.items()]), theory=1.0,
            prediction="goal", source="Kim et al. 2021", figure="peaks",
            explanation=f"At b = {res.large} it is {res.best_lr[res.large] / res.lr_found[res.large]:.1f} times too "
            "small. The recorded losses of the warm-up, an epoch at a time, are least at η = "
            f"{raw_lr:.2g} (median over seeds): "
            f"where η = {res.best_lr[res.large]:g} is best to stay at for the whole budget. And the "
            f"process smooths: 0.2 of the run up to the decision is a factor {resolution:.0f} in η, so that "
            "the rise beyond pulls its minimum forward."),
        Check("AutoWU: all seeds decide within 10 % of the median epoch", "equal",
            measured=[found.value for found in decides.values()], interval=[found[1:] for found in decides.values()],
            theory=[np.median(epochs) for epochs in epochs_of.values()], tolerance=0.1, prediction="goal",
            source="Kim et al. 2021", figure="warm"),
        Check("AutoWU: fitted as the authors do, the decision comes at the same step within 5 %, at one more seed",
            "equal", measured=steps_apart.value, interval=steps_apart[1:], theory=1.0, tolerance=0.05,
            prediction="goal", source="Kim et al. 2021", figure="warm"),
        Check("AutoWU: fitted as the authors do, the least loss lies at the same place, within a quarter of the "
            "lengthscale, at one more seed (either way)", "upper_bound", measured=abs(places.value),
            interval=magnitude(places.low, places.high), theory=loss_gp.LENGTHSCALE / 4, prediction="goal",
            source="Kim et al. 2021", figure="warm"),
        Check(f"AutoWU, b = {p.batch_sizes}: the final training loss is no higher than that of the best constant "
            "lr (ratio)", "upper_bound", **joined([paired(res.ended[name], at_best[b]) for b, name in both.items()]),
            theory=1.0, source="Kim et al. 2021", figure="systems",
            explanation=f"It costs twice. The warm-up takes {share:.0%} of the budget, at first at learning rates "
            "that do nothing, and the cosine the rest: with the same warm-up and decay but no excursion "
            "the loss ends at "
            f"{', '.join(f'{res.direct[b].mean():.3g}' for b in p.batch_sizes)}, which is above the best constant lr's "
            "already. And the weights are not put back with the lr: the next claim. "
            "The paper, which finds AutoWU as good as tuned baselines, trains with AdamP and LAMB, whose steps a "
            "large gradient does not lengthen."),
        Check("AutoWU: turned back at the same lr without the excursion beyond it, the final loss is lower (mean of ln "
            "of the ratio over batch sizes and seeds, against 0)", "ordering", measured=[0.0, saved.mean()],
            interval=[[0.0, 0.0], between(saved)], source="Kim et al. 2021", figure="warm"),
        Check(f"AutoWU, b = {res.large}: linear and exponential warm-up find the same lr within a factor 2 (|log₂| of "
            "the medians)", "upper_bound", **apart(res.peak["linear warm-up"], res.peak[both[res.large]]), theory=1.0,
            prediction="goal", source="Kim et al. 2021", figure="peaks",
            explanation=f"Linear warm-up finds {np.median(res.peak['linear warm-up']):.2g}, exponential "
            f"{res.lr_found[res.large]:.2g}. The process sees 0.2 of the run as one: that is a factor "
            f"{resolution:.0f} in η on the exponential warm-up, "
            "but only the last fifth of η on the linear one, where the rise beyond therefore moves the minimum less."),
        Check(f"AutoWU, b = {res.large}: constant-then-cosine ends at a lower loss than cosine, at every seed "
            "(difference)", "upper_bound", measured=later.value, interval=later[1:], theory=0.0,
            source="Kim et al. 2021", figure="systems"),
        Check(f"AdaScale, S = {p.workers}: the loss over the single worker's, of the same seed, at equal "
            "scale-invariant iterations " f"({', '.join(f'{t:.0f}' for t in res.at)})", "equal", **joined(
                [paired(seeds_at(run, "loss", res.at), seeds_at(res.one, "loss", res.at)) for run in res.along.values()]
            ), theory=1.0, tolerance=0.05, source="Johnson et al. 2020; T1 [S]", figure="scales"),
        Check(f"Linear scaling, S = {res.S_max}: a higher final loss than AdaScale's after as many iterations",
            "ordering", measured=[res.along[res.S_max].curves("loss")[:, -1].mean(), ending(res.scaled_up).mean()],
            interval=[between(res.along[res.S_max].curves("loss")[:, -1]), between(ending(res.scaled_up))],
            source="Johnson et al. 2020", figure="scales"),
        Check(f"AdaScale, S = {res.S_max}: the exact gain over the second half of the iterations is above that at the "
            "start", "ordering", measured=[values.mean() for values in grown],
            interval=[between(values) for values in grown], source="Johnson et al. 2020; T11 [N]", figure="scales"),
        Check(f"AdaScale, S = {p.workers}: the gain used, in the mean over iterations, is the exact gain along the run "
            "within 10 %", "equal",
            **joined([paired(gains(run, "gain"), gains(run, "exact")) for run in res.along.values()]), theory=1.0,
            tolerance=0.1, source="Johnson et al. 2020", figure="scales",
            explanation="It is smaller. The running means reach back over "
            f"{', '.join(f'{1000 / s:.0f}' for s in p.workers)} steps (S = " f"{', '.join(map(str, p.workers))}) of "
            f"{', '.join(f'{run.curves(TRUE)[:, -1].mean():.0f}' for run in res.along.values())}, to where ‖∇f‖² was "
            "larger: the next claim leaves no room for another cause. The paper's runs are far longer. "
            "A gain below the exact one costs steps, not loss: a unit of τ then descends by no less."),
        Check(f"AdaScale, S = {p.workers}: … and that of the exact σ² and ‖∇f‖² averaged as AdaScale averages, within "
            "5 %", "equal", **joined([paired(gains(run, "gain"), gains(run, "lagged")) for run in res.along.values()]),
            theory=1.0, tolerance=0.05, source="Johnson et al. 2020", figure="scales")]  # fmt: skip
    return checks
