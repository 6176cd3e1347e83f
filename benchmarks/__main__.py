"""Run every benchmark, print it, and write results.json with versions and device."""

from pathlib import Path

from benchmarks import gradstats, loop, networks
from benchmarks.measure import REPEATS, report
from sfolib._utils import provenance
from sfolib.training import records

rows = report(loop.rows, gradstats.rows, networks.rows)
made_by = provenance.machine("cpu") | {"threads": 1, "repeats": REPEATS, "command": "python -m benchmarks"}
records.write_json(Path(__file__).parent / "results.json", {"provenance": made_by, "rows": rows})
