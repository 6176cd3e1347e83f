"""Every kind of claim: shown to hold, and shown to fail."""

import json
from html import escape

import numpy as np
import pytest

from benchmarks.rounding import compare
from sfolib._utils.errors import InputError
from sfolib.analysis.claims import (
    KINDS,
    VERDICTS,
    Check,
    LeftOut,
    Table,
    chance,
    check,
    differences,
    outcome,
    over_next,
    table,
)
from sfolib.analysis.fits import fit_exponent, fit_front, power_law_scatter
from sfolib.training import estimates

EXACT = {"exact": True}
CASES = [
    ("equal", {"measured": [1.0, 2.02], "theory": [1.0, 2.0], "tolerance": 0.02} | EXACT, "reproduced"),
    ("equal", {"measured": [1.0, 2.05], "theory": [1.0, 2.0], "tolerance": 0.02} | EXACT, "partly"),
    ("equal", {"measured": np.nan, "theory": 1.0, "tolerance": 0.02} | EXACT, "not reproduced"),
    ("equal", {"measured": 1.0, "theory": 1.0, "tolerance": 0.02}, "undecided"),
    ("equal", {"measured": 1.0, "theory": 1.0, "tolerance": 0.02, "interval": (0.99, 1.01)}, "reproduced"),
    ("equal", {"measured": 1.0, "theory": 1.0, "tolerance": 0.02, "interval": (0.9, 1.01)}, "undecided"),
    ("equal", {"measured": 1.1, "theory": 1.0, "tolerance": 0.02, "interval": (1.03, 1.2)}, "not reproduced"),
    ("equal", {"measured": -1.1, "theory": -1.0, "tolerance": 0.02, "interval": (-1.2, -1.03)}, "not reproduced"),
    ("equal", {"measured": [[1.0, 2.0]] * 2, "theory": [1.0, 2.0], "tolerance": 0.02} | EXACT, "reproduced"),
    ("upper_bound", {"measured": [1.0, 2.0], "theory": 2.0} | EXACT, "reproduced"),
    ("upper_bound", {"measured": [1.0, 2.1], "theory": 2.0} | EXACT, "partly"),
    ("upper_bound", {"measured": [np.inf, np.nan], "theory": 2.0} | EXACT, "not reproduced"),
    ("upper_bound", {"measured": [1.0, 1.0], "theory": 2.0, "interval": [(0, 1.5), (0, 2.5)]}, "undecided"),
    ("upper_bound", {"measured": [1.0, 3.0], "theory": 2.0, "interval": [(0, 2.5), (2.1, 4)]}, "not reproduced"),
    ("upper_bound", {"measured": 3.0, "theory": 2.0, "interval": (np.nan, np.nan)}, "undecided"),
    ("exponent", {"measured": -1.9, "theory": -2.0, "interval": (-2.1, -1.85)}, "reproduced"),
    ("exponent", {"measured": -1.9, "theory": -2.0, "interval": (-2.1, -1.7)}, "undecided"),
    ("exponent", {"measured": -1.9, "theory": -2.0, "interval": (-1.95, -1.85), "tolerance": 0.02}, "not reproduced"),
    ("exponent", {"measured": np.nan, "theory": -2.0, "interval": (np.nan, np.nan)}, "undecided"),
    ("ordering", {"measured": [1, 2, 4]} | EXACT, "reproduced"),
    ("ordering", {"measured": [1, 2, 2]} | EXACT, "partly"),
    ("ordering", {"measured": [2, 1]} | EXACT, "not reproduced"),
    ("ordering", {"measured": [1, 2]}, "undecided"),
    ("ordering", {"measured": [1, 2], "interval": [(0.5, 1.4), (1.5, 2.5)]}, "reproduced"),
    ("ordering", {"measured": [1, 2], "interval": [(0.5, 1.6), (1.5, 2.5)]}, "undecided"),
    ("ordering", {"measured": [2, 1], "interval": [(1.5, 2.5), (0.5, 1.4)]}, "not reproduced"),
    ("ordering", {"measured": [1, np.inf], "interval": [(0.5, 1.6), (3.0, np.inf)]}, "reproduced"),
    ("ordering", {"measured": [1, np.inf], "interval": [(0.5, 1.6), (1.4, np.inf)]}, "undecided"),
    ("ordering", {"measured": [1, 2], "interval": [(0.5, np.inf), (1.5, 2.5)]}, "undecided"),
]


def test_orders_of_several_groups_are_one_claim():
    below, above, wide = (estimates.Interval(*of) for of in ((1, 0.9, 1.1), (2, 1.8, 2.2), (1.5, 1.0, 2.0)))
    never = estimates.Interval(np.inf, np.inf, np.inf)
    for groups, verdict in (
        ([(below, above)], "reproduced"), ([(above, below)], "not reproduced"), ([(below, wide)], "undecided"),
        ([(below, above), (above, below)], "partly"), ([(below, above, never), (wide, never)], "reproduced"),
        ([(never, never)], "undecided"), ([(never, below)], "not reproduced"),
    ):  # fmt: skip
        claim = Check("", "upper_bound", theory=1.0, **over_next(*groups))
        alone = [Check("", "ordering", **estimates_of(group)) for group in groups]
        assert claim.verdict == verdict
        assert list(claim.judged) == [judged for of_group in alone for judged in of_group.judged]


