"""The covariance mode by mode against the noise written out: every step's, and how any two of them go together."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from sfolib.analysis.covariance import Covariance, Modes, Steps
from sfolib.training import optimizers, updates

RNG = np.random.default_rng(0)
PAIRS = [(4, 0.3), (4, 0.3), (2, 0.1), (4, 0.3), (4, 0.3), (2, 0.3), (4, 0.3), (4, 0.3), (2, 0.3), (4, 0.2), (6, 0.2)]
N = 10  # the epochs of PAIRS: 4 4 2 | 4 4 2 | 4 4 2 | 4 6


def steps(pairs=PAIRS):
    b, lr = np.array(pairs).T
    samples = b.cumsum().astype(int)
    return Steps(b, lr, samples, samples % N == 0)


def spd(size):
    root = RNG.standard_normal((size, size))
    return root @ root.T / size


def modes_of(H, sigma):
    values, basis = np.linalg.eigh(H)
    return Modes(values, basis.T @ sigma @ basis, basis)


def independent(sigma, of, s, t):
    return sigma / of.batch_size[s] if s == t else 0 * sigma


def permuted(sigma, of, s, t):
    """Batches of one permutation: samples are anticorrelated, each with every other by 1/(n − 1)."""
    epoch = np.concatenate([[0], of.epoch_end.cumsum()[:-1]])
    if s == t:
        return sigma / of.batch_size[s] * (N - of.batch_size[s]) / (N - 1)
    return -sigma / (N - 1) * (epoch[s] == epoch[t])


def written_out(Hs, sigma, of, noise, **settings):
    """Cov θ_T as a sum over pairs of steps: each step's push of one coordinate is followed by torch's optimizer."""
    size, count = len(sigma), len(of)
    answers = []
    for s in range(count):
        theta = torch.zeros(size, size, dtype=torch.float64)  # a row for each coordinate pushed at step s
        update = updates.build(optimizers.SGD(**settings), [theta])
        for t in range(count):
            update([theta @ torch.from_numpy(Hs[t]) + (torch.eye(size).double() if t == s else 0)], float(of.lr[t]))
        answers.append(theta.numpy())
    return sum(answers[s].T @ noise(sigma, of, s, t) @ answers[t] for s in range(count) for t in range(count))


SETTINGS = [
    {},
    {"momentum": 0.7},
    {"momentum": 0.7, "nesterov": True, "weight_decay": 0.2},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(("n", "noise"), [(None, independent), (N, permuted)])
@pytest.mark.parametrize("length", [1, 4, 5, 9, 11])  # within and at the end of epochs
@pytest.mark.parametrize("cuts", [[], [2, 3, 7]])
def test_it_is_the_noise_written_out(settings, n, noise, length, cuts):
    H, sigma, of = spd(4), spd(4), steps().part(0, length)
    wanted = written_out([H] * length, sigma, of, noise, **settings)
    covariance, modes = Covariance(n=n, **settings), modes_of(H, sigma)
    covariance.move(modes)
    for start, stop in pairwise([0, *(c for c in cuts if c < length), length]):
        covariance.advance(of.part(start, stop))
    assert covariance.read() == pytest.approx([np.trace(H @ wanted @ H), np.trace(H @ wanted) / 2], rel=1e-10)


def test_modes_followed_alone_are_the_diagonal():
    values, variances, of = np.array([0.2, 1.0, 2.5]), np.array([1.0, 0.5, 2.0]), steps()
    whole, alone = Covariance(), Covariance()
    whole.move(Modes(values, np.diag(variances), np.eye(3)))
    alone.move(Modes(values, variances))
    whole.advance(of)
    alone.advance(of)
    assert alone.read() == pytest.approx(whole.read())


def test_many_like_steps_are_those_steps():
    H, sigma = spd(3), spd(3)
    together, one_by_one = Covariance(**SETTINGS[1]), Covariance(**SETTINGS[1])
    for covariance in (together, one_by_one):
        covariance.move(modes_of(H, sigma))
    of = steps([(3, 0.05)] * 157)
    together.advance(of)
    for i in range(157):
        one_by_one.advance(of.part(i, i + 1))
    assert together.read() == pytest.approx(one_by_one.read(), rel=1e-10)


@pytest.mark.parametrize("settings", SETTINGS[:2], ids=str)
def test_it_is_carried_from_one_basis_to_the_next(settings):
    old, new, sigma, of = spd(4), spd(4), spd(4), steps([(2, 0.1), (3, 0.2), (1, 0.1), (2, 0.3), (2, 0.1)])
    covariance, middle, at = Covariance(**settings), 2, np.array([1, 2, 4, 5])
    covariance.move(modes_of(old, sigma))
    found = covariance.cross(of, at, middle, at / 5, modes_of(new, sigma))
    Hs = [old] * middle + [new] * 3
    wanted = written_out(Hs, sigma, of, independent, **settings)
    assert found[-1] == pytest.approx([np.trace(new @ wanted @ new), np.trace(new @ wanted) / 2], rel=1e-10)
    # where H changes, so does what is read: by a factor, spread over the way
    C = written_out(Hs[:2], sigma, of.part(0, 2), independent, **settings)
    change = np.trace(new @ C @ new) / np.trace(old @ C @ old)
    first = written_out(Hs[:1], sigma, of.part(0, 1), independent, **settings)
    assert found[0, 0] == pytest.approx(np.trace(old @ first @ old) * change**0.2, rel=1e-10)
    assert found[1, 0] == pytest.approx(np.trace(old @ C @ old) * change**0.4, rel=1e-10)


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_it_is_carried_from_one_metric_to_the_next(momentum):
    """Steps −ηPv, P diagonal, against the covariance of (δ, v) in the coordinates of θ."""
    sigma, of, eye = spd(4), steps([(2, 0.1), (3, 0.2), (1, 0.1), (2, 0.3), (2, 0.1)]), np.eye(4)
    at = [(spd(4), RNG.uniform(0.2, 3.0, 4)) for _ in range(2)]
    covariance, wanted = Covariance(momentum), np.zeros((8, 8))
    for (H, P), (start, stop) in zip(at, pairwise([0, 2, 5]), strict=True):
        covariance.move(Modes.of(H, sigma, np.sqrt(P)))
        covariance.advance(of.part(start, stop))
        for b, lr in zip(of.batch_size[start:stop], of.lr[start:stop], strict=True):
            onwards = np.block([[eye - lr * P[:, None] * H, -lr * momentum * np.diag(P)], [H, momentum * eye]])
            push = np.concatenate([-lr * np.diag(P), eye])
            wanted = onwards @ wanted @ onwards.T + push @ sigma @ push.T / b
    C = wanted[:4, :4]
    assert covariance.gradient_variance() == pytest.approx(np.diag(H @ C @ H), rel=1e-10)
    assert covariance.read() == pytest.approx([np.trace(H @ C @ H), np.trace(H @ C) / 2], rel=1e-10)
