"""Checkpoints: tensors and plain numbers in one file that is whole or not there. Reading one executes nothing."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from sfolib._utils.errors import InputError, require
from sfolib._utils.files import replacing

NAME = "checkpoint.pt"
_TRAILER = b"sfolib checkpoint 4\n"  # raise the number when the state's entries change
_DIGEST = hashlib.sha256().digest_size


def write(path: Path, state: dict[str, Any]) -> None:
    """The state as torch stores it, its SHA-256 and a trailer; in place of an older file only when all is on disk.

    `torch.load(path, weights_only=True)` reads it too: what follows the archive is no part of it.
    """
    content = io.BytesIO()
    torch.save(state, content)
    with replacing(path, "wb") as file:
        file.write(content.getbuffer())
        file.write(hashlib.sha256(content.getbuffer()).digest() + _TRAILER)


def read(path: Path, device: str) -> dict[str, Any]:
    """The state, on `device`. `InputError` for a file that is damaged, or of another version of sfolib."""
    remedy = f"delete it, and {path.parent} starts again"
    try:
        found = path.read_bytes()
    except OSError as error:
        raise InputError(f"checkpoint = {str(path)!r}: cannot be read ({error.strerror}); {remedy}") from error
    require(found.endswith(_TRAILER), "checkpoint", str(path), f"is damaged or of another version; {remedy}")
    end = len(found) - len(_TRAILER) - _DIGEST
    content, digest = memoryview(found)[: max(end, 0)], found[max(end, 0) : -len(_TRAILER)]
    require(hashlib.sha256(content).digest() == digest, "checkpoint", str(path), f"is damaged; {remedy}")
    try:
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"checkpoint = {str(path)!r}: holds more than tensors and numbers; {remedy}") from error
