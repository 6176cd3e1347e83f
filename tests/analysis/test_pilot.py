"""Constants from pilots: T2 put in and got back, a pilot's price, and its L."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

from sfolib._utils.errors import InputError
from sfolib._utils.rng import generator
from sfolib.analysis.pilot import fitted_constants, local_smoothness, pilots
from sfolib.gradients.curvature import smoothness
from sfolib.problems.modules import modules, training_data
from sfolib.problems.specs import Digits, Quadratic
from sfolib.schedules.plan import Plan
from sfolib.theory import bounds
from sfolib.theory.bounds import Constants
from sfolib.training.loop import Trainer
from sfolib.training.records import Run
from sfolib.training.spec import Spec

TRUE, EPS = Constants(L=2.0, sigma2=3.0, gap=0.7), 0.3


def steps(lr, batch_size):
    return bounds.steps_to(TRUE, np.array(batch_size, dtype=float), lr, EPS)


@pytest.mark.parametrize("batch_size", [[20, 80], [20, 40, 80, 160]])
def test_the_constants_behind_t2_are_found(batch_size):
    found = fitted_constants(2.0, batch_size, 0.2, steps(0.2, batch_size), EPS)
    assert (found.L, found.sigma2, found.gap) == pytest.approx((2.0, 3.0, 0.7))


def test_several_learning_rates_at_once():
    lr, batch_size = np.array([0.1, 0.1, 0.4]), np.array([20, 80, 80])
    found = fitted_constants(2.0, batch_size, lr, bounds.steps_to(TRUE, batch_size, lr, EPS), EPS)
    assert (found.sigma2, found.gap) == pytest.approx((3.0, 0.7))


def test_without_noise_all_is_descent():
    found = fitted_constants(2.0, [4, 8], 0.2, [50.0, 50.0], EPS)  # Δ = ηK ε² (1 − Lη/2) by hand
    assert found.sigma2 == pytest.approx(0.0, abs=1e-12)
    assert found.gap == pytest.approx(0.2 * 50 * 0.09 * 0.8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": [20, 20]}, "two batch sizes"),
        ({"steps": [10.0, np.inf]}, "steps"),
        ({"lr": 1.0}, "below 2/L"),
        ({"batch_size": [4, 8], "steps": [10.0, 1000.0]}, "no Δ above 0 fits"),
    ],
)
def test_bad_pilots_are_named(change, message):
    good = {"lr": 0.2, "batch_size": [20, 80], "steps": [40.0, 30.0]}
    with pytest.raises(InputError, match=message):
        fitted_constants(2.0, eps=EPS, **good | change)


def made(batch_size, crossing):
    """Seeds 0 and 1 whose ‖∇f‖² falls tenfold a decade of steps, through EPS² at `crossing` steps."""
    at = np.unique(np.geomspace(1, 10**4, 400).round())
    rows = [
        {
            "seed": seed,
            "step": int(k),
            "samples": int(k) * batch_size,
            "batch_size": batch_size,
            "lr": 0.2,
            "grad_sqnorm": EPS**2 * c / k,
        }
        for seed, c in enumerate(crossing)
        for k in at
    ]
    return Run(None, {"status": "finished"}, pd.DataFrame(rows).assign(batch_size=batch_size, lr=0.2))


def test_every_seed_has_its_own_pilot_and_pays_for_it():
    runs = [made(20, (400.0, 500.0)), made(80, (300.0, 200.0))]
    first, second = pilots(runs, ([2.0, 1.5], 100), EPS)
    assert first.samples == pytest.approx(100 + 400 * 20 + 300 * 80, rel=1e-3)
    assert second.samples == pytest.approx(100 + 500 * 20 + 200 * 80, rel=1e-3)
    wanted = fitted_constants(1.5, [20, 80], 0.2, [500, 200], EPS)
    assert (second.constants.sigma2, second.constants.gap) == pytest.approx((wanted.sigma2, wanted.gap), rel=1e-2)
    assert (first.constants.L, second.constants.L) == (2.0, 1.5)


def test_a_run_that_missed_eps_is_paid_for_and_left_out():
    runs = [made(20, (400.0,)), made(80, (300.0,)), made(5, (10.0**6,))]
    (found,) = pilots(runs, ([2.0], 0), EPS)
    (without,) = pilots(runs[:2], ([2.0], 0), EPS)
    assert found.constants == without.constants
    assert found.samples == pytest.approx(without.samples + 5 * 10**4, rel=1e-3)


def task(problem):
    how = {"max_samples": 100, "seeds": (0, 1), "sampling": "replacement", "dtype": "float64"}
    return Trainer(Spec(problem=problem, plan=Plan(4, 0.1), **how), "cpu").task


def test_the_quadratics_largest_eigenvalue_is_known():
    found, price = local_smoothness(task(Quadratic(d=20, lam_min=1e-2, L=3.0)))
    assert found.tolist() == pytest.approx([3.0, 3.0])
    assert price == 0


@pytest.mark.parametrize("model", ["softmax", "mlp", "cnn"])
def test_a_few_products_suffice_and_are_paid_for(model):
    start = task(Digits(model=model, holdout=1000))
    before = [x.clone() for x in start.parameters]
    found, price = local_smoothness(start, batch_size=32)
    x, y = training_data(start)
    chosen = torch.randperm(len(x), generator=generator(0))[:32]
    exact = [smoothness(m, cross_entropy, x[chosen], y[chosen], l2=1e-3) for m in modules(start)]
    assert found == pytest.approx(exact, rel=0.01)
    assert found[0] != found[1] or model == "softmax"  # a seed each
    assert 32 * (1 + 2 * 6) <= price <= 32 * (1 + 2 * 9)
    assert all((x == y).all() for x, y in zip(start.parameters, before, strict=True))


def test_softmax_regressions_is_below_the_proven_bound():
    problem = Digits(holdout=360)
    found, _ = local_smoothness(task(problem), batch_size=1437)
    x = problem.design()
    # at θ = 0 the Hessian is (I/10 − 11ᵀ/100) ⊗ E x̃x̃ᵀ + l2 I
    second = np.linalg.eigvalsh(x.T @ x / len(x))[-1]
    assert found == pytest.approx([0.1 * second + problem.l2] * 2, rel=1e-3)
    assert np.all(found < problem.smoothness_bound)


def test_local_smoothness_names_bad_input():
    with pytest.raises(InputError, match="batch_size"):
        local_smoothness(task(Quadratic(d=4)), batch_size=0)
