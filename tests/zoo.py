"""Models as people have them, small, each with samples, labels and a loss, and their gradients the slow way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfolib.gradients.batches import call, mapped, n_samples, take

CE = F.cross_entropy


class Case(NamedTuple):
    """slow: what is said of parameters that lack a rule."""

    make: Callable[[], tuple]  # model, x, y, loss_fn
    slow: tuple[str, ...] = ()


class Head(nn.Module):
    """A layer, its output brought to (n, features) and read by a Linear."""

    def __init__(self, body: nn.Module, features: int, read: Callable = lambda h: h.flatten(2).mean(2)):
        super().__init__()
        self.body, self.head, self.read = body, nn.Linear(features, 5), read

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.read(self.body(x))))


def _images(body: Callable[[], nn.Module], features: int, *shape: int, n: int = 6) -> Callable[[], tuple]:
    return lambda: (Head(body(), features), torch.randn(n, *shape), torch.arange(n) % 5, CE)


def _sequences(body: Callable[[], nn.Module], features: int, read: Callable, n: int = 6) -> Callable[[], tuple]:
    return lambda: (Head(body(), features, read), torch.randn(n, 5, 4), torch.arange(n) % 5, CE)


class Attention(nn.Module):
    def __init__(self, batch_first: bool = True, **options: Any):
        super().__init__()
        self.attention, self.batch_first = nn.MultiheadAttention(4, 2, batch_first=batch_first, **options), batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        found, _ = self.attention(x, x, x)
        return found if self.batch_first else found.transpose(0, 1)


class Tied(nn.Module):
    """Embedding and output share a weight; one Linear is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.twice, self.head = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        return self.head(self.twice(torch.tanh(self.twice(h))).mean(1))


class Positions(nn.Module):
    """Positions broadcast over samples; a table without a batch dimension, or with one of 1."""

    def __init__(self, batch: bool = False):
        super().__init__()
        self.token, self.position, self.head, self.batch = (
            nn.Embedding(7, 4),
            nn.Embedding(6, 4),
            nn.Linear(4, 5),
            batch,
        )

    def forward(self, x: Tensor) -> Tensor:
        where = torch.arange(x.shape[1])
        h = self.token(x) + self.position(where[None] if self.batch else where)
        return self.head(torch.tanh(h).mean(1))


class Turned(nn.Module):
    """Layers that see time first, where time has as many steps as there are samples."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x.transpose(0, 1))).transpose(0, 1).mean(1))


class Reversed(nn.Module):
    """A layer that sees the samples in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x.flip(0)).flip(0)).mean(1))


