"""States and weights as files: serialised, and read back without executing anything, damage noticed.

torch's format is a zip archive, whose checksums are of its members' contents alone: one flipped bit of its directory,
and torch reads zeros for a tensor without a word. So a SHA-256 over the whole file stands in the archive's comment,
where neither `torch.load` nor any other reader minds it.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import InputError, RunFailed
from harness.spec.yaml_tree import shown
from harness.training.device import is_out_of_memory

FORMAT = 2
MEMORY_FORMAT = torch.channels_last  # of every network here: what the convolutions like best
DIGEST = 64  # hex digits; before them the two bytes that tell a zip comment's length


class DamagedCheckpoint(Exception):
    """The file can't be used; the message says why."""


def serialise(content: dict[str, Any]) -> bytes:
    """Tensors and plain values as bytes. In memory, because torch hides a full disk behind errors of its own."""
    stream = io.BytesIO()
    torch.save({"format": FORMAT, **content}, stream)
    with stream.getbuffer() as archive:
        digest = hashlib.sha256(archive[:-2]).hexdigest().encode()
    stream.seek(-2, io.SEEK_END)  # where the length of its comment stands: none so far
    stream.write(DIGEST.to_bytes(2, "little") + digest)
    return stream.getvalue()


def read(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `serialise` made, tensors on `device`.

    Raises:
        DamagedCheckpoint: the file is not whole, or holds more than tensors and plain values.
        InputError: the disk refuses (a server that is away says nothing of the file), or it is whole and of another
            format than this version's.
        RunFailed: there is no memory to read it, which says nothing of the file.
    """
    try:
        data = path.read_bytes()
        if hashlib.sha256(data[: -DIGEST - 2]).hexdigest().encode() != data[-DIGEST:]:
            raise DamagedCheckpoint(f"{path}: its checksum does not hold")
        content = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except DamagedCheckpoint:
        raise
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DamagedCheckpoint(f"{path}: {error.strerror}") from error
    except OSError as error:
        fix = (
            "try again; if that does not help, move it away: a run goes on from the state before it, where there is one"
        )
        raise InputError(f"can't be read: {error.strerror}", where=str(path), fix=fix) from error
    except pickle.UnpicklingError as error:  # torch's own words are pages, with advice to run what is in the file
        raise DamagedCheckpoint(
            f"{path}: it holds more than tensors and plain values; nothing in it was run"
        ) from error
    except Exception as error:  # bytes that are no archive of torch's end in whatever they lead to
        if is_out_of_memory(error):
            raise RunFailed(f"{path}: no memory is left to read it; it is kept as it is", "out_of_memory") from error
        raise DamagedCheckpoint(f"{path}: {shown(str(error))}") from error
    if not isinstance(content, dict) or "format" not in content:
        raise DamagedCheckpoint(f"{path}: not a checkpoint")
    if content["format"] != FORMAT:
        raise InputError(
            f"a checkpoint of format {content['format']}, and this version reads format {FORMAT}",
            where=str(path),
            fix="use the version that wrote it, or train again with `--fresh`",
        )
    return content


def weights_of(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """The weights in what `read` gave; DamagedCheckpoint where there are none."""
    weights = content.get("weights")
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()
    ):
        raise DamagedCheckpoint(f"{path}: it holds no weights")
    return weights


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Put them into the network; DamagedCheckpoint where they are another network's. `path` is for the message."""
    wanted = {name: (tensor.shape, tensor.dtype) for name, tensor in network.state_dict().items()}
    if {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()} != wanted:
        raise DamagedCheckpoint(f"{path}: these are not the weights of this network")
    network.load_state_dict(weights)


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, in the names' order, whatever device or file they come from."""
    sha = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.numpy().tobytes())
    return sha.hexdigest()
