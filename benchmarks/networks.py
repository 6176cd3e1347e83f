"""Networks on 28×28 images, and measuring them: our loop against what a plain loop takes, for the two small networks.

A side is an epoch of 2048 images of random bytes. `forward and backward` is the loss and its gradient on batches that
lie ready as floats: what no loop can do without. `plain`: tensors in memory, indexed, `torch.optim.SGD`. `DataLoader`:
a fetch per item and `.item()` per step, in the authors' manner. On one thread CPU time is compared, on two wall time.

The rows of measuring are ratios of one measuring point to one epoch of training at b = 16, by the norms taken.
`python -m benchmarks.networks memory` compares peak memory and CPU time of an epoch of ResNet-18 with the norm as the
authors' program takes it, each side in a process of its own; `start` compares the gradient norm of initial weights
with the published defaults'.
"""

from __future__ import annotations

import functools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

from benchmarks.measure import interleaved, report, row
from sfolib.problems.models import build
from sfolib.problems.specs import Images
from sfolib.schedules.plan import Plan
from sfolib.training.loop import Trainer
from sfolib.training.spec import Spec

N, LR, MEAN, STD = 2048, 0.05, 0.286, 0.353
BATCHES = (8, 16, 128, 2048)


class RandomImages(Images):
    """Random bytes of Fashion-MNIST's or CIFAR-100's shape, with random labels; a tenth more of them for testing."""

    kind: Literal["random_images"] = "random_images"
    images: int = N

    def _load(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        return _random(self.dataset, self.images)


@functools.cache
def _random(dataset: str, n: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    shape, classes = ((1, 28, 28), 10) if dataset == "fashion_mnist" else ((3, 32, 32), 100)
    rng = np.random.default_rng(0)
    return tuple((rng.integers(256, size=(k, *shape), dtype=np.uint8), rng.integers(classes, size=k))
                 for k in (n, n // 10))  # fmt: skip


def ours(model: str, batch_size: int, norms: str = "none") -> Trainer:
    problem = RandomImages(dataset="fashion_mnist", model=model, images=N)
    return Trainer(Spec(problem=problem, plan=Plan(batch_size, LR), max_samples=10**12, grad_norms=norms), "cpu")


def _tensors() -> tuple[Tensor, Tensor]:
    x, y = _random("fashion_mnist", N)[0]
    return ((torch.as_tensor(x) / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last), torch.as_tensor(y)


def forward_and_backward(model: str, batch_size: int) -> Callable[[], None]:
    x, y = (t.split(batch_size) for t in _tensors())
    net = build(model, 10, (1, 28, 28), 0).to(memory_format=torch.channels_last)
    parameters = list(net.parameters())

    def epoch() -> None:
        for images, labels in zip(x, y, strict=True):
            torch.autograd.grad(F.cross_entropy(net(images), labels), parameters)

    return epoch


def _stepper(model: str) -> Callable[[Tensor, Tensor], Tensor]:
    net = build(model, 10, (1, 28, 28), 0)
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def plain(model: str, batch_size: int) -> Callable[[], None]:
    (x, y), step = _tensors(), _stepper(model)
    x = x.contiguous()

    def epoch() -> None:
        for i in torch.randperm(N).split(batch_size):
            step(x[i], y[i])

    return epoch


def by_loader(model: str, batch_size: int) -> Callable[[], None]:
    (x, y), step = _tensors(), _stepper(model)
    data = TensorDataset(x.contiguous(), y)
    loader = DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), batch_size, drop_last=False))

    def epoch() -> None:
        seen = 0.0
        for images, labels in loader:
            seen += step(images, labels).item()

    return epoch


def loop_rows(batches: tuple[int, ...] = BATCHES, threads: tuple[int, ...] = (1, 2)) -> Iterator[dict]:
    for count in threads:
        torch.set_num_threads(count)
        for model in ("cnn", "resnet8"):
            for b in batches:
                sides = (ours(model, b).advance, forward_and_backward(model, b), plain(model, b), by_loader(model, b))
                own, bound, *others = interleaved(*sides, repeats=3, clock=_clock())
                name = f"28×28 {model}, b = {b}, {count} thread{'s' * (count > 1)}"
                rate = {"images_per_s": N / own}
                limit = 1.15 if b >= 128 else 1.5
                yield row(f"{name}, vs forward and backward", own, bound, own / bound, f"<= {limit}") | rate
                for what, seconds in zip(("plain loop", "DataLoader"), others, strict=True):
                    yield row(f"{name}, vs {what}", own, seconds, seconds / own, ">= 1")


def _clock() -> Callable[[], float]:
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def measuring_rows() -> Iterator[dict]:
    """A measuring point over an epoch of training, b = 16: 2 where two norms are taken and none is the other."""
    torch.set_num_threads(1)
    for model, norms, most in (
        ("cnn", "none", 0.2), ("cnn", "both", 1), ("resnet8", "published", 1), ("resnet8", "both", 2)
    ):  # fmt: skip
        trainer = ours(model, 16, norms)
        training, measuring = interleaved(trainer.advance, trainer.rows, repeats=3, clock=_clock())
        name = f"28×28 {model}, measuring ({norms}) over an epoch at b = 16"
        yield row(name, measuring, training, measuring / training, f"<= {most}")


# --- ResNet-18: memory and time of an epoch, each side in its own process ---

B, IMAGES, CLASSES, SEEDS = 128, 256, 100, 8


def ours_on_cifar() -> tuple[float, float]:
    problem = RandomImages(dataset="cifar100", model="resnet18", images=IMAGES)
    plan = Plan(B, 0.1)
    spec = Spec(problem=problem, plan=plan, max_samples=10**9, grad_norms="published", log_train_metrics=True)
    trainer = Trainer(spec, "cpu")
    trainer.rows()
    return _seconds(trainer.advance), _seconds(trainer.rows)


class _Augmented(Dataset):
    """An item at a time, by PIL, as torchvision's data sets and the authors' program have it."""

    def __init__(self, part: tuple[np.ndarray, np.ndarray], augment: bool):
        from PIL import Image
        from torchvision import transforms

        self.images = [Image.fromarray(x.transpose(1, 2, 0)) for x in part[0]]
        self.labels = part[1].tolist()
        change = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()] if augment else []
        final = [transforms.ToTensor(), transforms.Normalize((MEAN,) * 3, (STD,) * 3)]
        self.transform = transforms.Compose([*change, *final])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.images[i]), self.labels[i]


