"""The project's pages in Markdown that are made from what was measured: claims, benchmarks, intervals, predictions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from sfolib._utils import files
from sfolib._utils.errors import one_line
from sfolib.analysis.claims import outcome, values
from sfolib.experiments import report


def claims_page(checks: Sequence[dict[str, Any]]) -> str:
    """`claims.md`: how many claims have which verdict, then the claims by notebook, in Markdown."""
    headlines = [check for check in checks if check.get("headline")]
    lines = [
        "# Claims",
        "",
        f"{len(checks)} claims at quick scale: {_verdicts(checks)}.",
        "[How a claim is judged](../../docs/claims.md). Intervals are 95 %. Made by `make reference`; the same as data "
        "is in [checks.json](checks.json).",
        "`python -m sfolib figures NN` measures the claims of notebook NN again; "
        '`result("T2")` opens the derivation behind T2.',
        report.chance_sentence(checks),
        "",
        *(["## What was found", "", *_table(headlines), ""] if headlines else []),
    ]
    verdicts = Counter(check["verdict"] for check in checks)
    lines += ["| notebook | claims | " + " | ".join(verdicts) + " |", "|---|---|" + "---|" * len(verdicts)]
    by_notebook = [(name, [*group]) for name, group in groupby(checks, lambda check: check["notebook"])]
    for name, own in by_notebook:
        counts = Counter(check["verdict"] for check in own)
        lines.append(f"| [{name}](#{name}) | {len(own)} | " + " | ".join(str(counts[v]) for v in verdicts) + " |")
    for name, own in by_notebook:
        lines += ["", f"## {name}", "", f"[Notebook](../../notebooks/{name}.ipynb)", "", *_claims_table(own)]
    return "\n".join(lines) + "\n"


def full_page(folder: Path) -> str:
    """`claims.md` of what is kept at full size in `folder`: its claims and pictures, in Markdown."""
    contents = {path.name: report.published(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    checks = [check for content in contents.values() for check in content["checks"]]
    lines = [
        "# Claims at full size",
        "",
        f"{len(checks)} claims at full size: {_verdicts(checks)}. [Those at quick scale](../claims.md).",
        "`sfolib figures --scale full --out figures/full` measures them; `sfolib reference --out figures/full` makes "
        "this page.",
    ]
    for name, content in contents.items():
        cost = files.read_json(folder / name / report.COST, "restore it")
        given = " with " + ", ".join(f"`{key} = {value}`" for key, value in content["parameters"].items())
        given = given if content["parameters"] else ""
        lines += [
            "", f"## {name.replace('+', ', ')}", "",
            f"[Notebook](../../../notebooks/{name.partition('+')[0]}.ipynb){given}. {cost['runs']} runs, "
            f"{cost['evaluations']:.2g} gradient evaluations, {cost['seconds'] / 3600:.2g} hours of a process, with "
            f"measuring ({cost['device']}).",
        ]  # fmt: skip
        for key, caption in content["figures"].items():
            lines += ["", f"![{_text(caption)}]({name}/{key}.png)", "", _text(caption)]
        lines += ["", *_claims_table(content["checks"])]
    return "\n".join(lines) + "\n"


def _verdicts(checks: Sequence[dict[str, Any]]) -> str:
    counts = Counter(check["verdict"] for check in checks)
    return ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())


def _claims_table(checks: Sequence[dict[str, Any]]) -> list[str]:
    """The table of one notebook's claims, and why some are not reproduced."""
    why = [f"- *{_text(check['claim'])}* {_text(check['explanation'])}" for check in checks if check.get("explanation")]
    return [*_table(checks), *(["", *why] if why else [])]


def _table(checks: Sequence[dict[str, Any]]) -> list[str]:
    head = ["| claim | derivation | kind | measured | theory | verdict |", "|---|---|---|---|---|---|"]
    return head + ["| " + " | ".join(_row(check)) + " |" for check in checks]


