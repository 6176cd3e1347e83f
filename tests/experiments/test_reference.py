"""What the project keeps of its last figures: whole or not at all, and text stays text."""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from sfolib._utils.errors import InputError
from sfolib.experiments import notebook, reference, reference_pages, report
from sfolib.problems.specs import Quadratic
from sfolib.schedules.plan import Plan
from sfolib.training.run import run
from sfolib.training.spec import Spec

CLAIM = {
    "claim": "a claim", "source": "T2 [S]", "kind": "equal", "verdict": "reproduced", "explanation": "",
    "notebook": "01_trains", "measured": 1.0, "theory": 2.0, "interval": None,
}  # fmt: skip


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose one notebook ran to its end."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    cell = {"cell_type": "markdown", "metadata": {}, "source": ["# A title"]}
    (tmp_path / "notebooks" / "01_trains.ipynb").write_text(json.dumps({"cells": [cell]}))
    folder = tmp_path / "figures" / "01_trains"
    folder.mkdir(parents=True)
    published = {"scale": "quick", "figures": {"one": "a caption"}, "checks": [CLAIM]}
    (folder / "published.json").write_text(json.dumps(published))
    (folder / "ran.json").write_text('{"fingerprint": "of another day", "seconds": 1.5}')
    (folder / "one.png").write_bytes(b"a picture")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "results.json").write_text('{"rows": []}')
    (tmp_path / "benchmarks" / "crossings.json").write_text('{"provenance": {}, "rows": []}')
    table = "case,batch_size,eps2,samples_predicted,samples,low,high,ratio\na,64,0.1,303,300,290,310,1.01\n"
    (tmp_path / "benchmarks" / "predicted_and_measured.csv").write_text(table)
    (tmp_path / "benchmarks" / "pilots.csv").write_text(
        table.replace("ratio", "samples_starts,samples_pilots").replace("1.01", "300,290")
    )
    columns = "sampling,lr,batch_size,samples,loss,low,high,predicted,unmoved,noise_free"
    (tmp_path / "benchmarks" / "loss.csv").write_text(f"{columns}\nreplacement,0.1,4,8000,0.5,0.4,0.6,0.5,0.6,0.3\n")
    (tmp_path / "benchmarks" / "adam.csv").write_text("case,what,steps,ratio,low,high\na,N,9,1.5,1,2\n")
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reference, "_ENDS", {})
    monkeypatch.setattr(reference, "PICTURES", [Path("01_trains") / "one.png"])
    report.write(tmp_path / "figures", [])
    return tmp_path


def test_claims_picture_and_times_are_kept(project):
    reference.keep()
    kept = project / "figures" / "reference"
    assert "| a claim | T2 \\[S\\] | equal | 1 | 2 | reproduced |" in (kept / "claims.md").read_text()
    assert "1 claims at quick scale: 1 reproduced." in (kept / "claims.md").read_text()
    assert json.loads((kept / "seconds.json").read_text()) == {"01_trains": 1.5}
    assert json.loads((kept / "checks.json").read_text()) == [CLAIM]
    assert (kept / "one.png").read_bytes() == b"a picture"


def test_of_smoke_figures_the_verdicts_are_kept_beside_those_of_others(project):
    reference.keep()
    kept = {path: path.read_bytes() for path in (project / "figures" / "reference").iterdir()}
    told = project / "figures" / "01_trains" / "published.json"
    told.write_text(told.read_text().replace("quick", "smoke").replace('"reproduced"', '"undecided"'))
    report.write(project / "figures", [])
    reference.keep()
    changed = {path.name for path, content in kept.items() if path.read_bytes() != content}
    assert changed == {"verdicts.json"}
    assert report.known_verdicts({"scale": "quick"}) == {("01_trains", "a claim"): "reproduced"}
    assert report.known_verdicts({"scale": "smoke"}) == {("01_trains", "a claim"): "undecided"}
    assert report.known_verdicts({"scale": "paper"}) == {}
    assert report.known_verdicts({"scale": "quick", "parameters": {"dataset": "mnist"}}) == {}


