"""Ten processes at one store for a minute, with readers among them: each run is one's at a time, and nothing is torn.

`CROWD_SECONDS` makes it shorter.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections import Counter
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
import pytest

from harness.tracking.claim import Held, acquire
from harness.tracking.journal import Journal
from harness.tracking.store import RunFolder, Store
from tests.conftest import Harness
from tests.tracking.examples import record, row

SECONDS = float(os.environ.get("CROWD_SECONDS", "60"))
PROCESSES = 10
SHARED = [f"{number:010x}" for number in range(3)]  # runs that all of them want
EPOCHS = 3  # a turn's, of whoever has the run

Tally = tuple[int, Counter[str]]


def work(root: Path, worker: int, until: float, tallies: Queue[Tally]) -> None:
    """Take runs, write into them what a training writes, let go; tells how many epochs of which run were written."""
    store, draw, written, refused = Store(root), random.Random(worker), Counter[str](), 0
    while time.time() < until:
        run_id = draw.choice([*SHARED, f"{0xA00 + worker:010x}"])
        folder = store.folder("base", run_id)
        try:
            with acquire(folder.claim_path):
                folder.create()
                turn(folder, written, draw)
        except Held:
            refused += 1
            time.sleep(0.01)
    tallies.put((refused, written))


def turn(folder: RunFolder, written: Counter[str], draw: random.Random) -> None:
    """Some epochs more; the journal and the record that are there are those of whoever had the run before, whole."""
    journal = Journal(folder.journal_path)
    done = len(journal.rows())
    if done:
        assert folder.read_record().epochs_done == done
        predicted = folder.read_predictions()["predicted"]
        assert len(predicted) == 1000
        assert len(set(predicted.tolist())) == 1  # of one writing
    for epoch in range(done + 1, done + EPOCHS + 1):
        journal.append(row(epoch))
        padding = "x" * draw.choice([1, 2_000, 60_000])
        folder.write_record(record(run_id=folder.run_id, epochs_done=epoch, provenance={"padding": padding}))
        written[folder.run_id] += 1
    answers = np.full(1000, draw.randrange(10))
    folder.write_predictions(np.eye(10)[answers], answers, np.zeros(1000, int), "test")


@pytest.mark.slow
def test_ten_processes_write_to_one_store_while_others_read_it(harness: Harness, folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    root, tallies = folder / "runs", context.Queue()
    until = time.time() + SECONDS
    processes = [context.Process(target=work, args=(root, worker, until, tallies)) for worker in range(PROCESSES)]
    for process in processes:
        process.start()
    looks, largest = 0, 0
    while any(process.is_alive() for process in processes) and tallies.qsize() < PROCESSES:
        for arguments in (["runs"], ["runs", "--json"], ["runs", "--prune"]):
            told = harness(*arguments)
            assert told.code == 0, told.err
            # a folder whose first record is still to come; never a record that is damaged
            assert all("holds no record.json" in line for line in told.err.splitlines()), told.err
        largest, looks = max(largest, len(json.loads(harness("runs", "--json").out)["runs"])), looks + 1
    results = [tallies.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES

    written = sum((counted for _, counted in results), Counter[str]())
    store = Store(root)
    records = {one.run_id: one for one in store.records()}
    assert store.problems == []
    assert records.keys() == written.keys()
    assert largest == len(records) == PROCESSES + len(SHARED)
    assert looks > 3
    for run_id, epochs in written.items():
        assert records[run_id].epochs_done == epochs
        assert [one["epoch"] for one in Journal(store.folder("base", run_id).journal_path).rows()] == [
            *range(1, epochs + 1)
        ]
    assert sum(refused for refused, _ in results) > 0  # they did meet
    assert not list(root.rglob("*.tmp"))
    assert not any((root / ".claims").iterdir())
