"""A folder of the user's own images that is not what it should be: told before a run, with the file, exit 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import runner
from harness.errors import InputError
from harness.options import RunOptions
from harness.spec.documents import load_experiment
from harness.tracking.store import Store
from tests.conftest import Harness
from tests.data_files import class_folders, picture, save
from tests.study.commands import spawn


@pytest.fixture
def images(folder: Path) -> Path:
    """A folder of images that tiny.yaml, and so study.yaml, trains on."""
    text = (folder / "tiny.yaml").read_text()
    own = "data: {dataset: folder, folder: {path: images}}"
    text = text.replace("data: {dataset: digits}", own).replace("batch_size: 256", "batch_size: 2")
    (folder / "tiny.yaml").write_text(text)
    return class_folders(folder / "images", {"cat": 4, "dog": 4}, height=64, width=64)


def cut_in_half(images: Path) -> str:
    path = images / "dog/002.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])  # its header is whole
    return "dog/002.png: this image can't be read"


def no_image(images: Path) -> str:
    (images / "dog/002.png").write_text("none")
    return "dog/002.png: this image can't be read: it is no image"


def another_shape(images: Path) -> str:
    save(images / "dog/002.png", picture(3, 9, 8))
    return "8 x 9 (dog/002.png)"


def an_empty_class(images: Path) -> str:
    (images / "eel").mkdir()
    return "images/eel: class eel has no images"


MISTAKES = [cut_in_half, no_image, another_shape, an_empty_class]


@pytest.mark.parametrize("spoil", MISTAKES, ids=lambda spoil: spoil.__name__)
def test_a_run_on_images_that_cannot_be_is_exit_2(harness: Harness, images: Path, spoil: Callable[[Path], str]) -> None:
    told = spoil(images)
    result = harness("run", "tiny.yaml", "--device", "cpu")
    assert result.code == 2
    assert told in result.err
    assert "Traceback" not in result.err
    assert not Path("runs").exists()


def test_a_study_on_an_image_that_cannot_be_decoded_starts_nothing(folder: Path, images: Path) -> None:
    """Its header was read with the experiment and is whole: the study decodes every image before it starts a run."""
    told = cut_in_half(images)
    out, err = spawn(folder, "ablate", "study.yaml", "--device", "cpu").communicate(timeout=60)
    assert told in err, out + err
    assert "Traceback" not in err
    assert not (folder / "runs").exists()


def test_images_that_change_between_two_runs_of_a_study_are_refused(images: Path) -> None:
    spec, options = load_experiment(Path("tiny.yaml")), RunOptions(device="cpu", wandb="disabled")
    first = runner.run(spec, 0, options)
    save(images / "dog/002.png", picture(77, 64, 64))
    with pytest.raises(InputError, match="the images have changed since the experiment was read"):
        runner.run(spec, 1, options)
    assert [record.run_id for record in Store(Path("runs")).records()] == [first.run_id]
    changed = load_experiment(Path("tiny.yaml"))  # read again, they are another data set: no run of the old one counts
    second = runner.run(changed, 0, options)
    assert second.run_id != first.run_id
    assert second.provenance["data_digest"] != first.provenance["data_digest"]


def test_a_report_needs_the_records_and_not_the_images(harness: Harness, images: Path) -> None:
    quick = ("--device", "cpu", "-o", "train.epochs=1", "--wandb", "disabled")
    assert harness("ablate", "study.yaml", *quick).code == 0
    same = ("--override", "train.epochs=1")
    assert harness("report", "study.yaml", *same, "--evidence", "evidence").code == 0
    images.rename("elsewhere")
    checked = harness("report", "study.yaml", *same, "--runs-dir", "evidence", "--check")
    assert checked.code == 0, checked.err
    assert harness("check", "study.yaml").code == 2  # what is to be trained on has to be there
    nothing = harness("report", "study.yaml", "--override", "data.folder.size=32")
    assert (nothing.code, "there is no such folder" in nothing.err) == (2, True)

    class_folders(images, {"cat": 4, "dog": 5}, height=64, width=64)
    assert harness("run", "tiny.yaml", *quick).code == 0
    images.rename("others")
    ambiguous = harness("report", "study.yaml", *same)
    assert ambiguous.code == 2
    assert "the runs in runs were made on 2 of that name" in ambiguous.err


def test_images_that_are_there_are_the_ones_that_are_asked_about(harness: Harness, images: Path) -> None:
    quick = ("--device", "cpu", "-o", "train.epochs=1", "--wandb", "disabled")
    assert harness("run", "tiny.yaml", *quick).code == 0
    save(images / "dog/002.png", picture(77, 64, 64))
    assert harness("report", "study.yaml", "--override", "train.epochs=1", "-o", "r.json").code == 0
    assert {arm["n"] for arm in json.loads(Path("r.json").read_text())["arms"]} == {0}
