"""Files that are whole or not there: written beside their place and moved into it, read with an error that helps."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sfolib._utils.errors import InputError


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A file that takes the place of `path` once it is written and on disk. Until then, and if anything fails, what is
    at `path` stays as it is. `InputError` where the disk refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, mode, **({} if "b" in mode else {"encoding": "utf-8", "newline": ""})) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        _remove(temporary)
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


def unwritable(path: Path, error: OSError) -> InputError:
    """What to tell of a file or folder that cannot be written, and of what may be there already."""
    why = error.strerror or str(error)
    return InputError(f"file = {str(path)!r}: cannot be written ({why}); make room, or choose a folder that can be")


def folder(path: Path) -> Path:
    """The folder, made if missing. `InputError` where it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise InputError(f"folder = {str(path)!r}: cannot be written ({why}); choose another") from error
    return path


def write_json(path: Path, content: Any) -> None:
    """Write atomically: a reader sees the old file or the whole new one."""
    with replacing(path) as file:
        json.dump(content, file, indent=1, ensure_ascii=False, allow_nan=False)


def read_json(path: Path, remedy: str, field: str = "file") -> Any:
    """What a JSON file holds. `InputError` names the file, what is wrong with it, and the remedy."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{field} = {str(path)!r}: cannot be read ({error.strerror}); {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{field} = {str(path)!r}: is not JSON ({error}); {remedy}") from error


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except (OSError, ValueError):
        return  # what could not be made cannot be removed either
