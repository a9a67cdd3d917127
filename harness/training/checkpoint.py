"""States and weights as files: serialised, and read back without executing anything, damage noticed.

torch's format is a zip archive, whose CRC-32 of every member is the checksum.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = 1
MEMORY_FORMAT = torch.channels_last  # of every network here: what the convolutions like best


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


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, in the names' order, whatever device or file they come from."""
    sha = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.numpy().tobytes())
    return sha.hexdigest()
