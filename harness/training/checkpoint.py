"""States and weights as files: serialised, and read back without executing anything, damage noticed.

torch's format is a zip archive, whose CRC-32 of every member is the checksum.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

FORMAT = 1


class DamagedCheckpoint(Exception):
    """The file can't be used; the message says why."""


def serialise(content: dict[str, Any]) -> bytes:
    """Tensors and plain values as bytes. In memory, because torch hides a full disk behind errors of its own."""
    stream = io.BytesIO()
    torch.save({"format": FORMAT, **content}, stream)
    return stream.getvalue()


def read(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `serialise` made, tensors on `device`.

    Raises:
        DamagedCheckpoint: the file is not whole, not of this format, or holds more than tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (bad := archive.testzip()) is not None:
                raise DamagedCheckpoint(f"{path}: the checksum of {bad} does not hold")
        content = torch.load(path, map_location=device, weights_only=True)
    except (OSError, zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise DamagedCheckpoint(f"{path}: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DamagedCheckpoint(f"{path}: not a checkpoint of format {FORMAT}")
    return content