class OneRun(notebook.Parameters):
    SCALES: ClassVar = {"full": {}}
    lr: float = 0.2


def test_figures_at_full_size_have_a_place_of_their_own_and_the_report_shows_them(project, monkeypatch):
    spec = Spec(problem=Quadratic(d=2), plan=Plan(4, 0.1), max_samples=40, seeds=(0, 1), sampling="replacement")
    experiment = SimpleNamespace(
        Parameters=OneRun,
        schedules=lambda p: None,
        specs=lambda p, *_: {0: spec.model_copy(update={"plan": Plan(4, p.lr)})},
    )
    monkeypatch.setitem(sys.modules, "sfolib.experiments.trains", experiment)
    reference.keep()
    before = (project / "figures" / "reference" / "checks.json").read_bytes()
    out = project / "elsewhere"
    shutil.copytree(project / "figures" / "01_trains", out / "01_trains")
    told = out / "01_trains" / "published.json"
    content = json.loads(told.read_text()) | {"scale": "full", "parameters": {"lr": 0.1}}
    told.write_text(json.dumps(content).replace('"reproduced"', '"undecided"'))
    run(spec, out / "runs")
    kept = project / "figures" / "reference"
    earlier = {"full": {"02_trained": {"another": "reproduced"}}}
    (kept / "verdicts.json").write_text(json.dumps(earlier))
    report.write(out, [])
    reference.keep(out)
    page = (kept / "full" / "claims.md").read_text()
    assert "1 claims at full size: 1 undecided." in page
    assert "1 runs, 80 gradient evaluations" in page
    assert "![a caption](01_trains/one.png)" in page
    assert (kept / "full" / "01_trains" / "one.png").read_bytes() == b"a picture"
    assert (kept / "checks.json").read_bytes() == before
    assert len(list((out / "runs").iterdir())) == 1  # the one on record, by the parameters of the figures
    known = {("02_trained", "another"): "reproduced", ("01_trains", "a claim"): "undecided"}
    assert report.known_verdicts({"scale": "full"}) == known
    told.write_text(told.read_text().replace("a claim", "a further claim"))
    report.write(out, [])
    reference.keep(out, "again")
    page = (kept / "full" / "claims.md").read_text()
    assert "2 claims at full size: 2 undecided." in page
    assert "## 01_trains, again\n\n[Notebook](../../../notebooks/01_trains.ipynb) with `lr = 0.1`." in page
    assert report.known_verdicts({"scale": "full"}) == known | {("01_trains", "a further claim"): "undecided"}
    with pytest.raises(InputError, match="label = 'a/b'"):
        reference.keep(out, "a/b")
    report.write(project / "figures", [])
    shown = (project / "figures" / "index.html").read_text()
    assert 'src="reference/full/01_trains/one.png"' in shown
    assert 'src="reference/full/01_trains+again/one.png"' in shown
    assert "At full size, kept with the project: 1 claims" in shown


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("01_trains/ran.json", None, "did not run to its end"),
        ("01_trains/one.png", None, "does not exist; run `make figures` first"),
        ("checks.json", "[1, 2]", "checks.json.*not a list of claims"),
        ("checks.json", '[{"claim"', "checks.json.*is not JSON"),
    ],
)
def test_what_is_missing_or_damaged_keeps_the_old_reference(name, damage, message, project):
    reference.keep()
    kept = {path: path.read_bytes() for path in (project / "figures" / "reference").iterdir()}
    path = project / "figures" / name
    path.write_text(damage) if damage else os.unlink(path)
    with pytest.raises(InputError, match=message):
        reference.keep()
    assert {path: path.read_bytes() for path in kept} == kept


