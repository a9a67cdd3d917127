"""What a study says at its end of the runs that failed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.spec.ablation import Study
from harness.study.ablate import Outcome
from harness.study.plan import make_plan
from harness.terminal.study import print_outcome
from harness.tracking.store import Store
from tests.conftest import Harness
from tests.reporting.synthetic import add, make_record, make_rows, make_study

KINDS = ("diverged", "crashed", "out_of_memory", "killed", "refused", "silent")
ERRORS: dict[str, dict[str, Any]] = {
    "diverged": {"type": "Diverged", "message": "train_loss is nan in epoch 3, step 7 of 391"},
    "crashed": {"type": "KeyError", "message": "'labels'"},
    "out_of_memory": {"type": "OutOfMemoryError", "message": "CUDA out of memory. Tried to allocate 2.00 GiB. " * 9},
}


@pytest.fixture
def outcome(tmp_path: Path) -> Outcome:
    """A study with every kind of failure, one arm each: as `ablate` hands it over."""
    arms = {kind: {"optim.optimizer.lr": 0.2 + number} for number, kind in enumerate(KINDS)}
    study, store = make_study(arms, seeds=[0, 1]), Store(tmp_path / "runs")
    seen, said = {}, {}
    for arm in study.arms:
        if arm.name == "small":
            for seed in study.seeds:
                add(store, make_record(study, arm, seed, 0.9 + 0.01 * seed), make_rows(arm, seed, 0.9, 10))
            continue
        run_id = make_record(study, arm, 0, None).run_id
        if arm.name in ERRORS:
            status, error = arm.name, ERRORS[arm.name] | {"traceback": "..."}
            add(store, make_record(study, arm, 0, None, status=status, error=error, epochs_done=3))
            seen[run_id] = status
        elif arm.name == "killed":
            add(store, make_record(study, arm, 0, None, status="killed", epochs_done=5))
            seen[run_id], said[run_id] = "killed", "its process ended with signal SIGKILL"
        elif arm.name == "refused":
            seen[run_id], said[run_id] = "refused", "runs/x/record.json: damaged record\n  --fresh puts it aside"
        else:  # a process that ended without a word: the record was not written to its end
            add(store, make_record(study, arm, 0, None, status="running", epochs_done=1))
            seen[run_id], said[run_id] = "crashed", "its process ended with exit code 3"
    return Outcome(make_plan(study, store), seen, said)


def shown(outcome: Outcome, runs_dir: Path) -> str:
    out = io.StringIO()
    console = Console(file=out, width=80, highlight=False)
    print_outcome(outcome.plan.study, outcome, [Path("reports/small.md")], runs_dir, console)
    return out.getvalue()


def test_every_kind_of_failure_with_its_last_epoch_and_its_message(outcome: Outcome, tmp_path: Path) -> None:
    text = shown(outcome, tmp_path / "runs")
    assert max(map(len, text.splitlines())) <= 80
    failed = text[text.index("failed ") :]
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in failed.splitlines() if line[:1].strip()}
    assert rows["diverged"].startswith("0 diverged 3/10 train_loss is nan in epoch 3")
    assert rows["crashed"] == "0 crashed 3/10 KeyError: 'labels'"
    assert rows["out_of_memory"].startswith("0 out of memory 3/10 CUDA out of memory.")
    assert rows["killed"].startswith("0 killed 5/10 its process ended with signal")
    assert rows["refused"].startswith("0 refused – runs/x/record.json:")
    assert rows["silent"].startswith("0 crashed 1/10 its process ended with exit")
    assert text.count("Tried to allocate") < 7  # a long message is cut
    assert "out of memory: a train.batch_size under 128 needs less" in text
    assert "--retry-failed runs failed runs again" in text
    assert "what was killed goes on with the same command" in text
    assert "a traceback: `harness runs " in text
    assert "report: reports/small.md" in text


def test_a_hundred_failures_do_not_fill_the_screen(tmp_path: Path) -> None:
    study, store = make_study({}, seeds=range(100)), Store(tmp_path / "runs")
    for seed in study.seeds:
        add(store, make_record(study, study.base, seed, None, status="diverged", error={"message": "nan"}))
    text = shown(Outcome(make_plan(study, store), {}), store.root)
    assert len(text.splitlines()) < 35
    assert "and 80 more: `harness runs --where status=failed` lists them" in text


def test_a_study_without_failures_has_no_such_table(tmp_path: Path) -> None:
    study: Study = make_study({}, seeds=[0])
    store = Store(tmp_path / "runs")
    add(store, make_record(study, study.base, 0, 0.9))
    text = shown(Outcome(make_plan(study, store), {}), store.root)
    assert "failed" not in text
    assert "message" not in text


def test_a_run_that_was_refused_shows_that_and_not_its_old_record(outcome: Outcome, tmp_path: Path) -> None:
    """As where a failed run was to be tried again, and could not be started."""
    [diverged] = [run for run in outcome.failures if run.arm.name == "diverged"]
    again = Outcome(outcome.plan, {str(diverged.run_id): "refused"}, {str(diverged.run_id): "no such data"})
    text = shown(again, tmp_path / "runs")
    [row] = [line for line in text.splitlines() if line.startswith("diverged") and "3/10" in line]
    assert row.split() == ["diverged", "0", "refused", "3/10", "no", "such", "data"]


def test_a_study_with_a_divergence_ends_with_its_table(harness: Harness, folder: Path) -> None:
    with (folder / "study.yaml").open("a") as file:
        file.write("  wild: {optim.optimizer.lr: 1.0e+30}\n")
    result = harness("ablate", "study.yaml", "--jobs", "2", "--device", "cpu")
    assert result.code == 1
    [row] = [
        line for line in result.out.splitlines() if line.startswith("wild") and " 0 " in line and "diverged" in line
    ]
    assert row.split()[:4] == ["wild", "0", "diverged", "0/3"]
