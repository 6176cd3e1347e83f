"""What the project keeps of its last `make figures`: the claims and their page, the README's picture, the times.

`figures/reference/` holds `checks.json` (the claims as data), `claims.md` (the same for people), `seconds.json` (how
long each notebook took) and the picture; `docs/benchmarks.md` and `docs/prediction.md` are made from the results in
`benchmarks/`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sfolib._utils import files
from sfolib._utils.errors import one_line, require
from sfolib.experiments import report
from sfolib.experiments.project import root

PICTURE = Path("01_critical_batch_size") / "samples.png"
FOLDER = Path("figures") / "reference"
_REMEDY = "run `make figures` first"


def claims_page(checks: Sequence[dict[str, Any]]) -> str:
    """`claims.md`: how many claims have which verdict, then the claims by notebook, in Markdown."""
    verdicts = Counter(check["verdict"] for check in checks)
    lines = [
        "# Claims",
        "",
        f"{len(checks)} claims at quick scale: {', '.join(f'{n} {verdict}' for verdict, n in verdicts.most_common())}.",
        "[How a claim is judged](../../docs/claims.md). Intervals are 95 %. Made by `make reference`; the same as data "
        "is in [checks.json](checks.json).",
        "`python -m sfolib figures NN` measures the claims of notebook NN again; "
        '`result("T2")` opens the derivation behind T2.',
        "",
        "| notebook | claims | " + " | ".join(verdicts) + " |",
        "|---|---|" + "---|" * len(verdicts),
    ]
    by_notebook = [(name, [*group]) for name, group in groupby(checks, lambda check: check["notebook"])]
    for name, own in by_notebook:
        counts = Counter(check["verdict"] for check in own)
        lines.append(f"| [{name}](#{name}) | {len(own)} | " + " | ".join(str(counts[v]) for v in verdicts) + " |")
    for name, own in by_notebook:
        lines += ["", f"## {name}", "", f"[Notebook](../../notebooks/{name}.ipynb)", ""]
        lines += ["| claim | derivation | kind | measured | theory | verdict |", "|---|---|---|---|---|---|"]
        lines += ["| " + " | ".join(_row(check)) + " |" for check in own]
        unexplained = [(check["claim"], check["explanation"]) for check in own if check.get("explanation")]
        lines += ["", *(f"- *{_text(claim)}* {_text(why)}" for claim, why in unexplained)] if unexplained else []
    return "\n".join(lines) + "\n"


def _row(check: dict[str, Any]) -> list[str]:
    measured = report.values(check["measured"])
    measured += f" [{report.values(check['interval'])}]" if check["interval"] else ""
    theory = report.values(check["theory"])
    return [*map(_text, (check["claim"], check["source"], check["kind"])), measured, theory, _text(check["verdict"])]


def _text(text: str) -> str:
    """Text as itself in a cell of a Markdown table: no markup, no link, no further cell or line."""
    return re.sub(r"([\\`*_\[\]<>|&~$#])", r"\\\1", one_line(text))


def benchmarks_page(results: dict[str, Any]) -> str:
    """`docs/benchmarks.md`, in Markdown, from `benchmarks/results.json`."""
    rows = results["rows"]
    missed = sum(not row["ok"] for row in rows)
    lines = [
        "# Benchmarks",
        "",
        "`make bench` runs both sides in one process on one thread and prints medians of interleaved repetitions; the "
        "reference of the loop is a plain PyTorch loop with a `DataLoader`.",
        f"This page is made from `benchmarks/results.json` by `make reference`: {len(rows)} rows, {missed} of which "
        "miss their target. Ratios above 1 are in favour of sfolib, but for those that are wanted below a number.",
        "",
        "| measured | ratio | wanted | |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {_text(r['name'])} | {r['ratio']:.3g} | {r['wanted']} | {'' if r['ok'] else 'missed'} |" for r in rows
    ]
    return "\n".join(lines) + "\n"


def prediction_page(measured: pd.DataFrame) -> str:
    """`docs/prediction.md`, in Markdown, from `benchmarks/predicted_and_measured.csv`."""
    lines = [
        "# Predicted and measured",
        "",
        "N(b), gradient evaluations to ε at a constant batch size on the digits: predicted by T15 "
        "(`sfolib.predict_constant`) and written down before any of these runs was made, then measured: 32 seeds, "
        "first crossing of the mean of ‖∇f‖², 95 % bootstrap interval. Nothing is fitted. The network is predicted "
        "from the start of its first seed alone. Runs end half as long again as they were predicted to need, or after "
        "12,000 steps where some ε was predicted not to be reached in so many.",
        "`python -m benchmarks.predict` makes both again; this page is made from its table by `make reference`.",
        "",
        "| problem | pairs (b, ε) | reached, as predicted | not reached, as predicted | one without the other | "
        "in the interval | error, b >= 32: median, largest | b < 32 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case, own in measured.groupby("case", sort=False):
        predicted, got = (np.isfinite(own[column]) for column in ("samples_predicted", "samples"))
        both = own[predicted & got]
        inside = both["samples_predicted"].between(both["low"], both["high"])
        cells = [len(own), len(both), sum(~predicted & ~got), sum(predicted != got), sum(inside)]
        for chosen in (both["batch_size"] >= 32, both["batch_size"] < 32):
            off = (both["ratio"][chosen] - 1).abs()
            cells.append(f"{off.median():.1%}, {off.max():.1%}" if len(off) else "")
        lines.append(f"| {' | '.join(map(str, [_text(case), *cells]))} |")
    lines += ["", "The batch size of the fewest gradient evaluations, among those measured (powers of two):", ""]
    lines += ["| problem | ε² | b*, predicted | measured | N*, predicted | measured |", "|---|---|---|---|---|---|"]
    for (case, eps2), own in measured.groupby(["case", "eps2"], sort=False):
        pairs = [own.loc[own[column].idxmin()] for column in ("samples_predicted", "samples")]
        if not np.isfinite([pairs[0]["samples_predicted"], pairs[1]["samples"]]).all():
            continue
        sizes = " | ".join(str(int(row["batch_size"])) for row in pairs)
        least = f"{pairs[0]['samples_predicted']:.3g} | {pairs[1]['samples']:.3g}"
        lines.append(f"| {_text(case)} | {eps2:g} | {sizes} | {least} |")
    return "\n".join(lines) + "\n"


def keep() -> None:
    """Make the last figures in `figures/` the reference. Raises `InputError` where some notebook has not run."""
    folder, reference = root() / "figures", root() / FOLDER
    for name in ("checks.json", PICTURE):
        require((folder / name).is_file(), "figures", str(folder / name), f"does not exist; {_REMEDY}")
    checks = report.read_claims(folder / "checks.json", files.read_json(folder / "checks.json", _REMEDY), _REMEDY)
    names = list(dict.fromkeys(check["notebook"] for check in checks))
    seconds = {name: report.read_ran(folder / name)["seconds"] for name in names}
    files.folder(reference)
    files.write_json(reference / "checks.json", checks)
    files.write_json(reference / "seconds.json", seconds)
    with files.replacing(reference / PICTURE.name, "wb") as file:
        file.write((folder / PICTURE).read_bytes())
    for path, text in pages().items():
        with files.replacing(path) as file:
            file.write(text)


def pages() -> dict[Path, str]:
    """The pages that are made from data in the repository: path → what it should hold."""
    checks, results = root() / FOLDER / "checks.json", root() / "benchmarks" / "results.json"
    predicted = results.with_name("predicted_and_measured.csv")
    return {
        root() / FOLDER / "claims.md": claims_page(files.read_json(checks, "restore it")),
        root() / "docs" / "benchmarks.md": benchmarks_page(files.read_json(results, "restore it")),
        root() / "docs" / "prediction.md": prediction_page(pd.read_csv(predicted)),
    }