def test_claims_are_counted_grouped_and_explained():
    other = CLAIM | {"notebook": "02_b", "verdict": "not reproduced", "explanation": "for a reason"}
    page = reference_pages.claims_page([CLAIM, CLAIM, other])
    assert "3 claims at quick scale: 2 reproduced, 1 not reproduced." in page
    assert "| [01_trains](#01_trains) | 2 | 2 | 0 |" in page
    assert "| [02_b](#02_b) | 1 | 0 | 1 |" in page
    assert page.index("## 01_trains") < page.index("## 02_b") < page.index("- *a claim* for a reason")


def test_headlines_are_told_first_and_findings_called_so():
    claim = CLAIM | {"headline": True, "prediction": "none", "verdict": "partly", "holds": 2, "values": 3}
    page = reference_pages.claims_page([CLAIM, claim])
    assert page.index("## What was found") < page.index("| notebook |") < page.index("## 01_trains")
    assert page.count("| a claim (a finding) | T2 \\[S\\] | equal | 1 | 2 | partly (2 of 3 hold) |") == 2


def test_the_worth_of_intervals_is_told_as_measured():
    about = {"problem": "digits", "batch_size": 4, "seeds": 8, "covered": 0.94}
    crossing = about | {
        "what": "crossing",
        "eps2": 1e-3,
        "over_floor": 1.3,
        "truth_error": 0.01,
        "bias": -0.012,
        "bias_error": 0.004,
        "independent": 64,
        "missed": 0,
        "false": None,
    }
    mean = about | {"what": "mean at a fixed time", "bias": 0.001}
    rows = [crossing, crossing | {"bias": 0.04, "covered": 0.8}, crossing | {"bias": 0.05, "covered": 0.99}, mean]
    never = {"bias": None, "truth_error": None, "bias_error": None, "missed": None, "false": 0.12}
    page = reference_pages.intervals_page(
        {"provenance": {"seeds": 512, "groups": 200}, "rows": [*rows, crossing | never]}
    )
    assert "| digits | 4 | 8 | 0.001 | 1.3 | 1 % | -1.2 % | 0 % | 94 % | 0 % | – |" in page
    assert "| 8 | 3 | 2 (1) | 1 (1) | 1 (0) | 1 | 1 (0) |" in page
    assert "| digits | 4 | 8 | +0.1 % | 94 % |" in page
    assert "| 8 | 4.0 % | 5.0 % | 80.0 % … 99.0 % | 94.0 % | 12.0 % |" in page


def test_the_page_of_ends_has_the_best_of_the_search_its_interval_and_who_never_arrives():
    named = {"problem": "digits/mlp", "looked": 0.05, "low": 0.1, "high": 0.4}
    ends = [
        named
        | {"method": m, "factor": f, "criterion": c, "value": v, "steps": steps, "seconds, accelerator": steps / 9}
        for m, steps, of in (("b₀", 900, (0.3, 0.2)), ("|a|", 90, (0.25, np.inf)))
        for f, v in zip((1.0, 3.0), of, strict=True)
        for c in ("grad_sqnorm", "loss", "test_error")
    ]
    levels = {"problem": "digits/mlp", "steps": 90.0}
    to_eps = [
        levels | {"method": m, "factor": f, "eps2": 0.01, "evaluations": e, "evaluations_low": 5.0,
                  "evaluations_high": np.inf}
        for m, f, e in (("b₀", 1.0, 9000.0), ("b₀", 3.0, 5000.0), ("|a|", 1.0, np.inf), ("|a|", 3.0, np.inf))
    ]  # fmt: skip
    page = reference_pages.ends_page({"Adam": ("a command", pd.DataFrame(ends), pd.DataFrame(to_eps))})
    assert "## digits/mlp, Adam\n\nη₀ × 1, 3. `a command`\n" in page
    best, error = "0.2 [0.1, 0.4] × 3", "20 [10, 40] × 3"
    assert f"| b₀ | {best} | {best} | {error} | 900 | 5 | 1 |" in page
    assert "| \\|a\\| | 0.25 [0.1, 0.4] | 0.25 [0.1, 0.4] | 25 [10, 40] | 90 | 5 | 0.1 |" in page
    assert "| | ε² = 0.01 | steps |" in page
    assert "| b₀ | 5,000 [5, never] | 90 |" in page
    assert "| \\|a\\| | never |  |" in page


