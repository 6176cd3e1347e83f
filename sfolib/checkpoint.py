"""Checkpoints: tensors and plain numbers in one file that is whole or not there. Reading one executes nothing."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from sfolib.errors import InputError, require
from sfolib.files import replacing

NAME = "checkpoint.pt"
_HEADER = b"sfolib checkpoint 1\n"  # raise the number when the state's entries change
_DIGEST = hashlib.sha256().digest_size


def write(path: Path, state: dict[str, Any]) -> None:
    """Header, SHA-256 of the rest, the state as torch stores it; in place of an older one only when all is on disk."""
    content = io.BytesIO()
    torch.save(state, content)
    with replacing(path, "wb") as file:
        file.write(_HEADER + hashlib.sha256(content.getbuffer()).digest())
        file.write(content.getbuffer())


def read(path: Path, device: str) -> dict[str, Any]:
    """The state, on `device`. `InputError` for a file that is damaged, or of another version of sfolib."""
    remedy = f"delete it, and {path.parent} starts again"
    try:
        found = path.read_bytes()
    except OSError as error:
        raise InputError(f"checkpoint = {str(path)!r}: cannot be read ({error.strerror}); {remedy}") from error
    require(found.startswith(_HEADER), "checkpoint", str(path), f"is damaged or of another version; {remedy}")
    digest, content = found[len(_HEADER) :][:_DIGEST], found[len(_HEADER) + _DIGEST :]
    require(hashlib.sha256(content).digest() == digest, "checkpoint", str(path), f"is damaged; {remedy}")
    try:
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"checkpoint = {str(path)!r}: holds more than tensors and numbers; {remedy}") from error
