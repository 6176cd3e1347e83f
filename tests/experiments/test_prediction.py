"""What notebook 14 is held against: written before, found again by what it is of, and predicted where it is not."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from sfolib._utils import files
from sfolib.analysis import successive
from sfolib.experiments import prediction
from sfolib.experiments.prediction import PROBLEMS, described
from sfolib.experiments.project import root
from sfolib.schedules.plan import Plan
from sfolib.theory import local
from sfolib.training.estimates import Interval
from sfolib.training.spec import Spec


def asked(scale, **change):
    p = prediction.Parameters(scale=scale, device="cpu", **change)
    return p, {key: spec for key, spec in prediction.specs(p, prediction.schedules(p), {}).items() if key != "online"}


def test_everything_at_every_scale_was_written_before():
    written = prediction.written()
    for scale in ("smoke", "quick", "paper"):
        assert {described(spec) for spec in asked(scale)[1].values()} <= {*written["key"]}
    of_model = written["case"].str.partition(",")[0]
    assert written["tolerance"].tolist() == [prediction.TOLERANCE[model] for model in of_model]


def test_a_prediction_is_of_what_decides_it():
    spec = Spec(problem=PROBLEMS["softmax"], plan=Plan(8, 0.1), sampling="replacement", max_samples=100)
    same = [{"plan": Plan(32, 0.1)}, {"max_samples": 999}, {"max_steps": 9}, {"seeds": (0, 5)}]
    other = [{"plan": Plan(8, 0.2)}, {"sampling": "permutation"}, {"seeds": (5, 0)}, {"problem": PROBLEMS["mlp"]}]
    assert {described(spec.model_copy(update=change)) for change in same} == {described(spec)}
    assert described(spec) not in {described(spec.model_copy(update=change)) for change in other}
    permuted = [described(spec.model_copy(update={"sampling": "permutation", "plan": Plan(b, 0.1)})) for b in (8, 32)]
    assert permuted[0] != permuted[1]


def test_what_was_not_written_is_predicted_and_told(capsys):
    p, specs = asked("smoke", lrs=[0.3], time=3.0)
    own = {key: spec for key, spec in specs.items() if key[:3] == ("pair", "softmax", 0.3)}
    (found,) = prediction.predictions(p, own).values()
    assert found[0].steps[-1] == 10
    assert "predicted now" in capsys.readouterr().out


def test_each_claim_on_networks_has_a_reason_of_its_own():
    key = "plan", "mlp", "constant", "replacement"
    found = replace(prediction.NONE, noise=np.array([0.0, 7.0]))
    res = SimpleNamespace(
        p=prediction.Parameters(scale="quick", seeds=5), predicted={key: found}, tolerance={key: 0.15},
        windows={key: [Interval(0.9, 0.7, 1.1), Interval(1.1, 1.0, 1.2)]},
    )  # fmt: skip
    assert prediction.why(res, [key]) == "All are within it; 5 seeds do not tell."
    res.windows[key][0] = Interval(0.5, 0.4, 0.6)
    assert "'constant', at 0.5." in prediction.why(res, [key])
    kept = files.read_json(root() / "figures/reference/checks.json", "")
    reasons = [of["explanation"] for of in kept if of["notebook"].startswith("14_") and of["explanation"]]
    assert len(reasons) == len({*reasons}) == 7


def test_what_is_drawn_is_t14():
    """Exact moments over all pairs of samples, batches of two of one sample each, where the step is nothing."""
    problem = PROBLEMS["softmax"]
    (point,) = successive.points(problem, [3], 0.4)
    assert point.trace == pytest.approx(point.noise.sum())
    assert point.halving > 0
    seen = successive.drawn(problem, point, 32, 1e-9, 512, "replacement")
    for name, exact in (("product", point.G2), ("halves", point.G2), ("spread", point.trace / 32)):
        error = seen[name].std() / len(seen[name]) ** 0.5
        assert abs(seen[name].mean() - exact) < 4 * error, name
    variance = point.S2 / 32**2 + 2 * variance_along(problem, point) / 32
    assert seen["product"].var() == pytest.approx(variance, rel=0.3)
    s = successive.drawn(problem, point, 32, 0.4, 512, "replacement")["product"]
    wanted = local.successive_gradients(32, 0.4, point.G2, point.Q, point.GHG)
    assert abs(s.mean() - wanted) < 4 * s.std() / len(s) ** 0.5


def variance_along(problem, point):
    """GᵀΣG from per-sample gradients, at the point."""
    task = problem.build_task((0,), "replacement", "cpu", "float64")
    task.parameters[0][:] = point.theta
    _, logits = task._forward(task.x[None])
    delta = (logits.softmax(1) - task.y.T)[0]
    each = (delta[:, None] * task.x.T[None]).flatten(0, 1).numpy()
    G = each.mean(1)
    return float(np.var(G @ each))
