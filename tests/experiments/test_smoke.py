"""Every notebook at smoke scale, off the network: what continuous integration runs of the figures."""

import base64
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from archives import write_mnist

from sfolib.analysis.claims import VERDICTS
from sfolib.experiments import report

ROOT = Path(__file__).parents[2]


def test_what_keeps_tests_off_the_network_does(tmp_path):
    tried = tmp_path / "tried.txt"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests" / "offline"), "OFFLINE": str(tried)}
    for host, refused in (("192.0.2.1", True), ("127.0.0.1", False)):
        program = f"import socket; socket.socket(type=socket.SOCK_DGRAM).connect(({host!r}, 9))"
        ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert (ended.returncode != 0) == refused
    assert tried.read_text() == "socket.connect 192.0.2.1\n"


@pytest.mark.long
def test_every_notebook_at_smoke_scale(tmp_path):
    """What `make figures SCALE=smoke` does, with its exit status, and without reaching the network."""
    out, tried = tmp_path / "figures", tmp_path / "tried.txt"
    command = [sys.executable, "-m", "sfolib", "figures", "--scale", "smoke", "--strict", "--out", str(out)]
    path = os.pathsep.join([str(ROOT / "tests" / "offline"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONWARNINGS": "default", "PYTHONPATH": path, "OFFLINE": str(tried)}
    subprocess.run(command, cwd=ROOT, check=True, env=environment)
    assert not tried.exists(), tried.read_text()
    checks = json.loads((out / "checks.json").read_text())
    assert {check["notebook"] for check in checks} == {path.stem for path in report.select(())}
    assert all(check["source"] and check["verdict"] in VERDICTS for check in checks)
    for path in report.select(()):
        published = sorted(proportions(file.read_bytes()) for file in (out / path.stem).glob("*.png"))
        assert shown(out / "executed" / path.name) == published, path.stem


def test_a_notebook_on_another_data_set(tmp_path):
    """As the README's for CIFAR-100, on images in MNIST's format: all is published, whatever the verdicts."""
    write_mnist(tmp_path / "data" / "MNIST" / "raw", n_train=100, n_test=30)
    told = {"dataset": "mnist", "model": "cnn", "data_dir": str(tmp_path / "data"), "epochs": 10, "seeds": 2, "jobs": 1}
    told |= {"scale": "smoke", "out": str(tmp_path)}
    path = ROOT / "notebooks" / "04_batch_growth.ipynb"
    papermill.execute_notebook(path, tmp_path / "out.ipynb", told, progress_bar=False)
    checks = json.loads((tmp_path / path.stem / "published.json").read_text())["checks"]
    assert any(check["claim"].startswith("MNIST, cnn") for check in checks)


def shown(path):
    """The proportions of the pictures in an executed notebook."""
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
    return sorted(proportions(base64.b64decode(data["image/png"])) for data in outputs if "image/png" in data)


def proportions(png):
    width, height = struct.unpack(">II", png[16:24])
    return round(width / height, 2)
