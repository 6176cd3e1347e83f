"""Where numbers come from: commit, versions, device, threads."""

from __future__ import annotations

import platform
import subprocess
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def machine(device: str) -> dict[str, Any]:
    """What a record or a benchmark tells of the software and of the device it ran on; finished: UTC."""
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {
        "commit": commit(),
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in ("sfolib", "torch", "numpy")},
        "device": gpu or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


_version = cache(version)  # which reads files, for each run


def commit() -> str | None:
    """The repository's commit, "+" when the tree has changes; None outside a checkout."""
    where = ["-C", str(Path(__file__).parent), "-c", "filter.nbstripout.clean="]  # a process for each notebook
    git = ["git", *where, "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
