"""What Weights & Biases is to show of the predictions: counted by hand, in wandb's own format, mended with the rest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.tracking import media, wandb_file
from harness.tracking.background import rebuild
from harness.tracking.journal import Journal
from harness.tracking.media import NOTHING, Samples, chosen, found_samples, shown
from harness.tracking.mirror import open_mirror
from harness.tracking.readback import difference
from harness.tracking.record import Record, Results, Scores
from harness.tracking.store import RunFolder, Store
from tests.tracking.examples import record, row
from tests.tracking.reading import read_mirror

LABELS = np.array([0, 0, 1, 2, 2, 2])
PREDICTED = np.array([0, 1, 1, 2, 2, 0])
LOGITS = np.zeros((6, 3)) + np.log([[1, 1, 2]])
DONE = record(
    status="completed",
    epochs_done=2,
    results=Results(final=Scores(epoch=2, val_accuracy=4 / 6)),
    weights={"final": "ab" * 32},
)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = Store(tmp_path / "runs").folder("base", "0123456789")
    folder.create()
    folder.write_predictions(LOGITS, PREDICTED, LABELS, "test")
    for epoch in (1, 2):
        Journal(folder.journal_path).append(row(epoch))
    return folder


def samples(channels: int = 3) -> Samples:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 5, channels), dtype=np.uint8)
    return Samples(chosen(LABELS), pixels)


def mirrored(folder: RunFolder, done: Record = DONE, images: Samples | None = None) -> wandb_file.WandbFile:
    open_mirror("offline", folder, record(), Journal(folder.journal_path).rows()).finish(done, images)
    return told(folder)


def told(folder: RunFolder) -> wandb_file.WandbFile:
    path = wandb_file.find(folder.wandb_dir)
    assert path
    return wandb_file.read(path)


def files(folder: RunFolder) -> Path:
    path = wandb_file.find(folder.wandb_dir)
    assert path
    return path.parent / "files"


# --- what is told ------------------------------------------------------------------------------


def test_the_first_of_each_class_is_shown_then_the_second() -> None:
    assert chosen(LABELS).tolist() == [0, 2, 3, 1, 4, 5]
    assert chosen(np.array([1, 1, 0])).tolist() == [2, 0, 1]
    many = chosen(np.arange(1000) % 7)
    assert len(many) == media.SHOWN_IMAGES
    assert many.tolist() == list(range(media.SHOWN_IMAGES))


def test_classes_and_their_confusion_are_counted(folder: RunFolder) -> None:
    made = shown(folder, DONE)
    assert made.scalars == {"class_accuracy/0": 1 / 2, "class_accuracy/1": 1.0, "class_accuracy/2": 2 / 3}
    cells = {(actual, said): count for actual, said, count in made.tables["confusion_matrix"].rows}
    assert cells == {("0", "0"): 1, ("0", "1"): 1, ("0", "2"): 0, ("1", "0"): 0, ("1", "1"): 1, ("1", "2"): 0} | {
        ("2", "0"): 1,
        ("2", "1"): 0,
        ("2", "2"): 2,
    }


def test_each_sample_says_what_was_told_of_it_and_how_surely(folder: RunFolder) -> None:
    table = shown(folder, DONE).tables["samples"]
    rows = [dict(zip(table.columns, one, strict=True)) for one in table.rows]
    assert [one["index"] for one in rows] == [0, 2, 3, 1, 4, 5]
    assert (rows[3]["label"], rows[3]["predicted"], rows[3]["right"]) == ("0", "1", False)
    assert rows[0]["confidence"] == pytest.approx(1 / 4, abs=1e-3)
    assert rows[2]["confidence"] == pytest.approx(1 / 2, abs=1e-3)


def test_classes_have_the_data_sets_names(folder: RunFolder) -> None:
    named = DONE.model_copy(update={"spec": {"data": {"dataset": "cifar10"}}})
    assert "class_accuracy/airplane" in shown(folder, named).scalars
    assert "class_accuracy/truck" not in shown(folder, named).scalars  # no image of it, so no share


def test_a_run_without_a_result_or_readable_predictions_shows_nothing(folder: RunFolder) -> None:
    assert shown(folder, record(status="interrupted")) == NOTHING
    folder.predictions_path.write_bytes(b"PK")
    assert shown(folder, DONE) == NOTHING
    folder.predictions_path.unlink()
    assert shown(folder, DONE) == NOTHING
    assert mirrored(folder).exit_code == 0
    assert difference(folder, DONE) is None


# --- in the mirror -----------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_the_mirror_has_all_of_it_and_its_rows_are_the_journals(folder: RunFolder, channels: int) -> None:
    images = samples(channels)
    read = mirrored(folder, images=images)
    assert read.rows == Journal(folder.journal_path).rows()
    assert read.summary["class_accuracy/2"] == 2 / 3
    assert read.summary["checkpoint/final"] == "sha256:" + "ab" * 32
    table = json.loads((files(folder) / read.summary["samples"]["path"]).read_text())
    assert table["columns"][0] == "image"
    for number, one in enumerate(table["data"]):
        pixels = np.asarray(Image.open(files(folder) / one[0]["path"])).reshape(images.pixels.shape[1:])
        assert (pixels == images.pixels[number]).all()
    assert difference(folder, DONE) is None
    theirs = read_mirror(folder).summary
    assert theirs["confusion_matrix"]["nrows"] == 9


def test_the_files_go_to_the_server_with_the_run(folder: RunFolder) -> None:
    mirrored(folder, images=samples())
    path = wandb_file.find(folder.wandb_dir)
    assert path
    from wandb.proto.wandb_internal_pb2 import Record as Message

    named: set[str] = set()
    for data in wandb_file.records(path.read_bytes()):
        message = Message()
        message.ParseFromString(data)
        named |= {one.path for one in message.files.files}
        assert message.WhichOneof("record_type") != "artifact"
    there = {one.relative_to(files(folder)).as_posix() for one in files(folder).rglob("media/*/*")}
    assert len(there) == 2 + len(LABELS)
    assert there <= named


def test_tables_and_images_are_as_wandbs_own_classes_write_them(folder: RunFolder, tmp_path: Path) -> None:
    """In a process of its own: those classes need an open run and leave things behind."""
    script = """
