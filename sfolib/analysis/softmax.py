"""Softmax regression in closed form: H, and what moves the mean of SGD's iterates off the noise-free path [N].

p_i the probabilities of sample i, A_i = diag p_i − p_i p_iᵀ, x̃_i its inputs and a one: H_i = A_i ⊗ x̃_i x̃_iᵀ + l2 I.
Coordinates of θ are as in the layer: the weights, then the biases.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def softmax_hessian(layer: nn.Linear, x: Tensor, l2: float) -> np.ndarray:
    """`curvature.hessian` of f, the mean of H_i: (P, P)."""
    p, x = _at(layer, x)
    classes, inputs = p.shape[1], x.shape[1]
    H = x.new_empty(classes, inputs, classes, inputs)
    for c in range(classes):
        weight = -p[:, c : c + 1] * p
        weight[:, c] += p[:, c]
        H[c] = (x.T @ (weight[:, :, None] * x[:, None]).flatten(1) / len(x)).unflatten(1, (classes, -1))
    order = _order(classes, inputs)
    flat = H.reshape(len(order), -1).double().cpu().numpy()[np.ix_(order, order)]
    return (flat + flat.T) / 2 + l2 * np.eye(len(order))


def third_order(layer: nn.Linear, x: Tensor, C: np.ndarray) -> np.ndarray:
    """½∇tr(HC), C (P, P) held: what E∇f has, about a mean, beyond the gradient there. Returns (P,).

    With S_i the covariance of the logits, tr(HC) is the mean of Σ_a p_a S_aa − pᵀS_i p; by the logits its gradient is
    A_i u, u_a = S_aa − 2(S_i p)_a.
    """
    p, x = _at(layer, x)
    classes, inputs = p.shape[1], x.shape[1]
    blocks = _by_class(C, classes, inputs, p)
    S = torch.stack([_logits((x @ block).unflatten(1, (classes, inputs)), x) for block in blocks], 1)
    u = S.diagonal(dim1=1, dim2=2) - 2 * _logits(S, p)
    return _mean(_spread(p, u), x) / 2


def sample_correlation(layer: nn.Linear, x: Tensor, y: Tensor, R: np.ndarray) -> np.ndarray:
    """Mean of (H_i − H) R (g_i − ∇f), R (P, P), (P,): how a sample's curvature goes with what its own gradient did."""
    p, x = _at(layer, x)
    classes, inputs = p.shape[1], x.shape[1]
    residual = p.clone()
    residual[torch.arange(len(y), device=y.device), y] -= 1
    moved = torch.einsum("na,nd,adq->nq", residual, x, _by_class(R.T, classes, inputs, p))
    moved = (moved - moved.mean(0)).unflatten(1, (classes, inputs))
    return _mean(_spread(p, _logits(moved, x)), x)  # less H times a mean of 0


def _at(layer: nn.Linear, x: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities, (n, classes), and inputs with a one, (n, inputs + 1)."""
    return torch.softmax(layer(x), 1).detach(), torch.cat([x, x.new_ones(len(x), 1)], 1)


def _logits(parameters: Tensor, x: Tensor) -> Tensor:
    """(n, classes, inputs) times (n, inputs)."""
    return (parameters @ x[:, :, None]).squeeze(2)


def _spread(p: Tensor, u: Tensor) -> Tensor:
    """A_i u_i."""
    return p * (u - (p * u).sum(1, keepdim=True))


def _mean(deltas: Tensor, x: Tensor) -> np.ndarray:
    """Of deltas_i ⊗ x̃_i, in θ's order."""
    return (deltas.T @ x / len(x)).double().cpu().numpy().ravel()[_order(deltas.shape[1], x.shape[1])]


def _by_class(matrix: np.ndarray, classes: int, inputs: int, like: Tensor) -> Tensor:
    """(P, P) in θ's order → (classes, inputs, P), a class's bias beside its weights, along both axes."""
    back = np.argsort(_order(classes, inputs))
    return torch.as_tensor(matrix[np.ix_(back, back)]).to(like).unflatten(0, (classes, inputs))


def _order(classes: int, inputs: int) -> np.ndarray:
    """Of (class, input) flattened: the weights, then the biases, which are the last inputs."""
    order = np.arange(classes * inputs).reshape(classes, -1)
    return np.concatenate([order[:, :-1].ravel(), order[:, -1]])