def _row(check: dict[str, Any]) -> list[str]:
    measured = values(check["measured"])
    measured += f" [{values(check['interval'])}]" if check["interval"] else ""
    theory = values(check["theory"])
    claim = check["claim"] + {"none": " (a finding)", "goal": " (a goal)"}.get(check.get("prediction"), "")
    return [*map(_text, (claim, check["source"], check["kind"])), measured, theory, _text(outcome(check))]


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


def intervals_page(results: dict[str, Any]) -> str:
    """`docs/intervals.md`, in Markdown, from `benchmarks/crossings.json`."""
    provenance = results["provenance"]
    lines = [
        "# What the intervals are worth",
        "",
        "Every interval over seeds comes from `sfolib.training.estimates`. This is how good they are with 3 to 32 "
        f"seeds: {provenance.get('groups')} groups drawn from {provenance.get('seeds')} seeds of the same run, none of "
        "which the estimators were chosen on.",
        "Truth is the exact recursion on the quadratic, and what all these seeds together say on digits (softmax "
        "regression). `python -m benchmarks.crossings` measures it again; this page is made from "
        "`benchmarks/crossings.json` by `make reference`.",
        "",
        "- *bias*: of the median, relative to the truth, and *±* half of its 95 % interval over groups; *covered*: how "
        "often the 95 % interval of a group holds the truth;",
        "- *missed*: how often a crossing that there is was not shown to last, so that the answer is 'never'. The bias "
        "is of the other groups; the interval of a missed one has no upper end, and mostly holds the truth;",
        "- *false*: how often a level that the expectation never gets to was said to be reached;",
        "- *level/floor*: ε² over the mean of the last half of the run. Below 1 on digits, where the run still falls, "
        "there can be a crossing late in it; *truth ±*: half of the interval of what all seeds together say.",
        "",
        "The least of several noisy numbers is too low (the winner's curse): N\\* at the cheapest batch size of a grid "
        "is biased by what the last rows say; b\\* has an interval of its own.",
        "",
    ]
    crossings = [row for row in results["rows"] if row["what"] == "crossing"]
    lines += ["| seeds | " + " | ".join(_GLANCE) + " |", "|---|" + "---|" * len(_GLANCE)]
    for seeds in dict.fromkeys(row["seeds"] for row in crossings):
        own = [row for row in crossings if row["seeds"] == seeds]
        far = [abs(row["bias"]) for row in own if row["bias"] is not None and row["over_floor"] >= _FAR]
        covered, wrong = [row["covered"] for row in own], [row["false"] for row in own if row["false"] is not None]
        cells = [_percent(median(far)), _percent(max(far)), f"{_percent(min(covered))} … {_percent(max(covered))}",
                 _percent(median(covered)), _percent(max(wrong, default=0))]  # fmt: skip
        lines.append(f"| {seeds} | " + " | ".join(cells) + " |")
    lines += ["", _missed_aims(crossings), ""]
    others = {what: [row["covered"] for row in results["rows"] if row["what"] == what]
              for what in ("mean at a fixed time", "b* on a grid", "N* on a grid")}  # fmt: skip
    lines += [f"- {_text(what)}: covered {_percent(min(found))} … {_percent(max(found))}"
              for what, found in others.items() if found]  # fmt: skip
    lines += [""]
    for heading, (rows_of, columns) in _INTERVALS.items():
        lines += [f"## {heading}", "", "| problem | b | seeds | " + " | ".join(columns.values()) + " |"]
        lines += ["|---|---|---|" + "---|" * len(columns)]
        for row in (row for row in results["rows"] if row["what"] in rows_of):
            cells = [_text(row["problem"]), _text(str(row.get("batch_size", row["what"][:2]))), str(row["seeds"])]
            lines.append("| " + " | ".join(cells + [_figure(name, row.get(name)) for name in columns]) + " |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


_FAR = 1.2  # times the noise floor
_GLANCE = (
    f"crossings at {_FAR} times the floor or more: median of the biases' sizes", "largest", "covered, of all levels",
    "median", "most false crossings",
)  # fmt: skip
_COVERAGE = {"bias": "bias", "covered": "covered"}
_INTERVALS = {  # heading → what its rows tell of, and their columns
    "crossings": (["crossing"], {
        "eps2": "ε²", "over_floor": "level/floor", "truth_error": "truth ±", "bias": "bias", "bias_error": "±",
        "covered": "covered", "missed": "missed",
        "false": "false",
    }),
    "means at a fixed time": (["mean at a fixed time"], _COVERAGE),
    "b* and N* on a grid": (["b* on a grid", "N* on a grid"], {"eps2": "ε²", **_COVERAGE, "hit": "b* right"}),
    "what is computed from means, and where one more seed falls": (
        ["slope of the mean", "ratio of means", "B of a fitted front", "one more seed"], {"what": "of", **_COVERAGE}),
}  # fmt: skip


def _missed_aims(crossings: Sequence[Mapping[str, Any]]) -> str:
    """Of what was asked of crossings before they were measured."""

    def counts(rows: Sequence[Mapping[str, Any]], beyond: Callable[[Mapping[str, Any]], tuple[float, float]]) -> str:
        """beyond: by how much a row misses its aim, and what is known of that."""
        found = [beyond(row) for row in rows]
        return f"{sum(by > 0 for by, _ in found)} ({sum(by > error for by, error in found)})"

    heads = "seeds", "crossings", "bias > 3 %", "coverage < 92 %", "> 98 %", "levels never got to", "false > 10 %"
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for seeds in dict.fromkeys(row["seeds"] for row in crossings):
        own = [row for row in crossings if row["seeds"] == seeds]
        there, never = ([row for row in own if (row["bias"] is None) == none] for none in (False, True))
        cells = [
            str(len(there)), counts(there, lambda row: (abs(row["bias"]) - 0.03, _of_bias(row))),
            counts(there, lambda row: (0.92 - row["covered"], _of_share(row, "covered"))),
            counts(there, lambda row: (row["covered"] - 0.98, _of_share(row, "covered"))), str(len(never)),
            counts(never, lambda row: (row["false"] - 0.1, _of_share(row, "false"))),
        ]  # fmt: skip
        lines.append(f"| {seeds} | " + " | ".join(cells) + " |")
    return "\n".join([
        "Aimed at were a bias of 3 % at most, a coverage of 92 to 98 % and false crossings of 10 % at most. How many "
        "levels miss that, and in brackets how many decidedly, by more than half of their own 95 % interval (with that "
        "of the truth, for a bias). Of 512 seeds few groups of 16 or 32 have none in common: there a bias of 3 % could "
        "hardly be shown.", "", *lines])  # fmt: skip


def _of_bias(row: Mapping[str, Any]) -> float:
    return row["bias_error"] + row["truth_error"]


def _of_share(row: Mapping[str, Any], name: str) -> float:
    """Half of the 95 % interval of a share of groups, of which `independent` have no seed in common."""
    return 1.96 * (row[name] * (1 - row[name]) / row["independent"]) ** 0.5


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _figure(name: str, value: float | str | None) -> str:
    if value is None:
        return "–"
    if name == "what":
        return value
    if name in ("eps2", "over_floor"):
        return f"{value:.3g}"
    return f"{100 * value:+.1f} %" if name == "bias" else f"{100 * value:.0f} %"


def prediction_page(
    measured: pd.DataFrame,
    pilots: pd.DataFrame,
    loss: pd.DataFrame,
    adam: pd.DataFrame,
    checks: Sequence[Mapping[str, Any]],
) -> str:
    """`docs/prediction.md`, in Markdown, from `benchmarks/predicted_and_measured.csv`, `pilots.csv`, `loss.csv` and
    `adam.csv` there, and from the claims of notebook 14 among `checks`."""
    lines = [
        "# Predicted and measured",
        "",
        "N(b), gradient evaluations to ε at a constant batch size on the digits: predicted by T15 "
        "(`sfolib.predict_constant`) and written down before any of these runs was made, then measured: 32 seeds, on "
        "mean paths more, first crossing of the mean of ‖∇f‖² with its 95 % interval (`docs/intervals.md`). Nothing is "
        "fitted. Networks are predicted from the start of their first seed alone but for the last round of mean paths; "
        "of the MLP on the noise-free path a first list of predictions was replaced before its runs. Runs end half as "
        "long again as they were predicted to need, on mean paths after twice that, or, where some ε was predicted not "
        "to be reached, after as many steps as were looked ahead: 12,000, and 3,000 to 8,000 on mean paths.",
        "`python -m benchmarks.predict` makes both again; this page is made from its table by `make reference`.",
        "",
        "By permutation E‖∇f‖² rises and falls with every epoch. The first case of it was read where the path was, at "
        "other points than the runs, and N where that first is at ε²; the later ones where the runs are measured, and "
        "N as that of runs is, as `predict` does now.",
        "",
        "The aim was 5 %, and 15 % for b < 8 and for networks. It *holds* where the whole interval of predicted over "
        "measured is within it, is *missed* where none of it is, and else is *open*: the seeds do not tell. On mean "
        "paths, where N's interval is wide as the curves are flat, this is asked at the ends: N is within 15 % if "
        "E‖∇f‖² is still above ε² at N/1.15 and is below at N/0.85, N the predicted one.",
        "",
        "| problem | pairs (b, ε) | not reached, as predicted | one without the other | reached, as predicted | in the "
        "interval | error, b >= 8: median, largest | b < 8 | holds | open | missed |",
        "|---" * 11 + "|",
    ]
    for case, own in measured.groupby("case", sort=False):
        predicted, got = (np.isfinite(own[column]) for column in ("samples_predicted", "samples"))
        both = own[predicted & got]
        inside = both["samples_predicted"].between(both["low"], both["high"])
        cells = [len(own), sum(~predicted & ~got), sum(predicted != got), len(both), sum(inside)]
        for chosen in (both["batch_size"] >= 8, both["batch_size"] < 8):
            off = (both["ratio"][chosen] - 1).abs()
            cells.append(f"{off.median():.1%}, {off.max():.1%}" if len(off) else "")
        cells += [sum(_of_pairs(case, both) == verdict) for verdict in ("holds", "open", "missed")]
        lines.append(f"| {' | '.join(map(str, [_text(case), *cells]))} |")
    lines += ["", "The batch size of the fewest gradient evaluations, among those measured (powers of two); in "
              "brackets those whose N is not told apart from the least, as their intervals overlap:", "",
              "| problem | ε² | b*, predicted | measured | N*, predicted | measured |", "|---" * 6 + "|"]  # fmt: skip
    for (case, eps2), own in measured.groupby(["case", "eps2"], sort=False):
        pairs = [own.loc[own[column].idxmin()] for column in ("samples_predicted", "samples")]
        if not np.isfinite([pairs[0]["samples_predicted"], pairs[1]["samples"]]).all():
            continue
        alike = own.loc[own["low"] <= pairs[1]["high"], "batch_size"]
        sizes = " | ".join(str(int(row["batch_size"])) for row in pairs) + f" ({alike.min()} … {alike.max()})"
        least = f"{pairs[0]['samples_predicted']:.3g} | {pairs[1]['samples']:.3g}"
        lines.append(f"| {_text(case)} | {eps2:g} | {sizes} | {least} |")
    on_mean_paths = measured[measured["case"].str.contains(_MEAN_PATH)]
    sections = [_of_pilots(pilots), _of_mean_paths(on_mean_paths) if len(on_mean_paths) else []]
    sections += [_of_loss(loss), _of_adam(adam), _of_notebook(checks)]
    return "\n".join([*lines, *(line for section in sections for line in section)]) + "\n"


def _of_pairs(case: str, both: pd.DataFrame) -> np.ndarray:
    """Of pairs that were predicted and measured, (pairs,)."""
    if re.search(_MEAN_PATH, case):
        holds = (both["early_low"] > 1) & (both["late_high"] < 1)
        missed = (both["early_high"] < 1) | (both["late_low"] > 1)
    else:
        most = np.where(case.startswith("softmax") & (both["batch_size"] >= 8), 0.05, _WITHIN)
        low, high = both["samples_predicted"] / both["high"], both["samples_predicted"] / both["low"]
        holds, missed = (low >= 1 - most) & (high <= 1 + most), (low > 1 + most) | (high < 1 - most)
    return np.select([holds, missed], ["holds", "missed"], "open")


_MEAN_PATH = ", mean paths?$"  # ends the names of the cases of `benchmarks.predict`
_WITHIN = 0.15  # of N(b) on mean paths, said before the runs


def _of_loss(found: pd.DataFrame) -> list[str]:
    """E f at the end of runs."""
    added = found["loss"] - found["noise_free"]
    over, unmoved = ((found[of] - found["noise_free"]) / added for of in ("predicted", "unmoved"))
    inside = sum(found["predicted"].between(found["low"], found["high"]))
    lines = [
        "",
        "## E f",
        "",
        "Softmax regression on digits, the loss at the end of runs, 96 seeds with 95 % intervals "
        "(`python -m benchmarks.predict loss`; not written down before). Noise adds E f(θ) − f(θ̄) ≈ ½ tr(HC) + "
        "∇f·E δ to the loss of the noise-free path θ̄: it also moves the mean by E δ, which follows δ ← δ − η(Hδ + "
        "½∇tr(HC)), by permutation with another term of the same order, as a sample's curvature goes with its gradient "
        "(`sfolib.analysis.covariance`). ½ tr(HC) alone, which `predict` once took, is "
        f"{unmoved.min():.2f} to {unmoved.max():.2f} times what noise adds; with E δ it is {over.min():.2f} to "
        f"{over.max():.2f} times, and {inside} of {len(found)} losses are within the measured interval; second order "
        "in η/b was not looked at.",
        "",
        "| sampling | lr | b | gradient evaluations | E f, measured | predicted | ½ tr(HC) alone | noise-free path |",
        "|---" * 8 + "|",
    ]
    for row in found.itertuples():
        interval = f"{row.loss:.5f} ({row.low:.5f} … {row.high:.5f})"
        lines.append(
            f"| {row.sampling} | {row.lr:g} | {row.batch_size} | {row.samples:,} | {interval} | {row.predicted:.5f} | "
            f"{row.unmoved:.5f} | {row.noise_free:.5f} |"
        )
    return lines


def _of_mean_paths(measured: pd.DataFrame) -> list[str]:
    """The pairs one by one, of two rounds."""
    several = measured["case"].str.endswith("paths")
    measured = measured.assign(case=measured["case"].str.replace(_MEAN_PATH, "", regex=True))
    measured["noise_free"] = measured["samples_noise_free"] / measured["samples"]
    lines = [
        "",
        "## Networks on their mean path",
        "",
        "Noise moves the mean of the iterates, and H and Σ with it: `predict` follows that mean, a path for each batch "
        "size, with a cloud of pairs of points about it, of which one makes steps of SGD and the other is its mirror "
        "image; E‖∇f‖² is the mean over the cloud (`sfolib.analysis.mean_path`). So there are runs in it, with random "
        "numbers of their own, and it costs more than the runs of these small networks. It takes the iterates "
        "for symmetric about their mean; in truth they are skewed towards large ‖∇f‖², most where η/b is large.",
        "Two rounds, each written down before its runs: the first with 16 pairs from one start, N being where the "
        "curve first is at ε²; the second, as `predict` is now, with 32 pairs from four starts, N being read as that "
        "of runs is (`docs/intervals.md`). Beside them what the noise-free path says, from one start.",
        "",
    ]
    for name, own in (("first", measured[~several]), ("second", measured[several])):
        if not len(own):
            continue
        both = own[np.isfinite(own["samples_predicted"]) & np.isfinite(own["samples"])]
        most = both.loc[(both["ratio"] - 1).abs().idxmax()]
        runs = (own["seeds"] * own["spent"])[~own.duplicated(["case", "batch_size"])].sum()
        within = {of: sum((both[of] - 1).abs() <= _WITHIN) for of in ("ratio", "noise_free")}
        lines.append(
            f"- The {name} round: of {len(both)} pairs (b, ε) reached as predicted, {within['ratio']} are within "
            f"{_WITHIN:.0%}, the tolerance said before (of the noise-free path {within['noise_free']}); at the median "
            f"N is {both['ratio'].median() - 1:+.0%} ({both['noise_free'].median() - 1:+.0%}), the largest error "
            f"{most['ratio'] - 1:+.0%} ({_text(most['case'])}, b = {most['batch_size']}, ε² = {most['eps2']:g}). "
            f"{(np.isfinite(own['samples_predicted']) != np.isfinite(own['samples'])).sum()} pairs more are reached by "
            f"the prediction or by the runs alone. b is one of {', '.join(map(str, sorted(set(own['batch_size']))))}. "
            f"Predicting took {own.drop_duplicates('case')['probes'].sum():.2g} gradient evaluations, the runs "
            f"{runs:.2g} without what was spent on measuring them."
        )
    heads = (
        "| problem | seeds | b | ε² | N, predicted | N, measured | predicted over measured | noise-free path | "
        "E‖∇f‖²/ε² at N/1.15 | at N/0.85 | within 15% |"
    )
    lines += ["", heads, "|---" * 11 + "|"]
    for row, verdict in zip(measured.itertuples(), _of_pairs(", mean path", measured), strict=True):
        interval = f"{row.samples:.3g} ({row.low:.3g} … {row.high:.3g})" if np.isfinite(row.samples) else "never"
        predicted = f"{row.samples_predicted:.3g}" if np.isfinite(row.samples_predicted) else "never"
        ratios = [f"{of:.2f}" if np.isfinite(of) and of > 0 else "–" for of in (row.ratio, row.noise_free)]
        ends = [
            f"{getattr(row, of):.2f} ({getattr(row, f'{of}_low'):.2f} … {getattr(row, f'{of}_high'):.2f})"
            for of in ("early", "late")
        ]
        tells = [*ends, verdict] if np.isfinite(row.samples_predicted) else ["–"] * 3
        cells = _text(row.case), f"{row.seeds:g}", row.batch_size, f"{row.eps2:g}", predicted, interval, *ratios, *tells
        lines.append(f"| {' | '.join(map(str, cells))} |")
    of_four = measured["starts"][several] / 4**0.5
    if len(of_four):
        lines += [
            "",
            "E‖∇f‖² about N differs from start to start. By the deviation between seeds, less what one seed "
            "fluctuates, its mean over four starts, as of the second round, is off by "
            f"{of_four.median():.0%} at the median and {of_four.max():.0%} at most, in one standard deviation.",
        ]
    skewed = measured.assign(verdict=_of_pairs(", mean path", measured)).dropna(subset=["images"])
    if len(skewed):
        lines += [
            "",
            "What is left out is the skew of the iterates. ‖∇f‖² of the mirror images over that of the runs in the "
            "same cloud, about the predicted N (`python -m benchmarks.predict images`), and what E‖∇f‖² of these runs "
            "alone would be over the predicted; that would be a simulation, and no prediction:",
            "",
            "| problem | b | ε² | images over runs | runs over predicted | within 15% |",
            "|---" * 6 + "|",
        ]
    for row in skewed.itertuples():
        cells = _text(row.case), row.batch_size, f"{row.eps2:g}", f"{row.images:.2f}", f"{2 / (1 + row.images):.2f}"
        lines.append(f"| {' | '.join(map(str, [*cells, row.verdict]))} |")
    return lines


def _of_pilots(pilots: pd.DataFrame) -> list[str]:
    ratios = {of: pilots[f"samples_{of}"] / pilots["samples"] for of in ("predicted", "starts", "pilots")}
    off = {name: f"{ratio.mean() - 1:+.0%}, at most {(ratio - 1).abs().max():.0%}" for name, ratio in ratios.items()}
    lines = [
        "",
        "## Why the network's N(b) is off at small b on the noise-free path",
        "",
        f"Of the pairs of 'mlp, lr 0.1' with b of 8 and 16, the {len(pilots)} that end within 2,080 steps; the largest "
        f"errors are not among them. Predicted from the first seed's start N is {off['predicted']}; in the mean over "
        f"four starts {off['starts']}. T15 reads H and Σ where the path without noise is; with them along a run of "
        f"that b from each of the same starts it is {off['pilots']}, below what is measured "
        "(`python -m benchmarks.predict pilots`). That is consistent with noise that takes a run of small batches to "
        "places where tr(HΣ) is less, which the linear theory does not see; along the runs it was not measured. A "
        "pilot's own bias is that of one run; what is predicted before any run follows the mean path in its place.",
        "",
        "| b | ε² | N, measured | one start | four starts | and H, Σ along pilots |",
        "|---|---|---|---|---|---|",
    ]
    for i, row in enumerate(pilots.itertuples()):
        ends = " | ".join(
            f"{getattr(row, f'samples_{of}'):.3g} (× {ratio.iloc[i]:.2f})" for of, ratio in ratios.items()
        )
        interval = f"{row.samples:.3g} ({row.low:.3g} … {row.high:.3g})"
        lines.append(f"| {row.batch_size} | {row.eps2:g} | {interval} | {ends} |")
    return lines


_FIRST = 8  # cases of `benchmarks.predict.ADAM_CASES` that were chosen before anything was measured


def _of_adam(adam: pd.DataFrame) -> list[str]:
    cases, columns = adam["case"].unique(), adam["what"].unique()
    first = adam[adam["case"].isin(cases[:_FIRST])]["ratio"].dropna()
    held = adam.set_index(["case", "what"])[["ratio", "low", "high"]]

    def cell(case: str, what: str) -> str:
        if (case, what) not in held.index:
            return ""
        ratio, low, high = held.loc[(case, what)]
        return f"{ratio:.3g} ({low:.3g} … {high:.3g})" if np.isfinite(ratio) else "–"

    lines = [
        "",
        "## Adam",
        "",
        "Near a point Adam is SGD with momentum β1 in the metric P = 1/(√v̂ + ε) of its second moment. v̂ averages "
        "squares of batch gradients, so that P is known, for each b, from a recursion of its own. Where noise rules, "
        "the learning rate ηP is as √b, and the noise in ‖∇f‖² as 1/√b in place of SGD's 1/b (T15).",
        "",
        "Measured over predicted: softmax regression on digits where nothing else is said, 32 seeds, with replacement, "
        "95 % intervals; every prediction was written to `benchmarks/frozen.csv` before its run "
        "(`python -m benchmarks.predict adam predict`, then `adam measure`). E‖∇f‖² is compared from 5 % to 20 % of "
        "the steps, to 50 % and to the end. A dash: not reached, as predicted, or no prediction.",
        f"The first {_FIRST} cases were chosen before anything was measured: of {len(first)} ratios the one farthest "
        f"from 1 is {(first - 1).abs().max():.1%} off. The others look for where it fails.",
        "",
        f"| case | steps | {' | '.join(columns)} |",
        "|---|---|" + "---|" * len(columns),
    ]
    steps = adam.groupby("case")["steps"].first()
    for case in cases:
        lines.append(f"| {' | '.join([_text(case), f'{steps[case]:,}', *(cell(case, what) for what in columns)])} |")
    return [
        *lines,
        "",
        "Where it fails, and what is not known:",
        "",
        "- at a large η and a small b there is more noise than predicted, as with SGD, since C is that of a linear "
        "recursion;",
        "- the predictions of the last four cases that name β2, permutation or hidden units were written down by a "
        "version that let rounding grow in weights no gradient ever moves, which is mended. The two of β2 are compared "
        "up to where that began, and what it did to the other two is not known;",
        "- so `predict` refuses Adam by permutation, as the recursion of v̂ is of independent draws where an epoch's "
        "batches are not, and for networks, whose mean noise moves and v̂ with it, which the metric does not see; and "
        "β2 below 0.9, which none of these had.",
        "",
        "AdaGrad is not predicted.",
    ]


def _of_notebook(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "",
        "## What notebook 14 found",
        "",
        "Its predictions were written to `benchmarks/frozen.csv` before the runs. Measured over predicted, or what the "
        "claim says, with the verdict of all its intervals.",
        "",
        "| claim | measured | verdict |",
        "|---|---|---|",
    ]
    of_14 = (check for check in checks if check["notebook"].startswith("14_"))
    return lines + [f"| {_text(check['claim'])} | {values(check['measured'])} | {outcome(check)} |" for check in of_14]


def ends_page(cases: Mapping[str, tuple[str, pd.DataFrame, pd.DataFrame]]) -> str:
    """`docs/ends.md`, in Markdown: by title the command that measured it, and the tables `ends` and `to_eps` that
    notebook 15 wrote."""
    lines = [
        "# Where each method ends, and what it takes to each ε",
        "",
        "All methods of [15](../notebooks/15_the_schedule_to_use.ipynb) at a budget of gradient evaluations, each with "
        "the same search: the ends are the lowest of their column over the learning rates that the heading names, in "
        "hindsight, *× 3* where that is not η₀ but three times it. Brackets: 95 % intervals over seeds. Steps, looks "
        "(share of the budget, on top of it) and predicted time, τ0 K + τ1 N at τ0/τ1 = 1,000 over that of the "
        "constant b₀, are at η₀.",
        "Then gradient evaluations, looks included, until E‖∇f‖² is ε² and stays there, with their interval, and "
        "steps, each method at the best η for that ε; a method aims at the end of the budget if it aims at all.",
        "Made from `benchmarks/ends/` by `make reference`; the commands write `ends.csv` and `to_eps.csv` to "
        "`figures/15_the_schedule_to_use/`.",
    ]
    for title, (command, ends, to_eps) in cases.items():
        for problem, own in ends.groupby("problem", sort=False):
            factors = ", ".join(f"{factor:g}" for factor in own["factor"].unique())
            lines += ["", f"## {problem}, {title}", "", f"η₀ × {factors}. `{command}`", ""]
            lines += _ends_table(own)
            there = to_eps[to_eps["problem"] == problem]
            lines += ["", *_arrivals_table(there)] if len(there) else []
    return "\n".join(lines) + "\n"


def _ends_table(ends: pd.DataFrame) -> list[str]:
    lines = ["| | ‖∇f‖² | loss | test error, % | steps | looks, % | time |", "|---|---|---|---|---|---|---|"]
    constant = ends[(ends["method"] == "b₀") & (ends["factor"] == 1.0)]["seconds, accelerator"].iloc[0]
    for method, own in ends.groupby("method", sort=False):
        cells = []
        for criterion, unit in (("grad_sqnorm", 1), ("loss", 1), ("test_error", 100)):
            best = own[own["criterion"] == criterion].sort_values("value").iloc[0]
            cells.append(_with_interval(best["value"] * unit, best["low"] * unit, best["high"] * unit))
            cells[-1] += "" if best["factor"] == 1.0 else f" × {best['factor']:g}"
        default = own.iloc[0]  # η₀ is the first of the search
        cells += [f"{default['steps']:,.0f}", f"{100 * default['looked']:.3g}"]
        cells.append(f"{default['seconds, accelerator'] / constant:.2g}")
        lines.append(f"| {_text(method)} | " + " | ".join(cells) + " |")
    return lines


def _arrivals_table(arrivals: pd.DataFrame) -> list[str]:
    levels = arrivals["eps2"].unique()
    lines = [
        "| | " + " | ".join(f"ε² = {level:g} | steps" for level in levels) + " |",
        "|---|" + "---|---|" * len(levels),
    ]
    for method, own in arrivals.groupby("method", sort=False):
        cells = []
        for level in levels:
            best = own[own["eps2"] == level].sort_values(["evaluations", "evaluations_low"]).iloc[0]
            never = not np.isfinite(best["evaluations"])
            ends = (best[f"evaluations{end}"] for end in ("", "_low", "_high"))
            cells += ["never", ""] if never else [_with_interval(*ends), f"{best['steps']:,.0f}"]
        lines.append(f"| {_text(method)} | " + " | ".join(cells) + " |")
    return lines


def _with_interval(value: float, low: float, high: float) -> str:
    """To three digits; "diverged" where there is no value."""
    if not np.isfinite(value):
        return "diverged"
    shown = ("never" if end == np.inf else values(float(end)) for end in (value, low, high))
    return "{} [{}, {}]".format(*shown)