def estimates_of(group):
    return {"measured": [of.value for of in group], "interval": [of[1:] for of in group]}


@pytest.mark.parametrize(("kind", "arguments", "verdict"), CASES)
def test_verdict(kind, arguments, verdict):
    check = Check("a claim", kind, **arguments)
    assert check.verdict == verdict
    json.dumps(check.to_dict(), allow_nan=False)


@pytest.mark.parametrize("word", VERDICTS)
def test_every_kind_has_every_verdict_that_it_can(word):
    """A single pair of neighbours is never partly so; nor is a single exponent."""
    assert {kind for kind, _, verdict in CASES if verdict == word} >= set(KINDS) - (
        {"exponent"} if word == "partly" else set()
    )


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"kind": "roughly", "measured": 1.0}, "kind"),
        ({"kind": "upper_bound", "measured": 1.0}, "theory"),
        ({"kind": "upper_bound", "measured": [], "theory": 1.0}, "measured"),
        ({"kind": "equal", "measured": 1.0, "theory": 1.0}, "tolerance"),
        ({"kind": "equal", "measured": 1.0, "theory": 1.0, "tolerance": 0.0}, "tolerance"),
        ({"kind": "exponent", "measured": 1.0, "theory": 0.0}, "theory"),
        ({"kind": "ordering", "measured": [1.0]}, "measured"),
        ({"kind": "upper_bound", "measured": 1.0, "theory": 1.0, "interval": (0, 2), "exact": True}, "interval"),
        ({"kind": "upper_bound", "measured": [1.0, 1.0], "theory": 1.0, "interval": (0, 2)}, "interval"),
        ({"kind": "upper_bound", "measured": 1.0, "theory": 1.0, "interval": (2, 1)}, "interval"),
        ({"kind": "upper_bound", "measured": 1.0, "theory": 1.0, "interval": (np.nan, 1)}, "interval"),
        ({"kind": "upper_bound", "measured": [1.0] * 3, "theory": 1.0, "interval": [[0.0] * 3, [2.0] * 3]}, "interval"),
        ({"kind": "upper_bound", "measured": [1.0] * 3, "theory": [1.0, 2.0]}, "theory"),
        ({"kind": "equal", "measured": 1.0, "theory": 1.0, "tolerance": 2.0}, "tolerance"),
        ({"kind": "upper_bound", "measured": 1.0, "theory": 1.0, "prediction": "hope"}, "prediction"),
    ],
)
def test_a_check_that_could_not_fail_is_refused(arguments, field):
    with pytest.raises(InputError, match=f"^{field} = "):
        Check("a claim", **arguments)


def published(*checks):
    return [check.to_dict() | {"notebook": "01_a"} for check in checks]


def test_verdicts_that_turned_are_named():
    good = Check("holds", "upper_bound", 1.0, 2.0, exact=True)
    bad = Check("breaks", "upper_bound", 3.0, 2.0, exact=True)
    open_ = Check("open", "upper_bound", 3.0, 2.0, interval=(1.0, 4.0))
    known = {("01_a", name): "reproduced" for name in ("holds", "breaks", "open")}
    assert differences(published(good, bad, open_), known) == ["01_a: breaks: not reproduced here, reproduced before"]
    assert differences(published(good, bad, open_), {key: "undecided" for key in known}) == []
    assert differences(published(good, bad, open_), {}) == []
    left_out = [{"claim": "breaks", "missing": "all"}]
    gone = "01_a: breaks: is not claimed here, reproduced before"
    assert differences(published(good, open_), known, ended="01_a") == [gone]
    assert differences(published(good, open_), known, left_out, ended="01_a") == []
    assert differences(published(good, open_), known) == []  # it may still come


def test_counts_are_told_where_not_all_hold():
    part = Check("a claim", "upper_bound", [1.0, 2.0, 3.0], 2.0, exact=True)
    unsure = Check("a claim", "upper_bound", [1.0, 2.0], 2.0, interval=[(0.0, 1.0), (1.0, 3.0)])
    alone = Check("a claim", "upper_bound", 1.0, 2.0)
    told = ["partly (2 of 3 hold)", "undecided (1 of 2 hold)", "undecided"]
    assert [outcome(check) for check in published(part, unsure, alone)] == told


def test_chance_fails_no_more_claims_than_it_says():
    """400 true claims of 3 values each, every one at the edge of its bound."""
    rng = np.random.default_rng(0)
    checks = []
    for _ in range(400):
        value, low, high = estimates.mean(rng.normal(1.0, 1.0, (5, 3)), log=False)
        checks.append(Check("a claim", "upper_bound", value, 1.0, interval=np.transpose([low, high])))
    found = chance(published(*checks, Check("computed", "upper_bound", 2.0, 1.0, exact=True)))
    assert found.claims == 400
    assert found.expected == pytest.approx(400 * (1 - 0.975**3))
    assert found.failed == pytest.approx(found.expected, abs=3 * found.expected**0.5)


