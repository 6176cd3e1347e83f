"""The curvature of f and of its gradient noise at one θ: what T13–T16 need, for any model, by Hessian products.

H is the Hessian of f = mean loss + (l2/2)‖θ‖² over the data given, Σ = (1/n) Σ_i (g_i − ∇f)(g_i − ∇f)ᵀ the covariance
of one sample's gradient, G = ∇f; all in eval mode. Traces with Σ are estimated by noise vectors v, E vvᵀ = Σ: scaled
differences of two disjoint mini-batches' gradients. `hessian` and `gradient_covariance` are the whole matrices, for
models of some thousand parameters at most.

Costs are gradient evaluations: a gradient of n samples n, a Hessian product 2n. Nothing of the model moves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sfolib._utils.errors import require, whole
from sfolib.gradients.batches import Batch, call, device, n_samples, take
from sfolib.gradients.checks import Loss, check_real, differentiable_rnns
from sfolib.gradients.one_by_one import per_sample_gradients
from sfolib.gradients.per_sample import check_samples
from sfolib.theory import local

_AT_ONCE = 64  # rows of a Hessian in one pass
_CHECKED = 64  # samples that are looked at, at least: few may have one label alone


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, every module's own mode put back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with differentiable_rnns(model.modules()):
            yield
    finally:
        for module in training:
            module.training = True


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that f is a function of; `InputError` where there are none, or complex ones."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    require(bool(parameters), "model", type(model).__name__, "must have trainable parameters")
    check_real(parameters)
    return [*parameters.values()]


def _flat(tensors: list[Tensor] | tuple[Tensor, ...], rows: int = 0) -> Tensor:
    return torch.cat([t.reshape((rows, -1) if rows else -1) for t in tensors], -1)


class Hessian:
    """H as a product with vectors that are flat, parameters in the model's order.

    model, loss_fn, x, y, l2: as `gradient_statistics` takes them. gradient: G, (parameters,). samples: gradient
    evaluations so far. The graph of the gradient over all of `x` is held.
    """

    def __init__(self, model: nn.Module, loss_fn: Loss, x: Batch, y: Batch, l2: float = 0.0):
        self.n = n_samples(x, y)
        require(self.n > 0, "x", self.n, "must be at least one sample")
        self.parameters, self.l2 = trainable(model), l2
        # the fused attentions have no second derivative
        with eval_mode(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            loss = loss_fn(call(model, x), y)
            self._gradient = torch.autograd.grad(loss, self.parameters, create_graph=True, materialize_grads=True)
        self.gradient = _flat(self._gradient).detach() + l2 * _flat(self.parameters).detach()
        self.size, self.samples = len(self.gradient), self.n

    def product(self, v: Tensor) -> Tensor:
        """H v, or H times each row of v (rows, parameters)."""
        rows, v = v.dim() > 1, v.to(self.gradient)
        parts = v.split([p.numel() for p in self.parameters], -1)
        directions = [t.reshape((*v.shape[:-1], *p.shape)) for t, p in zip(parts, self.parameters, strict=True)]
        columns = torch.autograd.grad(
            self._gradient, self.parameters, directions,
            retain_graph=True, allow_unused=True, materialize_grads=True, is_grads_batched=rows,
        )  # fmt: skip
        self.samples += 2 * self.n * (len(v) if rows else 1)
        # in older torch what is materialized requires a gradient
        return _flat(columns, len(v) if rows else 0).detach() + self.l2 * v


def smoothness(model: nn.Module, loss_fn: Loss, x: Batch, y: Batch, *, l2: float = 0.0) -> float:
    """λ_max, the largest eigenvalue of H at θ: the local L of A1. `largest_eigenvalue` says what it costs as well.

    model, loss_fn, x, y, l2: as `gradient_statistics` takes them.
    """
    return largest_eigenvalue(Hessian(model, loss_fn, x, y, l2))


def largest_eigenvalue(hessian: Hessian, accuracy: float | None = None, vectors: int = 20) -> float:
    """λ_max by Lanczos (scipy's `eigsh`) in float64 over products in the model's dtype, from a fixed start.

    accuracy: relative; None is √(machine epsilon of that dtype). vectors: between restarts, one product each and one
    more for the first. The products are counted in `hessian.samples`.
    """

    def product(v: np.ndarray) -> np.ndarray:
        return hessian.product(torch.from_numpy(v.reshape(-1))).double().cpu().numpy()

    size = hessian.size
    if size < 3:  # Lanczos needs room
        matrix = np.stack([product(unit) for unit in np.eye(size)])
        return float(np.linalg.eigvalsh((matrix + matrix.T) / 2)[-1])
    start = np.random.default_rng(0).standard_normal(size)
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    tolerance = float(torch.finfo(hessian.gradient.dtype).eps ** 0.5) if accuracy is None else accuracy
    how = {"k": 1, "which": "LA", "v0": start, "tol": tolerance, "ncv": min(size, vectors)}
    return float(eigsh(operator, return_eigenvectors=False, **how)[0])


# ------------------------------------------------------------------------------------------ whole matrices
def hessian(model: nn.Module, loss_fn: Loss, x: Batch, y: Batch, *, l2: float = 0.0) -> np.ndarray:
    """H as a matrix, (parameters, parameters), float64. Costs (1 + 2 × parameters) n gradient evaluations."""
    products = Hessian(model, loss_fn, x, y, l2)
    unit = torch.eye(products.size, dtype=products.gradient.dtype, device=products.gradient.device)
    rows = torch.cat([products.product(part) for part in unit.split(_AT_ONCE)]).double().cpu().numpy()
    return (rows + rows.T) / 2


def gradient_covariance(model: nn.Module, loss_fn: Loss, x: Batch, y: Batch) -> np.ndarray:
    """Σ as a matrix, (parameters, parameters), float64, from per-sample gradients. Costs n gradient evaluations.

    Raises `InputError` for a loss that is no mean over samples and a model that mixes them.
    """
    trainable(model)
    named, n = {name: p for name, p in model.named_parameters() if p.requires_grad}, n_samples(x, y)
    with eval_mode(model):
        _check(model, loss_fn, x, y)
        try:
            second, mean = _moments(per_sample_gradients(model, loss_fn, x, y, named))
        except Exception:  # of what torch.func cannot follow, it says so in many ways
            second, mean = _moments(per_sample_gradients(model, loss_fn, x, y, named, vectorised=False))
    mean = mean / n
    return (second / n - torch.outer(mean, mean)).cpu().numpy()


def _moments(gradients: Iterator[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """Σ_i g_i g_iᵀ and Σ_i g_i."""
    second = mean = 0.0
    for each in gradients:
        g = _flat(each, len(each[0])).double()
        second, mean = second + g.T @ g, mean + g.sum(0)
    return second, mean


def _check(model: nn.Module, loss_fn: Loss, x: Batch, y: Batch) -> None:
    with torch.no_grad():
        output = call(model, x)
        loss = loss_fn(output, y)
    check_samples(model, loss_fn, x, y, loss, output)


# ---------------------------------------------------------------------------------------------- by probes
def noise_vectors(
    model: nn.Module,
    loss_fn: Loss,
    x: Batch,
    y: Batch,
    count: int,
    sample: int | None = None,
    seed: int = 0,
    *,
    check: bool = True,
) -> Tensor:
    """Independent v of mean 0 with E vvᵀ = Σ exactly, (count, parameters); each costs `sample` gradient evaluations.

    v = ½ √(m (n − 1)/n) (g_A − g_B), A and B the halves of m = `sample` different samples, drawn anew for each v. m is
    even, at most n; None: all samples (but one where n is odd), which varies least.
    check: as for `gradient_statistics`, of the first max(m, 64) samples. Raises `InputError` for a loss that is no mean
    over samples and a model that mixes them.
    """
    n = n_samples(x, y)
    require(n >= 2, "x", n, "must hold at least 2 samples")
    whole("count", count)
    size = n - n % 2 if sample is None else sample
    even = isinstance(size, int | np.integer) and size % 2 == 0 and 2 <= size <= n
    require(even, "sample", sample, f"must be even, from 2 to the number of samples, {n}")
    parameters, rng, found = trainable(model), torch.Generator().manual_seed(seed), []
    if check:
        with eval_mode(model):
            first = slice(0, max(size, _CHECKED))
            _check(model, loss_fn, take(x, first), take(y, first))
    for _ in range(count):
        halves = torch.randperm(n, generator=rng)[:size].to(device(x)).chunk(2)
        with eval_mode(model), torch.enable_grad():
            first, second = (loss_fn(call(model, take(x, half)), take(y, half)) for half in halves)
            difference = torch.autograd.grad(first - second, parameters, allow_unused=True, materialize_grads=True)
        found.append(_flat(difference).detach() * (0.5 * (size * (n - 1) / n) ** 0.5))
    return torch.stack(found)


@dataclass(frozen=True)
class CurvatureNoise:
    """The local constants of T13 and T14 at one θ, named as the arguments of `theory.local`.

    G2 = ‖G‖², GHG = GᵀHG, lambda_max: of the data given, to the arithmetic's accuracy. Q = tr(HΣ) and S2 = tr(Σ²):
    unbiased, with their standard errors over the noise vectors. probes: gradient evaluations spent.
    """

    G2: float
    GHG: float
    lambda_max: float
    Q: float
    Q_error: float
    S2: float
    S2_error: float
    probes: int


def curvature_noise(
    model: nn.Module,
    loss_fn: Loss,
    x: Batch,
    y: Batch,
    *,
    l2: float = 0.0,
    vectors: int = 16,
    sample: int | None = None,
    seed: int = 0,
) -> CurvatureNoise:
    """Q = mean of vᵀHv over `vectors` noise vectors, S2 = mean of (u·v)² over their pairs; see `noise_vectors`.

    S2's error is the jackknife's, as its pairs are not independent. vectors: 3 or more. sample, seed: as there; model,
    loss_fn, x, y, l2: as `gradient_statistics` takes them.
    Costs n (the gradient) + 2n a Hessian product (one a vector, one for GHG, some 20 for lambda_max) + the vectors'.
    """
    require(whole("vectors", vectors) >= 3, "vectors", vectors, "must be 3 or more for an error of tr(Σ²)")
    products = Hessian(model, loss_fn, x, y, l2)
    v = noise_vectors(model, loss_fn, x, y, vectors, sample, seed)
    spent = vectors * (products.n - products.n % 2 if sample is None else sample)
    along = np.array([(products.product(row).double() @ row.double()).item() for row in v])
    gradient = products.gradient.double()
    squares = (v.double() @ v.double().T).square().cpu().numpy()
    np.fill_diagonal(squares, 0.0)
    total, k = squares.sum(), vectors
    without = (total - 2 * squares.sum(1)) / ((k - 1) * (k - 2))
    return CurvatureNoise(
        G2=(gradient @ gradient).item(),
        GHG=(products.product(products.gradient).double() @ gradient).item(),
        lambda_max=largest_eigenvalue(products),
        Q=float(along.mean()),
        Q_error=float(along.std(ddof=1) / k**0.5),
        S2=float(total / (k * (k - 1))),
        S2_error=float(((k - 1) / k * np.square(without - without.mean()).sum()) ** 0.5),
        probes=products.samples + spent,
    )


@dataclass(frozen=True)
class NoiseSpectrum:
    """The noise-weighted spectral density of H: w(λ) = Σ_i δ(λ − λ_i) u_iᵀΣu_i, so that ∫ φ(λ) w = tr(φ(H) Σ).

    eigenvalues, weights: (vectors, products), Gauss quadratures of w, one from each noise vector, whose mean stands for
    w; exact for polynomials φ of a degree below 2 × products. probes: gradient evaluations spent.
    """

    eigenvalues: np.ndarray
    weights: np.ndarray
    probes: int

    def moment(self, power: int) -> tuple[float, float]:
        """tr(H^power Σ) and its standard error over the noise vectors: tr Σ of power 0, Q = tr(HΣ) of power 1."""
        each = np.sum(self.weights * self.eigenvalues**power, axis=1)
        return float(each.mean()), float(each.std(ddof=1) / len(each) ** 0.5) if len(each) > 1 else np.inf

    def kernel(self, lr: ArrayLike, power: int = 2) -> np.ndarray:
        """κ_t of T16 for the learning rates lr (K,), if H and Σ stay as they are: see `theory.local.noise_kernel`.

        What noise lies along λ ≤ 0 is left out: it has no say in ‖∇f‖² at 0, and below the linear theory has it grow
        without end.
        """
        bent = self.eigenvalues > 0
        weights = self.weights[bent] / len(self.weights)
        return local.noise_kernel(lr, self.eigenvalues[bent], weights, power)


def noise_spectrum(
    model: nn.Module,
    loss_fn: Loss,
    x: Batch,
    y: Batch,
    *,
    l2: float = 0.0,
    vectors: int = 4,
    products: int = 30,
    sample: int | None = None,
    seed: int = 0,
) -> NoiseSpectrum:
    """w(λ) by `products` steps of Lanczos from each of `vectors` noise vectors (see `noise_vectors`).

    Lanczos quadrature as in Golub & Meurant 2010, ch. 6; the start in noise in place of random signs weighs the
    spectrum by Σ [N]. sample, seed: as there; model, loss_fn, x, y, l2: as `gradient_statistics` takes them.
    Costs n + vectors × (2n × products + sample) gradient evaluations.
    """
    whole("products", products)
    operator = Hessian(model, loss_fn, x, y, l2)
    v = noise_vectors(model, loss_fn, x, y, vectors, sample, seed)
    spent = vectors * (operator.n - operator.n % 2 if sample is None else sample)
    eigenvalues, weights = np.zeros((2, vectors, products))
    for i, start in enumerate(v):
        values, of_each = _quadrature(operator, start, products)
        eigenvalues[i, : len(values)], weights[i, : len(values)] = values, of_each
    return NoiseSpectrum(eigenvalues, weights, operator.samples + spent)


def _quadrature(operator: Hessian, start: Tensor, products: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of startᵀ φ(H) start, from the tridiagonal matrix of Lanczos with full reorthogonalisation."""
    length = start.norm()
    basis, diagonal, beside = [start / length], [], []
    for _ in range(min(products, operator.size)):
        w = operator.product(basis[-1])
        diagonal.append((w @ basis[-1]).item())
        held = torch.stack(basis)
        for _ in range(2):  # once leaves what rounding brings back
            w = w - held.T @ (held @ w)
        beside.append(w.norm().item())
        if beside[-1] <= torch.finfo(w.dtype).eps * max(map(abs, diagonal)) * len(start) ** 0.5:
            break  # the space of start is exhausted
        basis.append(w / beside[-1])
    tridiagonal = np.diag(diagonal) + np.diag(beside[: len(diagonal) - 1], 1) + np.diag(beside[: len(diagonal) - 1], -1)
    values, vectors = np.linalg.eigh(tridiagonal)
    return values, length.item() ** 2 * vectors[0] ** 2
