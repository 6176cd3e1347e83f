"""Records, one and several: crossings beside brute force and beside what is known exactly; files there and back."""

import numpy as np
import pandas as pd
import pytest

from sfolib._utils.errors import InputError
from sfolib.analysis.crossings import cheapest, crossings, pareto, predicted, ratio_to
from sfolib.problems.specs import Quadratic
from sfolib.schedules.plan import Plan
from sfolib.training import records
from sfolib.training.pooling import pooled
from sfolib.training.records import METRICS, RUN, Run


def made(curve, seeds=4, spread=0.0, ratio=1.02, batch_size=3):
    """A run whose ‖∇f‖² follows curve(step), times a log-normal factor of its own for each seed and point."""
    steps = np.unique(np.ceil(np.geomspace(1, 5000, int(np.log(5000) / np.log(ratio))))).astype(int)
    steps = np.concatenate([[0], steps])
    rng = np.random.default_rng(1)
    rows = [
        {
            "seed": s,
            "step": k,
            "samples": k * batch_size,
            "batch_size": batch_size,
            "grad_sqnorm": curve(k) * np.exp(spread * z),
        }
        for k in steps.tolist()
        for s, z in enumerate(rng.normal(size=seeds) - spread / 2)
    ]
    return Run(None, {"status": "finished"}, pd.DataFrame(rows))


def test_reach_finds_the_crossing_of_a_power_law():
    found = made(lambda k: 1 / (1 + k)).first_crossing(0.1)
    assert found.steps == pytest.approx(99, rel=0.005)
    assert found.samples == pytest.approx(3 * 99, rel=0.005)
    assert found.low == found.samples == found.high


def test_reach_is_known_to_two_percent_where_the_curve_falls_fast():
    found = made(lambda k: np.exp(-k / 300)).first_crossing(1e-2)  # ln 1e4 · 300 steps, local exponent −9
    assert found.steps == pytest.approx(np.log(1e4) * 300, rel=0.02)


def test_a_fluctuation_is_no_crossing():
    noisy = made(lambda k: 1e-2 + 1 / (1 + k), spread=0.3)
    raw, smoothed = noisy.curves().mean(0).min(), noisy.expected.min()
    assert raw < 0.8e-2
    assert np.log(1e-2 / smoothed) < 0.5 * np.log(1e-2 / raw)


def test_single_runs_dip_before_their_expectation_gets_there():
    noisy = made(lambda k: 1e-2 + 1 / (1 + k), spread=0.3)
    first = [noisy.samples[(curve <= 1.1e-2).argmax()] for curve in noisy.curves()]
    per_seed_crossings = noisy.per_seed_crossings(1.1e-2**0.5)
    assert ((per_seed_crossings <= first) & (per_seed_crossings >= 0.97 * np.array(first))).all()
    assert np.median(per_seed_crossings) < noisy.first_crossing(1.1e-2**0.5).samples


def test_attain_finds_where_accuracy_gets_to_a_level():
    run = made(lambda k: 1.0)
    run.rows["test_accuracy"] = 1 - 1 / (1 + run.rows["step"])
    found = run.first_above(0.99)
    assert found.steps == pytest.approx(99, rel=0.005)
    assert found.low == found.samples == found.high
    assert run.first_above(0.9999).samples == np.inf


def test_a_band_is_the_mean_of_the_seeds_and_covers_it():
    rng = np.random.default_rng(5)
    run = made(lambda k: 1.0, seeds=40)
    run.rows["loss"] = 2.0 + rng.normal(size=len(run.rows))
    mean, low, high = run.mean_ci("loss")
    assert mean == pytest.approx(run.curves("loss").mean(0))
    assert ((low <= mean) & (mean <= high)).all()
    assert 0.88 < np.mean((low <= 2.0) & (high >= 2.0)) < 0.99
    assert high - low == pytest.approx(2 * 1.96 * run.curves("loss").std(0) / 40**0.5, rel=0.15)


def test_pooled_runs_are_read_at_common_gradient_evaluations():
    runs = [made(lambda k, b=b: 1 / (1 + b * k), seeds=1, batch_size=b) for b in (1, 2, 4)]
    for seed, run in enumerate(runs):
        run.rows["seed"], run.rows["lr"] = seed, np.where(run.rows["samples"] < 100, 0.1, 0.2)
    both = pooled(runs)
    assert both.samples[0] == 0
    assert both.samples[-1] == 5000
    assert both.curves() == pytest.approx(np.tile(1 / (1 + both.samples), (3, 1)), rel=1e-3)
    assert both.curves("batch_size").tolist() == [[b] * len(both.samples) for b in (1, 2, 4)]
    assert set(both.rows["lr"]) == {0.1, 0.2}
    assert both.steps == pytest.approx(both.samples * (1 + 1 / 2 + 1 / 4) / 3, rel=0.02)
    assert both.first_crossing(0.1).samples == pytest.approx(99, rel=0.01)
    with pytest.raises(InputError, match="must differ"):
        pooled([runs[0], runs[0]])


