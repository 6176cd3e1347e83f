"""Where the project's checkout is."""

from __future__ import annotations

from pathlib import Path

from sfolib._utils.errors import InputError


def root() -> Path:
    """The project's folder: the nearest one above the working directory, or above this file, with `notebooks/` and
    `pyproject.toml` in it. papermill starts in the caller's directory, Jupyter in the notebook's."""
    for start in (Path.cwd(), Path(__file__).parent):
        for folder in (start, *start.parents):
            if (folder / "notebooks").is_dir() and (folder / "pyproject.toml").is_file():
                return folder
    how = "not inside a checkout of sfolib, which has the notebooks; change into one"
    raise InputError(f"working directory = {str(Path.cwd())!r}: {how}")
