"""The statements of the derivations, evaluated on random constants, against the plain numbers of `bounds`, `local`."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sympy.core.function import AppliedUndef

from sfolib.theory import bounds, local
from sfolib.theory.derivations import evaluate, result


def positive(low, high):
    return st.floats(low, high, allow_nan=False)


constants = st.builds(bounds.Constants, L=positive(0.1, 50), sigma2=positive(1e-3, 100), gap=positive(1e-2, 100))
target = positive(1e-3, 1)
fraction = positive(0.01, 0.99)
factor = positive(1.05, 8)
few = settings(max_examples=50)
CLOSE = 1e-9  # both sides are float64 evaluations of a few operations each


def number(expr, c=None, **values):
    """`expr` with its symbols, by name, replaced by floats; C1 and C2 for η_max = `lr_max`."""
    if c is not None:
        values |= {"L": c.L, "sigma": c.sigma2**0.5, "Delta": c.gap}
        if "lr_max" in values:
            room = 2 - c.L * values.pop("lr_max")
            values |= {"C_1": 2 * c.gap / room, "C_2": c.L * c.sigma2 / room}
    short = {"lr": "eta", "eps": "epsilon"}
    return float(evaluate(expr, **{short.get(name, name): value for name, value in values.items()}))


def relation(key, kind, *has):
    """The one relation of `kind` among the conclusions of `key` that has these terms."""
    found = [c for c in result(key).conclusion if isinstance(c, kind) and all(c.has(term) for term in has)]
    assert len(found) == 1
    return found[0]


@few
@given(constants, st.lists(st.tuples(fraction, st.integers(1, 64)), min_size=1, max_size=6), st.booleans())
def test_t1_bound_of_any_schedule(c, pairs, fresh):
    lr = np.array([2 * s / c.L for s, _ in pairs])
    batch_size = np.array([b for _, b in pairs], dtype=float)
    n = 80 if fresh else None
    replaced, subset = (c.rhs for c in result("T1").conclusion if isinstance(c, sp.Le) and str(c.lhs) in ("v_R", "v_B"))
    variance = subset if fresh else replaced
    noise = [number(variance, sigma=1.0, b=b, **({"n": n} if fresh else {})) for b in batch_size]
    for steps in range(1, len(pairs) + 1):
        S, V = lr[:steps].sum(), (lr**2 * noise)[:steps].sum()
        stated = number(result("T1").conclusion[-1].rhs, c, S=S, V=V, eta_max=lr.max())
        assert bounds.gradient_bound(c, batch_size, lr, n)[steps - 1] == pytest.approx(stated, rel=CLOSE)


@few
@given(constants, fraction, target, positive(1.01, 100))
def test_t2_critical_batch(c, s, eps, over):
    lr = 2 * s / c.L
    two = result("T2")
    for name, numeric in (
        ("b_*", bounds.critical_batch_size),
        ("N_*", bounds.minimal_samples),
        ("K_*", bounds.minimal_steps),
    ):
        assert numeric(c, lr, eps) == pytest.approx(number(two.value(name), c, lr=lr, eps=eps, lr_max=lr), rel=CLOSE)
    batch_size = bounds.critical_batch_size(c, lr, eps) / 2 * over
    stated = number(two.value("K"), c, lr=lr, eps=eps, lr_max=lr, b=batch_size)
    assert bounds.steps_to(c, batch_size, lr, eps) == pytest.approx(stated, rel=1e-6)  # near the floor digits cancel
    assert bounds.samples_to(c, batch_size, lr, eps) == pytest.approx(stated * batch_size, rel=1e-6)


@few
@given(constants, fraction, target, fraction)
def test_t2_below_the_floor_nothing_is_enough(c, s, eps, below):
    lr = 2 * s / c.L
    low = bounds.critical_batch_size(c, lr, eps) / 2 * below
    assert bounds.steps_to(c, low, lr, eps) == np.inf
    assert (
        number(relation("T2", sp.Gt, sp.Symbol("epsilon", positive=True)).lhs, c, lr=lr, lr_max=lr, b=low, K=1e12)
        > eps**2
    )


@few
@given(constants, fraction, target)
def test_t3_price(c, s, eps):
    lr = 2 * s / c.L
    three = result("T3")
    assert bounds.price_of_parallelism(c, lr) == pytest.approx(number(three.value("price(eta)"), c, lr=lr), rel=CLOSE)
    assert bounds.minimal_samples(c, lr, eps) == pytest.approx(
        number(three.value("N_*(eta)"), c, lr=lr, eps=eps), rel=CLOSE
    )
    assert bounds.minimal_steps(c, lr, eps) == pytest.approx(
        number(three.value("K_*(eta)"), c, lr=lr, eps=eps), rel=CLOSE
    )
    fastest = number(three.value("eta_*"), c)
    assert bounds.minimal_steps(c, fastest, eps) <= bounds.minimal_steps(c, lr, eps) * (1 + CLOSE)
    assert bounds.price_of_parallelism(c, fastest) == pytest.approx(4, rel=CLOSE)


@few
@given(factor, positive(0.2, 5))
def test_t4_growth(delta, gamma):
    four, grown = result("T4"), bounds.growth(delta, gamma)
    r, tau = number(four.value("r"), delta=delta, gamma=gamma), number(four.conclusion[4].rhs, delta=delta, gamma=gamma)
    assert (grown.r, grown.tau) == (pytest.approx(r, rel=CLOSE), pytest.approx(tau, rel=CLOSE))
    assert grown.epochs == pytest.approx(number(four.value("e"), r=r), rel=CLOSE)
    assert number(four.value("delta"), gamma=gamma, r=r) == pytest.approx(delta, rel=CLOSE)


@few
@given(factor, positive(0.3, 4), factor)
def test_t5_exponent(rho, gamma, g):
    delta, tau = rho * gamma, g / gamma
    (p,) = (step.fact.rhs for step in result("T5").assumptions if str(step.fact.lhs) == "p")
    assert bounds.rate_exponent(delta, gamma, tau) == pytest.approx(number(p, g=g, rho=rho), rel=CLOSE)
    surface = number(result("T5").value("g_even"), rho=rho)
    half = number(result("T5").value("p_even"))
    assert bounds.rate_exponent(delta, gamma, surface / gamma) == pytest.approx(half, rel=CLOSE)


@few
@given(positive(1.01, 20))
def test_t6_anytime_ratios(r):
    six = result("T6")
    finish = next(c.rhs for c in six.conclusion if isinstance(c, sp.Eq) and c.lhs.has(sp.Limit))
    early = six.value("worst_early(r)")
    assert bounds.anytime_ratio(r) == pytest.approx(number(finish, r=r), rel=CLOSE)
    assert bounds.anytime_ratio(r, stop_early=True) == pytest.approx(number(early, r=r), rel=CLOSE)
    for name, stop, least in (("r_finish", False, 4), ("r_early", True, 8 / 3)):
        assert bounds.anytime_ratio(float(six.value(name)), stop) == pytest.approx(least, rel=CLOSE)


@few
@given(constants, target, factor, factor, positive(1e-3, 0.2), positive(0.2, 0.99), factor)
def test_t7_ends_of_the_phases(c, eps, r, gamma, s0, s1, wide):
    assume(s0 < s1)  # else there is no first phase in which to be early
    lr, max_lr = 2 * s0 / c.L, 2 * s1 / c.L
    first = number(result("T7").value("m_1"), eta_max=max_lr, eta_0=lr, gamma=gamma)
    b0 = bounds.critical_batch_size(c, lr, eps, max_lr)
    b1 = b0 * (gamma * r) ** first
    b_max = wide * b1
    second = number(result("T7").value("m_2"), b_max=b_max, b_1=b1, r=r)
    ends = bounds.stage_ends(c, eps, r, lr, gamma, max_lr, b_max)
    assert ends == (pytest.approx(first, rel=1e-7), pytest.approx(first + second, rel=1e-7))
    b_early = (b0 + b1) / 2
    early = number(result("T7").value("m_b"), b_max=b_early, b_0=b0, gamma=gamma, r=r)
    assert bounds.stage_ends(c, eps, r, lr, gamma, max_lr, b_early) == (np.inf, pytest.approx(early, rel=1e-7))


@few
@given(constants, fraction, st.integers(1, 512), positive(0.02, 0.98), st.integers(1, 3000))
def test_t9_bounds_hold_for_the_exact_sums(c, s, batch_size, a, steps):
    if abs(a - 0.5) < 1e-3:
        a = 0.5
    lr = 2 * s / c.L
    nine = [r.rhs for r in result("T9").conclusion if isinstance(r, sp.Le) and not r.has(AppliedUndef)]
    sharp, slow, even, fast = nine
    stated = sharp if a < 0.5 else fast if a > 0.5 else even
    values = {"lr": lr, "lr_max": lr, "b": batch_size, "T": steps} | ({} if a == 0.5 else {"a": a})
    closed = number(stated, c, **values)
    assert bounds.decaying_lr_bound(c, batch_size, lr, a, steps) <= closed * (1 + CLOSE)
    if a < 0.5:
        assert closed <= number(slow, c, **values) * (1 + CLOSE)


@few
@given(constants, fraction, target)
def test_t10_norm_test_follows_the_critical_batch(c, s, eps):
    lr = 2 * s / c.L
    ten = result("T10")
    eta_nt = number(ten.conclusion[-2].rhs, c, lr=lr) ** 0.5
    assert bounds.norm_test_lr(c, eta_nt) == pytest.approx(number(ten.conclusion[-1].rhs, c, eta_nt=eta_nt), rel=CLOSE)
    assert bounds.norm_test_lr(c, eta_nt) == pytest.approx(lr, rel=CLOSE)
    own = number(stated("T10", "eta_own"), c, w=min(eta_nt, 0.9) ** 2)
    assert bounds.norm_test_lr(c, min(eta_nt, 0.9), own_batch=True) == pytest.approx(own, rel=CLOSE)
    asked = number(ten.conclusion[-3].rhs, c, eta_nt=eta_nt, eps=eps)
    assert bounds.norm_test_batch_size(c, eta_nt, eps) == pytest.approx(asked, rel=CLOSE)
    assert bounds.critical_batch_size(c, lr, eps) == pytest.approx(asked, rel=CLOSE)


@few
@given(constants, target, positive(1.001, 1e3))
def test_t11_front(c, eps, over):
    eleven = result("T11")
    k_min = 2 * c.gap * c.L / eps**2
    steps = over * k_min
    batch_size = number(eleven.value("b_front(K)"), c, eps=eps, K=steps)
    assert bounds.noise_scale(c, eps) == pytest.approx(number(eleven.value("B"), c, eps=eps), rel=CLOSE)
    assert bounds.front_batch_size(c, steps, eps) == pytest.approx(batch_size, rel=CLOSE / (over - 1))
    assert bounds.front_samples(c, steps, eps) == pytest.approx(batch_size * steps, rel=CLOSE / (over - 1))
    rule = number(eleven.value("eta_best(b)"), c, eps=eps, b=batch_size)
    assert bounds.optimal_lr(c, batch_size, eps) == pytest.approx(rule, rel=CLOSE)
    assert rule == pytest.approx(number(eleven.value("eta_front(K)"), c, eps=eps, K=steps), rel=CLOSE / (over - 1))
    assert bounds.front_steps(c, batch_size, eps) == pytest.approx(steps, rel=CLOSE)


@few
@given(constants, fraction, target)
def test_t11_overhead_of_t2_over_the_front(c, s, eps):
    lr = 2 * s / c.L
    over = bounds.minimal_samples(c, lr, eps) / bounds.front_samples(c, bounds.minimal_steps(c, lr, eps), eps)
    assert over == pytest.approx(number(result("T11").value("overhead(eta)"), c, lr=lr), rel=1e-7)


@few
@given(constants, target, positive(1e-6, 1), positive(1e-8, 1e-2))
def test_t12_time_optimum(c, eps, latency, per_sample):
    twelve = result("T12")
    times = {"tau_0": latency, "tau_1": per_sample}
    batch_size = bounds.time_optimal_batch_size(c, eps, latency, per_sample)
    assert batch_size == pytest.approx(number(twelve.value("b_time(epsilon)"), c, eps=eps, **times), rel=CLOSE)
    lr = number(twelve.value("eta_time(epsilon)"), c, eps=eps, **times)
    assert bounds.optimal_lr(c, batch_size, eps) == pytest.approx(lr, rel=CLOSE)
    least = relation("T12", sp.Ge).rhs
    k_min, n_min = bounds.front_min_steps(c, eps), bounds.front_min_samples(c, eps)
    assert bounds.front_time(c, batch_size, eps, latency, per_sample) == pytest.approx(
        number(least, K_min=k_min, N_min=n_min, **times), rel=CLOSE
    )


place = st.fixed_dictionaries({"G_2": positive(0.01, 10), "G_HG": positive(0.01, 10), "Q": positive(0.01, 10)})


def stated(key, lhs):
    """The right-hand side of the one stated equation whose left-hand side prints as `lhs`."""
    found = [c.rhs for c in result(key).conclusion if isinstance(c, sp.Eq) and str(c.lhs) == lhs]
    assert found
    return found[0]


@few
@given(place, fraction, positive(1, 1e3))
def test_t13_and_t14_at_one_place(k, s, b):
    G2, GHG, Q = k["G_2"], k["G_HG"], k["Q"]
    lr = s * G2 / GHG
    best = number(stated("T13", "eta_step"), b=b, **k)
    assert local.optimal_lr(b, G2, GHG, Q) == pytest.approx(best, rel=CLOSE)
    critical = number(stated("T13", "b_c"), lr=lr, **k)
    assert local.critical_batch_size(lr, G2, Q, GHG) == pytest.approx(critical, rel=CLOSE)
    product = number(stated("T14", "s(b)"), lr=lr, b=b, **k)
    assert local.successive_gradients(b, lr, G2, Q, GHG) == pytest.approx(product, abs=CLOSE * G2)


@few
@given(place, fraction, st.integers(1, 20), st.integers(40, 1000), positive(0.1, 10))
def test_t14_by_permutation(k, lr, b, n, trace):
    G2, GHG, Q = k["G_2"], k["G_HG"], k["Q"]
    product = number(stated("T14", "s_perm"), lr=lr, b=b, n=n, tr_Sigma=trace, **k)
    assert local.successive_gradients(b, lr, G2, Q, GHG, n, trace) == pytest.approx(product, rel=CLOSE, abs=CLOSE)


@few
@given(place, fraction, positive(1, 100), fraction, positive(0.1, 10))
def test_t14_momentum_and_detection(k, lr, b, momentum, S2):
    G2, Q = k["G_2"], k["Q"]
    product = number(stated("T14", "s_v(b)"), lr=lr, b=b, mu=momentum, G_2=G2, Q=Q)
    assert local.momentum_product(b, lr, momentum, G2, Q) == pytest.approx(product, abs=1e-7 * (G2 + Q))
    threshold = number(stated("T14", "s_v(b_v)"), mu=momentum, G_2=G2)
    assert local.momentum_threshold(momentum, G2) == pytest.approx(threshold, rel=CLOSE)
    steps = number(stated("T14", "m_sign"), lr=lr, Q=Q, S_2=S2, z=1.96)
    assert local.detection_steps(lr, Q, S2) == pytest.approx(steps, rel=CLOSE)


@few
@given(fraction, positive(0.1, 10), target, positive(0.2, 4), positive(0.1, 10), positive(1, 100))
def test_t15(lr, Q, eps, p, eigenvalue, b):
    best = number(stated("T15", "b_best"), lr=lr, Q=Q, eps=eps, p=p)
    assert local.stationary_best_batch_size(lr, Q, eps, p) == pytest.approx(best, rel=CLOSE)
    lr = lr / eigenvalue
    noise = number(stated("T15", "C_infty"), lr=lr, v=Q, b=b, **{"lambda": eigenvalue})
    assert local.stationary_noise(b, lr, [eigenvalue], [Q]) == pytest.approx(eigenvalue**2 * noise, rel=CLOSE)
    assert local.stationary_noise(b, lr, [eigenvalue], [Q], power=1) == pytest.approx(eigenvalue * noise, rel=CLOSE)


@few
@given(st.lists(positive(0.01, 10), min_size=2, max_size=9), positive(0.01, 10))
def test_t16_water_filling_without_bounds(kappa, room):
    total = next(c.rhs for c in result("T16").conclusion if isinstance(c, sp.Eq) and str(c.rhs) == "S_root**2/R")
    least = number(total, S_root=np.sqrt(kappa).sum(), R=room)
    assert local.best_batch_sizes(kappa, room, minimum=1e-9).sum() == pytest.approx(least, rel=1e-6)
    assert local.horizon_part(kappa) == pytest.approx(least / (len(kappa) * np.sum(kappa) / room), rel=CLOSE)


@few
@given(factor, st.integers(2, 30), fraction, positive(0.2, 4))
def test_t17(gamma, stages, s, p):
    over = number(stated("T17", "overhead(M)"), gamma=gamma, M=stages - 1)
    assert local.joint_growth_steps(gamma, stages) == pytest.approx(over, rel=1e-7)
    price = number(stated("T17", "price(eta)"), lr=2 * s, **{"lambda": 1.0})
    assert local.lr_price(2 * s, 1.0) == pytest.approx(price, rel=CLOSE)
    part = next(c for c in result("T17").conclusion if isinstance(c, sp.Eq) and c.lhs.has(sp.Integral)).rhs
    part = part.replace(sp.Function("b_any"), lambda x: sp.S.One).subs(sp.Symbol("K", positive=True), 1)
    assert local.anytime_part(p) == pytest.approx(number(part, p=p), rel=CLOSE)
