"""T13 – T17 as numbers: against brute force, sampled steps of SGD, exact recursion and a general-purpose optimiser."""

from __future__ import annotations

from itertools import combinations

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


@pytest.mark.parametrize("b", [1, 2, 3])
def test_successive_gradients_by_permutation_are_the_count_over_all_pairs_of_batches(b):
    H, _, _, G, _ = problem(5, d=3)
    lr, n = 0.3, 6
    x = np.random.default_rng(6).normal(size=(n, 3))
    x -= x.mean(0)
    covariance = x.T @ x / n
    products = []
    for first in combinations(range(n), b):
        g = G + x[list(first)].mean(0)
        for second in combinations(sorted(set(range(n)) - set(first)), b):
            products.append(g @ (G - lr * H @ g + x[list(second)].mean(0)))
    k = {"G2": G @ G, "GHG": G @ H @ G, "Q": np.trace(H @ covariance), "trace": np.trace(covariance)}
    assert local.successive_gradients(b, lr, n=n, **k) == pytest.approx(np.mean(products), rel=1e-12)
    assert local.successive_gradients(b, lr, **k) != pytest.approx(np.mean(products), rel=1e-3)


def test_noise_explains_every_negative_s_that_noise_alone_makes():
    rng = np.random.default_rng(7)
    seen = 0
    for seed in range(200):
        H, S, _, _, k = problem(seed)
        top = np.linalg.eigvalsh(H)[-1]
        lr, b = rng.uniform(0.05, 2) / top, np.exp(rng.uniform(-3, 3))
        if local.successive_gradients(b, lr, k["G2"], k["Q"]) <= 0:  # without curvature
            seen += 1
            assert local.noise_explains(b, lr, k["G2"], np.trace(S), top)
            assert local.noise_explains(b, lr, k["G2"], np.trace(S), 2 / lr)
    assert seen > 20
    H, S, _, _, k = problem(0)  # beyond the edge of stability, with hardly any noise
    lr, b = 10 / np.linalg.eigvalsh(H)[-1], 1e4
    assert local.successive_gradients(b, lr, **{x: k[x] for x in ("G2", "Q", "GHG")}) < 0
    assert not local.noise_explains(b, lr, k["G2"], np.trace(S), 2 / lr)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_product_with_the_momentum_buffer_against_the_exact_covariances(momentum):
    # one coordinate at the minimum: e is the distance, v the buffer, g = λe + ξ; ηλ is small enough that nothing decays
    lam, variance, lr, b = 1.0, 2.0, 1e-8, 4.0
    ee = ev = vv = 0.0  # E e², E ev, E v² after the buffer took the gradient
    vg = []
    for _ in range(300):
        vg.append(lam * ev)  # E[v_{t−1} g_t], for e already moved
        vv_new = momentum**2 * vv + lam**2 * ee + variance / b + 2 * momentum * lam * ev
        ev_new = momentum * ev + lam * ee
        ee, ev, vv = ee - 2 * lr * ev_new + lr**2 * vv_new, ev_new - lr * vv_new, vv_new
    noise = local.momentum_product(b, lr, momentum, 0, lam * variance)
    assert (1 - momentum) * vg[-1] == pytest.approx(noise, rel=1e-4)


def test_the_momentum_threshold_is_the_product_at_the_critical_batch_size():
    k = problem(2)[-1]
    for momentum in (0.0, 0.3, 0.9):
        b = local.momentum_critical_batch_size(0.1, momentum, k["G2"], k["Q"])
        product = local.momentum_product(b, 0.1, momentum, k["G2"], k["Q"])
        assert product == pytest.approx(local.momentum_threshold(momentum, k["G2"]), abs=1e-12 * k["G2"])
        assert local.momentum_product(2 * b, 0.1, momentum, k["G2"], k["Q"]) > product


def test_successive_gradients_in_the_metric_of_a_preconditioner():
    H, S, root, G, k = problem(8)
    rng, lr, b, count = np.random.default_rng(9), 0.3, 2, 400_000
    P = rng.uniform(0.5, 2, len(G))
    first = G + rng.normal(size=(count, len(G))) @ root.T / np.sqrt(b)
    second = G - lr * (first * P) @ H + rng.normal(size=(count, len(G))) @ root.T / np.sqrt(b)
    s = np.sum(first * P * second, 1)
    G2, GHG, Q = local.preconditioned(G, H, S, P)
    assert abs(s.mean() - local.successive_gradients(b, lr, G2, Q, GHG)) < 4 * s.std() / np.sqrt(count)
    assert local.preconditioned(G, H, S, np.diag(P)) == (G2, GHG, Q)
    assert local.preconditioned(G, H, S, np.ones(len(G))) == pytest.approx((k["G2"], k["GHG"], k["Q"]))


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


@pytest.mark.parametrize("power", [1, 2])
def test_the_stationary_noise_is_where_the_recursion_ends(power):
    eigenvalues, start, noise = spectrum()
    covariance, lr, b = 0 * noise, 0.7, 5.0
    for _ in range(10_000):
        covariance = (1 - lr * eigenvalues) ** 2 * covariance + lr**2 * noise / b
    exact = local.stationary_noise(b, lr, eigenvalues, noise, power)
    assert exact == pytest.approx(np.sum(eigenvalues**power * covariance), rel=1e-12)
    small = local.stationary_noise(b, 1e-6, eigenvalues, noise, power)
    assert small == pytest.approx(1e-6 / (2 * b) * np.sum(eigenvalues ** (power - 1) * noise), rel=1e-5)
    if power == 2:
        path = local.expected_path(b, np.full(10_000, lr), eigenvalues, 0 * start, noise)
        assert exact == pytest.approx(path[-1], rel=1e-12)


