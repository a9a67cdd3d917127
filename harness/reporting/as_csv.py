"""Every number of the document's tables as CSV: one a row, unrounded, with its interval and its n."""

from __future__ import annotations

import csv
import io

from harness.reporting.document import LABELS, Cell, Document, Table

HEAD = ("table", *LABELS, "quantity", "value", "low", "high", "n")


def to_csv(document: Document) -> str:
    """Accuracies and their differences are fractions, losses nats, times seconds; what is not known has no row.

    `low` and `high` are the interval that the table's report gives around `value`; `n` counts runs (or, for
    pairs, seeds) behind it.
    """
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(HEAD)
    for table in document.tables:
        writer.writerows(_numbers(table))
    return lines.getvalue()


def _numbers(table: Table) -> list[list[object]]:
    rows = []
    for cells in table.rows:
        by_key = {column.key: cell for column, cell in zip(table.columns, cells, strict=True)}
        labels = [_label(by_key.get(label)) for label in LABELS]
        for key, cell in by_key.items():
            if key not in LABELS and cell.value is not None:
                low, high = cell.interval or ("", "")
                rows.append([table.name, *labels, key, cell.value, low, high, "" if cell.n is None else cell.n])
    return rows


def _label(cell: Cell | None) -> object:
    return "" if cell is None or cell.value is None else cell.value
