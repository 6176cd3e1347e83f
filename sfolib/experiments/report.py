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

from sfolib._utils import files
from sfolib._utils.errors import InputError, require
from sfolib.analysis.claims import VERDICTS, chance, differences, outcome
from sfolib.experiments.project import root

_MANY = 6  # a longer list is told by its range
_RAN, _PUBLISHED = "ran.json", "published.json"
REFERENCE = Path("figures") / "reference"
_SECONDS = REFERENCE / "seconds.json"  # how long each notebook took last
_UNFINISHED = "It did not run to its end: what it shows may be in part, or of other parameters. Run it again."


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

    What ran well before, and would do the same now, is left as it is (see `fingerprint`), unless `again`. Interrupted,
    the page tells what did not end; the same again runs that, and trains what is not on record. lost: notebooks that
    cannot be run, with why.
    """
    from joblib import Parallel, delayed
    from tqdm import tqdm

    lost = lost or {}
    notebooks = [path for path in select(names) if path.stem not in lost]
    out = files.folder(out / "executed").resolve().parent
    due = _longest_first([path for path in notebooks if again or not is_up_to_date(path, out, scale)])
    for path in notebooks:
        if path not in due:
            print(f"{path.stem}: up to date")
    parallel = max(1, min(jobs, len(due)))
    inner = max(1, jobs // parallel)
    for name in lost:
        shutil.rmtree(out / name, ignore_errors=True)
    tasks = (delayed(execute)(path, out, scale, inner) for path in due)
    outcomes = [Outcome(name, 0.0, error) for name, error in lost.items()]
    try:
        with tqdm(total=len(due), desc="notebooks", unit="notebook") as progress:
            for outcome in Parallel(n_jobs=parallel, return_as="generator_unordered")(tasks):
                progress.write(outcome.line)
                progress.update()
                outcomes.append(outcome)
    finally:
        write(out, outcomes)
    return sorted(outcomes, key=lambda outcome: outcome.name)


def _longest_first(notebooks: Sequence[Path]) -> list[Path]:
    """So that none is left to run alone at the end; a notebook whose time is not known counts as long."""
    path = root() / _SECONDS
    seconds = files.read_json(path, "restore it") if path.is_file() else {}
    return sorted(notebooks, key=lambda notebook: -seconds.get(notebook.stem, float("inf")))


def fingerprint(path: Path, scale: str) -> str:
    """Of all that decides what a notebook publishes: itself, the scale, sfolib's sources, the packages' versions."""
    packages = sorted(f"{d.metadata['Name']} {d.version}" for d in metadata.distributions())
    sources = sorted(Path(__file__).parents[1].rglob("*.py"))
    digest = hashlib.sha256("\n".join([scale, platform.python_version(), *packages]).encode())
    for file in (path, *sources):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def is_up_to_date(path: Path, out: Path, scale: str) -> bool:
    """Whether what a notebook published in `out` is what it would publish now."""
    folder = out / path.stem
    if not (folder / _RAN).is_file() or not (out / "executed" / path.name).is_file():
        return False
    ran, notebook = read_ran(folder), published(folder)
    shown = all((folder / f"{key}.{kind}").is_file() for key in notebook["figures"] for kind in ("png", "pdf"))
    return shown and ran["fingerprint"] == fingerprint(path, scale)


def read_ran(folder: Path) -> dict[str, Any]:
    """How the notebook of that folder ran last. Raises `InputError` where it did not run to its end."""
    require((folder / _RAN).is_file(), "notebook", folder.name, f"did not run to its end; {_remedy(folder)}")
    content = files.read_json(folder / _RAN, _remedy(folder))
    known = isinstance(content, dict) and isinstance(content.get("seconds"), int | float) and "fingerprint" in content
    require(known, "file", str(folder / _RAN), f"damaged: does not tell how the notebook ran; {_remedy(folder)}")
    return content


def published(folder: Path) -> dict[str, Any]:
    """What the notebook of that folder published."""
    content = files.read_json(folder / _PUBLISHED, _remedy(folder))
    known = (
        isinstance(content, dict)
        and isinstance(content.get("figures"), dict)
        and isinstance(content.get("checks"), list)
    )
    require(known, "file", str(folder / _PUBLISHED), f"damaged: no figures and checks; {_remedy(folder)}")
    read_claims(folder / _PUBLISHED, content["checks"], _remedy(folder))
    own = all(check["notebook"] == folder.name for check in content["checks"])
    require(own, "file", str(folder / _PUBLISHED), f"has claims of another notebook; {_remedy(folder)}")
    return content


def read_claims(path: Path, checks: Any, remedy: str) -> list[dict[str, Any]]:
    """The checks, if they are what `Check.to_dict` gives."""
    texts = ("claim", "kind", "source", "explanation", "verdict", "notebook")
    known = isinstance(checks, list) and all(
        isinstance(check, dict)
        and all(isinstance(check.get(name), str) for name in texts)
        and {"measured", "theory", "interval"} <= set(check)
        for check in checks
    )
    require(known, "file", str(path), f"damaged: not a list of claims; {remedy}")
    return checks


def known_verdicts(scale: str) -> dict[tuple[str, str], str]:
    """The committed verdicts at a scale, by (notebook, claim): what `python -m sfolib reference` kept."""
    path = root() / REFERENCE / "verdicts.json"
    kept = files.read_json(path, "restore it").get(scale, {}) if path.is_file() else {}
    return {(name, claim): verdict for name, of in kept.items() for claim, verdict in of.items()}


def chance_told(checks: Sequence[Mapping[str, Any]]) -> str:
    """What chance does to so many claims, in a sentence."""
    found = chance(checks)
    return (
        f"{found.claims} claims are judged by 95 % intervals: if all were true, at most {found.expected:.1f} of them "
        f"would be expected to fail at some value by chance; {found.failed} do."
    )


def _remedy(folder: Path) -> str:
    return f"delete {folder} and run its notebook again"


def execute(path: Path, out: Path, scale: str, jobs: int) -> Outcome:
    """One notebook through papermill; what it published before is removed first, so that nothing stale is shown."""
    import papermill

    from sfolib.experiments.forked_kernels import ForkedKernelManager

    for old in (out / path.stem, *out.glob(f".{path.stem}.*")):
        shutil.rmtree(old, ignore_errors=True)
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
                kernel_manager_class=ForkedKernelManager,
                extra_arguments=["--log-level=CRITICAL"],  # of the kernel: on its end, and on its encryption
            )
        except papermill.exceptions.PapermillExecutionError as failure:
            error = f"{failure.ename}: {failure.evalue}"
        except RuntimeError as failure:
            # kernels started side by side can race for a port: once more
            if attempt == 1 and "Kernel" in str(failure):
                continue
            error = f"{type(failure).__name__}: {failure}"
        break
    if error is None and not (out / path.stem / _PUBLISHED).is_file():
        error = "published nothing; a notebook ends with notebook.publish"
    outcome = Outcome(path.stem, time.perf_counter() - started, error)
    if error is None:
        ran = {"fingerprint": before, "seconds": round(outcome.seconds, 1)}
        files.write_json(out / path.stem / _RAN, ran)
    return outcome


def write(out: Path, outcomes: Sequence[Outcome]) -> list[str]:
    """checks.json and index.html from everything published in `out`, whenever it was run; returns the `differences`."""
    from jinja2 import Environment, PackageLoader

    ended = {outcome.name: outcome for outcome in outcomes}
    notebooks = [_notebook(path, out, ended.get(path.stem)) for path in select(())]
    notebooks = [notebook for notebook in notebooks if notebook["figures"] or notebook["error"]]
    checks = [check for notebook in notebooks for check in notebook["checks"]]
    files.write_json(out / "checks.json", checks)
    turned = [line for notebook in notebooks for line in notebook["turned"]]
    counts = {word: sum(check["verdict"] == word for check in checks) for word in VERDICTS}
    summary = (
        f"{len(checks)} claims: {', '.join(f'{n} {word}' for word, n in counts.items())}. "
        f"{chance_told(checks)} Written {time.strftime('%Y-%m-%d %H:%M')} on "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}."
    )
    environment = Environment(loader=PackageLoader("sfolib.experiments", "."), autoescape=True, trim_blocks=True)
    environment.filters |= {"values": values, "outcome": outcome}
    page = environment.get_template("report.html.j2").render(
        summary=summary, notebooks=notebooks, checks=checks, differences=turned, verdicts=VERDICTS
    )
    with files.replacing(out / "index.html") as file:
        file.write(page)
    return turned


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
    folder = out / path.stem
    began = (folder / _PUBLISHED).exists()
    content = published(folder) if began else {"figures": {}, "checks": []}
    text = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    heading = re.match(r"#\s*(.+)", text)
    words = [f"scale {content['scale']}"] if "scale" in content else []
    ended = (folder / _RAN).exists()
    if ended:
        words.append(f"ran in {read_ran(folder)['seconds']:.0f} s")
    return {
        "name": path.stem,
        "title": heading[1] if heading else path.stem,
        "summary": " · ".join(words),
        "error": outcome.error if outcome else _UNFINISHED if began and not ended else None,
        "figures": content["figures"],
        "checks": content["checks"],
        "turned": differences(content["checks"], known_verdicts(content.get("scale", ""))),
    }
