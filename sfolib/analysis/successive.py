"""T14 [N] beside what is drawn: pairs of successive gradients at points of softmax regression's noise-free path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor
from torch.nn.functional import cross_entropy

from sfolib.gradients.curvature import Hessian, gradient_covariance, hessian
from sfolib.problems.modules import modules, training_data
from sfolib.problems.specs import Digits
from sfolib.theory import local

MULTIPLES = [0.25, 0.5, 1.0, 2.0, 4.0]  # of the critical batch size
PER_POINT = 64  # runs side by side; each draws its pairs one after the other


class Successive(NamedTuple):
    """pairs: a row a point and batch size, what was drawn beside T14. pflug: a row a point and rule, the steps to see
    the sign (m, measured and by the formula) and those of the stage until ‖∇f‖² is half. epoch: `over_an_epoch` of
    batch_size, with T14 (t14) and with what the epoch forgets (theory)."""

    pairs: pd.DataFrame
    pflug: pd.DataFrame
    epoch: pd.DataFrame
    batch_size: int


class Point(NamedTuple):
    """A θ of the noise-free path and T14's constants there, exact. eigenvalues, noise: H's, and the diagonal of Σ in
    their basis. halving: Σ η until ‖G‖² is half as large."""

    theta: Tensor
    G2: float
    GHG: float
    trace: float
    Q: float
    S2: float
    eigenvalues: np.ndarray
    noise: np.ndarray
    halving: float = np.nan


def points(problem: Digits, steps: Sequence[int], lr: float) -> list[Point]:
    """Of softmax regression's path of full gradients; each costs n gradient evaluations for every row of H."""
    task, n = problem.build_task((0,), "permutation", "cpu", "float64"), problem.size
    (theta,), found, passed = task.parameters, [], []
    for step in range(10 * max(steps) + 100):
        G2 = float(task.measure()["grad_sqnorm"])
        passed.append(G2)
        if step in steps:
            (model,), (x, y) = modules(task), training_data(task)
            H, covariance = (
                hessian(model, cross_entropy, x, y, l2=problem.l2),
                gradient_covariance(model, cross_entropy, x, y),
            )
            g = Hessian(model, cross_entropy, x, y, problem.l2).gradient.double().numpy()
            values, basis = np.linalg.eigh(H)
            noise = np.sum(basis * (covariance @ basis), 0)
            S2 = np.sum(covariance**2)
            found.append(Point(theta[0].clone(), G2, g @ H @ g, noise.sum(), values @ noise, S2, values, noise))
        if len(found) == len(steps) and G2 <= found[-1].G2 / 2:
            break
        theta -= lr * task.gradients(step, 0, n)[0]
    clock = lr * np.arange(len(passed))
    reached = np.minimum.accumulate(passed)
    halved = [clock[np.argmax(reached <= point.G2 / 2)] - clock[step] for point, step in zip(found, steps, strict=True)]
    return [point._replace(halving=float(time)) for point, time in zip(found, halved, strict=True)]


