"""Picking runs: one by id, its beginning, name or folder; many by a condition."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from os.path import isfile, join
from pathlib import Path
from typing import get_args

from harness.errors import InputError
from harness.spec.data import FolderContent
from harness.spec.documents import experiment_from_dict
from harness.spec.surroundings import Contents
from harness.tracking.record import FAILED, Record, Status, flat_row
from harness.tracking.store import RunFolder, Store, by_run_id

Entry = tuple[RunFolder, Record]


def find_record(store: Store, text: str) -> Record:
    """The record that `text` means: a run id, a folder's name or path, a name, the unambiguous beginning of an id.

    In this order: what somebody has named "b2" is not another run, whose id happens to begin so.

    Raises:
        InputError: none or several are meant.
    """
    return find_run(store, text)[1]


def find_records(store: Store, texts: Sequence[str]) -> list[Record]:
    """The records that `texts` mean, each as `find_record` finds it; the store is read once at most."""
    entries = cache(store.entries)
    return [_find(store, text, entries)[1] for text in texts]


def find_run(store: Store, text: str) -> Entry:
    """The folder and the record that `text` means, as `find_record` finds it."""
    return _find(store, text, store.entries)


def _find(store: Store, text: str, read: Callable[[], list[Entry]]) -> Entry:
    if isfile(join(text, "record.json")):
        path = Path(text)
        folder = RunFolder(path if path.name not in ("", "..") else path.resolve())  # its name says which claim it has
        return folder, folder.read_record()
    entries = read()
    meant = [entry for entry in entries if text in (entry[1].run_id, entry[0].path.name)]
    meant = meant or [entry for entry in entries if entry[1].name == text]
    meant = meant or [entry for entry in entries if entry[1].run_id.startswith(text)]
    chosen = by_run_id(meant)
    meant = [entry for entry in meant if chosen[entry[1].run_id] is entry]
    if len(meant) == 1:
        return meant[0]
    if meant:
        names = ", ".join(f"{record.run_id} ({record.name} seed {record.seed})" for _, record in meant)
        raise InputError(f"{text!r} means {len(meant)} runs", where=str(store.root), fix=f"name one: {names}")
    known = [name for folder, record in entries for name in (record.run_id, folder.path.name)]
    near = difflib.get_close_matches(text, known, 1)
    fix = f"did you mean {near[0]}?" if near else "`harness runs` lists them"
    raise InputError(f"there is no run {text!r}", where=str(store.root), fix=fix)


def recorded_contents(store: Store) -> Contents:
    """What folders of images held when the runs were made, for a report where the images are not.

    A folder is known by its name, since its path may be of another machine, and by `size`. The store is read once, when
    it is first asked. None where no run names such a folder; InputError where runs were made on different images under
    that name.
    """
    records = cache(store.records)

    def contents(path: str, size: int | None) -> FolderContent | None:
        found: dict[str, FolderContent] = {}
        for record in records():
            with suppress(InputError):  # of another version of the harness
                folder = experiment_from_dict(record.spec).data.folder
                if folder and folder.content and (_last_name(folder.path), folder.size) == (_last_name(path), size):
                    found[folder.content.digest] = folder.content
        if len(found) > 1:
            what = f"there is no such folder, and the runs in {store.root} were made on {len(found)} of that name"
            raise InputError(what, where=path, fix="put the images there that are meant")
        return next(iter(found.values()), None)

    return contents


def _last_name(path: str) -> str:
    """Of a path of any machine."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def standing(store: Store) -> list[Record]:
    """Every record as it stands: one that says "running" of a process that is gone is told as killed."""
    return [as_it_stands(folder, record) for folder, record in store.entries()]


def as_it_stands(folder: RunFolder, record: Record) -> Record:
    """The record, read again where it says "running" and nobody trains the run: it may have ended since it was read."""
    if record.status != "running" or folder.is_claimed():
        return record
    with suppress(InputError):
        record = folder.read_record()
    return record.model_copy(update={"status": "killed"}) if record.status == "running" else record


def matching(records: Sequence[Record], condition: str | None) -> list[Record]:
    """The records for which "field=value" holds; `status=failed` is every kind of failure. None: all.

    Not every record has every field (`images_per_second`): the condition does not hold where the field is missing.

    Raises:
        InputError: no record has such a field, there is no such status, or no condition at all.
    """
    if condition is None:
        return list(records)
    field, equals, value = condition.partition("=")
    rows = [flat_row(record) for record in records]
    columns = dict.fromkeys(name for row in rows for name in row)
    if not equals or (columns and field not in columns):
        near = difflib.get_close_matches(field, list(columns), 1)
        fix = f"did you mean {near[0]}={value}?" if near else "write FIELD=VALUE, e.g. status=crashed"
        raise InputError(f"{condition!r} is no condition on runs", where="--where", fix=fix)
    if field == "status" and value not in (known := ("failed", *get_args(Status))):
        near = difflib.get_close_matches(value, known, 1)
        fix = f"did you mean status={near[0]}?" if near else f"there are {', '.join(known)}"
        raise InputError(f"{value!r} is no status of a run", where="--where", fix=fix)
    if (field, value) == ("status", "failed"):
        return [record for record in records if record.status in FAILED]
    return [record for record, row in zip(records, rows, strict=True) if field in row and str(row[field]) == value]
