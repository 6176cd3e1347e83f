"""The optimal schedule against independent optimisers, against its families, and against its own definition."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq, minimize

from sfolib._utils.errors import InputError
from sfolib.theory.optimal_schedule import FAMILIES, _Problem, best_of_family, fastest, optimum
from sfolib.theory.quadratic import PowerLawQuadratic

CASES = [
    ({"noise": "white"}, "grad_sqnorm", 0.1, 40),
    ({"noise": "curvature"}, "grad_sqnorm", 0.1, 40),
    ({"noise": "white"}, "loss", 0.7, 40),
    ({"noise": "white", "init": "flat"}, "grad_sqnorm", 0.05, 60),
]


def problem(kind: dict) -> PowerLawQuadratic:
    return PowerLawQuadratic(d=20, lam_min=1e-3, L=2.0, sigma2=50.0, **kind)


def final(q: PowerLawQuadratic, batch_size, lr, target: str) -> float:
    return (q.grad_sqnorm_path if target == "grad_sqnorm" else q.loss_path)(batch_size, lr)[-1]


@pytest.mark.parametrize(("kind", "target", "eps", "steps"), CASES)
def test_the_optimum_meets_its_target_and_its_limits(kind, target, eps, steps):
    q = problem(kind)
    found = optimum(q, steps, eps, target, max_lr=0.5, min_batch_size=2.0)
    assert found.steps == len(found.lr) == len(found.batch_size) == steps
    assert found.samples == pytest.approx(np.sum(found.batch_size))
    assert final(q, found.batch_size, found.lr, target) == found.value == pytest.approx(eps**2, rel=1e-9)
    assert np.max(found.lr) <= 0.5 * (1 + 1e-12)
    assert np.min(found.batch_size) >= 2.0


@pytest.mark.parametrize(("kind", "target", "eps", "steps"), CASES)
def test_no_perturbation_of_the_optimum_is_cheaper(kind, target, eps, steps):
    """Random changes of all lr and batch sizes, batch then scaled so that the target is met again."""
    q, rng = problem(kind), np.random.default_rng(1)
    found = optimum(q, steps, eps, target, max_lr=0.5, min_batch_size=1e-6, nodes=steps)
    for size in (0.3, 0.03, 0.003):
        for _ in range(20):
            lr = np.minimum(found.lr * np.exp(size * rng.normal(size=steps)), 0.5)
            batch_size = found.batch_size * np.exp(size * rng.normal(size=steps))
            bias = final(q, 1e300, lr, target)
            if bias < eps**2:
                scale = (final(q, batch_size, lr, target) - bias) / (eps**2 - bias)
                assert scale * np.sum(batch_size) >= found.samples * (1 - 1e-7)


def test_a_shape_is_scaled_to_the_least_batches_that_meet_the_target():
    rng, q, met = np.random.default_rng(4), problem({"noise": "white"}), set()
    for _ in range(300):
        steps, smallest = int(rng.integers(2, 40)), float(10 ** rng.uniform(-1, 4))
        told = _Problem(q, steps, float(10 ** rng.uniform(-1, 0)), "grad_sqnorm", None, smallest)
        lr, shape = np.minimum(0.9, np.exp(rng.normal(-1, 0.6, steps))), np.exp(rng.normal(size=steps))
        bias, c, _ = told.parts(lr)
        if bias >= told.value:
            assert told.scaled(lr, shape) is None
            continue

        def missed(log_b0, room=told.value - bias, c=c, shape=shape, smallest=smallest):
            return np.sum(c / np.maximum(smallest, np.exp(log_b0) * shape)) - room

        low = np.log(smallest / shape.max())  # every batch is the smallest up to here
        b0 = np.exp(low if missed(low) <= 0 else brentq(missed, low, 60.0, xtol=1e-13))
        assert told.scaled(lr, shape) == pytest.approx(np.maximum(smallest, b0 * shape), rel=1e-9)
        met.add(str(np.unique(b0 * shape > smallest * (1 + 1e-9))))
    assert len(met) == 3  # all at the smallest, some, none


def test_another_optimiser_in_all_variables_finds_nothing_better():
    """SLSQP over (ln lr_t, ln b_t) with the target as a constraint and numerical gradients."""
    q, steps, eps = problem({"noise": "curvature"}), 8, 0.4
    found = optimum(q, steps, eps, max_lr=0.9, nodes=steps)
    limits = [(math.log(1e-3), math.log(0.9))] * steps + [(0.0, 12.0)] * steps
    constraint = {
        "type": "ineq",
        "fun": lambda z: 1 - final(q, *np.exp(z.reshape(2, -1))[::-1], "grad_sqnorm") / eps**2,
    }
    rng, best = np.random.default_rng(2), math.inf
    for _ in range(4):
        start = np.concatenate([np.full(steps, math.log(0.5)), np.full(steps, 6.0)]) + rng.normal(size=2 * steps)
        start = np.clip(start, *np.array(limits).T)
        result = minimize(
            lambda z: np.log(np.sum(np.exp(z[steps:]))),
            start,
            method="SLSQP",
            bounds=limits,
            constraints=[constraint],
            options={"maxiter": 500, "ftol": 1e-12},
        )
        if constraint["fun"](result.x) > -1e-9:
            best = min(best, math.exp(result.fun))
    assert found.samples <= best * (1 + 1e-6)
    assert best == pytest.approx(found.samples, rel=1e-3)


@pytest.mark.parametrize(("kind", "target", "eps", "steps"), CASES)
def test_refining_the_nodes_changes_little_and_only_for_the_better(kind, target, eps, steps):
    q = problem(kind)
    coarse, fine = (optimum(q, steps, eps, target, nodes=nodes).samples for nodes in (16, steps))
    assert fine <= coarse * (1 + 1e-6)
    assert fine == pytest.approx(coarse, rel=0.01)


@pytest.mark.parametrize(("kind", "target", "eps", "steps"), CASES)
def test_the_optimum_is_at_least_as_good_as_every_family_at_its_best(kind, target, eps, steps):
    q = problem(kind)
    free = optimum(q, steps, eps, target, nodes=steps)
    constant = best_of_family("constant", q, steps, eps, target)
    for family in ("exponential growth", "late switch", "lr down, batch up"):
        best = best_of_family(family, q, steps, eps, target)
        assert free.samples <= best.samples * (1 + 1e-6)
        assert best.samples <= constant.samples * (1 + 1e-6)
        assert final(q, best.batch_size, best.lr, target) == pytest.approx(eps**2, rel=1e-9)


def test_the_constant_family_is_the_exact_front():
    q = problem({"noise": "white"})
    best, front = best_of_family("constant", q, 40, 0.1, min_batch_size=1e-6), q.front(40, 0.1)
    assert best.samples == pytest.approx(front.samples, rel=1e-6)
    assert best.lr[0] == pytest.approx(front.lr, rel=1e-2)
    assert best.batch_growth == best.lr_growth == 1
    assert best.share(0, 0) == 1
    assert best.half_spent in (20 / 40, 21 / 40)  # by rounding of the running sum


@pytest.mark.parametrize("family", list(FAMILIES))
def test_all_parameters_0_is_the_constant_schedule(family):
    count, shapes = FAMILIES[family]
    log_lr, log_batch_size = shapes(np.arange(50) / 50, -0.7, np.zeros(count))
    assert log_lr == pytest.approx(-0.7)
    assert log_batch_size == pytest.approx(0, abs=1e-15)


def test_critical_tracking_is_three_phases_with_stages_of_T2s_length():
    """T4 and T7: b_m ∝ η_m r^m up to its cap, T_m ∝ r^m/η_m, and lr shrinks by r once the batch is full."""
    gamma, r, start, cap = 1.3, 2.0, -1.0, math.log(60.0)
    u = np.arange(200_000) / 200_000
    lr, batch_size = FAMILIES["critical tracking"][1](u, start, np.array([8 * math.log(gamma), 8 * math.log(r), cap]))
    begins = np.flatnonzero(np.diff(lr + 3 * batch_size, prepend=-9))
    rows, lengths = [(lr[i], batch_size[i]) for i in begins], np.diff(begins, append=200_000)
    assert len(rows) == 8
    for m, (eta, b) in enumerate(rows):
        assert b == pytest.approx(min(eta - start + m * math.log(r), cap))
        assert lengths[m] / lengths[0] == pytest.approx(r**m / math.exp(eta - start), rel=0.02)
    assert rows[3][0] == pytest.approx(min(0.0, start + 3 * math.log(gamma)))
    assert rows[7][0] - rows[6][0] == pytest.approx(-math.log(r))


def test_batches_are_those_of_the_multiplier_found_by_bisection():
    """Σ c/max(min_batch, κ√c) = room solved for κ, at every room from nearly none to more than min_batch needs."""
    judge, rng = _Problem(problem({}), 30, 0.1, "grad_sqnorm", None, 2.0), np.random.default_rng(4)
    c = np.exp(2 * rng.normal(size=30))
    for room in np.sum(c) / 2.0 * np.array([1e-3, 0.1, 0.5, 0.8, 0.95, 0.999]):
        kappa = brentq(lambda k, room=room: np.sum(c / np.maximum(2.0, k * np.sqrt(c))) - room, 1e-9, 1e9, xtol=1e-12)
        batch_size, found = judge.batches(c, room)
        assert found == pytest.approx(kappa, rel=1e-6)
        assert batch_size == pytest.approx(np.maximum(2.0, kappa * np.sqrt(c)), rel=1e-6)
    assert judge.batches(c, np.sum(c) / 2.0)[1] == 0


def test_min_batch_binds_where_it_must():
    q = problem({"noise": "curvature"})
    free = optimum(q, 40, 0.1, min_batch_size=1e-6)
    floor = float(np.median(free.batch_size))
    run_lock = optimum(q, 40, 0.1, min_batch_size=floor)
    assert np.min(run_lock.batch_size) == floor < np.max(run_lock.batch_size)
    assert run_lock.samples > free.samples
    idle = optimum(q, 40, 0.1, min_batch_size=1e9)
    assert idle.samples == pytest.approx(40e9)
    assert idle.value < 0.01


def test_fastest_is_the_best_number_of_steps():
    q, eps = PowerLawQuadratic(d=20, lam_min=1e-2, sigma2=50.0), 0.15
    found = fastest(q, eps, 200.0, 1.0, max_lr=1.0)
    times = {k: 200 * k + optimum(q, k, eps, max_lr=1.0).samples for k in range(14, 90, 4)}
    assert 200 * found.steps + found.samples <= min(times.values()) * (1 + 1e-6)
    assert min(times, key=times.get) == pytest.approx(found.steps, abs=6)
    assert found.steps < fastest(q, eps, 20.0, 1.0, max_lr=1.0).steps


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda q: optimum(q, 40, 0.1, max_lr=1.0), "max_lr = 1.0: must be below 2/L = 1"),
        (lambda q: optimum(q, 1, 0.1), "steps = 1"),
        (lambda q: optimum(q, 3, 0.001), "steps = 3: too few"),
        (lambda q: optimum(q, 40, 0.1, min_batch_size=0), "min_batch_size = 0"),
        (lambda q: optimum(q, 40, 0.1, nodes=41), "nodes = 41: must be in [2, steps = 40]"),
        (lambda q: best_of_family("spiral", q, 40, 0.1), "family = 'spiral'"),
        (lambda q: fastest(q, 0.1, 0.0, 1.0), "latency = 0.0"),
    ],
)
def test_bad_input_names_the_field_and_the_value(call, named):
    with pytest.raises(InputError) as caught:
        call(problem({}))
    assert named in str(caught.value)
