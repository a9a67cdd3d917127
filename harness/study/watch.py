"""What a run that another machine does has to tell, read from its files in the store."""

from __future__ import annotations

from harness.errors import InputError
from harness.events import EpochDone, Event, Started
from harness.study.executor import Job
from harness.tracking.journal import Journal
from harness.tracking.record import Record
from harness.tracking.store import Store


class RunWatch:
    """Asked from time to time, it gives the events since the last time. Steps are not in the files, epochs are."""

    def __init__(self, job: Job, store: Store):
        self.job = job
        self.folder = store.find(job.run_id) or store.folder(job.spec.name, job.run_id)
        record = self.record()
        self.started = record.provenance.get("started") if record else None
        self.told = record.epochs_done if record else 0
        self.size = -1

    def record(self) -> Record | None:
        """As it stands; None where there is none yet, or none that can be read."""
        try:
            return self.folder.read_record()
        except InputError:
            return None

    def events(self) -> list[Event]:
        try:
            size = self.folder.journal_path.stat().st_size
        except OSError:
            size = 0
        record = None if size == self.size else self.record()
        if record is None:
            return []
        self.size = size
        return [*self._start(record), *self._epochs()]

    def _start(self, record: Record) -> list[Event]:
        """Once for each process that has the run: a requeued one starts again where it was."""
        started = record.provenance.get("started")
        if started == self.started or record.status != "running":
            return []
        self.started = started
        at, conditions, epochs = record.epochs_done, record.provenance, self.job.spec.train.epochs
        device, precision = str(conditions.get("device_name")), str(conditions.get("precision"))
        name, seed, parameters = self.job.spec.name, self.job.seed, record.trainable_parameters
        threads = int(conditions.get("threads") or 1)
        return [Started(self.job.run_id, name, seed, epochs, at + 1, 0, parameters, device, precision, threads)]

    def _epochs(self) -> list[Event]:
        rows = Journal(self.folder.journal_path).rows()
        seconds = sum(row["seconds"] for row in rows) / len(rows) if rows else 0.0
        epochs = self.job.spec.train.epochs
        new = [row for row in rows if row["epoch"] > self.told]
        self.told = max([self.told, *(row["epoch"] for row in new)])
        return [EpochDone(self.job.run_id, row, epochs, seconds * (epochs - row["epoch"])) for row in new]
