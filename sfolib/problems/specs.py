"""The problems, by specification: what is minimised, and the constants L, Δ of it that are known exactly.

torch is imported only where a problem is bound to a device.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import (
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from sfolib._utils.errors import InputError, require
from sfolib._utils.model import Family, any_of
from sfolib.problems import datasets
from sfolib.problems.execution import PLAIN, Execution
from sfolib.theory.bounds import Constants
from sfolib.theory.quadratic import PowerLawQuadratic

if TYPE_CHECKING:
    from sfolib.problems.stacked import Task


class Minimum(NamedTuple):
    """f* as found by a solver, and a proven bound on how far above the true minimum it may lie."""

    value: float
    error: float


PLACE = "place"  # marks a field that says where things lie, and decides no number


class Problem(Family):
    """What is minimised. A problem of one's own is a subclass with a `kind`, `size` and `build_task`."""

    model_config = ConfigDict(strict=True)
    threads: ClassVar[int | None] = 1  # of a run on the CPU; None for what torch has

    @property
    def samples_per_epoch(self) -> int:
        """Gradient evaluations of an epoch: the training samples."""
        return self.size


class Digits(Problem):
    """scikit-learn's digits (1797 real 8×8 images), classified with cross-entropy and ℓ2 on all parameters.

    hidden: widths of the ReLU layers; () is softmax regression. l2: ℓ2 coefficient.
    holdout: images kept for testing (a fixed stratified split); the theory's f is over the others.
    model: "cnn" and "resnet8_16" are those of `models`. As input, "softmax" means hidden = () and "mlp" hidden =
    (128,) or what `hidden` says.
    """

    kind: Literal["digits"] = "digits"
    hidden: tuple[Annotated[int, Field(ge=1, le=2**16)], ...] = Field((), strict=False)
    l2: float = Field(1e-3, ge=0, le=1e30)
    holdout: int = Field(0, ge=0, le=1000)
    model: Literal["cnn", "resnet8_16"] | None = None

    @field_validator("holdout")
    @classmethod
    def _stratified(cls, value: int) -> int:
        if 0 < value < 10:
            raise ValueError("must be 0, or 10 or more: one of every class")
        return value

    @model_validator(mode="before")
    @classmethod
    def _dense(cls, data: Any) -> Any:
        model = data.get("model") if isinstance(data, dict) else None
        if model not in ("softmax", "mlp", "cnn", "resnet8_16"):
            return data
        hidden = data.get("hidden", (128,) if model == "mlp" else ())
        if bool(hidden) != (model == "mlp"):
            raise ValueError(f"hidden = {hidden!r} does not go with model = {model!r}")
        return data | {"hidden": hidden, "model": model if model in ("cnn", "resnet8_16") else None}

    @property
    def size(self) -> int:
        """Training samples."""
        return len(split_digits(self.holdout)[0][1])

    def build_task(
        self, seeds: tuple[int, ...], sampling: str, device: str, dtype: str, how: Execution = PLAIN
    ) -> Task:
        import torch

        from sfolib.problems.network import ImageData, NetworkTask
        from sfolib.problems.stacked import MLP

        train, test = split_digits(self.holdout)
        if self.model:
            squares = [((16 * x).astype(np.uint8).reshape(-1, 1, 8, 8), y) for x, y in (train, test)]
            data = ImageData(*squares, 10, mean=(0.0,), std=(16 / 255,), augment=None)
            return NetworkTask(self.model, data, self.l2, seeds, sampling, device, dtype, how)
        how.only("log_train_metrics")
        return MLP(
            train, test, self.hidden, 10, self.l2, seeds, sampling, device, getattr(torch, dtype), how.log_train_metrics
        )

    @cached_property
    def smoothness_bound(self) -> float:
        """Proven upper bound on L for softmax regression: ½ λ_max(X̃ᵀX̃/n) + l2, X̃ the images with a 1 appended.

        The Hessian is mean_i (diag p_i − p_i p_iᵀ) ⊗ x̃_i x̃_iᵀ + l2 I, and diag p − ppᵀ ≼ ½ I for every
        probability vector p (Böhning 1992). Raises `InputError` for a network, which has no global L.
        """
        x = self.design()
        return 0.5 * float(np.linalg.eigvalsh(x.T @ x / len(x))[-1]) + self.l2

    @cached_property
    def minimum(self) -> Minimum:
        """f* of softmax regression in float64; f is l2-strongly convex, so f − f* ≤ ‖∇f‖²/(2 l2) is the error."""
        require(self.l2 > 0, "l2", self.l2, "must be above 0 for the minimum to be certified")
        return _solve_softmax(self)

    def start_loss(self) -> float:
        """f(θ₀) of softmax regression, which starts at 0: ln 10."""
        self.design()
        return float(np.log(10.0))

    def constants(self, sigma2: float) -> Constants:
        """L, proven, and Δ of softmax regression, with a σ² that was measured."""
        return Constants(self.smoothness_bound, float(sigma2), self.start_loss() - self.minimum.value)

    def design(self) -> np.ndarray:
        """The training images with a column of ones, (n, features + 1); of softmax regression alone."""
        if self.hidden or self.model:
            what = f"hidden = {self.hidden!r}" if self.hidden else f"model = {self.model!r}"
            raise InputError(f"{what}: only softmax regression, hidden = (), has known constants")
        images = split_digits(self.holdout)[0][0]
        return np.column_stack([images, np.ones(len(images))])


