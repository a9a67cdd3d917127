"""Writing a file whole or not at all, and saying so when the disk refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from harness.errors import InputError, StorageError


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends well, and nothing when it does not.

    Written under a temporary name in the same folder, fsynced, renamed; the folder is created if it
    is not there. StorageError (naming `path` and the reason) when the disk refuses.
    """
    # Not tempfile: its files are readable by their owner alone, and the rename would keep that.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, whole or not at all; StorageError when the disk refuses."""
    with atomic_writer(path) as file:
        file.write(data)


def atomic_write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8, newlines as they are), whole or not at all."""
    atomic_write_bytes(path, text.encode())


def check_writable(output: Path) -> None:
    """Before anything is computed: InputError where no file can be written at `output`. Leaves nothing behind."""
    folder = next(parent for parent in output.absolute().parents if parent.exists())
    probe = folder / f".probe.{secrets.token_hex(6)}.tmp"
    if output.exists() and not output.is_file():
        raise InputError("there is something else than a file", where=str(output), fix="name another one with --output")
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        what = f"no file can be written here: {error.strerror or error}"
        raise InputError(what, where=str(folder), fix="name another place with --output") from None


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the file system knows how to."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems have no fsync for folders; a full or broken disk still counts.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def storage_error(path: Path, error: OSError) -> StorageError:
    """The disk's refusal, told with the file it concerns."""
    return StorageError(f"{path}: can't be written: {error.strerror or error}")
