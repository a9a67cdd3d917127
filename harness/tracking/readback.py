"""A mirror's file held against the journal and the record: wandb loses rows without a word."""

from __future__ import annotations

import json

from harness.tracking import media, wandb_file
from harness.tracking.journal import Journal
from harness.tracking.mirror import config, summary
from harness.tracking.record import Record
from harness.tracking.store import RunFolder


def difference(folder: RunFolder, record: Record) -> str | None:
    """What the mirror's file says otherwise than journal and record, in a few words; None where they agree."""
    path = wandb_file.find(folder.wandb_dir)
    if path is None:
        return "there is no file"
    try:
        told = wandb_file.read(path)
    except (wandb_file.DamagedFile, OSError) as error:
        return f"{path.name}: {error}"
    rows = Journal(folder.journal_path).rows()
    if told.rows != rows:
        return f"{len(told.rows)} of {len(rows)} rows" if len(told.rows) != len(rows) else "its rows are others"
    if told.config != json.loads(json.dumps(config(record))):
        return "its config is another"
    if told.exit_code is None:
        return "it was not closed"
    expected = summary(record)
    if {name: told.summary.get(name) for name in expected} != expected:
        return "its summary is another"
    return media.difference(path.parent / "files", media.shown(folder, record), told.summary)