def test_the_best_constant_batch_size_from_a_path_against_exact_runs():
    eigenvalues = np.geomspace(1e-4, 1, 200)
    start, noise, lr, eps = 1 / np.sqrt(200 * eigenvalues), eigenvalues / eigenvalues.sum(), 0.05, 0.1
    beta = local.expected_path(1.0, np.full(30_000, lr), eigenvalues, start, 0 * noise)
    b, steps = local.best_constant_batch_size(lr, np.sum(eigenvalues * noise), eps, beta)
    grid = np.geomspace(b / 3, 3 * b, 25)
    needed = np.array(
        [np.argmax(local.expected_path(x, np.full(30_000, lr), eigenvalues, start, noise) <= eps**2) for x in grid]
    )
    samples = np.where(needed > 0, needed * grid, np.inf)
    assert samples.min() < np.inf
    assert steps * b == pytest.approx(samples.min(), rel=0.05)
    assert abs(np.log(grid[samples.argmin()] / b)) < np.log(1.3)  # three steps of the grid


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
        options={"maxiter": 2000, "ftol": 1e-9},
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


@pytest.mark.parametrize(("gamma", "stages"), [(1.4, 1), (1.4, 8), (2.0, 30)])
def test_joint_growth_in_steps_against_a_schedule(gamma, stages):
    lr = np.repeat(0.1 * gamma ** np.arange(stages), 50)
    alone = lr.sum() / lr[-1]  # steps at the last lr for the same Σ η
    assert local.joint_growth_steps(gamma, stages) == pytest.approx(len(lr) / alone)
    ratio = 3.0  # b/η on the way: the gradient evaluations are the same
    assert np.sum(ratio * lr) == pytest.approx(alone * ratio * lr[-1])


def test_the_price_of_a_larger_lr_is_the_batch_size_that_the_same_noise_needs():
    for lr, eigenvalue in ((0.5, 1.0), (1.5, 1.2)):
        noise = local.stationary_noise(10 * lr, lr, [eigenvalue], [1.0])  # 10 gradient evaluations a unit of Σ η
        small = local.stationary_noise(10 * 1e-8, 1e-8, [eigenvalue], [1.0])
        assert local.lr_price(lr, eigenvalue) == pytest.approx(noise / small, rel=1e-6)


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0])
def test_any_time_growth_against_the_best_constant_of_its_end(p):
    lr, Q, last, steps = 0.1, 2.0, 0.05, 100_000
    scale = last**2 / (1 + p) * steps**p  # the noise-free path is at its part of ε² after that many steps
    reached = np.sqrt((1 + p) * scale * np.arange(1.0, steps + 1) ** -p)
    sizes = local.stationary_best_batch_size(lr, Q, reached, p)
    assert local.anytime_part(p) == pytest.approx(sizes.sum() / (steps * sizes[-1]), rel=1e-4)


def test_the_part_of_a_horizon_is_what_water_filling_needs_of_a_constant():
    kappa = (np.arange(400) + 3.0) ** -2.5
    sizes = local.best_batch_sizes(kappa, 0.01, minimum=1e-9)
    assert local.horizon_part(kappa) == pytest.approx(sizes.sum() / (400 * kappa.sum() / 0.01), rel=1e-9)
    assert local.horizon_part([2.0, 2.0]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: local.critical_batch_size(0, 1, 1), "lr"),
        (lambda: local.critical_batch_size(1, 0, 1), "G2"),
        (lambda: local.critical_batch_size(1, 1, -1), "Q"),
        (lambda: local.optimal_lr(1, 1, -2, 1), "GHG"),
        (lambda: local.detection_steps(1, 1, 0), "S2"),
        (lambda: local.successive_gradients(4, 1, 1, 1, n=7), "n"),
        (lambda: local.momentum_product(1, 1, 1.0, 1, 1), "momentum"),
        (lambda: local.preconditioned([1.0], [[1.0]], [[1.0, 2.0]], [1.0]), "covariance"),
        (lambda: local.stationary_noise(1, 2.5, [1.0], [1.0]), "lr"),
        (lambda: local.best_constant_batch_size(0.1, 1, 0.1, [1.0, 0.5]), "path"),
        (lambda: local.best_constant_batch_size(0.1, 1, 0.8, [1.0, 0.5]), "path"),
        (lambda: local.joint_growth_steps(1.0, 3), "gamma"),
        (lambda: local.lr_price(3, 1), "lr"),
        (lambda: local.horizon_part([0.0]), "kappa"),
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


@pytest.mark.parametrize(
    ("field", "given"),
    [("lr", (-0.1, 1.0, 0.1, [1.0, 0.1])), ("Q", (0.1, -1.0, 0.1, [1.0, 0.1])), ("eps", (0.1, 1.0, -0.1, [1.0, 0.1])),
     ("eps", (0.1, 1.0, np.nan, [1.0, 0.1])), ("path", (0.1, 1.0, 0.1, []))],
)  # fmt: skip
def test_the_best_batch_size_of_nonsense_is_refused(field, given):
    with pytest.raises(InputError, match=f"^{field} = "):
        local.best_constant_batch_size(*given)
