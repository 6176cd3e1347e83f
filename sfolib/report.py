"""The notebooks in batch: run them through papermill, gather what they published, write the report page."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from sfolib import record
from sfolib.errors import InputError, require
from sfolib.notebook import root

README_FIGURE = Path("01_critical_batch_size") / "sfo.png"
_MANY = 6  # a longer list is told by its range


_RAN = "ran.json"


@dataclass(frozen=True)
class Outcome:
    """How one notebook's run ended; error is None where all went well."""

    name: str
    seconds: float
    error: str | None

    @property
    def line(self) -> str:
        return f"{self.name}: {self.error or 'done'} ({self.seconds:.0f} s)"


def select(names: Sequence[str]) -> list[Path]:
    """The notebooks with these names or first letters of a name; all where none is given."""
    known = sorted((root() / "notebooks").glob("*.ipynb"))
    chosen = [path for path in known if not names or any(path.stem.startswith(name) for name in names)]
    for name in names:
        if not any(path.stem.startswith(name) for path in known):
            raise InputError(f"notebook = {name!r}: must begin one of {', '.join(path.stem for path in known)}")
    return chosen


def figures(
    names: Sequence[str],
    scale: str,
    jobs: int,
    out: Path,
    again: bool = False,
    lost: Mapping[str, str] | None = None,
) -> list[Outcome]:
    """Run notebooks, `jobs` at a time; write checks.json and index.html into `out`. A failure stops no other.

    What ran well before, and would do the same now, is left as it is (see `fingerprint`), unless `again`. lost:
    notebooks that cannot be run, with why.
    """
    from joblib import Parallel, delayed
    from tqdm import tqdm

    lost = lost or {}
    notebooks = [path for path in select(names) if path.stem not in lost]
    out = out.resolve()
    (out / "executed").mkdir(parents=True, exist_ok=True)
    due = [path for path in notebooks if again or not is_up_to_date(path, out, scale)]
    for path in notebooks:
        if path not in due:
            print(f"{path.stem}: up to date")
    parallel = max(1, min(jobs, len(due)))
    inner = max(1, jobs // parallel)
    for name in lost:
        shutil.rmtree(out / name, ignore_errors=True)
    tasks = (delayed(execute)(path, out, scale, inner) for path in due)
    outcomes = [Outcome(name, 0.0, error) for name, error in lost.items()]
    with tqdm(total=len(due), desc="notebooks", unit="notebook") as progress:
        for outcome in Parallel(n_jobs=parallel, return_as="generator_unordered")(tasks):
            progress.write(outcome.line)
            progress.update()
            outcomes.append(outcome)
    write(out, outcomes)
    return sorted(outcomes, key=lambda outcome: outcome.name)


def fingerprint(path: Path, scale: str) -> str:
    """Of all that decides what a notebook publishes: itself, the scale, sfolib's sources, the packages' versions."""
    packages = sorted(f"{d.metadata['Name']} {d.version}" for d in metadata.distributions())
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    digest = hashlib.sha256("\n".join([scale, platform.python_version(), *packages]).encode())
    for file in (path, *sources):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def is_up_to_date(path: Path, out: Path, scale: str) -> bool:
    """Whether what a notebook published in `out` is what it would publish now."""
    folder = out / path.stem
    if not (folder / _RAN).is_file() or not (out / "executed" / path.name).is_file():
        return False
    ran, published = (json.loads((folder / name).read_text(encoding="utf-8")) for name in (_RAN, "published.json"))
    shown = all((folder / f"{key}.{kind}").is_file() for key in published["figures"] for kind in ("png", "pdf"))
    return shown and ran["fingerprint"] == fingerprint(path, scale)


def execute(path: Path, out: Path, scale: str, jobs: int) -> Outcome:
    """One notebook through papermill; what it published before is removed first, so that nothing stale is shown."""
    import papermill

    shutil.rmtree(out / path.stem, ignore_errors=True)
    started, before = time.perf_counter(), fingerprint(path, scale)
    error = None
    for attempt in (1, 2):
        try:
            papermill.execute_notebook(
                path,
                out / "executed" / path.name,
                {"scale": scale, "jobs": jobs, "out": str(out)},
                progress_bar={"desc": path.stem, "leave": False, "unit": "cell"},
                cwd=path.parent,
            )
        except papermill.exceptions.PapermillExecutionError as failure:
            error = f"{failure.ename}: {failure.evalue}"
        except RuntimeError as failure:
            # kernels started side by side can race for a port: once more
            if attempt == 1 and "Kernel" in str(failure):
                continue
            error = f"{type(failure).__name__}: {failure}"
        break
    outcome = Outcome(path.stem, time.perf_counter() - started, error)
    if error is None:
        ran = {"fingerprint": before, "seconds": round(outcome.seconds, 1)}
        record.write_json(out / path.stem / _RAN, ran)
    return outcome


def write(out: Path, outcomes: Sequence[Outcome]) -> None:
    """checks.json and index.html from everything published in `out`, whenever it was run."""
    from jinja2 import Environment, PackageLoader

    ended = {outcome.name: outcome for outcome in outcomes}
    notebooks = [_notebook(path, out, ended.get(path.stem)) for path in select(())]
    notebooks = [notebook for notebook in notebooks if notebook["figures"] or notebook["error"]]
    checks = [check for notebook in notebooks for check in notebook["checks"]]
    record.write_json(out / "checks.json", checks)
    reproduced = sum(check["verdict"] == "reproduced" for check in checks)
    summary = (
        f"{reproduced} of {len(checks)} claims reproduced. Written {time.strftime('%Y-%m-%d %H:%M')} on "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}."
    )
    environment = Environment(loader=PackageLoader("sfolib", "."), autoescape=True, trim_blocks=True)
    environment.filters["values"] = values
    page = environment.get_template("report.html.j2").render(summary=summary, notebooks=notebooks, checks=checks)
    (out / "index.html").write_text(page, encoding="utf-8")