def test_table_has_a_row_a_check():
    frame = table([Check("one", "upper_bound", 1.0, 2.0, source="T1", exact=True), Check("two", "ordering", [1, 2])])
    assert list(frame["claim"]) == ["one", "two"]
    assert list(frame["verdict"]) == ["reproduced", "undecided"]


def test_fitted_exponent_covers_the_true_one():
    x = np.geomspace(1, 100, 12)
    slope = fit_exponent(x, 3 * x**-1.5)
    assert slope.value == pytest.approx(-1.5, abs=1e-12)
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        slope = fit_exponent(x, x**-1.5 * np.exp(0.1 * rng.normal(size=12)))
        covered += slope.low <= -1.5 <= slope.high
    assert 0.92 < covered / 400 < 0.98
    with pytest.raises(InputError, match="3 points"):
        fit_exponent([1, 2], [1, 2])


FRONT = 50 * (1 + 1 / (u := np.geomspace(0.03, 20, 12))), 2e4 * (1 + u)


def test_fit_front_finds_the_hyperbola_that_the_points_are_on():
    fit = fit_front(*FRONT)
    assert (fit.min_steps, fit.min_samples, fit.batch_size) == pytest.approx((50, 2e4, 400), rel=1e-6)
    assert fit.scatter < 1e-7
    assert fit.samples(FRONT[0]) == pytest.approx(FRONT[1], rel=1e-6)
    assert fit.samples([49.9, 50.0]).tolist() == [np.inf, np.inf]


def test_fit_front_is_the_nearest_of_hyperbolas_around_it():
    noise = np.random.default_rng(0).normal(scale=0.1, size=(2, 12))
    points = np.log(FRONT) + noise
    fit = fit_front(*np.exp(points))
    u = np.geomspace(1e-3, 1e3, 20_001)

    def scatter(min_steps, min_samples):
        curve = np.log([min_steps * (1 + 1 / u), min_samples * (1 + u)])
        squares = [((curve - point[:, None]) ** 2).sum(0).min() for point in points.T]
        return np.mean(squares) ** 0.5

    assert fit.scatter == pytest.approx(scatter(fit.min_steps, fit.min_samples), rel=1e-4)
    for k, n in [(1.02, 1), (0.98, 1), (1, 1.02), (1, 0.98), (1.02, 0.98)]:
        assert scatter(k * fit.min_steps, n * fit.min_samples) > fit.scatter


def test_power_law_scatter_is_the_distance_from_a_line_in_logarithms():
    x = np.geomspace(1, 100, 9)
    assert power_law_scatter(x, 3 * x**-0.7) < 1e-12
    assert power_law_scatter([1, 1, 100, 100], [np.e, 1 / np.e] * 2) == pytest.approx(1.0)
    assert power_law_scatter(*FRONT) > 10 * fit_front(*FRONT).scatter


@pytest.mark.parametrize("points", [([1.0, 2.0], [2.0, 1.0]), ([1.0, 2.0, -3.0], [3.0, 2.0, 1.0])])
def test_a_front_that_cannot_be_fitted_is_named(points):
    with pytest.raises(InputError, match="steps = "):
        fit_front(*points)


def test_a_claim_without_values_is_left_out_with_a_word():
    assert check("a", "upper_bound", [], "none was reached", theory=1.0) == LeftOut("a", "none was reached")
    assert check("a", "ordering", [1.0]).missing == "1 values were measured, and it needs 2 or more"
    assert isinstance(check("a", "upper_bound", [np.nan], theory=1.0), LeftOut)
    assert check("a", "upper_bound", [0.5], theory=1.0, exact=True).verdict == "reproduced"


def test_the_table_shows_claims_whole_and_escapes_them():
    long = "a <b>claim</b> " * 20
    shown = Table([Check(long, "upper_bound", [2.0] * 9, 1.0, exact=True, explanation="why").to_dict()])
    assert escape(long) in shown._repr_html_()
    for text in (shown._repr_html_(), repr(shown)):
        assert "9 values, 2 … 2" in text
        assert "why" in text
        assert "None" not in text


def test_verdicts_that_rounding_turns():
    def claim(name, verdict, *measured):
        return {"notebook": "01_x", "claim": name, "verdict": verdict, "measured": list(measured)}

    before = [claim("a", "reproduced", 1.0, None), claim("b", "partly", 2.0), claim("c", "undecided", 4.0)]
    now = [
        claim("a", "reproduced", 1.0, None),
        claim("b", "reproduced", 2.1),
        claim("c", "partly", 4.0),
        claim("d", "partly"),
    ]
    found = compare([*now, claim("d", "partly")], before)
    assert found["claims"] == 3
    assert found["turned"] == [("01: b", "reproduced", "partly")]
    assert found["undecided"] == [("01: c", "partly", "undecided")]
    assert (found["same"], found["beyond_1_percent"]) == (0.75, 0.25)