def drawn(
    problem: Digits, point: Point, batch_size: int, lr: float, draws: int, sampling: str
) -> dict[str, np.ndarray]:
    """Pairs of successive gradients from one θ, arrays (draws,): product is g·g′; halves and spread, of the first one's
    halves, are g_a·g_b and ‖g_a − g_b‖²/4. By permutation the pairs are the first of an epoch each."""
    task = problem.build_task(tuple(range(PER_POINT)), sampling, "cpu", "float32")
    (theta,), half, rows = task.parameters, batch_size // 2, []
    at = 0
    for i in range(max(1, draws // PER_POINT)):
        theta[:] = point.theta
        a, b = (task.gradients(3 * i + k, at + k * half, half)[0] for k in range(2))
        first = (a + b) / 2
        theta -= lr * first
        second = task.gradients(3 * i + 2, at + batch_size, batch_size)[0]
        of_pair = (first * second, a * b, (a - b).square() / 4)
        rows.append([value.double().sum((1, 2)).numpy() for value in of_pair])
        at = (i + 1) * problem.size if sampling == "permutation" else at + 2 * batch_size
    return dict(zip(("product", "halves", "spread"), np.concatenate(rows, axis=1), strict=True))


def over_an_epoch(problem: Digits, point: Point, batch_size: int, lr: float, epochs: int) -> pd.DataFrame:
    """E g_t·g_{t+1} − E‖G_t‖² over an epoch's permutation of steps from one θ: columns step, value, error."""
    task, n = problem.build_task(tuple(range(PER_POINT)), "permutation", "cpu", "float32"), problem.size
    (theta,), steps = task.parameters, n // batch_size
    looks = range(0, steps - 1, max(1, steps // 8))
    found = np.zeros((epochs, len(looks), PER_POINT))
    for epoch in range(epochs):
        theta[:] = point.theta
        before, sqnorm = None, {}
        for t in range(steps):
            if t in looks:
                sqnorm[t] = task.measure()["grad_sqnorm"].double().numpy()
            now = task.gradients(t, epoch * n + t * batch_size, batch_size)[0]
            if t - 1 in looks:
                products = (before * now).double().sum((1, 2)).numpy()
                found[epoch, looks.index(t - 1)] = products - sqnorm[t - 1]
            theta -= lr * now
            before = now
    flat = found.transpose(1, 0, 2).reshape(len(looks), -1)
    return pd.DataFrame({"step": list(looks), "value": flat.mean(1), "error": flat.std(1) / flat.shape[1] ** 0.5})


def successive(problem: Digits, steps: Sequence[int], lr: float, draws: int) -> Successive:
    """T14 at points of softmax regression's noise-free path of this lr, after so many steps of it."""
    rows, rules = [], []
    along = points(problem, steps, lr)

    def even(b: float) -> int:
        return max(2, 2 * round(b / 2))

    first = even(local.critical_batch_size(lr, along[0].G2, along[0].Q, along[0].GHG))
    for point in along:
        critical = local.critical_batch_size(lr, point.G2, point.Q, point.GHG)
        for sampling, of_critical in (("replacement", MULTIPLES), ("permutation", MULTIPLES[:2])):
            for b in sorted({even(x * critical) for x in of_critical}):
                if 2 * b > problem.size:
                    continue
                seen = drawn(problem, point, b, lr, draws, sampling)
                n = None if sampling == "replacement" else problem.size
                rows.append(
                    {"G2": point.G2, "trace": point.trace, "sampling": sampling, "batch_size": b, "critical": critical,
                     "theory": local.successive_gradients(b, lr, point.G2, point.Q, point.GHG, n, point.trace),
                     "m_theory": local.detection_steps(lr, point.Q, point.S2),
                     "m": 1.96**2 * seen["product"].var() / (lr * point.Q / b) ** 2}
                    | {name: values.mean() for name, values in seen.items()}
                    | {f"{name}_error": values.std() / len(values) ** 0.5 for name, values in seen.items()}
                )  # fmt: skip
        falling = first * point.G2 / (point.Q + first * point.GHG)  # the lr whose critical batch size is `first`
        for rule, b, own in (("b grows", even(critical), lr), ("η decays", first, falling)):
            seen = drawn(problem, point, b, own, draws, "replacement")
            rules.append(
                {"rule": rule, "G2": point.G2, "m": 1.96**2 * seen["product"].var() / (own * point.Q / b) ** 2,
                 "m_theory": local.detection_steps(own, point.Q, point.S2), "stage": point.halving / own}
            )  # fmt: skip
    last = along[min(2, len(along) - 1)]
    b = 32
    epoch = over_an_epoch(problem, last, b, lr, max(2, draws // 128))
    n, forgotten = problem.size, 1 - (1 - lr * last.eigenvalues) ** epoch["step"].to_numpy()[:, None]
    t14 = local.successive_gradients(b, lr, last.G2, last.Q, last.GHG, n, last.trace) - last.G2
    epoch = epoch.assign(t14=t14, theory=t14 + 2 * forgotten @ last.noise / (n - 1))
    return Successive(pd.DataFrame(rows), pd.DataFrame(rules), epoch, b)
