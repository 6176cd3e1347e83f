"""The derivations prove themselves, and stop proving themselves when any one step is altered."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.mutations import row
from sfolib._utils.errors import InputError
from sfolib.theory.derivations import DerivationError, broken, evaluate, result, results
from sfolib.theory.derivations.algebra import above, anywhere, at_least, between, eq, ge, gt, has_sign, le, lt, vanishes
from sfolib.theory.derivations.derivation import Derivation
from sfolib.theory.derivations.inference import (
    Averaged,
    BoundedSum,
    Combined,
    Instance,
    Integrated,
    Mapped,
    Summed,
    Tangent,
)
from sfolib.theory.derivations.mutation import HARMLESS, mutants
from sfolib.theory.derivations.proof import Proof
from sfolib.theory.derivations.steps import Assumed, Cited, ClosedSum, Identity, Limit, Root, Sign

PAGE = Path(__file__).parents[2] / "docs" / "proofs.md"
KEYS = [f"T{i}" for i in range(1, 18)]
x, y, u = sp.symbols("x y u", positive=True)
w = sp.Symbol("w", real=True)
n = sp.Symbol("n", positive=True, integer=True)


def test_all_results_are_there_in_order():
    assert [derivation.key for derivation in results()] == KEYS
    assert all("[S]" in d.source or "[N]" in d.source for d in results())


@pytest.mark.parametrize("key", KEYS)
def test_every_derivation_verifies(key):
    result(key).verify()


@pytest.mark.parametrize("key", KEYS)
def test_a_broken_step_is_found_where_it_is(key):
    derivation = result(key)
    for i, step in enumerate(derivation.steps):
        if not isinstance(step, Assumed):
            with pytest.raises(DerivationError, match=rf"{key}, step {i + 1} \(.*does not hold"):
                derivation.with_step(i, broken(step)).verify()


@pytest.mark.parametrize("key", KEYS)
def test_what_is_made_false_or_left_out_is_found_out(key):
    found = [(mutant.what, mutant.outcome, mutant.kind) for mutant in mutants(result(key))]
    assert [what for what, outcome, _ in found if outcome == "missed"] == []
    passed = [(kind, what) for what, outcome, kind in found if outcome == "harmless"]
    for _, kind, words in (entry for entry in HARMLESS if entry[0] == key):
        assert any(k == kind and what.startswith(words) for k, what in passed)
    counts = Counter((kind, outcome) for _, outcome, kind in found)
    assert row(result(key), counts) in PAGE.read_text(), "python -m benchmarks.mutations"


def test_a_result_fails_without_what_it_cites():
    two = result("T2")
    at, cited = next((i, step) for i, step in enumerate(two.steps) if isinstance(step, Cited))
    other = replace(cited.result, key="X")
    for empty in (replace(other, steps=()), replace(other, steps=(), conclusion=())):
        with pytest.raises(DerivationError, match=f"step {at + 1} "):
            two.with_step(at, replace(cited, result=empty)).verify()


@pytest.mark.parametrize("key", KEYS)
def test_no_assumption_is_a_conclusion(key):
    derivation = result(key)
    assumed = {step.fact for step in derivation.assumptions}
    assert not assumed & set(derivation.conclusion)
    assert derivation.statement.atoms(sp.Symbol)


@pytest.mark.parametrize("key", KEYS)
def test_markdown_shows_assumptions_every_step_and_the_statement(key):
    derivation = result(key)
    shown = derivation._repr_markdown_()
    assert all(step.claim in shown and step.tex in shown and step.how in shown for step in derivation.steps)
    assert all(sp.latex(relation) in shown for relation in derivation.conclusion)
    text = str(derivation)
    assert all(step.claim in text for step in derivation.steps)
    assert text.count("     [") == len(derivation.steps) - len(derivation.assumptions)
    assert all(f"\n  {i}. {step.claim}" in text for i, step in enumerate(derivation.steps, 1))


def test_what_is_assumed_elsewhere_is_told():
    assert 'what T1 assumes: print(sfolib.result("T1"))' in str(result("T2"))
    assert "‖u‖ ≤ L s ‖d‖, for every s, D:" in str(result("T1"))
    assert "‖u‖ ≤ L s ‖d‖, for every s, D: $" in result("T1")._repr_markdown_()
    with pytest.raises(InputError, match="i = 99: must be"):
        result("T2").with_step(99, None)
    with pytest.raises(KeyError, match=r"'b\*', but .*b_\*"):
        result("T2").value("b*")


def test_verify_says_what_it_checked():
    found = result("T2").verify()
    assert found.proved + found.cited + found.assumed == len(result("T2").steps)
    assert str(found).startswith(f"T2 holds: {found.proved} steps proved")


def test_unknown_key_names_what_is_allowed():
    with pytest.raises(InputError, match=r"T99.*T17"):
        result("T99")


# a derivation is a chain: order, ranges and premises count


def test_a_proof_states_something():
    proof = Proof("X", "a proof", "[N]")
    proof.assume("x", gt(x, 1))
    with pytest.raises(DerivationError, match="X: states nothing"):
        proof.done()


def chain(*steps, conclusion=(), key="X"):
    return Derivation(key, "a chain", "[N]", steps, conclusion)


def test_a_step_may_not_rest_on_a_later_one():
    first = Sign("x", gt(x, 0))
    second = Combined("2x", gt(2 * x, 0), ((first, 2),))
    chain(first, second).verify()
    with pytest.raises(DerivationError, match=r"step 1 .* not established"):
        chain(second, first).verify()


def test_a_step_may_not_leave_the_range_it_was_proved_on():
    big = Sign("x > 2", gt(x, 2), on=(above(x, 2),))
    used = Combined("2x > 4", gt(2 * x, 4), ((big, 2),))
    with pytest.raises(DerivationError, match=r"step 2 .*outside its range"):
        chain(big, used).verify()
    chain(big, replace(used, on=(above(x, 3),))).verify()
    at = Instance("at y + 1", gt(y + 1, 2), big, {x: y + 1})
    with pytest.raises(DerivationError, match=r"step 2 .*outside its range"):
        chain(big, at).verify()
    chain(big, replace(at, on=(above(y, 1),))).verify()


def test_a_citation_must_be_what_the_other_derivation_states_where_it_states_it():
    given = Assumed("x² > 4", gt(x**2, 4))
    proved = Combined("x > 2", gt(x, 2), ((given, 1 / (x + 2)),), on=(above(x, 2),))
    other = chain(given, proved, conclusion=(proved.fact,))
    chain(Cited("x", gt(x, 2), other, on=(above(x, 2),))).verify()
    with pytest.raises(DerivationError, match="does not hold"):
        chain(Cited("x", gt(x, 3), other, on=(above(x, 3),))).verify()
    with pytest.raises(DerivationError, match="outside its range"):
        chain(Cited("x", gt(x, 2), other)).verify()


def test_a_name_may_not_be_given_two_values():
    first, again = (Root("a root", y - value, above(y, 0), value, name=u) for value in (x, 2 * x))
    chain(first, replace(again, equation=2 * y - 2 * x, value=x)).verify()
    with pytest.raises(DerivationError, match=r"step 2 .* gives u a second value"):
        chain(first, again).verify()


def test_an_instance_may_not_keep_a_name_whose_value_it_changes():
    named = Assumed("u is twice x", eq(u, 2 * x))
    at_one = Instance("at x = 1", eq(u, 2), named, {x: sp.S.One})
    with pytest.raises(DerivationError, match=r"step 2 .* gives u a second value"):
        chain(named, at_one).verify()
    chain(named, replace(at_one, fact=eq(y, 2), at={x: sp.S.One, u: y})).verify()


def test_what_is_stated_needs_a_premise_and_each_step_a_use():
    free = Sign("x", gt(x, 0))
    with pytest.raises(DerivationError, match="rests on no assumption"):
        chain(free, conclusion=(free.fact,)).verify()
    given = Assumed("y above x", gt(y, x))
    both = Combined("so y", gt(2 * y, 0), ((given, 2), (free, 2)))
    chain(given, free, both, conclusion=(both.fact,)).verify()
    with pytest.raises(DerivationError, match="spare is idle"):
        chain(given, free, replace(given, claim="spare"), both, conclusion=(both.fact,)).verify()


def _divided_by_zero():
    named = Assumed("x is y", eq(x, y))
    return named, Combined("1 = 0", eq(sp.S.One, 0), ((named, 1 / (x - y)),))


def _used_then_named(step):
    large = Assumed("u > 5", gt(u, 5))
    return large, step, Combined("1 > 5", gt(sp.S.One, 5), ((large, 1), (step, 1)))


def _named_by_its_own_value():
    first = Assumed("y is u + 1", eq(y, u + 1))
    return first, Root("u is y + 5", w - y - 5, anywhere(w), y + 5, name=u)


def _hidden(kind, fact, *args):
    named = Assumed("y is x²", eq(y, x**2))
    return named, (of := Combined("y ≥ 2x − 1", ge(y, 2 * x - 1), ((named, 1),))), kind("hides y", fact, of, *args)


def _hidden_in_a_sum():
    named = Assumed("y is n", eq(y, n))
    below = Combined("y ≤ n", le(y, n), ((named, -1),))
    return named, below, Summed("y", le(sp.Sum(y, (n, 1, 3)), sp.Sum(n, (n, 1, 3))), below, (n, 1, 3))


def _at_another(fact, *, at, **options):
    given = Assumed("of one value", fact, **options)
    there = fact.func(*(side.subs(at) for side in fact.args), evaluate=False)
    return given, Instance("of another", there, given, at)


def _called(key):
    given = Assumed("x", gt(x, 5))
    twice = Combined("2x", gt(2 * x, 10), ((given, 2),))
    return chain(given, twice, conclusion=(twice.fact,), key=key)


def _multiplied_by_zero(*factors):
    free, given = Sign("x", gt(x + 1, x)), Assumed("u is 7", eq(u, 7))
    terms = ((free, 2), *((given, factor) for factor in factors))
    return free, given, Combined("2x", gt(2 * x + 2, 2 * x), terms)


def _integrated(low, high, on=()):
    of = Sign("2x > x", gt(2 * x, x), on=on)
    value = sp.Rational(high**2 - low**2, 2)
    return of, Integrated("over x", gt(2 * value, value), of, (x, low, high), on=on)


def _summed(fact, low, high, on=()):
    of = Sign("each", fact, on=on)
    over = (n, low, high)
    return of, Summed("all", fact.func(*(sp.Sum(side, over) for side in fact.args), evaluate=False), of, over, on=on)


f = sp.Function("f")
a, k = sp.IndexedBase("a"), sp.Symbol("k", positive=True, integer=True)
below_zero = sp.Symbol("z", negative=True)
FALSE = {
    "division by 0": (_divided_by_zero(), "step 2 .* does not hold"),
    "used, then named by a root": (
        _used_then_named(Root("u", x - 1, above(x, 0), sp.S.One, name=u)),
        "step 2 .* gives u a value after its use",
    ),
    "used, then named by an identity": (
        _used_then_named(Identity("u", (x + 1) ** 2 - x**2 - 2 * x, sp.S.One, name=u)),
        "step 2 .* gives u a value after its use",
    ),
    "named by its own value": (_named_by_its_own_value(), "step 2 .* gives u a value after its use"),
    "a root named in its own equation": (
        (Root("u is u + 1", x - u - 1, above(x, 0), u + 1, name=u),),
        "step 1 .* gives u a value after its use",
    ),
    "integral of a hidden name": (
        _hidden(Integrated, ge(y, sp.S.Zero), (x, 0, 1)),
        "step 3 .* gives y a second value",
    ),
    "mean of a hidden name": (_hidden(Averaged, ge(y, 2 * u - 1), {x: u}), "step 3 .* gives y a second value"),
    "sum of a hidden name": (_hidden_in_a_sum(), "step 3 .* gives y a second value"),
    "an assumption at another value": (_at_another(gt(u, 1), at={u: sp.S.Half}), "step 2 .* takes .* at another u"),
    "a name at another value": (_at_another(eq(u, 2 * x), at={u: sp.S(7)}), "step 2 .* gives 7 a value"),
    "a name in the place of one with another value": (
        (_at_another(eq(u, 2 * x), at={u: y})[0], Assumed("y", eq(y, 3 * x)), *_at_another(eq(u, 2 * x), at={u: y})),
        "step 4 .* gives y a second value",
    ),
    "two values, one on the left": (
        (Assumed("u", eq(u, 1)), Assumed("u again", eq(2, u))),
        "u again is assumed and false",
    ),
    "two values of a function": (
        (Assumed("f", eq(f(x), x)), Assumed("f(2)", eq(f(2), 100))),
        "step 2 .* gives f.2. a second value",
    ),
    "two values of a sequence": (
        (Assumed("a_n", eq(a[n], n)), Assumed("a_k", eq(a[k], 2 * k))),
        "step 2 .* gives a.k. a second value",
    ),
    "a premise times 0": (_multiplied_by_zero(0), "step 3 .* does not use u is 7"),
    "a premise that cancels": (_multiplied_by_zero(x, -x), "step 3 .* does not use u is 7"),
    "−w > 0 for real w": ((Sign("w", gt(-w, 0), on=(anywhere(w),)),), "step 1 .* does not hold"),
    "integral outside of the symbol's values": (_integrated(-2, -1), "step 2 .* does not hold"),
    "integral outside of the premise's range": (_integrated(0, 1, (above(x, 5),)), "step 2 .* outside its range"),
    "sum from outside of the premise's range": (
        _summed(gt(n, 1), 1, k, (above(n, 1),)),
        "step 2 .* outside its range",
    ),
    "sum from outside of the index's values": (_summed(gt(2 * n, n), 0, k), "step 2 .* does not hold"),
    "a real square at i": (
        (square := Sign("w²", ge(w**2, 0)), Instance("at i", ge(sp.S(-1), 0), square, {w: sp.I})),
        "step 2 .* does not hold",
    ),
    "a negative symbol at 5": (
        _at_another(lt(below_zero, 0), at={below_zero: sp.S(5)}, every=(below_zero,)),
        "step 2 .* does not hold",
    ),
    "another derivation in the place of T1": (
        (Cited("T1", gt(2 * x, 10), _called("T1")),),
        "step 1 .* does not hold",
    ),
}


@pytest.mark.parametrize("name", FALSE)
def test_false_derivations_are_refused(name):
    steps, fault = FALSE[name]
    with pytest.raises(DerivationError, match=fault):
        chain(*steps).verify()


def test_the_same_steps_are_taken_where_they_are_true():
    chain(*_at_another(gt(u + 1, 1), at={u: sp.S.Half}, every=(u,))).verify()
    chain(Cited("not T1", gt(2 * x, 10), _called("Y"))).verify()
    chain(*_integrated(0, 1)).verify()
    chain(*_summed(gt(2 * n, n), 1, k)).verify()
    given = Assumed("x is y", eq(x, y))
    chain(given, Combined("x/y = 1", eq(x / y, 1), ((given, 1 / y),))).verify()


@pytest.mark.parametrize(
    ("low", "high", "ends", "field"),
    [(0, 1, "[]", "ends"), (3, 2, "()", "high"), (-2, -1, "()", "high"), (-sp.oo, 1, "()", "low")],
)
def test_a_range_without_a_value_or_with_both_ends_is_refused(low, high, ends, field):
    with pytest.raises(InputError, match=f"{field} = "):
        between(x, low, high, ends)


def test_what_sympy_cannot_decide_is_a_derivation_that_does_not_hold():
    odd = Sign("no sign of a complex number", gt(x, 0), on=(between(x, sp.I, 1),))
    with pytest.raises(DerivationError, match="step 1"):
        chain(odd).verify()


def test_a_weighted_sum_of_steps_says_what_is_multiplied_by_what():
    one, two = Assumed("", eq(x, 1)), Assumed("", eq(y, 2))
    assert one.weights == ((one, 1),)
    assert (u * (one - 2 * two / x) + two).weights == ((one, u), (two, -2 * u / x), (two, 1))
    proof = Proof("T", "title", "source")
    summed = proof.combine("x − 2y", eq(x - 2 * y, -3), -(2 * two - one))
    assert summed.terms == ((two, -2), (one, 1))
    assert summed.proved
    assert not proof.combine("x − y", eq(x - y, -3), one - two).proved


def test_steps_that_could_not_fail_are_refused():
    with pytest.raises(ValueError, match="could not fail"):
        Identity("same", x + 1, 1 + x)
    first = Sign("x", gt(x, 0))
    with pytest.raises(ValueError, match="could not fail"):
        Combined("again", gt(x, 0), ((first, 1),))


@pytest.mark.parametrize(
    "step",
    [
        Root("two roots in the range", (x - 1) * (x - 2), above(x, 0), sp.S.One),
        Root("no root in the range", x - 1, above(x, 2), sp.S.One),
        Root("not a polynomial", sp.exp(x) - 2, above(x, 0), sp.log(2)),
        Root("undecided whether a second root is in the range", (x - 1) * (x - y), above(x, 0), sp.S.One),
        Sign("needs x > 1", gt(x - 1, 0)),
        Sign("is 0 at x = 1", gt((x - 1) ** 2, 0)),
        ClosedSum("wrong first term", sp.Sum(x, (n, 1, n)), x * n + 1, n),
        Combined("negative multiplier", le(x, 1), ((Assumed("", ge(x, 1)), -1),)),
        Combined("an equation from an inequality", eq(x, 1), ((Assumed("", ge(x, 1)), 1),)),
        Combined("strict from not strict", gt(2 * x, 2), ((Assumed("", ge(x, 1)), 2),)),
        Mapped("not monotone", ge((x - 2) ** 2, 1), Assumed("", ge(x, 1)), sp.Lambda(y, (y - 2) ** 2)),
        Tangent("neither convex nor concave", ge(y**3 - 3 * y**2, 0), sp.Lambda(x, x**3 - 3 * x**2), sp.S.One, y),
        Instance("not positive", gt(-u, 0), Sign("x", gt(x, 0)), {x: -u}),
        Limit("another limit", 1 / x, x, sp.oo, sp.S.One, side="-"),
        BoundedSum(
            "first term above the bound",
            le(
                sp.Sum(1 / n, (n, 1, sp.Symbol("T", positive=True, integer=True))),
                sp.log(sp.Symbol("T", positive=True, integer=True)),
            ),
            Assumed("", le(1 / n, sp.log(n) - sp.log(n - 1))),
        ),
    ],
    ids=lambda step: step.claim,
)
def test_each_kind_of_step_can_fail(step):
    assert not step.holds()


def test_a_root_may_be_the_only_one_anywhere():
    assert Root("linear", 2 * w + x, anywhere(w), -x / 2).holds()
    assert not Root("two", w**2 - x, anywhere(w), sp.sqrt(x)).holds()


# the prover is sound: what it calls positive is positive, what it calls 0 is 0

coefficients = st.lists(st.integers(-4, 4), min_size=1, max_size=5)
points = st.fractions(min_value=Fraction(1, 50), max_value=50, max_denominator=100)


@settings(max_examples=40)
@given(coefficients, coefficients, points, st.integers(-3, 3), st.booleans())
def test_a_proved_sign_holds_at_every_point(up, down, point, low, strict):
    top = sum(c * x**k for k, c in enumerate(up))
    bottom = 1 + sum(abs(c) * x**k for k, c in enumerate(down))
    where = max(low, 0)
    if has_sign(top / bottom, (above(x, where),), strict):
        value = (sp.sympify(top) / bottom).subs(x, where + sp.Rational(point))
        assert value > 0 if strict else value >= 0


@settings(max_examples=40)
@given(coefficients, st.integers(0, 3))
def test_the_sign_of_a_polynomial_without_roots_beyond_a_point_is_found(up, low):
    polynomial = sp.Poly(sum(c * x**k for k, c in enumerate(up)), x)
    beyond = polynomial.compose(sp.Poly(x + low, x))
    positive = not polynomial.is_zero and beyond.count_roots(0, None) == 0 and beyond.eval(1) > 0
    if positive:
        assert has_sign(polynomial.as_expr(), (above(x, low),))
    elif not polynomial.is_zero and beyond.eval(1) <= 0:
        assert not has_sign(polynomial.as_expr(), (above(x, low),))


@settings(max_examples=40)
@given(coefficients, coefficients)
def test_vanishes_agrees_with_polynomial_arithmetic(left, right):
    p = sum(c * x**k for k, c in enumerate(left))
    q = sum(c * x**k for k, c in enumerate(right))
    assert vanishes((p + q) ** 2 - p**2 - 2 * p * q - q**2)
    assert vanishes(sp.sympify(p - q)) == sp.Poly(p - q, x).is_zero


@pytest.mark.parametrize(
    ("found", "ends"),
    [
        (above(x, 2), ((2, False), (Fraction(5, 2), True))),
        (at_least(x, 2), ((2, True), (Fraction(3, 2), False))),
        (between(x, 1, 3), ((1, False), (2, True), (3, False))),
        (between(x, 1, 3, "(]"), ((1, False), (3, True), (4, False))),
        (between(x, 1, 3, "[)"), ((1, True), (3, False))),
    ],
)
def test_a_range_knows_its_ends(found, ends):
    for value, belongs in ends:
        assert found.inside(sp.Rational(value)) is belongs
        assert found.outside(sp.Rational(value)) is not belongs


# what the statements say, against counting


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_finite_population_variance_of_t1_is_the_count_over_all_subsets(size):
    values = [Fraction(v) for v in (3, -1, 4, 1, -9)]
    mean = sum(values) / 5
    sigma2 = sum((v - mean) ** 2 for v in values) / 5
    subsets = list(combinations(values, size))
    counted = sum((sum(s) / size - mean) ** 2 for s in subsets) / len(subsets)
    derivation = result("T1")
    bound = next(
        c.rhs
        for c in derivation.conclusion
        if isinstance(c, sp.Le) and c.has(sp.Symbol("n", positive=True, integer=True))
    )
    symbols = {symbol.name: symbol for symbol in bound.free_symbols}
    stated = bound.subs({symbols["b"]: size, symbols["n"]: 5, symbols["sigma"]: sp.sqrt(sp.Rational(sigma2))})
    assert stated == sp.Rational(counted)


def test_evaluate_takes_arrays_and_names_what_is_missing():
    assert list(evaluate(x + 2 * y, x=np.array([1.0, 2.0]), y=3.0)) == [7.0, 8.0]
    with pytest.raises(InputError, match=r"must also give y"):
        evaluate(x + y, x=1.0)


def test_value_reads_a_stated_equation():
    assert sp.latex(result("T2").value("b_*")) == r"\frac{2 C_{2} \eta}{\epsilon^{2}}"
    with pytest.raises(KeyError, match="states no 'b_0'"):
        result("T2").value("b_0")