import json, sys
import numpy as np, wandb
run = wandb.init(mode="offline", dir=sys.argv[1], settings=wandb.Settings(silent=True, console="off"))
image = wandb.Image(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
image.bind_to_run(run, "samples", "summary", id_=0)
table = wandb.Table(columns=["a", "b"], data=[["x", 1], ["y", 2]])
table.bind_to_run(run, "t", "summary")
print(json.dumps([image.to_json(run), table.to_json(run), open(table._path).read()]))
run.finish()
"""
    place = {"WANDB_DATA_DIR": str(tmp_path), "WANDB_CACHE_DIR": str(tmp_path), "WANDB_CONFIG_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=os.environ | place,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    image, table, text = json.loads(done.stdout.splitlines()[-1])
    ours = media._image(tmp_path / "files", 0, np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
    assert ours | {"path": ""} == image | {"path": ""}
    written = media.write(
        tmp_path / "files", media.Shown({}, {"t": media.Table(("a", "b"), [["x", 1], ["y", 2]])}), None
    )
    assert written["t"] | {"path": ""} == table | {"path": ""}
    assert (tmp_path / "files" / written["t"]["path"]).read_text() == text


def test_what_is_broken_is_seen(folder: RunFolder) -> None:
    mirrored(folder, images=samples())
    for path in sorted(files(folder).rglob("media/*/*")):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        assert difference(folder, DONE) in (
            "an image is not whole",
            "its table samples is not whole",
            "its table confusion_matrix is not whole",
        )
        path.unlink()
        assert difference(folder, DONE), path
        path.write_bytes(whole)
    assert difference(folder, DONE) is None
    folder.write_predictions(LOGITS, np.array([0, 0, 1, 2, 2, 0]), LABELS, "test")
    assert difference(folder, DONE) == "its summary is another"
    folder.write_predictions(LOGITS * 2, PREDICTED, LABELS, "test")
    assert difference(folder, DONE) == "its table samples is another"


# --- rebuilt -----------------------------------------------------------------------------------


def test_it_is_rebuilt_with_the_images_of_the_mirror_before(folder: RunFolder) -> None:
    before = mirrored(folder, images=samples())
    kept = found_samples(folder.wandb_dir)
    assert kept
    assert sorted(kept.indices.tolist()) == list(range(6))
    path = wandb_file.find(folder.wandb_dir)
    assert path
    path.write_bytes(path.read_bytes()[:-9])
    rebuild(folder, DONE, {})
    after = told(folder)
    assert without_wandbs_own(after.summary) == without_wandbs_own(before.summary)
    assert after.rows == before.rows


def test_it_is_rebuilt_without_images_where_there_are_none_and_with_those_given(folder: RunFolder) -> None:
    rebuild(folder, DONE, {})
    assert told(folder).summary["samples"]["ncols"] == 5
    assert difference(folder, DONE) is None
    rebuild(folder, DONE, {}, samples(1))
    assert told(folder).summary["samples"]["ncols"] == 6
    assert found_samples(folder.wandb_dir)


def without_wandbs_own(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if not name.startswith("_")}
