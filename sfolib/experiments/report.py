"""The notebooks in batch: run them through papermill, gather what they published, write the report page."""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import os
import platform
import re
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfolib._utils import files
from sfolib._utils.errors import require
from sfolib.analysis.claims import KINDS, VERDICTS, chance, differences, outcome, values
from sfolib.experiments import pages
from sfolib.experiments.forked_kernels import ForkedKernelManager
from sfolib.experiments.project import root

if TYPE_CHECKING:
    from markupsafe import Markup

_RAN, PUBLISHED = "ran.json", "published.json"
REFERENCE = Path("figures") / "reference"
FULL = REFERENCE / "full"  # of notebooks at full size: what they published, and their pictures
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
    chosen = set() if names else {*known}
    for name in names:
        found = [path for path in known if path.stem.startswith(name)]
        padded = f", or {name.zfill(2)}" if name.isdecimal() and len(name) == 1 else ""
        require(bool(found), "notebook", name, f"must begin one of {', '.join(path.stem for path in known)}")
        require(
            len(found) == 1,
            "notebook",
            name,
            f"could be {', '.join(path.stem for path in found)}; say more of it{padded}",
        )
        chosen.add(found[0])
    return sorted(chosen)


def refuse(path: Path, given: Mapping[str, Any]) -> None:
    """Raise `InputError` for parameters that a notebook does not know, or of another type than it says; for their
    ranges its experiment must be imported, which takes seconds."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = next(("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", [])), "")
    kinds = {
        node.target.id: ast.unparse(node.annotation) for node in ast.parse(text).body if hasattr(node, "annotation")
    }
    for name, value in given.items():
        alike = get_close_matches(name, kinds, 1)
        meant = f"did you mean {alike[0]}? " if alike else ""
        require(name in kinds, name, value, f"unknown to {path.stem}; {meant}it has {', '.join(kinds)}")
        basic, plain = kinds[name].split("[")[0], type(value).__name__
        alike = {"float": ("float", "int"), "int": ("int", "dict"), "str": ("str",)}.get(basic, (basic,))
        require(plain in (*alike, "NoneType"), name, value, f"must be {kinds[name]}, as in {_example(basic)}")


def _example(kind: str) -> str:
    return {"float": "0.1", "int": "3", "list": "[0.1, 0.2]", "dict": '{"mlp": 60}'}.get(kind, "text")


def figures(
    names: Sequence[str],
    scale: str,
    jobs: int,
    out: Path,
    again: bool = False,
    lost: Mapping[str, str] | None = None,
    given: Mapping[str, Any] | None = None,
) -> list[Outcome]:
    """Run notebooks, `jobs` at a time; write checks.json and index.html into `out`, from the first that ends on. A
    failure stops no other.

    What ran well before, and would do the same now, is left as it is (see `fingerprint`), unless `again`. Interrupted,
    the page tells what did not end; the same again runs that, and trains what is not on record. lost: notebooks that
    cannot be run, with why. given: their parameters, beside the scale.
    """
    from joblib import Parallel, delayed

    lost, given = lost or {}, given or {}
    notebooks = [path for path in select(names) if path.stem not in lost]
    out = files.folder(out / "executed").resolve().parent
    due = _longest_first([path for path in notebooks if again or not is_up_to_date(path, out, scale, given)])
    for path in notebooks:
        if path not in due:
            print(f"{path.stem}: up to date")
    parallel = max(1, min(jobs, len(due)))
    inner = max(1, jobs // parallel)
    for name in lost:
        shutil.rmtree(out / name, ignore_errors=True)
    tasks = (delayed(execute)(path, out, scale, inner, given) for path in due)
    outcomes = [Outcome(name, 0.0, error) for name, error in lost.items()]
    try:
        with _Progress([path.stem for path in due], out / "runs", parallel) as progress:
            for outcome in Parallel(n_jobs=parallel, return_as="generator_unordered")(tasks):
                outcomes.append(outcome)
                waiting = progress.ended(outcome)
                if waiting:
                    write(out, outcomes, waiting)
    finally:
        write(out, outcomes)
    return sorted(outcomes, key=lambda outcome: outcome.name)


class _Progress:
    """On a terminal one line with notebooks, runs and about how long it still takes; elsewhere a line a notebook."""

    def __init__(self, due: Sequence[str], runs: Path, parallel: int):
        from tqdm import tqdm

        seconds = _seconds()
        known = [seconds[name] for name in due if name in seconds] or [1.0]
        self.left = {name: seconds.get(name, sum(known) / len(known)) for name in due}
        self.total, self.runs, self.parallel = sum(self.left.values()), runs, parallel
        self.count, self.before, self.started = len(due), self._on_record(), time.monotonic()
        how = {"bar_format": "{desc} {n_fmt} of {total_fmt} |{bar:20}| {elapsed}{postfix}", "file": sys.stderr}
        self.bar = tqdm(total=len(due), desc="notebooks", disable=not sys.stderr.isatty(), leave=False, **how)
        self.stop = threading.Event()

    def _on_record(self) -> int:
        return sum(1 for _ in self.runs.glob("*/run.json"))

    def _tick(self) -> None:
        while not self.stop.wait(1.0):
            self.bar.set_postfix_str(f"{self._on_record() - self.before} runs trained{self._time_left()}")

    def _time_left(self) -> str:
        """By how long each notebook took when the reference was made, once one has ended here."""
        done = self.total - sum(self.left.values())
        if not done:
            return ""
        minutes = (time.monotonic() - self.started) * sum(self.left.values()) / done / 60
        return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"

    def ended(self, outcome: Outcome) -> list[str]:
        """Tells of one, and returns those that have not ended."""
        self.left.pop(outcome.name, None)
        self.bar.write(outcome.line, file=sys.stdout) if not self.bar.disable else print(outcome.line, flush=True)
        self.bar.update()
        return [*self.left]

    def __enter__(self) -> _Progress:
        if not self.bar.disable:
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.bar.close()


def _seconds() -> dict[str, float]:
    path = root() / _SECONDS
    return files.read_json(path, "restore it") if path.is_file() else {}


def _longest_first(notebooks: Sequence[Path]) -> list[Path]:
    """So that none is left to run alone at the end; a notebook whose time is not known counts as long."""
    seconds = _seconds()
    return sorted(notebooks, key=lambda notebook: -seconds.get(notebook.stem, float("inf")))


def fingerprint(path: Path, scale: str, given: Mapping[str, Any] | None = None) -> str:
    """Of all that decides what a notebook publishes: itself, its parameters, sfolib's sources, the packages'
    versions."""
    packages = sorted(f"{d.metadata['Name']} {d.version}" for d in metadata.distributions())
    sources = sorted(Path(__file__).parents[1].rglob("*.py"))
    parameters = [json.dumps(given, sort_keys=True)] if given else []
    digest = hashlib.sha256("\n".join([scale, *parameters, platform.python_version(), *packages]).encode())
    for file in (path, *sources):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def is_up_to_date(path: Path, out: Path, scale: str, given: Mapping[str, Any] | None = None) -> bool:
    """Whether what a notebook published in `out` is what it would publish now."""
    folder = out / path.stem
    executed = out / "executed" / path.name
    if not all(file.is_file() for file in (folder / _RAN, executed, executed.with_suffix(".html"))):
        return False
    ran, notebook = read_ran(folder), published(folder)
    shown = all((folder / f"{key}.{kind}").is_file() for key in notebook["figures"] for kind in ("png", "pdf"))
    return shown and ran["fingerprint"] == fingerprint(path, scale, given)


def read_ran(folder: Path) -> dict[str, Any]:
    """How the notebook of that folder ran last. Raises `InputError` where it did not run to its end."""
    require((folder / _RAN).is_file(), "notebook", folder.name, f"did not run to its end; {_remedy(folder)}")
    content = files.read_json(folder / _RAN, _remedy(folder))
    known = isinstance(content, dict) and isinstance(content.get("seconds"), int | float) and "fingerprint" in content
    require(known, "file", str(folder / _RAN), f"damaged: does not tell how the notebook ran; {_remedy(folder)}")
    return content


def published(folder: Path) -> dict[str, Any]:
    """What the notebook of that folder published."""
    content = files.read_json(folder / PUBLISHED, _remedy(folder))
    known = (
        isinstance(content, dict)
        and isinstance(content.get("figures"), dict)
        and isinstance(content.get("checks"), list)
    )
    require(known, "file", str(folder / PUBLISHED), f"damaged: no figures and checks; {_remedy(folder)}")
    read_claims(folder / PUBLISHED, content["checks"], _remedy(folder))
    own = all(check["notebook"] == folder.name for check in content["checks"])
    require(own, "file", str(folder / PUBLISHED), f"has claims of another notebook; {_remedy(folder)}")
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


def execute(
    path: Path, out: Path, scale: str, jobs: int, given: Mapping[str, Any] | None = None
) -> Outcome:  # fmt: skip
    """One notebook through papermill; what it published before is removed first, so that nothing stale is shown."""
    import papermill

    for old in (out / path.stem, *out.glob(f".{path.stem}.*")):
        shutil.rmtree(old, ignore_errors=True)
    started, before = time.perf_counter(), fingerprint(path, scale, given)
    executed = out / "executed" / path.name
    error = None
    # errors come as exceptions; what an interrupted client's tasks tell is that the kernel it has stopped is dead
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    for attempt in (1, 2):
        try:
            papermill.execute_notebook(
                path,
                executed,
                {"scale": scale, "jobs": jobs, "out": str(out), **(given or {})},
                progress_bar=False,
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
    if executed.is_file():  # its kernel started
        pages.write(executed)
    if error is None and not (out / path.stem / PUBLISHED).is_file():
        error = "published nothing; a notebook ends with notebook.publish"
    outcome = Outcome(path.stem, time.perf_counter() - started, error)
    if error is None:
        ran = {"fingerprint": before, "seconds": round(outcome.seconds, 1)}
        files.write_json(out / path.stem / _RAN, ran)
    return outcome


def write(out: Path, outcomes: Sequence[Outcome], waiting: Sequence[str] = ()) -> list[str]:
    """checks.json and index.html from everything published in `out`, whenever it was run; returns the `differences`.

    waiting: notebooks that are still to end; the page says so and loads itself again.
    """
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    ended = {outcome.name: outcome for outcome in outcomes}
    notebooks = [_notebook(path, out, ended.get(path.stem)) for path in select(())]
    notebooks = [notebook for notebook in notebooks if notebook["figures"] or notebook["error"]]
    checks = [check for notebook in notebooks for check in notebook["checks"]]
    published_checks = [{k: v for k, v in check.items() if k != "anchor"} for check in checks]
    files.write_json(out / "checks.json", published_checks)
    turned = [line for notebook in notebooks for line in notebook["turned"]]
    counts = {word: sum(check["verdict"] == word for check in checks) for word in VERDICTS}
    summary = (
        f"{len(checks)} claims: {', '.join(f'{n} {word}' for word, n in counts.items())}. "
        f"{chance_told(checks)} Written {time.strftime('%Y-%m-%d %H:%M')} on "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}."
    )
    environment = Environment(loader=PackageLoader("sfolib.experiments", "."), autoescape=True, trim_blocks=True)
    environment.filters |= {"values": values, "outcome": outcome, "marked": marked}
    page = environment.get_template("report.html.j2").render(
        summary=summary, notebooks=notebooks, checks=checks, differences=turned, verdicts=VERDICTS, kinds=KINDS,
        formulas=Markup(pages.STYLE),
        waiting=[name for name in waiting if name not in ended],
    )  # fmt: skip
    gallery = environment.get_template("gallery.html.j2").render(notebooks=notebooks)
    for name, text in (("index.html", page), ("gallery.html", gallery)):
        with files.replacing(out / name) as file:
            file.write(text)
    return turned


def headlines(out: Path) -> list[str]:
    """The claims that are told first, a line each, of what was published in `out`."""
    checks = files.read_json(out / "checks.json", "make it again")
    return [f"  {check['notebook'][:2]} {outcome(check)}: {check['claim']}" for check in checks if check["headline"]]


def marked(text: str) -> Markup:
    """Words of ours as HTML: links, `code` and $formulas$ are what Markdown makes of them; all else is itself."""

    from markupsafe import Markup, escape

    text = re.sub(r"\[`?([^\]`]+)`?\]\(([\w/]+)\.ipynb\)", r'<a href="#\2">\1</a>', str(escape(text)))
    return Markup(pages.with_formulas(re.sub(r"`([^`]+)`", r"<code>\1</code>", text)))


def _command(name: str, content: Mapping[str, Any]) -> str:
    """What makes a notebook's figures again."""
    given = (f"-p {key} {shlex.quote(json.dumps(value))}" for key, value in content.get("parameters", {}).items())
    return " ".join(["python -m sfolib figures", name[:2], "--scale", content.get("scale", "quick"), *given])