class Own(nn.Module):
    """Parameters of its own: a token before the sequence, positions, a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.randn(1, 6, 4))
        self.mix, self.scale, self.head = nn.Linear(4, 4), nn.Parameter(torch.tensor(1.5)), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        return self.head((torch.tanh(self.mix(h)) * self.scale).mean(1))


class Folded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x.flatten(0, 1))).unflatten(0, x.shape[:2]).mean(1))


@dataclass(frozen=True)
class Pair:
    left: Tensor
    right: Tensor
    name: str = "pair"


class Forms(nn.Module):
    """Takes and returns what `form` says."""

    def __init__(self, form: str):
        super().__init__()
        self.a, self.b, self.form = nn.Linear(4, 5), nn.Linear(3, 5), form

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.form == "dict":
            left, right = kwargs["left"], kwargs["right"]
        elif self.form == "tuple":
            left, right = args
        else:
            (pair,) = args
            left, right = pair.left, pair.right
        left, right = self.a(left), torch.tanh(self.b(right))
        return {"dict": {"left": left, "rest": [right, None]}, "tuple": (left, (right,))}.get(
            self.form, Pair(left, right)
        )


def _forms(form: str) -> Callable[[], tuple]:
    def make() -> tuple:
        left, right, y = torch.randn(6, 4), torch.randn(6, 3), torch.arange(6) % 5
        x = {"dict": {"left": left, "right": right}, "tuple": (left, right)}.get(form, Pair(left, right))
        labels = {"dict": {"y": y}, "tuple": (y,)}.get(form, Pair(y, y))

        def loss(output: Any, labels: Any) -> Tensor:
            if form == "dict":
                return CE(output["left"] + output["rest"][0], labels["y"])
            if form == "tuple":
                return CE(output[0] + output[1][0], labels[0])
            return CE(output.left + output.right, labels.right)

        return Forms(form), x, labels, loss

    return make


def _rms() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.RMSNorm(6), nn.Tanh(), nn.Linear(6, 4), nn.RMSNorm((5, 4)))


def _transposed(dims: int, **options: Any) -> nn.Module:
    return (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1](4, 6, 3, **options)


def _mean(h: Tensor) -> Tensor:
    return h.mean(1)


def _last(h: tuple) -> Tensor:
    return h[0][:, -1]


MHA = "MultiheadAttention has no rule", "by torch.func"
CASES = {
    "Conv1d": Case(_images(lambda: nn.Conv1d(4, 6, 3, 2, 2, 2, 2, padding_mode="circular"), 6, 4, 11)),
    "Conv1d, many channels": Case(_images(lambda: nn.Conv1d(4, 60, 3), 60, 4, 4)),
    "Conv3d": Case(_images(lambda: nn.Conv3d(4, 6, (3, 2, 1), 2, (2, 1, 0), 1, 2, bias=False), 6, 4, 5, 6, 4)),
    "Conv2d, same": Case(_images(lambda: nn.Conv2d(4, 6, (2, 3), padding="same"), 6, 4, 5, 6)),
    "ConvTranspose1d": Case(_images(lambda: _transposed(1, stride=2, padding=1, output_padding=1), 6, 4, 7)),
    "ConvTranspose2d": Case(_images(lambda: _transposed(2, groups=2, dilation=2, bias=False), 6, 4, 3, 5)),
    "ConvTranspose2d, few": Case(_images(lambda: _transposed(2, dilation=3, stride=2, output_padding=2), 6, 4, 1, 1)),
    "ConvTranspose3d": Case(_images(lambda: _transposed(3, stride=(2, 1, 1), padding=(0, 1, 2)), 6, 4, 3, 4, 3)),
    "BatchNorm3d": Case(_images(lambda: nn.BatchNorm3d(4), 4, 4, 2, 3, 2)),
    "RMSNorm": Case(_sequences(_rms, 4, _mean)),
    "MultiheadAttention": Case(_sequences(Attention, 4, _mean), MHA),
    "MultiheadAttention, time first": Case(
        _sequences(lambda: Attention(False, bias=False, add_bias_kv=True), 4, _mean),
        MHA,
    ),
    "TransformerEncoderLayer": Case(
        _sequences(lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 4, _mean),
        MHA,
    ),
    "LSTM": Case(
        _sequences(lambda: nn.LSTM(4, 6, 2, batch_first=True), 6, _last),
        ("LSTM has", "a backward pass for each"),
    ),
    "GRU": Case(
        _sequences(lambda: nn.GRU(4, 3, bidirectional=True, batch_first=True), 6, _last),
        ("GRU has", "a backward pass for each"),
    ),
    "tied": Case(lambda: (Tied(), torch.randint(5, (6, 4)), torch.arange(6) % 5, CE), ("more than once",)),
    "positions": Case(lambda: (Positions(), torch.randint(7, (8, 6)), torch.arange(8) % 5, CE), ("position: samples",)),
    "positions, as many as samples": Case(
        lambda: (Positions(), torch.randint(7, (6, 6)), torch.arange(6) % 5, CE), ("position: samples are not",)
    ),
    "positions, batch of 1": Case(
        lambda: (Positions(True), torch.randint(7, (6, 6)), torch.arange(6) % 5, CE), ("position: samples are not",)
    ),
    "turned": Case(lambda: (Turned(), torch.randn(6, 6, 4), torch.arange(6) % 5, CE), ("a: samples are not",)),
    "reversed": Case(lambda: (Reversed(), torch.randn(6, 5, 4), torch.arange(6) % 5, CE), ("a: samples are not",)),
    "folded": Case(lambda: (Folded(), torch.randn(6, 5, 4), torch.arange(6) % 5, CE), ("a: samples are not",)),
    "own parameters": Case(lambda: (Own(), torch.randn(6, 5, 4), torch.arange(6) % 5, CE), ("model: Own has no rule",)),
    "weight norm": Case(
        _images(lambda: nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3)), 6, 4, 7), ("has no rule",)
    ),
    "PReLU": Case(_images(lambda: nn.Sequential(nn.Conv1d(4, 6, 3), nn.PReLU(6)), 6, 4, 7), ("PReLU has no rule",)),
    "dict": Case(_forms("dict")),
    "tuple": Case(_forms("tuple")),
    "dataclass": Case(_forms("dataclass")),
}


def build(name: str, cases: dict[str, Case] = CASES, dtype: torch.dtype = torch.float64) -> tuple:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model, x, y, loss_fn = cases[name].make()
        model = model.to(dtype).eval()
        x = mapped(lambda t: t.to(dtype) if t.is_floating_point() else t, x)
        for p in model.parameters():  # off their trivial start
            p.data += 0.1 * torch.randn(p.shape).to(dtype)
    return model, x, y, loss_fn


def slowly(model, loss_fn, x, y, l2=0.0):
    """Per-sample gradients by a backward pass for each: (n, parameters), float64."""
    model = copy.deepcopy(model)
    parameters, found = [*model.parameters()], []
    for i in range(n_samples(x, y)):
        loss = loss_fn(call(model, take(x, slice(i, i + 1))), take(y, slice(i, i + 1)))
        loss = loss + l2 / 2 * sum(p.square().sum() for p in parameters)
        gradient = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        found.append(torch.cat([g.flatten() for g in gradient]).double())
    return torch.stack(found)


def t10(g):
    mean = g.mean(0)
    inner = g @ mean
    apart = g - torch.outer(inner / mean.dot(mean), mean)
    return [t.item() for t in (mean.dot(mean), g.var(0).sum(), inner.var(), apart.var(0).sum())]


def values(statistics):
    return [*vars(statistics).values()][1:]
