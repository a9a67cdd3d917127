"""`harness sync`: which runs are meant, one line as each is done, and what is left to do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from harness.errors import CheckFailed, InputError
from harness.terminal.words import duration
from harness.tracking.select import Entry, find_run
from harness.tracking.store import Store, by_run_id
from harness.tracking.sync import Synced, Way, sync


def sync_and_show(runs: Sequence[str], every: bool, runs_dir: Path, way: Way, *, as_json: bool) -> None:
    """Lines on stdout as runs are done, or one JSON document at the end.

    Raises:
        InputError: no run is meant, or there is no key.
        CheckFailed: not all of them are synced.
    """
    store = Store(runs_dir)
    entries = _meant(store, runs, every)
    console = Console(stderr=as_json, highlight=False, soft_wrap=True, emoji=False)
    done: list[Synced] = []
    waiting = console.status(_progress(0, len(entries))) if console.is_terminal else nullcontext()
    with waiting as status:

        def told(synced: Synced) -> None:
            done.append(synced)
            console.print(_line(synced))
            if status:
                status.update(_progress(len(done), len(entries)))

        results = sync(entries, way, told)
    if as_json:
        print(json.dumps({"runs": [_document(synced) for synced in results]}, indent=2))
    left = [synced for synced in results if not synced.done]
    unreadable = [str(problem) for problem in store.problems] if every else []
    if left or unreadable:
        names = [f"{synced.record.name} seed {synced.record.seed} ({synced.record.run_id})" for synced in left]
        count = f"{len(left) + len(unreadable)} of {len(results) + len(unreadable)} runs are not synced"
        raise CheckFailed(f"{count}: {'; '.join(names + unreadable)}")


def _meant(store: Store, runs: Sequence[str], every: bool) -> list[Entry]:
    if runs and every:
        raise InputError("runs are named, and --all is given", fix="one or the other")
    if runs:
        return list({entry[1].run_id: entry for entry in (find_run(store, text) for text in runs)}.values())
    if not every:
        raise InputError("no run is named", fix="harness sync RUN..., or harness sync --all")
    found = store.entries()
    once = by_run_id(found)
    entries = [entry for entry in found if entry is once[entry[1].run_id] and entry[1].wandb.state != "disabled"]
    if not entries and not store.problems:
        raise InputError("there is nothing to sync", where=str(store.root), fix="`harness runs` lists what there is")
    return entries


def _progress(done: int, of: int) -> str:
    return f"syncing: {done} of {of} runs done"


def _line(synced: Synced) -> str:
    record, arrival = synced.record, synced.arrival
    name = escape(f"{arrival.outcome:10}  {record.run_id}  {record.name} seed {record.seed}")
    if not synced.done:
        return f"{name}: {escape(arrival.reason)}"
    how = "sent and read back" if arrival.sent else "was there already"
    return f"{name}: {arrival.rows} epochs {how} in {duration(synced.seconds)}  {escape(arrival.url)}"


def _document(synced: Synced) -> dict[str, Any]:
    record, arrival = synced.record, synced.arrival
    return {
        "run_id": record.run_id,
        "name": record.name,
        "seed": record.seed,
        "state": arrival.outcome,
        "reason": arrival.reason or None,
        "sent": arrival.sent,
        "rebuilt": arrival.rebuilt or None,
        "rows": arrival.rows,
        "url": arrival.url or None,
        "seconds": synced.seconds,
    }
