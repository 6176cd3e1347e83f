"""What the project keeps of its last `make figures`: the claims and their page, the README's pictures, the times.

`figures/reference/` holds `checks.json` (the claims as data), `claims.md` (the same for people), `verdicts.json` (their
verdicts, and those at other scales), `seconds.json` (how long each notebook took) and the pictures; `full/` what was
published at full size. `docs/benchmarks.md`, `docs/ends.md`, `docs/intervals.md` and `docs/prediction.md` are made from
the results in `benchmarks/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from sfolib._utils import files
from sfolib._utils.errors import require
from sfolib.experiments import notebook, reference_pages, report
from sfolib.experiments.project import root

PICTURES = Path("01_critical_batch_size") / "samples.png", Path("15_the_schedule_to_use") / "over_paper.png"
FOLDER = report.REFERENCE
FULL = report.FULL
_ENDS = {  # files of benchmarks/ends, and what wrote them: title, further parameters
    "sgd": ("SGD", ""),
    "momentum": (
        "momentum 0.9",
        """ -p optimizer momentum -p problems '["digits/mlp"]' -p methods '["late ramp", "late ramp, stable η", """
        """"horizon ramp", "horizon ramp for f", "successive gradients", "b × 2, η × 1.4", "b × 2", "b₀", "cosine", """
        """"linear", "WSD", "mirror"]'""",
    ),
    "adam": (
        "Adam",
        """ -p optimizer adam -p problems '["digits/mlp"]' -p methods '["late ramp", """
        """"successive gradients", "b × 2, η × 1.4", "b × 2", "b₀", "cosine", "linear", "WSD", "mirror"]'""",
    ),
}
_REMEDY = "run `make figures` first"


def keep(out: Path | None = None, label: str = "") -> None:
    """Make the last figures in `out` (default: `figures/`) the reference: of those at full size claims and pictures, in
    a folder of their own; of those at other scales than quick their verdicts alone.

    label: of figures at full size with other parameters, kept beside those without.
    Raises `InputError` where some notebook has not run, or at another scale.
    """
    folder, reference = out or root() / "figures", root() / FOLDER
    require((folder / "checks.json").is_file(), "figures", str(folder / "checks.json"), f"does not exist; {_REMEDY}")
    checks = report.read_claims(folder / "checks.json", files.read_json(folder / "checks.json", _REMEDY), _REMEDY)
    names = list(dict.fromkeys(check["notebook"] for check in checks))
    require(bool(names), "figures", str(folder / "checks.json"), f"holds no claim; {_REMEDY}")
    contents = {name: report.published(folder / name) for name in names}
    scales = {name: content.get("scale") for name, content in contents.items()}
    scale = scales[names[0]]
    require(set(scales.values()) == {scale}, "scale", scales, f"must be one; {_REMEDY}")
    missing = [path.stem for path in report.select(()) if path.stem not in names] if scale == "quick" else []
    require(not missing, "notebooks", missing, f"have no figures; {_REMEDY}")
    require(
        not label or (scale == "full" and label.isalnum()), "label", label, "must be letters and digits, at full size"
    )
    seconds = {name: report.read_ran(folder / name)["seconds"] for name in names}
    kept = report.kept_verdicts()
    of = {name: {c["claim"]: c["verdict"] for c in checks if c["notebook"] == name} for name in names}
    if scale == "quick":
        for picture in PICTURES:
            require((folder / picture).is_file(), "figures", str(folder / picture), f"does not exist; {_REMEDY}")
        files.folder(reference)
        files.write_json(reference / "checks.json", checks)
        files.write_json(reference / "seconds.json", seconds)
        for picture in PICTURES:
            _copy(folder / picture, reference / picture.name)
    else:  # some notebooks may be run again, and others not
        before = kept.get(scale, {})
        of = before | {name: before.get(name, {}) | found if label else found for name, found in of.items()}
    if scale == "full":
        for name, content in contents.items():
            place = files.folder(root() / FULL / (f"{name}+{label}" if label else name))
            files.write_json(place / report.PUBLISHED, content)
            for key in content["figures"]:
                _copy(folder / name / f"{key}.png", place / f"{key}.png")
            for table in (folder / name).glob("*.csv"):
                _copy(table, place / table.name)
            files.write_json(place / report.COST, _cost(name, content["parameters"], folder))
    files.folder(reference)
    files.write_json(reference / "verdicts.json", kept | {scale: of})
    for path, text in pages().items() if scale != "smoke" else ():
        with files.replacing(path) as file:
            file.write(text)


def _copy(path: Path, to: Path) -> None:
    with files.replacing(to, "wb") as file:
        file.write(path.read_bytes())


def _cost(name: str, changed: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """What a notebook's runs took: how many, gradient evaluations, seconds of training and measuring, where."""
    experiment = import_module(f"sfolib.experiments.{name.partition('_')[2]}")
    p = experiment.Parameters(**changed | {"scale": "full", "out": str(out)})
    runs = notebook.train(experiment, p).values()  # on record
    return {
        "runs": len(runs),
        "evaluations": sum(int(run.rows.groupby("seed")["samples"].max().sum()) for run in runs),
        "seconds": round(sum(run.provenance["seconds"] for run in runs)),
        "device": ", ".join(sorted({run.provenance["device"] for run in runs})),
    }


def pages() -> dict[Path, str]:
    """The pages that are made from data in the repository: path → what it should hold."""
    measured, known = root() / "benchmarks", files.read_json(root() / FOLDER / "checks.json", "restore it")
    results, crossings = (files.read_json(measured / name, "restore it") for name in ("results.json", "crossings.json"))
    ends = {
        title: (
            f"python -m sfolib figures 15{parameters}",
            *(pd.read_csv(measured / "ends" / f"{name}{what}.csv") for what in ("", "_to_eps")),
        )
        for name, (title, parameters) in _ENDS.items()
    }
    full = {root() / FULL / "claims.md": reference_pages.full_page(root() / FULL)} if (root() / FULL).is_dir() else {}
    return full | {
        root() / FOLDER / "claims.md": reference_pages.claims_page(known),
        root() / "docs" / "benchmarks.md": reference_pages.benchmarks_page(results),
        root() / "docs" / "intervals.md": reference_pages.intervals_page(crossings),
        root() / "docs" / "ends.md": reference_pages.ends_page(ends),
        root() / "docs" / "prediction.md": reference_pages.prediction_page(
            *(
                pd.read_csv(measured / name)
                for name in ("predicted_and_measured.csv", "pilots.csv", "loss.csv", "adam.csv")
            ),
            known,
        ),
    }