def claims_table(checks: Sequence[dict[str, Any]]) -> str:
    """The README's table of claims, in Markdown."""
    lines = ["| claim | derivation | notebook | measured | theory | verdict |", "|---|---|---|---|---|---|"]
    for check in checks:
        measured = values(check["measured"]) + (f" [{values(check['interval'])}]" if check["interval"] else "")
        link = f"[{check['notebook'][:2]}](notebooks/{check['notebook']}.ipynb)"
        cells = [check["claim"], check["source"], link, measured, values(check["theory"]), check["verdict"]]
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)


def benchmark_table(rows: Sequence[dict[str, Any]]) -> str:
    """The README's table of benchmarks, in Markdown."""
    lines = ["| measured | ratio | wanted | |", "|---|---|---|---|"]
    lines += [f"| {r['name']} | {r['ratio']:.3g} | {r['wanted']} | {'' if r['ok'] else 'missed'} |" for r in rows]
    return "\n".join(lines)


def filled(readme: str) -> str:
    """A README's text with its tables, each between two comments, made from the files that it names."""
    sources = {
        "claims": (claims_table, root() / "figures" / "reference" / "checks.json"),
        "bench": (lambda told: benchmark_table(told["rows"]), root() / "benchmarks" / "results.json"),
    }
    for name, (table, source) in sources.items():
        before, start, rest = readme.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        require(bool(end), "README.md", name, f"has no <!-- {name} --> … <!-- /{name} --> to fill; restore them")
        readme = before + start + table(json.loads(source.read_text(encoding="utf-8"))) + "\n" + end + after
    return readme


def fill_readme() -> None:
    """Keep the claims and the README's figure of the last `figures` as the project's own, in `figures/reference`,
    and fill the README's tables."""
    folder, reference = root() / "figures", root() / "figures" / "reference"
    for source, target in ((Path("checks.json"), "checks.json"), (README_FIGURE, README_FIGURE.name)):
        require(
            (folder / source).is_file(), "figures", str(folder / source), "does not exist; run `make figures` first"
        )
        reference.mkdir(exist_ok=True)
        shutil.copyfile(folder / source, reference / target)
    readme = root() / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")


def values(value: Any) -> str:
    """Numbers as people read them, to three digits. In a list, what has no number was not reached."""
    if isinstance(value, list) and len(value) > _MANY and not isinstance(value[0], list):
        numbers = [item for item in value if item is not None]
        return f"{len(value)} values, {values(min(numbers))} … {values(max(numbers))}"
    if isinstance(value, list):
        return ", ".join("not reached" if item is None else _bracketed(item) for item in value)
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    if 1e3 <= abs(value) < 1e7:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def _bracketed(item: Any) -> str:
    if not isinstance(item, list):
        return values(item)
    return "not reached" if item == [None, None] else f"[{values(item)}]"


def _notebook(path: Path, out: Path, outcome: Outcome | None) -> dict[str, Any]:
    """What the report says of one notebook."""
    published = out / path.stem / "published.json"
    told = json.loads(published.read_text(encoding="utf-8")) if published.exists() else {"figures": {}, "checks": []}
    text = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    heading = re.match(r"#\s*(.+)", text)
    words = [f"scale {told['scale']}"] if "scale" in told else []
    ran = out / path.stem / _RAN
    if ran.exists():
        words.append(f"ran in {json.loads(ran.read_text(encoding='utf-8'))['seconds']:.0f} s")
    return {
        "name": path.stem,
        "title": heading[1] if heading else path.stem,
        "told": " · ".join(words),
        "error": outcome.error if outcome else None,
        "figures": told["figures"],
        "checks": told["checks"],
    }
