"""T13 – T16 as numbers: against brute force, sampled steps of SGD, exact recursion and a general-purpose optimiser."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

from sfolib._utils.errors import InputError
from sfolib.theory import local


def problem(seed, d=6):
    """H, Σ, θ and from them G, G2, GHG, Q, S2 of a random quadratic."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    H = basis @ np.diag(rng.uniform(0.1, 1, d)) @ basis.T
    root = rng.normal(size=(d, d)) / np.sqrt(d)
    S, G = root @ root.T, rng.normal(size=d)
    return H, S, root, G, {"G2": G @ G, "GHG": G @ H @ G, "Q": np.trace(H @ S), "S2": np.trace(S @ S)}


def decrease(lr, b, k):
    return lr * k["G2"] - lr**2 / 2 * (k["GHG"] + k["Q"] / b)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("b", [1.0, 7.0, 300.0])
def test_the_best_lr_is_where_the_expected_decrease_is_largest(seed, b):
    k = problem(seed)[-1]
    best = local.optimal_lr(b, k["G2"], k["GHG"], k["Q"])
    found = minimize_scalar(lambda lr: -decrease(lr, b, k), bounds=(0, 3 * best), method="bounded")
    assert found.x == pytest.approx(best, rel=1e-4)
    assert local.critical_batch_size(best, k["G2"], k["Q"], k["GHG"]) == pytest.approx(b)
    assert local.successive_gradients(b, best, k["G2"], k["Q"], k["GHG"]) == pytest.approx(0, abs=1e-12)


def test_no_batch_is_enough_beyond_the_noise_free_best_lr():
    k = problem(0)[-1]
    assert local.critical_batch_size(1.01 * k["G2"] / k["GHG"], k["G2"], k["Q"], k["GHG"]) == np.inf


def test_successive_gradients_of_sampled_steps():
    H, _, root, G, k = problem(1)
    rng, lr, b, count = np.random.default_rng(2), 0.4, 3, 400_000
    first = G + rng.normal(size=(count, len(G))) @ root.T / np.sqrt(b)
    second = G - lr * first @ H + rng.normal(size=(count, len(G))) @ root.T / np.sqrt(b)
    s = np.sum(first * second, 1)
    expected = local.successive_gradients(b, lr, k["G2"], k["Q"], k["GHG"])
    assert abs(s.mean() - expected) < 4 * s.std() / np.sqrt(count)
    # the terms are seen, not lost in the error bar
    assert lr * min(k["GHG"], k["Q"] / b) > 10 * s.std() / np.sqrt(count)
    # half batches: without bias for ‖G‖² and for tr Σ/b of the whole batch
    other = G + rng.normal(size=(count, len(G))) @ root.T / np.sqrt(b)
    square, noise = np.sum(first * other, 1), np.sum((first - other) ** 2, 1) / 4
    assert abs(square.mean() - k["G2"]) < 4 * square.std() / np.sqrt(count)
    assert abs(noise.mean() - np.sum(root**2) / (2 * b)) < 4 * noise.std() / np.sqrt(count)


def test_the_sign_is_seen_after_the_stated_number_of_steps_whatever_b_is():
    _, _, root, _, k = problem(3, d=40)
    rng, lr, z = np.random.default_rng(4), 0.1, 1.96
    m = local.detection_steps(lr, k["Q"], k["S2"], z)
    for b in (4, 64):
        pairs = [rng.normal(size=(100_000, 40)) @ root.T / np.sqrt(b) for _ in range(2)]
        spread = np.sum(pairs[0] * pairs[1], 1).std()
        assert z * spread / np.sqrt(m) == pytest.approx(lr * k["Q"] / b, rel=0.02)


def spectrum():
    eigenvalues = np.geomspace(1e-2, 1, 8)
    return eigenvalues, 1 / np.sqrt(eigenvalues), np.linspace(1, 2, 8)


def test_the_expected_path_is_the_mean_of_sampled_runs():
    eigenvalues, start, noise = spectrum()
    rng, lr, b = np.random.default_rng(0), np.linspace(0.8, 0.2, 30), np.arange(1.0, 31.0)
    theta = np.tile(start, (40_000, 1))
    for eta, size in zip(lr, b, strict=True):
        theta = theta - eta * (eigenvalues * theta + rng.normal(size=theta.shape) * np.sqrt(noise / size))
    squares = np.sum((eigenvalues * theta) ** 2, 1)
    path = local.expected_path(b, lr, eigenvalues, start, noise)
    assert len(path) == 31
    assert abs(path[-1] - squares.mean()) < 4 * squares.std() / np.sqrt(len(squares))


