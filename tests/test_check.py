"""Every kind of claim: shown to hold, and shown to fail."""

import json

import numpy as np
import pytest

from sfolib.check import KINDS, Check, assert_expected, fit_exponent, table
from sfolib.errors import InputError

CASES = [
    ("tight", {"measured": [1.0, 2.02], "theory": [1.0, 2.0], "tolerance": 0.02}, "reproduced"),
    ("tight", {"measured": [1.0, 2.05], "theory": [1.0, 2.0], "tolerance": 0.02}, "partly"),
    ("tight", {"measured": np.nan, "theory": 1.0, "tolerance": 0.02}, "not reproduced"),
    ("upper", {"measured": [1.0, 2.0], "theory": 2.0}, "reproduced"),
    ("upper", {"measured": [1.0, 2.1], "theory": 2.0}, "partly"),
    ("upper", {"measured": [np.inf, np.nan], "theory": 2.0}, "not reproduced"),
    ("rate", {"measured": -1.9, "theory": -2.0, "interval": (-2.1, -1.7)}, "reproduced"),
    ("rate", {"measured": -1.9, "theory": -2.0, "interval": (-1.95, -1.85), "tolerance": 0.15}, "partly"),
    ("rate", {"measured": -1.9, "theory": -2.0, "interval": (-1.95, -1.85)}, "not reproduced"),
    ("rate", {"measured": np.nan, "theory": -2.0, "interval": (np.nan, np.nan)}, "not reproduced"),
    ("order", {"measured": [1, 2, 4]}, "reproduced"),
    ("order", {"measured": [1, 2, 2]}, "partly"),
    ("order", {"measured": [2, 1]}, "not reproduced"),
    ("order", {"measured": [1, 2], "interval": [(0.5, 1.4), (1.5, 2.5)]}, "reproduced"),
    ("order", {"measured": [1, 2], "interval": [(0.5, 1.6), (1.5, 2.5)]}, "not reproduced"),
    ("order", {"measured": [1, np.inf], "interval": [(0.5, 1.6), (np.inf, np.inf)]}, "reproduced"),
    ("order", {"measured": [1, 2], "interval": [(0.5, np.inf), (1.5, 2.5)]}, "not reproduced"),
]


@pytest.mark.parametrize(("kind", "arguments", "verdict"), CASES)
def test_verdict(kind, arguments, verdict):
    check = Check("a claim", kind, **arguments)
    assert check.verdict == verdict
    assert check.ok == (verdict == "reproduced")
    json.dumps(check.to_dict(), allow_nan=False)


def test_every_kind_can_fail():
    assert {kind for kind, _, verdict in CASES if verdict == "not reproduced"} == set(KINDS)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"kind": "roughly", "measured": 1.0}, "kind"),
        ({"kind": "upper", "measured": 1.0}, "theory"),
        ({"kind": "upper", "measured": [], "theory": 1.0}, "measured"),
        ({"kind": "tight", "measured": 1.0, "theory": 1.0}, "tolerance"),
        ({"kind": "tight", "measured": 1.0, "theory": 1.0, "tolerance": 0.0}, "tolerance"),
        ({"kind": "rate", "measured": 1.0, "theory": 1.0}, "interval"),
        ({"kind": "order", "measured": [1.0]}, "measured"),
        ({"kind": "upper", "measured": 1.0, "theory": 1.0, "expected": "partly"}, "explanation"),
    ],
)
def test_a_check_that_could_not_fail_is_refused(arguments, field):
    with pytest.raises(InputError, match=f"^{field} = "):
        Check("a claim", **arguments)


def test_only_expected_verdicts_pass():
    good = Check("holds", "upper", 1.0, 2.0)
    known = Check("does not", "upper", 3.0, 2.0, expected="not reproduced", explanation="the bound is for another f")
    assert_expected([good, known])
    with pytest.raises(AssertionError, match="breaks: not reproduced, expected reproduced"):
        assert_expected([good, Check("breaks", "upper", 3.0, 2.0)])
    with pytest.raises(AssertionError, match="holds now"):
        assert_expected([Check("holds now", "upper", 1.0, 2.0, expected="partly", explanation="outdated")])


def test_table_has_a_row_a_check():
    frame = table([Check("one", "upper", 1.0, 2.0, source="T1"), Check("two", "order", [1, 2])])
    assert list(frame["claim"]) == ["one", "two"]
    assert list(frame["verdict"]) == ["reproduced", "reproduced"]


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