def plain_on_cifar() -> tuple[float, float]:
    (train, test) = (_Augmented(part, i == 0) for i, part in enumerate(_random("cifar100", IMAGES)))
    model = build("resnet18", CLASSES, (3, 32, 32), 0)
    optimizer, loss_of = torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss()

    def epoch() -> None:
        for x, y in DataLoader(train, B, shuffle=True):
            optimizer.zero_grad()
            loss = loss_of(model(x), y)
            loss.backward()
            optimizer.step()
            loss.item()

    def measure() -> None:
        optimizer.zero_grad()
        for x, y in DataLoader(train, 100, shuffle=True):
            (loss_of(model(x), y) * (len(x) / IMAGES)).backward()
        sum(p.grad.square().sum().item() for p in model.parameters())
        model.eval()
        with torch.no_grad():
            for x, y in DataLoader(test, 100):
                loss_of(model(x), y).item()
        model.train()

    measure()
    return _seconds(epoch), _seconds(measure)


def _seconds(side: Callable[[], object]) -> float:
    started = time.process_time()
    side()
    return time.process_time() - started


def memory_rows() -> Iterator[dict]:
    found = []
    for side in ("ours", "plain"):
        command = [sys.executable, "-m", "benchmarks.networks", side]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    for name, *pair in zip(("training", "measuring", "peak memory"), *found, strict=True):
        wanted, unit = ("<= 1", "s") if name != "peak memory" else ("<= 1.05", "GiB")
        yield row(f"ResNet-18, 32×32, b = {B}, {name} vs a plain run", *pair, pair[0] / pair[1], wanted, unit)


# --- where a run starts ---


def start_rows() -> Iterator[dict]:
    """‖∇f‖ of ResNet-18's first batch over what the published defaults give: the ends of the ratio's 95 % interval.

    Each side has `SEEDS` networks; the interval is Welch's, of the difference of mean logs. The control draws the
    convolutions by Kaiming's fan-out rule, which is not what the paper's program has: its interval excludes 1.
    """
    ours, published, fan_out = (np.log([_start(draw, seed) for seed in range(SEEDS)])
                                for draw in (None, published_defaults, kaiming_fan_out))  # fmt: skip
    for name, side in (("our initial weights", ours), ("control by fan-out", fan_out)):
        low, high = np.exp(stats.ttest_ind(side, published, equal_var=False).confidence_interval(0.95))
        means = (float(np.exp(side.mean())), float(np.exp(published.mean())))
        text = f"ResNet-18, ‖∇f‖ at the start, {name} vs published defaults, 95 %"
        if side is ours:
            yield row(f"{text}: low end", *means, float(low), "<= 1", "")
        yield row(f"{text}: high end", *means, float(high), ">= 1" if side is ours else "<= 0.9", "")


def _start(draw: Callable[[nn.Module], None] | None, seed: int) -> float:
    net = build("resnet18", CLASSES, (3, 32, 32), seed)
    if draw is not None:
        torch.manual_seed(SEEDS + seed)
        net.apply(draw)
    x, y = _random("cifar100", IMAGES)[0]
    inputs = (torch.as_tensor(x[:B]) / 255 - MEAN) / STD
    loss = F.cross_entropy(net(inputs), torch.as_tensor(y[:B]))
    return float(sum(g.double().square().sum() for g in torch.autograd.grad(loss, list(net.parameters()))) ** 0.5)


@torch.no_grad()
def published_defaults(module: nn.Module) -> None:
    """Weights and biases uniform within ±1/√fan_in."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        bound = module.weight[0].numel() ** -0.5
        for parameter in module.parameters():
            parameter.uniform_(-bound, bound)


@torch.no_grad()
def kaiming_fan_out(module: nn.Module) -> None:
    published_defaults(module)
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def rows() -> Iterator[dict]:
    yield from loop_rows()
    yield from measuring_rows()
    torch.set_num_threads(1)
    yield from memory_rows()
    yield from start_rows()


if __name__ == "__main__":
    asked = sys.argv[1:]
    if asked in (["ours"], ["plain"]):
        torch.set_num_threads(1)
        seconds = ours_on_cifar() if asked == ["ours"] else plain_on_cifar()
        print(json.dumps([*seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))
    else:
        parts = {"loop": loop_rows, "measuring": measuring_rows, "memory": memory_rows, "start": start_rows}
        report(*([parts[name] for name in asked] or [rows]))
