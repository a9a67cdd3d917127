"""What may be deleted of a runs folder: nothing that a finished run is judged by, nothing that a run goes on from."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import InputError
from harness.tracking.atomic import storage_error
from harness.tracking.claim import Held, acquire
from harness.tracking.record import Record
from harness.tracking.select import Entry, as_it_stands, matching
from harness.tracking.store import RunFolder, Store

What = Literal["run set aside", "state of a finished run", "damaged checkpoint", "temporary file", "failed run"]

IN_USE = 3600.0  # seconds since its last change in which a temporary file of the runs folder itself may be in use


@dataclass(frozen=True)
class Prunable:
    """Something that may go.

    `run`: which one it is of, as it was listed, and which nobody may train meanwhile; None: of no run.
    """

    what: What
    path: Path
    bytes: int
    run: Entry | None = None


def prunable(store: Store, failed: str | None = None) -> list[Prunable]:
    """All that may go, but for what is of runs that are being trained.

    Args:
        store: where to look.
        failed: which failed runs go too, folder and all, as a condition ("status=failed"); None: none of them.

    Raises:
        InputError: the condition also means runs that did not fail, or is none.
    """
    entries = store.entries()
    asked = _failed(entries, failed) if failed is not None else frozenset()
    found = [_item("run set aside", path) for path in store.set_aside_runs()]
    found += [_item("temporary file", path) for path in _leftovers(store.root) if _is_old(path)]
    for run in entries:
        folder, _ = run
        if folder.is_claimed():
            continue
        if folder.path in asked:
            found.append(_item("failed run", folder.path, run))
        else:
            found += _parts(run)
    return found


def _failed(entries: Sequence[Entry], condition: str) -> frozenset[Path]:
    """The folders of the runs that the condition means: of one id there may be a failed run and a finished one."""
    records = [as_it_stands(folder, record) for folder, record in entries]
    meant = matching(records, condition)
    if others := [record for record in meant if not record.failed]:
        named = ", ".join(f"{record.run_id} ({record.status})" for record in others[:3])
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        fix = "say which failures, e.g. --where status=failed or status=diverged"
        what = f"--prune removes failed runs only, and {condition} means others too: {named}{more}"
        raise InputError(what, where="--where", fix=fix)
    chosen = set(map(id, meant))
    return frozenset(folder.path for (folder, _), record in zip(entries, records, strict=True) if id(record) in chosen)


def _parts(run: Entry) -> Iterator[Prunable]:
    """What of a run that stays is of no use any more."""
    folder, record = run
    if record.finished:
        yield from (_item("state of a finished run", path, run) for path in folder.states() if path.exists())
    yield from (_item("damaged checkpoint", path, run) for path in sorted(folder.checkpoints.glob("*.damaged")))
    for inside in (folder.path, folder.checkpoints):
        yield from (_item("temporary file", path, run) for path in _leftovers(inside))


def _leftovers(folder: Path) -> list[Path]:
    """Of writes and removals that were cut off."""
    return sorted(folder.glob(".*.tmp"))


def _is_old(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return time.time() - path.lstat().st_mtime > IN_USE
    return False


def _item(what: What, path: Path, run: Entry | None = None) -> Prunable:
    return Prunable(what, path, _size(path), run)


def _size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; of what is gone since it was listed none."""
    if path.is_dir() and not path.is_symlink():
        return sum(_size(Path(folder) / name) for folder, _, files in os.walk(path) for name in files)
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def prune(store: Store, items: Sequence[Prunable]) -> list[Prunable]:
    """Delete them; those that are gone. Of runs that somebody has trained or trains since then nothing is touched.

    Raises:
        StorageError: the disk refuses.
    """
    gone = []
    for item in items:
        try:
            with acquire(item.run[0].claim_path) if item.run else contextlib.nullcontext():
                if item.run is None or _is_as_listed(*item.run):
                    _remove(item.path, store.root)
                    gone.append(item)
        except Held:
            continue
    return gone


def _is_as_listed(folder: RunFolder, record: Record) -> bool:
    """One that failed may have been run again, and ended well, before it was claimed here."""
    try:
        return folder.read_record() == record
    except InputError:
        return False


def _remove(path: Path, root: Path) -> None:
    """A folder is renamed first: cut off in the middle, what is left is a temporary file and not half of a run."""
    try:
        if path.is_dir() and not path.is_symlink():
            doomed = root / f".pruned.{secrets.token_hex(6)}.tmp"
            path.rename(doomed)
            shutil.rmtree(doomed)
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return  # somebody else was faster
    except OSError as error:
        raise storage_error(path, error) from error