def test_the_kernel_is_what_each_steps_noise_adds_to_the_end():
    eigenvalues, start, noise = spectrum()
    lr, b = np.linspace(0.8, 0.2, 30), np.linspace(1, 9, 30)
    kernel = local.noise_kernel(lr, eigenvalues, noise)
    path = local.expected_path(b, lr, eigenvalues, start, noise)
    bare = local.expected_path(b, lr, eigenvalues, start, 0 * noise)
    assert path[-1] == pytest.approx(bare[-1] + np.sum(kernel / b), rel=1e-12)
    assert kernel[-1] == pytest.approx(lr[-1] ** 2 * np.sum(eigenvalues**2 * noise))
    assert local.noise_kernel(lr, eigenvalues, noise, power=1)[-1] == pytest.approx(0.04 * np.sum(eigenvalues * noise))


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0])
def test_the_best_constant_batch_size_against_a_search_over_steps(p):
    lr, Q, eps = 0.1, 2.0, 0.05
    steps = np.geomspace(1e-3, 1e9, 400_001)
    room = eps**2 - steps**-p
    b = np.where(room > 0, lr * Q / (2 * np.where(room > 0, room, 1)), np.inf)
    assert local.stationary_best_batch_size(lr, Q, eps, p) == pytest.approx(b[np.argmin(steps * b)], rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bounds", [(1.0, np.inf), (1.0, 30.0), (5.0, 12.0), (0.5, 200.0)])
def test_the_best_batch_sizes_against_slsqp(seed, bounds):
    rng = np.random.default_rng(seed)
    kappa, (minimum, maximum) = rng.lognormal(0, 2, 9), bounds
    least = kappa.sum() / maximum
    room = least + rng.uniform(0.05, 0.9) * (kappa.sum() / minimum - least)
    b = local.best_batch_sizes(kappa, room, minimum, maximum)
    assert np.all((b >= minimum) & (b <= maximum))
    assert np.sum(kappa / b) == pytest.approx(room, rel=1e-9)
    start = np.full(9, min(maximum, kappa.sum() / room))
    found = minimize(
        lambda x: x.sum(),
        start,
        jac=lambda x: np.ones(9),
        bounds=[(minimum, maximum if np.isfinite(maximum) else None)] * 9,
        constraints={
            "type": "ineq",
            "fun": lambda x: (room - np.sum(kappa / x)) / room,
            "jac": lambda x: kappa / x**2 / room,
        },
        method="SLSQP",
        options={"maxiter": 2000, "ftol": 1e-12},
    )
    assert found.success
    assert b.sum() == pytest.approx(found.fun, rel=1e-5)


def test_the_best_batch_sizes_at_the_ends_of_the_range():
    kappa = np.array([0.0, 1.0, 4.0])
    assert local.best_batch_sizes(kappa, 5.0).tolist() == [1, 1, 1]
    assert local.best_batch_sizes(kappa, 0.5, maximum=10).tolist() == [1, 10, 10]
    assert local.best_batch_sizes(kappa, 0.3).tolist() == pytest.approx([1, 10, 20])
    with pytest.raises(InputError, match=r"room = 0.4: must be at least 0.5"):
        local.best_batch_sizes(kappa, 0.4, maximum=10)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: local.critical_batch_size(0, 1, 1), "lr"),
        (lambda: local.critical_batch_size(1, 0, 1), "G2"),
        (lambda: local.critical_batch_size(1, 1, -1), "Q"),
        (lambda: local.optimal_lr(1, 1, -2, 1), "GHG"),
        (lambda: local.detection_steps(1, 1, 0), "S2"),
        (lambda: local.best_batch_sizes([[1.0]], 1), "kappa"),
        (lambda: local.best_batch_sizes([-1.0], 1), "kappa"),
        (lambda: local.best_batch_sizes([1.0], 1, 2, 1), "maximum"),
        (lambda: local.noise_kernel([0.1], [1.0], [1.0], power=3), "power"),
        (lambda: local.expected_path(1, [0.1], [1.0, 2.0], [1.0], [1.0]), "start"),
    ],
)
def test_bad_input_names_the_field(call, field):
    with pytest.raises(InputError, match=f"^{field} = "):
        call()
