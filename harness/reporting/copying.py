"""What a report needs, in a runs folder fit to be committed: no weights, no logits, no machine."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.reporting.scrub import scrub, scrubbed
from harness.reporting.study import Found, dropped, match, stored_predictions, stored_rows
from harness.spec.ablation import Study
from harness.spec.paths import resolved
from harness.tracking.record import Record
from harness.tracking.store import RunFolder, Store, atomic_write_text


def evidence(study: Study, store: Store, target: Path) -> list[Path]:
    """Copy the study's runs, those that it has dropped too, from `store` to the runs folder `target`.

    The folders written: each holds the record without host name, absolute paths and traceback, the journal, and
    predicted labels with the true ones; what of these is damaged is left out, as the report does (`store.problems`).
    The report from `target` has the same bytes as the one from `store`. InputError when `target` is the store
    itself. Nothing in `target` is deleted but what of these runs is not in `store` any more.
    """
    if resolved(target) == resolved(store.root):
        raise InputError("the evidence can't be written into the runs folder it is taken from", where=str(target))
    entries = store.entries()
    runs = [found for found in match(study, entries).values() if found is not None] + dropped(study, entries)
    runs += _teachers([record for _, record in runs], entries)
    return [_copy(folder, record, Store(target).folder(record.name, record.run_id), store) for folder, record in runs]


def _teachers(students: Sequence[Record], entries: Sequence[Found]) -> list[Found]:
    """The runs whose weights the students learned from, and whose those learned from: they are in the identities."""
    digests = {distill["teacher_digest"] for record in students if (distill := _distillation(record))}
    found = [(folder, record) for folder, record in entries if record.weights.get("final") in digests]
    return [*found, *_teachers([record for _, record in found], entries)] if found else []


def _distillation(record: Record) -> dict[str, Any] | None:
    distill: dict[str, Any] | None = record.spec.get("loss", {}).get("distill")
    return distill


def _copy(source: RunFolder, record: Record, target: RunFolder, store: Store) -> Path:
    target.write_record(presentable(record))
    if rows := stored_rows(source, store):
        atomic_write_text(target.journal_path, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        target.journal_path.unlink(missing_ok=True)
    if told := stored_predictions(source, store):
        target.write_predictions(None, told.predicted, told.labels, told.images)
    else:
        target.predictions_path.unlink(missing_ok=True)
    return target.path


def presentable(record: Record) -> Record:
    """The record without what tells of a machine or a person: host, absolute paths, traceback.

    The host name is taken out of the command and the error alone: a machine may be called like an arm.
    """
    host = record.provenance.get("host")
    data = scrubbed(record.model_dump(mode="json"))
    data["provenance"].pop("host", None)
    if "command" in data["provenance"]:
        data["provenance"]["command"] = scrubbed(record.provenance["command"], host)
    if record.error:
        data["error"] = {key: scrub(str(record.error[key]), host) for key in ("type", "message") if key in record.error}
    data["wandb"] = {"id": record.wandb.id, "state": re.split("[:,]", record.wandb.state)[0]}
    return Record.model_validate(data)