class Images(Problem):
    """MNIST, Fashion-MNIST or CIFAR, classified by a network of `models` with cross-entropy, from 32×32 or 28×28 bytes.

    data_dir: where the data set is, see `datasets.load`; download: let it fetch what is not there.
    augment: random crops out of a frame of 4 pixels, and mirrored images; None means for CIFAR alone.
    padding: rows and columns of zeros on each side, in training and test images (2 makes 28×28 into CIFAR's 32×32).
    l2: ℓ2 coefficient on all parameters. The theory's f is over the training set, not augmented, in eval mode.
    train_images: that the training set has, a fixed draw from all of them, and as large a share of the test images;
    None: all.
    """

    threads: ClassVar[int | None] = None

    kind: Literal["images"] = "images"
    dataset: datasets.Dataset
    model: str
    data_dir: Annotated[str, PLACE] = datasets.DATA_DIR
    download: Annotated[bool, PLACE] = False
    augment: bool | None = None
    padding: int = Field(0, ge=0, le=64)
    l2: float = Field(0.0, ge=0, le=1e30)
    train_images: int | None = Field(None, ge=1)

    @property
    def size(self) -> int:
        """Training samples."""
        return len(self._load()[0][1])

    def build_task(
        self, seeds: tuple[int, ...], sampling: str, device: str, dtype: str, how: Execution = PLAIN
    ) -> Task:
        from sfolib.problems.batches import crop_and_flip
        from sfolib.problems.network import ImageData, NetworkTask

        kind = datasets.KINDS[self.dataset]
        augmented = kind.augment if self.augment is None else self.augment
        augment = crop_and_flip if augmented else None
        data = ImageData(*self._padded(), kind.classes, kind.mean, kind.std, augment)
        return NetworkTask(self.model, data, self.l2, seeds, sampling, device, dtype, how)

    def _load(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        parts, count = datasets.load(self.dataset, self.data_dir, self.download), self.train_images
        if count is None:
            return parts
        n = len(parts[0][1])
        require(count <= n, "train_images", count, f"must be at most the {n} there are")
        chosen = [np.random.default_rng(0).permutation(len(y))[: -(-len(y) * count // n)] for _, y in parts]
        return tuple((x[i], y[i]) for (x, y), i in zip(parts, chosen, strict=True))

    def _padded(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        frame = ((0, 0), (0, 0), (self.padding,) * 2, (self.padding,) * 2)
        return tuple((np.pad(x, frame), y) for x, y in self._load()) if self.padding else self._load()


class ImagesWithVariance(Images):
    """`Images` whose σ² is measured too (column variance), on `variance_samples` training images: a draw of each seed,
    the same at every measuring point. Its relative error is the spread of the ‖∇f_i‖² over √variance_samples."""

    kind: Literal["images_with_variance"] = "images_with_variance"
    variance_samples: int = Field(2000, ge=2)

    def build_task(
        self, seeds: tuple[int, ...], sampling: str, device: str, dtype: str, how: Execution = PLAIN
    ) -> Task:
        task = super().build_task(seeds, sampling, device, dtype, how)
        task.measure_variance(self.variance_samples)
        return task


class Quadratic(Problem):
    """The power-law quadratic of `sfolib.theory.quadratic`, a synthetic problem whose expected curve is exact."""

    kind: Literal["quadratic"] = "quadratic"
    samples_per_epoch: ClassVar[int] = 1024  # draws, by decree: it has no data
    d: int = Field(400, ge=2, le=10**7)
    lam_min: float = Field(1e-4, gt=0, le=1e30)
    L: float = Field(1.0, gt=0, le=1e30)
    gap: float = Field(1.0, gt=0, le=1e30)
    sigma2: float = Field(1.0, ge=0, le=1e30)
    noise: Literal["white", "curvature"] = "white"

    @cached_property
    def exact(self) -> PowerLawQuadratic:
        return PowerLawQuadratic(**self.model_dump(exclude={"kind"}))

    def build_task(
        self, seeds: tuple[int, ...], sampling: str, device: str, dtype: str, how: Execution = PLAIN
    ) -> Task:
        import torch

        from sfolib.problems.stacked import NoisyQuadratic

        how.only()
        require(sampling == "replacement", "sampling", sampling, "the quadratic has no data to permute: 'replacement'")
        q = self.exact
        return NoisyQuadratic(
            q.eigenvalues, q.theta0, q.noise_variance, self.samples_per_epoch, seeds, device, getattr(torch, dtype)
        )


HOLDOUT = 360  # digits kept for testing by default


def named(
    dataset: Literal["digits", "mnist", "fashion_mnist", "cifar10", "cifar100"],
    model: str,
    l2: float = 0.0,
    holdout: int = HOLDOUT,
    data_dir: str = datasets.DATA_DIR,
    download: bool = False,
) -> Digits | Images:
    """A data set and a model by name; `holdout` is for the digits, the place for the others. `InputError` for a model
    that the data set does not have."""
    if dataset != "digits":
        return Images(dataset=dataset, model=model, l2=l2, data_dir=data_dir, download=download)
    known = ("softmax", "mlp", "cnn", "resnet8_16")
    require(model in known, "model", model, f"must be one of {known} on digits")
    return Digits(model=model, l2=l2, holdout=holdout)


AnyProblem = any_of(Problem)


@lru_cache(maxsize=4)
def split_digits(holdout: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """((train images, labels), (test images, labels)), pixels in [0, 1]; one fixed split, every class in proportion."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = pixels / 16.0
    if not holdout:
        return (images, labels), (images[:0], labels[:0])
    x, x_test, y, y_test = train_test_split(images, labels, test_size=holdout, random_state=0, stratify=labels)
    return (x, y), (x_test, y_test)


@lru_cache(maxsize=8)
def _solve_softmax(problem: Digits) -> Minimum:
    from scipy.optimize import minimize
    from scipy.special import log_softmax, softmax

    x, labels = problem.design(), split_digits(problem.holdout)[0][1]
    n, shape, l2 = len(x), (x.shape[1], 10), problem.l2
    onehot = np.eye(10)[labels]

    def value_and_gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
        logits = x @ theta.reshape(shape)
        value = -(log_softmax(logits, axis=1) * onehot).sum() / n + 0.5 * l2 * theta @ theta
        return value, (x.T @ (softmax(logits, axis=1) - onehot) / n).ravel() + l2 * theta

    def hessian_product(theta: np.ndarray, v: np.ndarray) -> np.ndarray:
        p, xv = softmax(x @ theta.reshape(shape), axis=1), x @ v.reshape(shape)
        return (x.T @ (p * (xv - (p * xv).sum(1, keepdims=True))) / n).ravel() + l2 * v

    found = minimize(
        value_and_gradient, np.zeros(x.shape[1] * 10), jac=True, hessp=hessian_product, method="trust-ncg", tol=1e-9
    )
    gradient = value_and_gradient(found.x)[1]
    return Minimum(float(found.fun), float(gradient @ gradient) / (2 * l2))
