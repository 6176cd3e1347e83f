"""T15 [N]: the covariance C of SGD's iterates about their noise-free path, mode by mode.

With H and Σ fixed, the deviation δ obeys δ ← (I − ηH) δ − ηξ. In H's eigenbasis every entry C_ij obeys a linear
recursion of its own, so that k like steps cost log k products of arrays. Momentum m carries a buffer v beside δ, and an
entry is a 2 × 2 block. By permutation the noise of an epoch of n samples is what as many independent draws would give,
with covariance nΣ/(n − 1), less their mean: at the epoch's end, Σ ∘ RRᵀ/(n − 1) is taken off again, R the response to
a constant push, one a mode.
"""

from __future__ import annotations

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
    independent draws.
    """

    def __init__(self, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0, n: int | None = None):
        self.momentum, self.nesterov, self.weight_decay, self.n = momentum, nesterov, weight_decay, n
        self.modes: Modes | None = None
        self.C = self.R = np.zeros(())
        self._epoch_begins = True

    def move(self, modes: Modes) -> None:
        """Go on with H and Σ as they are at another θ. R keeps its values in the order of the eigenvalues: an epoch is
        too short for the order to matter."""
        if self.modes is None:
            s = 2 if self.momentum else 1
            self.C, self.R = np.zeros((s, s, *modes.noise.shape)), np.zeros((s, len(modes.values)))
        elif modes.basis is not None:
            change = 1.0 if modes.root is None else (self.modes.root / modes.root)[:, None]
            # δ is R⁻¹δθ, and the buffer, a sum of gradients, R times that in the coordinates of θ
            turns = [modes.basis.T @ (factor * self.modes.basis) for factor in (change, 1 / change)][: len(self.C)]
            self.C = np.stack(turns)[:, None] @ self.C @ np.stack(turns).swapaxes(1, 2)
        self.modes = modes

    def advance(self, steps: Steps) -> None:
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
                self._apply([(_Map(one.M, self._less_mean(one.added, one.pushed), 0 * one.pushed), len(alike))])
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

    def cross(self, steps: Steps, at: np.ndarray, middle: int, position: np.ndarray, modes: Modes) -> np.ndarray:
        """`read` after `at` (r,) of the steps on the way to another node's modes, which lead from step `middle` on.

        position (r,): where between the nodes a reading is, in (0, 1]. At the middle H changes at once, and the
        readings by a factor, which is spread over the way between the nodes. Returns (r, 2).
        """
        found, done, change = [], 0, np.ones(2)
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
        weight = position - (at >= middle)
        return np.array(found).reshape(-1, 2) * change ** weight[:, None]

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

    def _joined(self, steps: Steps) -> _Map:
        first, *others = (_repeated(step, count) for step, count in self._segments(steps))
        for other in others:
            first = other.after(first)
        return first

    def _less_mean(self, C: np.ndarray, R: np.ndarray) -> np.ndarray:
        outer = np.einsum("ap,bq->abpq" if C.ndim == 4 else "ap,bp->abp", R, R)
        return C - outer * (self.modes.noise / (self.n - 1))
