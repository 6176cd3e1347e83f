"""`python -m benchmarks.rounding [--setting NAME] [--python PATH] [--found NAME FOLDER]`: verdicts that rounding turns.

Runs the notebooks at quick scale (11 minutes a setting on two idle cores) under each setting, a change of the last
digits of every sum, into a folder of its own in `figures/`, and writes docs/rounding.md: claims decided otherwise than
in `figures/reference/`, and those decided in one and undecided in the other. `--python` is an interpreter that has
another version of torch; its setting is called by that version. `--found` runs nothing: FOLDER is what a `make figures`
elsewhere left in its `figures/`. benchmarks/rounding.json keeps what was compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sfolib.experiments.project import root

SETTINGS = {
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "no vector instructions": {"ATEN_CPU_CAPABILITY": "default"},
    "two threads": {"OMP_NUM_THREADS": "2"},
}
PAGE = "rounding.md"
KEPT = Path(__file__).with_suffix(".json")


def run(name: str, environment: dict[str, str], python: str) -> Path:
    folder = root() / "figures" / "rounding" / name
    command = [python, "-m", "sfolib", "figures", "--scale", "quick", "--out", str(folder)]
    subprocess.run(command, check=True, env=os.environ | environment, cwd=root())
    return folder


def compare(found: list[dict[str, Any]], reference: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the claims in both: (claim, here, in the reference) where both are decided and differ, and where one is; and
    how many of the measured numbers differ at all, in the median and at most (relative)."""
    known = {(c["notebook"], c["claim"]): c for c in reference}
    pairs = [(c, known[key]) for c in found if (key := (c["notebook"], c["claim"])) in known]
    verdicts = [(f"{a['notebook'][:2]}: {a['claim']}", a["verdict"], b["verdict"]) for a, b in pairs]
    changed = [v for v in verdicts if v[1] != v[2]]
    apart = np.concatenate([_apart(a["measured"], b["measured"]) for a, b in pairs])
    return {
        "claims": len(pairs),
        "turned": [v for v in changed if "undecided" not in v[1:]],
        "undecided": [v for v in changed if "undecided" in v[1:]],
        "same": float(np.mean(apart == 0)),
        "median": float(np.median(apart)),
        "beyond_1_percent": float(np.mean(apart > 0.01)),
    }


def _apart(a: Any, b: Any) -> np.ndarray:
    a, b = (np.atleast_1d(np.asarray(v, dtype=float)) for v in (a, b))
    if a.shape != b.shape:
        return np.array([np.inf])
    with np.errstate(all="ignore"):
        relative = np.abs(a - b) / np.maximum(np.abs(b), 1e-300)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(same, 0.0, np.nan_to_num(relative, nan=np.inf))


def page(by_setting: dict[str, dict[str, Any]]) -> str:
    lines = [
        "# Another processor's rounding",
        "",
        "Quick scale from nothing under settings that change the last digits of every sum, against "
        "[the claims kept here](../figures/reference/claims.md) when it was run (so many of them, which are more than "
        "today's). Made by `python -m benchmarks.rounding`. Settings whose numbers agree with each other, as two "
        "threads and torch 2.6, differ from the reference by the machine alone.",
        "",
        "| setting | claims | decided otherwise | decided in one only | numbers the same | median relative change | "
        "numbers that move by more than 1 % |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, c in by_setting.items():
        lines.append(
            f"| {name} | {c['claims']} | {len(c['turned'])} | {len(c['undecided'])} | {c['same']:.0%} | "
            f"{c['median']:.1e} | {c['beyond_1_percent']:.1%} |"
        )
    for what, title in (("turned", "Decided otherwise"), ("undecided", "Decided in one, undecided in the other")):
        lines += ["", f"## {title}", ""]
        rows = [(name, *v) for name, c in by_setting.items() for v in c[what]]
        lines += [f"- {name}: {claim}: {here}; in the reference {there}" for name, claim, here, there in rows] or [
            "None."
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", action="append", choices=SETTINGS, help="one of them; default: all")
    parser.add_argument("--python", help="interpreter with another torch")
    how = "claims to compare with, another checks.json (default: figures/reference/)"
    parser.add_argument("--against", type=Path, default=root() / "figures" / "reference" / "checks.json", help=how)
    parser.add_argument("--found", nargs=2, action="append", metavar=("NAME", "FOLDER"), help="of a run elsewhere")
    asked = parser.parse_args()
    if asked.found:
        found = {name: Path(folder) for name, folder in asked.found}
    elif asked.python:
        version = [asked.python, "-c", "import torch; print(torch.__version__)"]
        name = "torch " + subprocess.run(version, check=True, capture_output=True, text=True).stdout.strip()
        found = {name: run(name, {}, asked.python)}
    else:
        found = {name: run(name, SETTINGS[name], sys.executable) for name in asked.setting or SETTINGS}
    reference = json.loads(asked.against.read_text())
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for name, folder in found.items():
        kept[name] = compare(json.loads((folder / "checks.json").read_text()), reference)
    KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    (root() / "docs" / PAGE).write_text(page(kept))


if __name__ == "__main__":
    main()
