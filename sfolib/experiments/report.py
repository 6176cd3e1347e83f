"""What notebooks published, gathered, and the report page."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfolib._utils import files
from sfolib._utils.errors import require
from sfolib.analysis.claims import KINDS, VERDICTS, chance, differences, outcome, values
from sfolib.experiments import pages
from sfolib.experiments.project import root

if TYPE_CHECKING:
    from markupsafe import Markup

RAN, PUBLISHED = "ran.json", "published.json"
REFERENCE = Path("figures") / "reference"
COST = "cost.json"
FULL = REFERENCE / "full"  # of notebooks at full size: what they published, and their pictures
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


def read_ran(folder: Path) -> dict[str, Any]:
    """How the notebook of that folder ran last. Raises `InputError` where it did not run to its end."""
    require((folder / RAN).is_file(), "notebook", folder.name, f"did not run to its end; {_remedy(folder)}")
    content = files.read_json(folder / RAN, _remedy(folder))
    known = isinstance(content, dict) and isinstance(content.get("seconds"), int | float) and "fingerprint" in content
    require(known, "file", str(folder / RAN), f"damaged: does not tell how the notebook ran; {_remedy(folder)}")
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
    own = all(check["notebook"] == folder.name.partition("+")[0] for check in content["checks"])
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


def known_verdicts(content: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """The committed verdicts at the scale of what a notebook published, by (notebook, claim): what `python -m sfolib
    reference` kept. None where other parameters than the scale's were given."""
    kept = kept_verdicts().get(content.get("scale", ""), {}) if not content.get("parameters") else {}
    return {(name, claim): verdict for name, of in kept.items() for claim, verdict in of.items()}


def kept_verdicts() -> dict[str, dict[str, dict[str, str]]]:
    """By scale, notebook and claim; empty where none are kept."""
    path = root() / REFERENCE / "verdicts.json"
    kept = files.read_json(path, "restore it") if path.is_file() else {}
    known = isinstance(kept, dict) and all(
        isinstance(of, dict) and all(isinstance(verdicts, dict) for verdicts in of.values()) for of in kept.values()
    )
    require(known, "file", str(path), "damaged: no verdicts by scale, notebook and claim; restore it")
    return kept


def chance_sentence(checks: Sequence[Mapping[str, Any]]) -> str:
    """What chance does to so many claims, in a sentence."""
    found = chance(checks)
    return (
        f"{found.claims} claims are judged by 95 % intervals: if all were true, at most {found.expected:.1f} of them "
        f"would be expected to fail at some value by chance; {found.failed} do."
    )


def _remedy(folder: Path) -> str:
    return f"delete {folder} and run its notebook again"


def write(out: Path, outcomes: Sequence[Outcome], waiting: Sequence[str] = ()) -> list[str]:
    """checks.json and index.html from everything published in `out`, whenever it was run; returns the `differences` of
    those that ended now.

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
    turned = {notebook["name"]: notebook["turned"] for notebook in notebooks}
    counts = {word: sum(check["verdict"] == word for check in checks) for word in VERDICTS}
    summary = (
        f"{len(checks)} claims: {', '.join(f'{n} {word}' for word, n in counts.items())}. "
        f"{chance_sentence(checks)} Written {time.strftime('%Y-%m-%d %H:%M')} on "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}."
    )
    environment = Environment(loader=PackageLoader("sfolib.experiments", "."), autoescape=True, trim_blocks=True)
    environment.filters |= {"values": values, "outcome": outcome, "marked": marked}
    page = environment.get_template("report.html.j2").render(
        summary=summary, notebooks=notebooks, checks=checks, differences=[*chain(*turned.values())], verdicts=VERDICTS,
        kinds=KINDS,
        formulas=Markup(pages.STYLE),
        waiting=[name for name in waiting if name not in ended],
    )  # fmt: skip
    gallery = environment.get_template("gallery.html.j2").render(notebooks=notebooks)
    for name, text in (("index.html", page), ("gallery.html", gallery)):
        with files.replacing(out / name) as file:
            file.write(text)
    return [line for name, lines in turned.items() if not ended or name in ended for line in lines]


def headlines(out: Path) -> list[str]:
    """The headline claims, a line each, of what was published in `out`."""
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


def _full(name: str, out: Path) -> list[dict[str, Any]]:
    """What the project keeps of a notebook at full size; place: of its pictures, from `out`."""
    found = []
    for kept in filter(Path.is_dir, [root() / FULL / name, *sorted(root().glob(f"{FULL.as_posix()}/{name}+*"))]):
        content = published(kept)
        checks = [check | {"anchor": f"{kept.name}-full-{i}"} for i, check in enumerate(content["checks"], 1)]
        found.append(content | {"checks": checks, "place": Path(os.path.relpath(kept, out)).as_posix()})
    return found


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
    ended = (folder / RAN).exists()
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
        "full": _full(path.stem, out) if content.get("scale") != "full" else [],
        "turned": differences(
            content["checks"], known_verdicts(content), content.get("left_out", []), path.stem if ended else ""
        ),
    }
