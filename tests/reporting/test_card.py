"""The card of one run, pictures, and the reference line of the authors' own log."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.reporting import authors, build, build_card, check, figures, render, write
from harness.reporting.model import StudyReport
from harness.spec.ablation import Study
from harness.tracking.store import Store
from tests.reporting.synthetic import add, fill, make_record, make_rows, make_study

ACCURACY = 0.7


@pytest.fixture
def predicted(store: Store) -> tuple[Study, Store]:
    """Two arms, two seeds, 40 images of ten classes with what was said of them."""
    study = make_study({"no_se": {"model.se": False}}, seeds=(0, 1))
    labels = np.arange(40) % 10
    for arm in study.arms:
        for seed in study.seeds:
            wrong = (np.arange(40) + seed + 3 * bool(arm.overrides)) % 10 < 3
            record = make_record(study, arm, seed, ACCURACY)
            add(store, record, make_rows(arm, seed, ACCURACY, 10))
            said = np.where(wrong, (labels + 1) % 10, labels)
            store.folder(record.name, record.run_id).write_predictions(None, said, labels, "test")
    return study, store


def test_one_run_is_a_card(predicted: tuple[Study, Store]) -> None:
    _, store = predicted
    card = build_card(store.entries()[0], store)
    text = render(card, "md")
    assert text.startswith("# small, seed 0\n\nOne run at 10 epochs on CIFAR-10: 70.00 % test accuracy")
    assert "n = 1: no interval" in " ".join(text.split())
    for expected in (
        "| trainable parameters",
        "80,000",
        "## Learning curves",
        "-confusion.png)",
        "| airplane",
        "`model`:",
    ):
        assert expected in text
    assert "## Sensitivity" not in text
    document = json.loads(render(card, "json"))
    assert [run["run_id"] for run in document["runs"]] == [card.run.run_id]
    assert len(document["classes"]) == 10
    rows = [line.split(",") for line in render(card, "csv").splitlines()]
    assert ["run", "", "", "trainable parameters", "value", "80000", "", "", ""] in rows
    assert "| test accuracy %, last epoch" in text
    values = {row["row"]: row["value"] for row in csv.DictReader(io.StringIO(render(card, "csv")))}
    assert values["test accuracy, last epoch"] == "0.7"
    assert not [label for label in values if "%" in label]
    for format in ("html", "tex"):
        assert "80,000" in render(card, format)


def test_a_run_that_failed_has_a_card_that_says_so(troubled: tuple[Study, Store]) -> None:
    _, store = troubled
    failed = next(found for found in store.entries() if found[1].status == "diverged")
    text = " ".join(render(build_card(failed, store), "md").split())
    assert "without a full-length result: diverged. loss is nan \\| in x.py on …" in text
    assert "confusion" not in text


@pytest.mark.slow
def test_pictures_are_there_with_the_data_and_outside_of_check(predicted: tuple[Study, Store], tmp_path: Path) -> None:
    report = build(*predicted)
    assert "pictures" not in render(report, "md")
    assert "| image | truth" in render(report, "md")  # without the images they are listed
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    write(replace(report, pixels=pixels), tmp_path / "small.md", ("md", "html", "tex"))
    assert (tmp_path / "figures" / "small-pictures.png").stat().st_size > 10_000
    for format in ("md", "html", "tex"):
        path = tmp_path / f"small.{format}"
        assert "pictures" in path.read_text()
        assert check(report, path) is None
    (tmp_path / "figures" / "small-pictures.png").unlink()
    assert check(report, tmp_path / "small.md") is None


def test_the_authors_log_stands_beside_their_network_alone(store: Store, report: StudyReport) -> None:
    study = make_study({}, seeds=(0,))
    fill(store, study, {"small": [0.7]}, trainable_parameters=authors.PARAMETERS)
    theirs = build(study, store)
    assert "the authors' own log" in figures.KINDS["curves"].caption(theirs)
    assert ">authors' log<" in figures.svg(theirs, "curves")
    assert "authors' log" not in figures.svg(report, "curves")
    epochs, values = authors.curve("val_accuracy", 200)
    assert (len(epochs), values[0], values[-1]) == (200, 51.07, 94.79)
    assert authors.curve("val_loss", 3)[1] == [1.3567, 1.2893, 1.3315]


def test_what_differs_stands_in_words(seven: tuple[Study, Store]) -> None:
    text = " ".join(render(build(*seven), "md").split())
    assert "- `no_cutmix`: `augment.cutmix` is off instead of `probability 0.5, alpha 1.0`." in text
    assert "- `constant_lr`: `optim.schedule.kind` is `constant` instead of `cosine`." in text
    assert "`augment.crop` is off instead of `padding 4` and `augment.flip` is off instead of on." in text


def test_arms_that_hang_together_have_their_tables(store: Store) -> None:
    arms = {
        "se": {"model.se": False},
        "flip": {"augment.flip": False},
        "both": {"model.se": False, "augment.flip": False},
        "step_1": {"optim.clip": None},
        "step_2": {"optim.clip": None, "optim.lookahead": None},
        "d1": {"model.dropout": 0.1},
        "d2": {"model.dropout": 0.2},
        "w": {"model.width": 24},
        "w_d1": {"model.dropout": 0.1, "model.width": 24},
        "w_d2": {"model.dropout": 0.2, "model.width": 24},
    }
    study = make_study(arms)
    fill(store, study, {arm.name: [0.7 + 0.01 * i, 0.71 + 0.01 * i, 0.705] for i, arm in enumerate(study.arms)})
    report = build(study, store)
    text = render(report, "md")
    assert "## Step by step" in text
    assert "| `step_2` | `step_1`  |" in text
    assert "## Two changes together" in text
    assert "| `both` | `se`" in text
    assert "## `model.dropout` by `model.width`" in text
    quantities = {line.split(",")[0] for line in render(report, "csv").splitlines()}
    assert {"ladder", "interactions", "grid model.dropout x model.width"} <= quantities
    for format in ("html", "tex"):
        assert "Step by step" in render(report, format)


@pytest.mark.slow
def test_a_thousand_runs_in_forty_arms(tmp_path: Path) -> None:
    """Under 10 s of one core and 500 MB, without torch; predictions of 2,000 images each."""
    import subprocess
    import sys

    arms = {f"lr_{i:02d}": {"optim.optimizer.lr": 0.01 * i, "model.width": 16 + i} for i in range(1, 40)}
    study, store = make_study(arms, seeds=range(25)), Store(tmp_path / "runs")
    labels = (np.arange(2_000) % 10).astype(np.uint8)
    rng = np.random.default_rng(0)
    for number, arm in enumerate(study.arms):
        for seed in study.seeds:
            said = np.where(rng.random(2_000) < 0.6 + 0.005 * number, labels, (labels + 1) % 10)
            record = make_record(study, arm, seed, float((said == labels).mean()))
            add(store, record, make_rows(arm, seed, 0.7, 10))
            store.folder(record.name, record.run_id).write_predictions(None, said, labels, "test")
    code = (
        "import resource, sys, time\n"
        "from pathlib import Path\n"
        "from harness.reporting import build, write\n"
        "from harness.tracking.store import Store\n"
        "from tests.reporting.synthetic import make_study\n"
        "arms = {f'lr_{i:02d}': {'optim.optimizer.lr': 0.01 * i, 'model.width': 16 + i} for i in range(1, 40)}\n"
        "report = build(make_study(arms, seeds=range(25)), Store(Path(sys.argv[1])))\n"
        "assert sum(run.counted for run in report.runs) == 1000\n"
        "write(report, Path(sys.argv[2]), ('md', 'html', 'csv', 'json', 'tex'))\n"
        "assert 'torch' not in sys.modules\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "(peak,) = [line for line in open('/proc/self/status') if line.startswith('VmHWM')]\n"  # not the parent's
        "print(used.ru_utime + used.ru_stime, int(peak.split()[1]) / 1024)\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, str(store.root), str(tmp_path / "x.md")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seconds, megabytes = map(float, done.stdout.split())
    assert seconds < 10 * 2  # the limit of a quiet machine, doubled for one that others use too
    assert megabytes < 500
