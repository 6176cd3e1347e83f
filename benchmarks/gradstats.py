"""Gradient statistics and full gradient norm against the plain way to get them.

Peak memory is the highest running sum of the CPU allocator's events
in one call, as torch.profiler records them (`profile_memory`), over what was allocated before the call.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from benchmarks.measure import interleaved, report, row
from sfolib.gradients.statistics import full_gradient_sqnorm, gradient_statistics
from sfolib.problems.models import ResidualBlock, build, cnn


def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(data.target)


def peak_bytes(side: Callable[[], object]) -> int:
    side()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        side()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    running = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        running += event.nbytes()
        peak = max(peak, running)
    return peak


def by_vmap(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """The three variances from materialised per-sample gradients, tensor by tensor to save memory."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, parameters, x[None]), y[None])

    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, x, y)
    flat = [g.flatten(1) for g in gradients.values()]
    means = [g.mean(0) for g in flat]
    inner = sum(g @ mean for g, mean in zip(flat, means, strict=True))
    sqnorm = sum(mean.dot(mean) for mean in means)
    variance = sum(g.var(0).sum() for g in flat)
    orthogonal = sum((g - torch.outer(inner / sqnorm, mean)).var(0).sum() for g, mean in zip(flat, means, strict=True))
    return variance.item(), inner.var().item(), orthogonal.item()


def plain_backward(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))


def by_loader(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Full gradient in the authors' manner: a DataLoader of batches of 100, a fetch per item, `.item()` per step."""
    data = TensorDataset(x, y)
    loader = DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 100, drop_last=False))
    totals, seen = [torch.zeros_like(p) for p in model.parameters()], 0.0
    for inputs, labels in loader:
        model.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        seen += loss.item()
        for total, p in zip(totals, model.parameters(), strict=True):
            total += p.grad
    return sum((total / len(loader)).norm().item() ** 2 for total in totals)


def statistics_rows(name: str, model: nn.Module, wanted: float, x: Tensor, y: Tensor) -> list[dict]:
    name = f"{name}, n = {len(x)}"

    def statistics() -> object:
        return gradient_statistics(model, F.cross_entropy, x, y)

    def plain() -> object:
        return plain_backward(model, x, y)

    ours, vmap, backward = interleaved(statistics, lambda: by_vmap(model, x, y), plain)
    memory = {"ours_bytes": peak_bytes(statistics), "reference_bytes": peak_bytes(plain)}
    more = memory["ours_bytes"] / memory["reference_bytes"]
    return [
        row(f"statistics vs vmap, {name}", ours, vmap, vmap / ours, f">= {wanted}"),
        row(f"statistics vs plain backward, {name}", ours, backward, ours / backward, "<= 2.5"),
        row(f"the same, peak bytes, {name}", ours, backward, more, "<= 2.3") | memory,
    ]


def resnet8() -> nn.Module:
    """Three residual blocks of 16, 32 and 64 channels on 32×32 images, with GroupNorm in place of BatchNorm."""
    blocks = [ResidualBlock([a, b, b], [3, 3], [s, 1]) for a, b, s in [(16, 16, 1), (16, 32, 2), (32, 64, 2)]]
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    for module in [*model.modules()]:
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(4, child.num_features))
    return model


def look_row(name: str, model: nn.Module, x: Tensor, y: Tensor) -> dict:
    """A step of SGD that hands back the statistics of its batch, and a plain one."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9)

    def step(look: bool) -> None:
        optimizer.zero_grad()
        if look:
            gradient_statistics(model, F.cross_entropy, x, y, backward=True)
        else:
            F.cross_entropy(model(x), y).backward()
        optimizer.step()

    with_look, plain = interleaved(lambda: step(True), lambda: step(False))
    return row(
        f"a step with a look vs a plain one, {name}, n = {len(x)}", with_look, plain, with_look / plain, "<= 1.7"
    )


def look_rows() -> list[dict]:
    """Images of the sizes of digits, Fashion-MNIST and CIFAR."""
    torch.manual_seed(0)
    cases = [
        *(("mlp 64-128-10", build("mlp", 10, (1, 8, 8), seed=0), (1, 8, 8), n) for n in (256, 1024)),
        ("mlp 784-128-10", build("mlp", 10, (1, 28, 28), seed=0), (1, 28, 28), 1024),
        ("cnn 16-32, GroupNorm", cnn(10, (1, 28, 28)), (1, 28, 28), 128),
        ("resnet8, GroupNorm", resnet8(), (3, 32, 32), 128),
    ]
    return [look_row(name, model, torch.randn(n, *shape), torch.arange(n) % 10) for name, model, shape, n in cases]


def norm_row(name: str, wanted: float, x: Tensor, y: Tensor) -> dict:
    model = build(name, 10, (1, 8, 8), seed=0)
    ours, loader = interleaved(
        lambda: full_gradient_sqnorm(model, F.cross_entropy, (x, y)),
        lambda: by_loader(model, x, y),
    )
    return row(f"full gradient norm vs loader, {name}, n = {len(x)}", ours, loader, loader / ours, f">= {wanted}")


def rows() -> list[dict]:
    x, y = digits()
    mlp = build("mlp", 10, (1, 8, 8), seed=0)
    found = [r for n in (256, 1024) for r in statistics_rows("mlp 64-128-10", mlp, 30, x[:n], y[:n])]
    for width in (16, 64):
        torch.manual_seed(0)
        found += statistics_rows(f"cnn {width}-{2 * width}", cnn(10, (1, 8, 8), width), 8, x[:256], y[:256])
    found += look_rows()
    return found + [norm_row(name, wanted, x, y) for name, wanted in [("softmax", 20), ("mlp", 5), ("cnn", 1.5)]]


if __name__ == "__main__":
    report(rows)
