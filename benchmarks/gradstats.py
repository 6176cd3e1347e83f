"""Gradient statistics and full gradient norm against the plain way to get them; one process, one thread.

Times are medians of interleaved repetitions. Peak memory is the highest running sum of the CPU allocator's events
in one call, as torch.profiler records them (`profile_memory`), over what was allocated before the call.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from sfolib.gradstats import full_gradient_sqnorm, gradient_statistics
from sfolib.models import build, cnn

REPEATS = 7


def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(data.target)


def interleaved(*sides: Callable[[], object]) -> list[float]:
    """Median seconds of each side; a repetition times all sides once, each for about 20 ms or one call."""
    loops = []
    for side in sides:
        side()
        start = time.perf_counter()
        side()
        loops.append(max(1, round(0.02 / (time.perf_counter() - start))))
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(REPEATS):
        for side, count, seen in zip(sides, loops, times, strict=True):
            start = time.perf_counter()
            for _ in range(count):
                side()
            seen.append((time.perf_counter() - start) / count)
    return [statistics.median(seen) for seen in times]


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


def norm_row(name: str, wanted: float, x: Tensor, y: Tensor) -> dict:
    model = build(name, 10, (1, 8, 8), seed=0)
    ours, loader = interleaved(
        lambda: full_gradient_sqnorm(model, F.cross_entropy, (x, y)),
        lambda: by_loader(model, x, y),
    )
    return row(f"full gradient norm vs loader, {name}, n = {len(x)}", ours, loader, loader / ours, f">= {wanted}")


def row(name: str, ours: float, reference: float, ratio: float, wanted: str) -> dict:
    sign, bound = wanted.split()
    ok = ratio >= float(bound) if sign == ">=" else ratio <= float(bound)
    return {"name": name, "ours_s": ours, "reference_s": reference, "ratio": ratio, "wanted": wanted, "ok": ok}


def main() -> list[dict]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x, y = digits()
        mlp = build("mlp", 10, (1, 8, 8), seed=0)
        rows = [r for n in (256, 1024) for r in statistics_rows("mlp 64-128-10", mlp, 30, x[:n], y[:n])]
        for width in (16, 64):
            torch.manual_seed(0)
            rows += statistics_rows(f"cnn {width}-{2 * width}", cnn(10, (1, 8, 8), width), 8, x[:256], y[:256])
        rows += [norm_row(name, wanted, x, y) for name, wanted in [("softmax", 20), ("mlp", 5), ("cnn", 1.5)]]
    finally:
        torch.set_num_threads(threads)
    for r in rows:
        times = f"{r['ours_s'] * 1e3:10.2f} ms {r['reference_s'] * 1e3:10.2f} ms"
        print(f"{r['name']:52} {times} {r['ratio']:8.2f}  wanted {r['wanted']}{'' if r['ok'] else '  MISSED'}")
    return rows


if __name__ == "__main__":
    main()