def test_what_is_not_reached_is_never_a_number():
    found = made(lambda k: 1.0 + 1 / (1 + k)).first_crossing(0.5)
    assert found == (np.inf, np.inf, np.inf, np.inf)


def test_interval_covers_the_exact_crossing():
    from sfolib.training.run import run
    from sfolib.training.spec import Spec

    problem = Quadratic(d=30, lam_min=1e-3)
    exact = problem.exact.samples_to(4, 0.5, 0.3)
    covered = 0
    for i in range(20):
        spec = Spec(problem=problem, plan=Plan(4, 0.5), seeds=tuple(range(16 * i, 16 * i + 16)), eval_every=1.02,
                    sampling="replacement", max_samples=4000, target_grad_norm=0.3, dtype="float64")  # fmt: skip
        found = run(spec).first_crossing(0.3)
        covered += found.low <= exact <= found.high
    assert covered >= 16  # a 95 % bootstrap over 16 seeds covers somewhat less than 95 %


def test_crossings_and_cheapest():
    runs = [made(lambda k, b=b: 1 / (1 + k) + 0.002 / b, batch_size=b) for b in (1, 4, 16)]
    frame = crossings(runs, [1e-2, 1e-3], source="measured")
    assert len(frame) == 6
    assert np.isinf(frame.query("batch_size == 1 and eps2 == 0.001")["samples"]).all()
    assert list(cheapest(frame)["batch_size"]) == [1, 4]
    theory = predicted(lambda b, eps: 1 / (eps**2 * b), np.array([1.0, 2.0]), [1e-2], "bound")
    assert list(theory["steps"]) == pytest.approx([100, 50])
    assert list(theory["samples"]) == pytest.approx([100, 100])


def test_ratios_to_bounds():
    flat = made(lambda k: 1.0)
    assert flat.ratio_to(1 + 1 / np.arange(1, 5001)) == pytest.approx(1 / (1 + 1 / 5000))
    falling = made(lambda k: 1 / (1 + k))
    assert falling.ratio_to(np.full(5000, 1e-3)) == pytest.approx(falling.expected[0] / 1e-3)
    frame = pd.DataFrame(
        {"eps2": [1.0, 1.0, 2.0], "batch_size": [1, 2, 1], "samples": [3.0, np.inf, 8.0], "spent": 9.0}
    )
    assert ratio_to(frame, frame.assign(samples=[6.0, np.inf, 4.0])) == 2.0
    assert ratio_to(frame, frame.assign(samples=[6.0, 9.0, 4.0])) == np.inf
    assert ratio_to(frame, frame.assign(samples=[6.0, 9.1, 4.0])) == 2.0  # the run ended before it could tell
    theory = frame.drop(columns="spent")
    assert ratio_to(theory, theory.assign(samples=[6.0, np.inf, 4.0])) == 2.0
    assert ratio_to(theory, theory.assign(samples=[6.0, 9.1, 4.0])) == np.inf
    with pytest.raises(InputError, match="nothing to compare"):
        ratio_to(frame, frame.assign(samples=np.inf))


def test_save_and_load_keep_every_digit(tmp_path):
    run = Run(None, {"status": "finished"}, made(lambda k: 1 / (3 + k), spread=0.3).rows)
    again = records.load(records.save(run, tmp_path / "run"))
    assert again.rows.equals(run.rows)
    assert (again.spec, again.provenance) == (run.spec, run.provenance)


@pytest.mark.parametrize("damage", ["no run.json", "cut metrics", "cut run.json", "no metrics"])
def test_a_damaged_record_is_named_and_left_alone(tmp_path, damage):
    folder = records.save(Run(None, {"status": "finished"}, made(lambda k: 1.0).rows), tmp_path / "run")
    path = folder / (METRICS if "metrics" in damage else RUN)
    if damage.startswith("no"):
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-20])
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(InputError, match=r"run = .*(run it again|not exist)"):
        records.load(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_pareto_keeps_what_no_other_beats_in_both():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {"steps": rng.integers(1, 30, 80).astype(float), "samples": rng.integers(1, 30, 80).astype(float)}
    )
    frame.loc[:5, ["steps", "samples"]] = np.inf
    pairs = {tuple(row) for row in frame[np.isfinite(frame["samples"])].to_numpy()}
    front = [p for p in pairs if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in pairs)]
    assert [tuple(row) for row in pareto(frame)[["steps", "samples"]].to_numpy()] == sorted(front)
