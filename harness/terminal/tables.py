"""Tables for the terminal, at most 80 columns wide where the names allow it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.markup import escape

from harness.reporting.runs import metric_of
from harness.terminal.columns import Columns
from harness.terminal.words import accuracy, duration, running
from harness.tracking.record import Record
from harness.tracking.store import Store


def table(*columns: str, right: Iterable[str] = ()) -> Columns:
    """A plain table; the columns named in `right` are numbers."""
    return Columns(columns, right)


def runs_table(records: Sequence[Record], store: Store) -> Columns:
    """One row a run of `store`; the accuracy is the headline one of its protocol, after the last epoch."""
    numbers = ("seed", "epochs", "accuracy", "time")
    made = table("run", "name", "seed", "status", "epochs", "accuracy", "time", right=numbers)
    for record in records:
        final = record.results.final
        headline = getattr(final, metric_of(record.spec["data"]["protocol"])) if final else None
        total = record.timings.get("total")
        made.add_row(
            record.run_id,
            escape(record.name),
            str(record.seed),
            _status(record, store),
            f"{record.epochs_done}/{record.spec['train']['epochs']}",
            accuracy(headline),
            duration(total) if total else "–",
        )
    return made


def _status(record: Record, store: Store) -> str:
    if record.status != "running":
        return record.status
    return running(store.folder(record.name, record.run_id).silence())
