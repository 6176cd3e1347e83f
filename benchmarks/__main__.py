"""Run every benchmark, or the parts that are named, print them, and write results.json with versions and device."""

import argparse
import json
from pathlib import Path

from benchmarks import gradstats, loop, networks
from benchmarks.measure import REPEATS, report
from sfolib._utils import provenance
from sfolib.training import records

PARTS = {"loop": loop.rows, "gradstats": gradstats.rows, "networks": networks.rows}

parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
asked = parser.parse_args().parts or [*PARTS]
if unknown := set(asked) - set(PARTS):
    parser.error(f"no such part: {', '.join(sorted(unknown))}; they are {', '.join(PARTS)}")
path = Path(__file__).parent / "results.json"
kept = json.loads(path.read_text())["rows"]
rows = []
for name, part in PARTS.items():
    new = [{"part": name} | row for row in report(part)] if name in asked else []
    rows += new or [row for row in kept if row["part"] == name]
made_by = provenance.machine("cpu") | {"threads": 1, "repeats": REPEATS, "command": "python -m benchmarks"}
records.write_json(path, {"provenance": made_by, "rows": rows})
