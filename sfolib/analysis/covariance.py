"""T15 [N]: the covariance C of SGD's iterates about their noise-free path, mode by mode.

With H and Σ fixed, the deviation δ obeys δ ← (I − ηH) δ − ηξ. In H's eigenbasis every entry C_ij obeys a linear
recursion of its own, so that k like steps cost log k products of arrays. Momentum m carries a buffer v beside δ, and an
entry is a 2 × 2 block. By permutation the noise of an epoch of n samples is what as many independent draws would give,
with covariance nΣ/(n − 1), less their mean: at the epoch's end, Σ ∘ RRᵀ/(n − 1) is taken off again, R the response to
a constant push, one a mode.

To first order in η/b noise also moves the mean, by E δ: to δ's recursion comes −η(½∇tr(HC) + c). c, by permutation
alone: a sample's curvature goes with its gradient, and those of other batches are anticorrelated, so that E H_B δ has
c = −mean of (H_i − H) R (g_i − ∇f)/(n − 1). It is of the order of C, as is ∇f·E δ in E f.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np


class Modes(NamedTuple):
    """H and Σ at one θ. values: H's eigenvalues (P,). noise: Σ in H's eigenbasis, (P, P); or its diagonal, (P,), where
    modes are followed alone. basis: H's eigenvectors as columns, (P, P), where noise is a matrix.

    root: where a step is −ηRRg with R diagonal, that diagonal, (P,). All is then of RHR and RΣR: the step is one of
    gradient descent in the coordinates R⁻¹θ (T14).
    """

    values: np.ndarray
    noise: np.ndarray
    basis: np.ndarray | None = None
    root: np.ndarray | None = None

    @classmethod
    def of(cls, H: np.ndarray, sigma: np.ndarray, root: np.ndarray | None = None) -> Modes:
        """Of whole matrices."""
        if root is not None:
            H, sigma = (root[:, None] * matrix * root for matrix in (H, sigma))
        values, basis = np.linalg.eigh(H)
        return cls(values, basis.T @ sigma @ basis, basis, root)


class Steps(NamedTuple):
    """Successive steps, arrays (k,): true batch size, lr, samples with the step counted, whether it ends an epoch."""

    batch_size: np.ndarray
    lr: np.ndarray
    samples: np.ndarray
    epoch_end: np.ndarray

    def part(self, start: int, stop: int) -> Steps:
        return Steps(*(values[start:stop] for values in self))

    def __len__(self) -> int:
        return len(self.lr)


class Pulls(NamedTuple):
    """At the θ whose modes `Covariance.move` was last given, in the coordinates of θ: C (P, P) → ½∇tr(HC), (P,), and
    R (P, P) → the mean of (H_i − H) R (g_i − ∇f), (P,)."""

    third_order: Callable[[np.ndarray], np.ndarray]
    correlation: Callable[[np.ndarray], np.ndarray]


class _Map(NamedTuple):
    """C ← M C Mᵀ + added, R ← M R + pushed. M: (s, s, P); added: (s, s, *noise's shape); pushed: (s, P); s is 1, or 2
    with momentum."""

    M: np.ndarray
    added: np.ndarray
    pushed: np.ndarray

    def after(self, first: _Map) -> _Map:
        """This map of what `first` has made."""
        return _Map(
            np.einsum("abp,bcp->acp", self.M, first.M),
            _sandwich(self.M, first.added) + self.added,
            np.einsum("abp,bp->ap", self.M, first.pushed) + self.pushed,
        )


def _sandwich(M: np.ndarray, C: np.ndarray) -> np.ndarray:
    """M C Mᵀ, the first index of modes of C with the first M, the second, if there is one, with the other."""
    left, right = (M[..., None], M[:, :, None]) if C.ndim == 4 else (M, M)
    if len(M) == 1:
        return left * C * right
    return np.einsum("ab...,dc...,bc...->ad...", left, right, C)


def _repeated(step: _Map, count: int) -> _Map:
    found = None
    while True:
        if count & 1:
            found = step if found is None else step.after(found)
        count >>= 1
        if not count:
            return found
        step = step.after(step)


class Covariance:
    """C along a run of SGD with momentum (torch's, without dampening), from C = 0.

    weight_decay bends the steps and is no part of f. n: the samples of an epoch that goes by permutation; None for
    independent draws. pulls: also the mean is followed; modes must be matrices, without root.
    """

    def __init__(
        self,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        n: int | None = None,
        pulls: Pulls | None = None,
    ):
        self.momentum, self.nesterov, self.weight_decay, self.n = momentum, nesterov, weight_decay, n
        self.pulls, self.modes = pulls, None
        self.C = self.R = self.mean = self._answer = np.zeros(())
        self._third_order = self._correlation = 0.0  # the first for each unit of ½ tr HC
        self._pair = (1.0, 0.0)  # batch size and lr, lately
        self._epoch_begins = True

    def move(self, modes: Modes) -> None:
        """Go on with H and Σ as they are at another θ. R keeps its values in the order of the eigenvalues: an epoch is
        too short for the order to matter."""
        if self.modes is None:
            s = 2 if self.momentum else 1
            self.C, self.R = np.zeros((s, s, *modes.noise.shape)), np.zeros((s, len(modes.values)))
            self.mean = np.zeros_like(self.R)
        elif modes.basis is not None:
            change = 1.0 if modes.root is None else (self.modes.root / modes.root)[:, None]
            # δ is R⁻¹δθ, and the buffer, a sum of gradients, R times that in the coordinates of θ
            turns = [modes.basis.T @ (factor * self.modes.basis) for factor in (change, 1 / change)][: len(self.C)]
            self.C = np.stack(turns)[:, None] @ self.C @ np.stack(turns).swapaxes(1, 2)
            self.mean = np.einsum("apq,aq->ap", turns, self.mean)
        self.modes = modes
        if self.pulls:
            basis, half = modes.basis, self.read()[1]
            C, R = basis @ self._now() @ basis.T, (basis * self._mean_response()) @ basis.T
            self._third_order = basis.T @ self.pulls.third_order(C) / half if half > 0 else 0.0
            self._correlation = -basis.T @ self.pulls.correlation(R) / (self.n - 1) if self.n else 0.0

    def advance(self, steps: Steps) -> None:
        if not self.pulls or not len(steps):
            self._advance(steps)
            return
        before, self._answer = self.read()[1], np.zeros_like(self.R)
        self._advance(steps)
        self._pair = steps.batch_size.max(), steps.lr[-1]
        k = len(steps)
        half = before + (self.read()[1] - before) * (k - 1) / (2 * k)  # in the mean before each of the steps
        self.mean = self.mean + self._answer * (self._third_order * half + self._correlation)

    def _advance(self, steps: Steps) -> None:
        if self.n is None or not len(steps):
            self._apply(self._segments(steps))
            return
        ends = np.flatnonzero(steps.epoch_end) + 1
        bounds = [0, *ends, *([len(steps)] if not len(ends) or ends[-1] < len(steps) else [])]
        pieces = [steps.part(a, b) for a, b in pairwise(bounds)]
        for (ended, _, _), alike in groupby(pieces, self._kind):
            alike = [*alike]
            if self._epoch_begins and ended and len(alike) > 1:
                one = self._joined(alike[0])
                self._apply([(_Map(one.M, self._less_mean(one.added, one.pushed), one.pushed), len(alike))])
                self.R = np.zeros_like(self.R)
                continue
            for piece in alike:
                self._apply(self._segments(piece))
                self._epoch_begins = bool(ended)
                if ended:
                    self.C, self.R = self._less_mean(self.C, self.R), np.zeros_like(self.R)

    def read(self) -> np.ndarray:
        """(tr HCH, ½ tr HC): what the noise adds to E‖∇f‖² and to E f."""
        C, values = self._now(), self.modes.values
        variance = np.diagonal(C) if C.ndim == 2 else C
        square = values**2 @ variance if self.modes.root is None else self.gradient_variance().sum()
        return np.array([square, values @ variance / 2])

    def gradient_variance(self) -> np.ndarray:
        """The diagonal of HCH in the coordinates of θ, (P,): what the noise adds to E (∂f/∂θ_i)²."""
        H = self.modes.basis * self.modes.values
        H = H if self.modes.root is None else H / self.modes.root[:, None]
        return np.sum((H @ self._now()) * H, 1)

    def cross(
        self,
        steps: Steps,
        at: np.ndarray,
        middle: int,
        position: np.ndarray,
        modes: Modes,
        gradients: Sequence[np.ndarray] | None = None,
    ) -> np.ndarray:
        """`read` after `at` (r,) of the steps on the way to another node's modes, which lead from step `middle` on.

        position (r,): where between the nodes a reading is, in (0, 1]. At the middle H changes at once, and the
        readings by a factor, which is spread over the way between the nodes. Returns (r, 2).
        gradients: ∇f at the readings, (P,) in the coordinates of θ, with `pulls`; f's reading then has ∇f·E δ.
        """
        found, moved, done, change = [], [], 0, np.ones(2)
        for stop in sorted({*at.tolist(), min(middle, len(steps))}):
            self.advance(steps.part(done, stop))
            done = stop
            if stop == middle:
                before = self.read()
                self.move(modes)
                after = self.read()  # by permutation, of parts ordered anew, less a mean of before: it may be below 0
                change = np.divide(after, before, out=np.ones(2), where=(before > 0) & (after > 0))
            if stop in at:
                found.append(self.read())
                moved.append(gradients[len(moved)] @ self.modes.basis @ self.mean[0] if self.pulls else 0.0)
        weight = position - (at >= middle)
        read = np.array(found).reshape(-1, 2) * change ** weight[:, None]
        return read + np.outer(moved, [0.0, 1.0])

    def _mean_response(self) -> np.ndarray:
        """R in the mean over an epoch's steps, (P,)."""
        if not self.n:
            return np.zeros_like(self.modes.values)
        (batch_size, lr), R, total = self._pair, np.zeros_like(self.R), 0.0
        step, count = self._step(batch_size, lr), math.ceil(self.n / batch_size)
        for _ in range(count):
            total, R = total + R[0], np.einsum("abp,bp->ap", step.M, R) + step.pushed
        return total / count

    def _now(self) -> np.ndarray:
        """C of θ alone."""
        return (self.C if self.n is None else self._less_mean(self.C, self.R))[0, 0]

    @staticmethod
    def _kind(piece: Steps) -> tuple[bool, bytes, bytes]:
        return bool(piece.epoch_end[-1]), piece.batch_size.tobytes(), piece.lr.tobytes()

    def _segments(self, steps: Steps) -> list[tuple[_Map, int]]:
        """A map for each stretch of like steps, and their number."""
        runs = groupby(zip(steps.batch_size.tolist(), steps.lr.tolist(), strict=True))
        return [(self._step(*pair), len([*alike])) for pair, alike in runs]

    def _step(self, batch_size: float, lr: float) -> _Map:
        m, pull = self.momentum, self.modes.values + self.weight_decay
        one, draws = np.ones_like(pull), 1.0 if self.n is None else self.n / (self.n - 1)
        if not m:
            M, push = np.array([[1 - lr * pull]]), np.array([-lr])
        elif self.nesterov:
            M, push = np.array([[1 - lr * (1 + m) * pull, -lr * m**2 * one], [pull, m * one]]), [-lr * (1 + m), 1.0]
        else:
            M, push = np.array([[1 - lr * pull, -lr * m * one], [pull, m * one]]), [-lr, 1.0]
        added = np.multiply.outer(np.outer(push, push), self.modes.noise * (draws / batch_size))
        return _Map(M, added, np.outer(push, one))

    def _apply(self, segments: list[tuple[_Map, int]]) -> None:
        for step, count in segments:
            M, added, pushed = _repeated(step, count)
            self.C, self.R = _sandwich(M, self.C) + added, np.einsum("abp,bp->ap", M, self.R) + pushed
            if self.pulls:
                self.mean = np.einsum("abp,bp->ap", M, self.mean)
                self._answer = np.einsum("abp,bp->ap", M, self._answer) + pushed

    def _joined(self, steps: Steps) -> _Map:
        first, *others = (_repeated(step, count) for step, count in self._segments(steps))
        for other in others:
            first = other.after(first)
        return first

    def _less_mean(self, C: np.ndarray, R: np.ndarray) -> np.ndarray:
        outer = np.einsum("ap,bq->abpq" if C.ndim == 4 else "ap,bp->abp", R, R)
        return C - outer * (self.modes.noise / (self.n - 1))
