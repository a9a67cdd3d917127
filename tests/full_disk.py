"""A disk that is full from its nth write on, for everything that Python writes below one folder.

Whatever can't be done on a full disk counts as a write: bytes, a new file or folder, a new name, and fsync, by which
a disk that took the bytes late says so. Of the bytes that are refused half are written, as real disks do.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

TEMPORARY = re.compile(r"^\.(.+)\.[0-9a-f]{12}\.tmp$")


class Disk:
    """Counts the writes below `root`; refuses those from number `full_at` (from 1) on, or that one alone if `once`."""

    def __init__(self, root: Path, full_at: int | None = None, *, once: bool = False):
        self.root, self.full_at, self.once = root.resolve(), full_at, once
        self.writes: list[str] = []
        """What each was: "write journal.jsonl", "replace last.pt", a temporary file by the name it is to have."""

    def _refuses(self, what: str, path: Any) -> bool:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        if not Path(os.path.abspath(path)).is_relative_to(self.root):
            return False
        name = TEMPORARY.sub(r"\1", Path(os.fspath(path)).name)
        self.writes.append(f"{what} {name}")
        if self.full_at is None or len(self.writes) < self.full_at:
            return False
        return not self.once or len(self.writes) == self.full_at

    def _guard(self, what: str, path: Any) -> None:
        if self._refuses(what, path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextmanager
    def plugged_in(self) -> Iterator[Disk]:
        """Python's own ways of writing go through the counter inside the block."""
        with pytest.MonkeyPatch.context() as patch:
            for module, name in ((builtins, "open"), (io, "open")):
                patch.setattr(module, name, self._opening(getattr(module, name)))
            for name, argument in (("mkdir", 0), ("replace", 1), ("rename", 1), ("fsync", 0)):
                patch.setattr(os, name, self._guarded(name, argument, getattr(os, name)))
            patch.setattr(os, "open", self._opening_descriptor(os.open))
            patch.setattr(os, "write", self._writing(os.write))
            yield self

    def _guarded(self, name: str, argument: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if name != "mkdir" or not os.path.isdir(given[0]):  # one that is there already needs no room
                self._guard(name, given[argument])
            return original(*given, **named)

        return call

    def _opening_descriptor(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, flags: int, *given: Any, **named: Any) -> Any:
            if flags & os.O_CREAT:
                self._guard("open", path)
            return original(path, flags, *given, **named)

        return call

    def _writing(self, original: Callable[[int, Any], int]) -> Callable[[int, Any], int]:
        def call(descriptor: int, data: Any) -> int:
            if self._refuses("write", descriptor):
                original(descriptor, data[: len(data) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(descriptor, data)

        return call

    def _opening(self, original: Callable[..., Any]) -> Callable[..., Any]:
        disk = self

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                view = memoryview(data).cast("B")
                if disk._refuses("write", self.name):
                    super().write(view[: len(view) // 2])
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return super().write(view)

        def call(file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, *given: Any) -> Any:
            if isinstance(file, int) or not set(mode) & set("wxa"):
                return original(file, mode, buffering, encoding, *given)
            self._guard("open", file)
            raw = Raw(file, "".join(sorted(set(mode) & set("wxa+"))[::-1]))
            if buffering == 0:
                return raw
            buffered = io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding or "utf-8")

        return call