def test_text_in_a_table_stays_text():
    text = "a | b\n<script>x</script> [y](javascript:z) `c` *d* &amp; $e$"
    page = reference_pages.claims_page([CLAIM | {"claim": text}])
    (row,) = [line for line in page.splitlines() if "script" in line]
    cell = row.removeprefix("| ").split(" | T2")[0]
    for mark in ("|", "<", ">", "[", "]", "`", "*", "&", "$"):
        assert all(cell[i - 1] == "\\" for i, c in enumerate(cell) if c == mark and i > 0)


def test_benchmarks_that_miss_their_target_are_marked():
    row = {"ratio": 4.0, "wanted": "at least 3", "ok": True}
    page = reference_pages.benchmarks_page(
        {"rows": [row | {"name": "fast"}, row | {"name": "slow", "ratio": 1.0, "ok": False}]}
    )
    assert "2 rows, 1 of which miss their target" in page
    assert "| fast | 4 | at least 3 |  |" in page
    assert "| slow | 1 | at least 3 | missed |" in page


def test_the_page_of_predictions_counts_hits_and_misses():
    rows = [
        ("a", 8, 0.1, 100.0, 100.0, 90.0, 110.0),
        ("a", 8, 0.01, 220.0, 200.0, 195.0, 205.0),
        ("a", 64, 0.1, 303.0, 300.0, 290.0, 310.0),
        ("a", 64, 0.01, 900.0, np.inf, 800.0, np.inf),
        ("a", 1, 0.01, np.inf, np.inf, np.inf, np.inf),
        ("b", 1, 0.01, np.inf, np.inf, np.inf, np.inf),
    ]
    columns = ["case", "batch_size", "eps2", "samples_predicted", "samples", "low", "high"]
    frame = pd.DataFrame(rows, columns=columns)
    pilots = frame[:3].assign(samples_starts=[90.0, 210.0, 270.0], samples_pilots=[90.0, 220.0, 270.0])
    found = [CLAIM | {"notebook": "14_prediction", "claim": "|G| is as said"}, CLAIM | {"notebook": "13_cifar100"}]
    frame = frame.assign(ratio=frame["samples_predicted"] / frame["samples"])
    adam = [("lr 1", "N", 1500, 0.97, 0.9, 1.02), ("lr 1", "E", 1500, np.nan, 0.0, np.nan), ("lr 2", "E", 9, 1.1, 1, 2)]
    adam = pd.DataFrame(adam, columns=["case", "what", "steps", "ratio", "low", "high"])
    ends = [("replacement", 0.1, 4, 8000, 0.5, 0.49, 0.51, 0.505, 0.52, 0.4)]
    columns = ["sampling", "lr", "batch_size", "samples", "loss", "low", "high", "predicted", "unmoved", "noise_free"]
    loss = pd.DataFrame(ends, columns=columns)
    page = reference_pages.prediction_page(frame, pilots, loss, adam, found)
    assert "is 1.20 to 1.20 times what noise adds; with E δ it is 1.05 to 1.05 times, and 1 of 1 losses are" in page
    assert "| replacement | 0.1 | 4 | 8,000 | 0.50000 (0.49000 … 0.51000) | 0.50500 | 0.52000 | 0.40000 |" in page
    assert "## Networks on their mean path" not in page
    assert "of 2 ratios the one farthest from 1 is 10.0% off" in page
    assert "| lr 1 | 1,500 | 0.97 (0.9 … 1.02) | – |" in page
    assert "| lr 2 | 9 |  | 1.1 (1 … 2) |" in page
    assert "| a | 5 | 1 | 1 | 3 | 2 | 1.0%, 10.0% |  | 3 | 0 | 0 |" in page
    softmax = reference_pages.prediction_page(frame.replace("a", "softmax"), pilots, loss, adam, found)
    assert "| softmax | 5 | 1 | 1 | 3 | 2 | 1.0%, 10.0% |  | 1 | 1 | 1 |" in softmax
    assert "| b | 1 | 1 | 0 | 0 | 0 |  |  | 0 | 0 | 0 |" in page
    assert "| a | 0.1 | 8 | 8 (8 … 8) | 100 | 100 |" in page
    assert "each of the same starts it is -3%, at most 10%" in page
    assert "| 8 | 0.01 | 200 (195 … 205) | 220 (× 1.10) | 210 (× 1.05) | 220 (× 1.10) |" in page
    assert page.count("is as said") == 1