def _full(name: str, out: Path) -> dict[str, Any] | None:
    """What the project keeps of a notebook at full size, where there is some; place: of its pictures, from `out`."""
    kept = root() / FULL / name
    if not kept.is_dir():
        return None
    content = published(kept)
    checks = [check | {"anchor": f"{name}-full-{i}"} for i, check in enumerate(content["checks"], 1)]
    return content | {"checks": checks, "place": Path(os.path.relpath(kept, out)).as_posix()}


def _notebook(path: Path, out: Path, outcome: Outcome | None) -> dict[str, Any]:
    """What the report says of one notebook."""
    folder = out / path.stem
    began = (folder / PUBLISHED).exists()
    content = published(folder) if began else {"figures": {}, "checks": []}
    text = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    heading = re.match(r"#\s*(.+)", text)
    words = [f"scale {content['scale']}"] if "scale" in content else []
    given = content.get("parameters", {})
    words += [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in given.items()]
    ended = (folder / _RAN).exists()
    if ended:
        words.append(f"ran in {read_ran(folder)['seconds']:.0f} s")
    return {
        "name": path.stem,
        "title": heading[1] if heading else path.stem,
        "summary": " · ".join(words),
        "command": _command(path.stem, content),
        "error": outcome.error if outcome else _UNFINISHED if began and not ended else None,
        "figures": content["figures"],
        "checks": [check | {"anchor": f"{path.stem}-claim-{i}"} for i, check in enumerate(content["checks"], 1)],
        "left_out": content.get("left_out", []),
        "full": _full(path.stem, out) if content.get("scale") != "full" else None,
        "turned": differences(content["checks"], known_verdicts(content.get("scale", ""))),
    }
