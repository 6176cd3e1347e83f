"""`python -m sfolib …`: exit status 0 if all went well, 1 with a line that says what to mend."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sfolib.errors import InputError, require


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    args = _parser().parse_args(arguments)
    try:
        return args.command(args)
    except InputError as error:
        print(f"sfolib: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sfolib", description=sys.modules["sfolib"].__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    figures = commands.add_parser("figures", help="run notebooks through papermill and write the report page")
    figures.add_argument("names", nargs="*", metavar="NAME", help="notebooks, by name or its beginning (default: all)")
    figures.add_argument("--scale", choices=("smoke", "quick", "paper"), default="quick")
    figures.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    figures.add_argument("--out", type=Path, default=None, help="folder (default: the project's figures/)")
    figures.set_defaults(command=_figures)
    readme = commands.add_parser("readme", help="fill the README's table of claims from figures/checks.json")
    readme.set_defaults(command=_readme)
    return parser


def _figures(args: argparse.Namespace) -> int:
    from sfolib import notebook, report

    require(args.jobs >= 1, "jobs", args.jobs, "must be 1 or more")
    out = args.out or notebook.root() / "figures"
    outcomes = report.figures(args.names, args.scale, args.jobs, out)
    print(f"report: {out / 'index.html'}")
    return 1 if any(outcome.error for outcome in outcomes) else 0


def _readme(args: argparse.Namespace) -> int:
    from sfolib import notebook, report

    root = notebook.root()
    source = root / "figures" / "checks.json"
    require(source.is_file(), "checks", str(source), "does not exist; run `make figures` first")
    text = (root / "README.md").read_text(encoding="utf-8")
    filled = report.with_claims(text, json.loads(source.read_text(encoding="utf-8")))
    (root / "README.md").write_text(filled, encoding="utf-8")
    return 0
