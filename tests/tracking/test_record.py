"""What a record keeps, tolerates and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.tracking.record import FAILED, FINISHED, FLAT_COLUMNS, Results, Scores, flat_row, parse_record
from harness.tracking.select import matching
from tests.tracking.examples import record

PATH = Path("runs/base-0123456789/record.json")


def test_floats_come_back_bit_for_bit() -> None:
    awkward = {"val_loss": 1 / 3, "val_accuracy": 0.1 + 0.2, "train_loss": 5e-324}
    written = record(results=Results(final=Scores(epoch=200, **awkward)), timings={"total": 2**0.5})
    assert parse_record(written.model_dump_json(), PATH) == written
    assert str(0.1 + 0.2) in written.model_dump_json()


def test_keys_of_a_newer_harness_are_ignored() -> None:
    newer = json.loads(record().model_dump_json())
    newer["energy_joules"] = 12.5
    newer["wandb"]["project"] = "somewhere"
    newer["results"]["final"] = {"epoch": 2, "calibration_error": 0.1}
    read = parse_record(json.dumps(newer), PATH)
    assert read.results.final == Scores(epoch=2)
    assert read.run_id == "0123456789"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "object"),
        (b"\xff\xfe\x00", "JSON"),
        (record().model_dump_json().replace('"running"', '"dancing"'), "status"),
        (record().model_dump_json().replace('"seed":3', '"seed":"three"'), "seed"),
    ],
)
def test_a_damaged_record_names_file_and_field(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_record(text, PATH)
    assert str(PATH) in str(caught.value)
    assert told in str(caught.value)


def test_every_missing_field_is_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        parse_record('{"run_id": "x", "name": "base"}', PATH)
    assert {"status", "seed", "spec", "macs"} <= {word.strip(":") for word in str(caught.value).split()}


def test_no_status_is_both_finished_and_failed() -> None:
    assert not FINISHED & FAILED
    assert record(status="completed").finished
    assert record(status="out_of_memory").failed
    interrupted = record(status="interrupted")
    assert not interrupted.finished
    assert not interrupted.failed


def test_a_flat_row_has_scores_conditions_and_seconds() -> None:
    flat = flat_row(
        record(
            results=Results(best=Scores(epoch=7, val_accuracy=0.75)),
            timings={"train": 2.0, "images_per_second": 30.0},
            provenance={"device_type": "cpu"},
            error={"type": "ValueError", "message": "boom", "traceback": ""},
        )
    )
    assert set(flat) == {*FLAT_COLUMNS, "seconds_train", "images_per_second"}
    assert (flat["best_val_accuracy"], flat["best_epoch"], flat["final_val_accuracy"]) == (0.75, 7, None)
    assert (flat["device_type"], flat["seconds_train"], flat["error"]) == ("cpu", 2.0, "boom")


def test_a_condition_may_be_on_a_field_that_not_every_record_has() -> None:
    measured, interrupted = record(timings={"images_per_second": 3.0}), record(timings={"train": 2.0})
    for records in ([measured, interrupted], [interrupted, measured]):
        assert matching(records, "images_per_second=3.0") == [measured]
        assert matching(records, "seconds_train=2.0") == [interrupted]
        with pytest.raises(InputError, match="did you mean seconds_train=2"):
            matching(records, "seconds_trian=2")
