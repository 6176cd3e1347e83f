"""The notebooks in batch: run through papermill, several at a time, and again only where something has changed."""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import platform
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from sfolib._utils import files
from sfolib._utils.errors import require
from sfolib.experiments import pages, report
from sfolib.experiments.forked_kernels import ForkedKernelManager
from sfolib.experiments.project import root
from sfolib.experiments.report import Outcome, select

_SECONDS = report.REFERENCE / "seconds.json"  # how long each notebook took last


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
                    report.write(out, outcomes, waiting)
    finally:
        report.write(out, outcomes)
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
    packages = _packages()
    sources = sorted(Path(__file__).parents[1].rglob("*.py"))
    parameters = [json.dumps(given, sort_keys=True)] if given else []
    digest = hashlib.sha256("\n".join([scale, *parameters, platform.python_version(), *packages]).encode())
    for file in (path, *sources):
        digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def _packages() -> list[str]:
    """Read once: of two hundred packages it takes a quarter of a second."""
    return sorted(f"{d.metadata['Name']} {d.version}" for d in metadata.distributions())


def is_up_to_date(path: Path, out: Path, scale: str, given: Mapping[str, Any] | None = None) -> bool:
    """Whether what a notebook published in `out` is what it would publish now."""
    folder = out / path.stem
    executed = out / "executed" / path.name
    if not all(file.is_file() for file in (folder / report.RAN, executed, executed.with_suffix(".html"))):
        return False
    ran, notebook = report.read_ran(folder), report.published(folder)
    shown = all((folder / f"{key}.{kind}").is_file() for key in notebook["figures"] for kind in ("png", "pdf"))
    return shown and ran["fingerprint"] == fingerprint(path, scale, given)


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
    if error is None and not (out / path.stem / report.PUBLISHED).is_file():
        error = "published nothing; a notebook ends with notebook.publish"
    outcome = Outcome(path.stem, time.perf_counter() - started, error)
    if error is None:
        ran = {"fingerprint": before, "seconds": round(outcome.seconds, 1)}
        files.write_json(out / path.stem / report.RAN, ran)
    return outcome