def test_the_page_of_predictions_has_every_pair_of_a_mean_path():
    rows = [  # the last three: seeds, and E‖∇f‖²/ε² at N/1.15 and at N/0.85
        ("a, mean path", 8, 0.1, 100.0, 120.0, 90.0, 130.0, 1000, 500, 180.0, 48, 1.1, 0.9),
        ("a, mean path", 64, 0.1, 303.0, 300.0, 290.0, 310.0, 1000, 2500, 300.0, 48, 0.9, 0.9),
        ("a, mean path", 64, 0.01, 900.0, np.inf, 800.0, np.inf, 1000, 2500, np.inf, 48, 1.5, 1.2),
        ("c, mean paths", 64, 0.1, 110.0, 100.0, 80.0, 120.0, 3000, 200, 150.0, 64, 1.01, 0.9),
        ("b", 1, 0.01, 100.0, 1000.0, 90.0, 1100.0, 7000, 900, np.nan, np.nan, np.nan, np.nan),
    ]
    columns = ["case", "batch_size", "eps2", "samples_predicted", "samples", "low", "high", "probes", "spent"]
    frame = pd.DataFrame(rows, columns=[*columns, "samples_noise_free", "seeds", "early", "late"])
    frame = frame.assign(ratio=frame["samples_predicted"] / frame["samples"], starts=0.2, images=[0.8] + 4 * [np.nan])
    frame = frame.assign(
        **{f"{of}_{end}": frame[of] * by for of in ("early", "late") for end, by in (("low", 0.98), ("high", 1.02))}
    )
    pilots = frame[:1].assign(samples_starts=[90.0], samples_pilots=[90.0])
    adam = pd.DataFrame([("a", "N", 9, 1.5, 1, 2)], columns=["case", "what", "steps", "ratio", "low", "high"])
    columns = ["sampling", "lr", "batch_size", "samples", "loss", "low", "high", "predicted", "unmoved", "noise_free"]
    loss = pd.DataFrame(columns=columns)
    page = reference_pages.prediction_page(frame, pilots, loss, adam, [])
    assert "The first round: of 2 pairs (b, ε) reached as predicted, 1 are within 15%" in page
    assert (
        "(of the noise-free path 1); at the median N is -8% (+25%), the largest error -17% (a, b = 8, ε² = 0.1)" in page
    )
    assert "took 1e+03 gradient evaluations, the runs 1.4e+05 without" in page
    assert "The second round: of 1 pairs" in page
    early = "| 1.10 (1.08 … 1.12) | 0.90 (0.88 … 0.92) | holds |"
    assert f"| a | 48 | 8 | 0.1 | 100 | 120 (90 … 130) | 0.83 | 1.50 {early}" in page
    assert "| a | 48 | 64 | 0.01 | 900 | never | – | – | 1.50 (1.47 … 1.53) | 1.20 (1.18 … 1.22) | missed |" in page
    assert "| a, mean path | 3 | 0 | 1 | 2 | 2 | 8.8%, 16.7% |  | 1 | 0 | 1 |" in page
    assert (
        "| c | 64 | 64 | 0.1 | 110 | 100 (80 … 120) | 1.10 | 1.50 | 1.01 (0.99 … 1.03) | 0.90 (0.88 … 0.92) | open |"
        in page
    )
    assert "off by 10% at the median" in page
    assert "| a | 8 | 0.1 | 0.80 | 1.11 | holds |" in page
