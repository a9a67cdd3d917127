"""Studies: what is planned, what is run, what a failure of one run does to the others."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from harness import reporting
from harness.errors import InputError, Interrupted
from harness.events import Ended, Event, Started, Stepped
from harness.options import RunOptions
from harness.spec.ablation import Study, load_study
from harness.stop import Stop
from harness.study.ablate import AblateOptions, Outcome, ablate
from harness.study.plan import make_plan, to_json
from harness.tracking import claim
from harness.tracking.journal import Journal
from harness.tracking.store import Store
from tests.conftest import Harness
from tests.study.conftest import RUN
from tests.training.build import timeless


def states(study: Study) -> dict[tuple[str, int], str]:
    return {(run.arm.name, run.seed): run.state for run in make_plan(study, Store(Path("runs"))).runs}


def test_study_from_nothing_to_done_and_again(study: Study) -> None:
    assert set(states(study).values()) == {"to_do"}
    events: list[Event] = []
    outcome = ablate(study, AblateOptions(RUN, jobs=2), events.append)
    assert set(outcome.statuses.values()) == {"completed"}
    assert outcome.plan.count("done") == 4
    assert not outcome.failures
    assert sum(isinstance(event, Ended) for event in events) == 4
    assert {type(event) for event in events} >= {Started, Stepped}
    records = Store(Path("runs")).records()
    assert {(record.study, record.arm, record.seed) for record in records} == {
        ("study", arm, seed) for arm in ("tiny", "no_cutmix") for seed in (0, 1)
    }
    again = ablate(study, AblateOptions(RUN), events.append)
    assert again.statuses == {}


def test_a_run_killed_after_its_last_word_is_done_and_nobodys(study: Study) -> None:
    """Nobody runs it again and would succeed its holder; the second of two kills at once can come then."""
    done = ablate(study, AblateOptions(RUN, jobs=2)).plan.runs[0]
    assert done.folder
    path = done.folder.claim_path
    assert not list(path.parent.iterdir())
    path.mkdir()
    (path / f"here~{claim.machine()}~{os.getpid()}~1~00000000~3").touch()  # this process began at another time
    assert ablate(study, AblateOptions(RUN)).statuses == {}
    assert not list(path.parent.iterdir())


def test_runs_in_processes_equal_a_run_in_this_one(study: Study) -> None:
    from harness import runner

    ablate(study, AblateOptions(RUN, jobs=2))
    alone = runner.run(study.base.spec, 1, RunOptions(wandb="disabled", device="cpu", runs_dir=Path("alone")))
    folder, other = Store(Path("runs")).find(alone.run_id), Store(Path("alone")).find(alone.run_id)
    assert folder
    assert other
    assert timeless(Journal(folder.journal_path).rows()) == timeless(Journal(other.journal_path).rows())


def add_arms(folder: Path, *lines: str) -> Study:
    text = (folder / "study.yaml").read_text() + "".join(f"  {line}\n" for line in lines)
    (folder / "study.yaml").write_text(text)
    return load_study(folder / "study.yaml")


def test_one_failing_arm_does_not_stop_the_others(folder: Path) -> None:
    study = add_arms(folder, "wild: {optim.optimizer.lr: 1.0e+30}")
    outcome = ablate(study, AblateOptions(RUN, jobs=2))
    assert sorted(outcome.statuses.values()) == ["completed"] * 4 + ["diverged"] * 2
    assert {run.arm.name for run in outcome.failures} == {"wild"}
    assert ablate(study, AblateOptions(RUN)).statuses == {}  # a failure is not tried again by itself
    retried = ablate(study, AblateOptions(RUN, retry_failed=True))
    assert list(retried.statuses.values()) == ["diverged"] * 2


def test_fail_fast_starts_nothing_more(folder: Path) -> None:
    wild = "name: study\nbase: tiny.yaml\nseeds: [0, 1, 2, 3]\noverrides: {optim.optimizer.lr: 1.0e+30}\n"
    (folder / "study.yaml").write_text(wild)
    outcome = ablate(load_study(folder / "study.yaml"), AblateOptions(RUN, fail_fast=True))
    assert list(outcome.statuses.values()) == ["diverged"]


def test_one_arm_over_budget_means_nothing_runs(folder: Path) -> None:
    study = add_arms(folder, "wide: {model.width: 2000}")
    with pytest.raises(InputError, match="wide"):
        ablate(study, AblateOptions(RUN))
    assert not Path("runs").exists()


def test_missing_data_means_nothing_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "study.yaml").write_text("name: study\nbase: tiny.yaml\noverrides: {data.dataset: cifar10}\n")
    (folder / "data/cifar-10-batches-py").mkdir(parents=True)
    with pytest.raises(InputError, match="data_batch_1"):
        ablate(load_study(folder / "study.yaml"), AblateOptions(RUN))
    assert not Path("runs").exists()


def test_an_unknown_device_means_nothing_runs(study: Study) -> None:
    with pytest.raises(InputError, match="gpu"):
        ablate(study, AblateOptions(replace(RUN, device="gpu")))
    assert not Path("runs").exists()


def test_results_of_other_hardware_are_not_taken_in_silence(study: Study) -> None:
    ablate(study, AblateOptions(RUN, jobs=2))
    store = Store(Path("runs"))
    folder, record = store.entries()[0]
    folder.write_record(record.model_copy(update={"provenance": record.provenance | {"device_type": "cuda"}}))
    with pytest.raises(InputError, match="cuda") as caught:
        ablate(study, AblateOptions(RUN))
    assert str(folder.path) in str(caught.value)
    assert ablate(study, AblateOptions(replace(RUN, any_device=True))).plan.count("done") == 4


def test_a_failed_run_of_other_hardware_is_held_against_it_only_where_it_is_run_again(study: Study) -> None:
    ablate(study, AblateOptions(RUN, jobs=2))
    folder, record = Store(Path("runs")).entries()[0]
    elsewhere = record.provenance | {"device_type": "cuda"}
    folder.write_record(record.model_copy(update={"provenance": elsewhere, "status": "crashed"}))
    folder.last.write_bytes(b"a state")
    outcome = ablate(study, AblateOptions(RUN))
    assert (outcome.statuses, len(outcome.failures)) == ({}, 1)
    with pytest.raises(InputError, match="cuda"):
        ablate(study, AblateOptions(RUN, retry_failed=True))


def test_fresh_puts_everything_aside_before_it_begins(study: Study) -> None:
    ablate(study, AblateOptions(RUN, jobs=2))
    stop = Stop()

    def stop_at_once(event: Event) -> None:
        if isinstance(event, Started):
            stop.reason = "signal"

    with pytest.raises(Interrupted):
        ablate(study, AblateOptions(replace(RUN, fresh=True)), stop_at_once, stop)
    assert len(list(Path("runs/aside").iterdir())) == 4
    assert make_plan(study, Store(Path("runs"))).count("done") <= 1
    assert ablate(study, AblateOptions(RUN, jobs=2)).plan.count("done") == 4


def test_fresh_puts_a_damaged_run_aside_whatever_its_name(study: Study) -> None:
    ablate(study, AblateOptions(RUN, jobs=2))
    folder, record = Store(Path("runs")).entries()[0]
    folder.record_path.write_text("{")
    folder.path.rename(folder.path.with_name(f"renamed-{record.run_id}"))
    refused = ablate(study, AblateOptions(RUN))
    assert refused.statuses == {record.run_id: "refused"}
    assert "--fresh" in refused.messages[record.run_id]
    outcome = ablate(study, AblateOptions(replace(RUN, fresh=True), jobs=2))
    assert outcome.plan.count("done") == 4
    assert [path.name for path in Path("runs/aside").glob(f"renamed-{record.run_id}-*")]


def test_a_study_is_done_though_a_run_lies_there_unfinished_too(study: Study) -> None:
    """As after two runs folders were merged: the finished one counts, under whatever name."""
    ablate(study, AblateOptions(RUN, jobs=2))
    store = Store(Path("runs"))
    _, record = store.entries()[0]
    twin = store.folder("zzz", record.run_id)
    twin.write_record(record.model_copy(update={"name": "zzz", "status": "interrupted"}))
    assert ablate(study, AblateOptions(RUN)).statuses == {}
    assert set(states(study).values()) == {"done"}
    fresh = ablate(study, AblateOptions(replace(RUN, fresh=True), jobs=2))
    assert len(fresh.statuses) == fresh.plan.count("done") == 4
    assert not twin.path.exists()


def test_a_display_that_breaks_does_not_stop_a_study(study: Study) -> None:
    def broken(event: Event) -> None:
        raise SystemExit(1)  # what rich makes of a broken pipe

    assert ablate(study, AblateOptions(RUN, jobs=2), broken).plan.count("done") == 4


def test_plan_tells_states_and_power(study: Study) -> None:
    before = to_json(make_plan(study, Store(Path("runs"))))
    assert before["smallest_sign_flip_p"] == 0.5
    assert before["detectable_difference"] > 0
    assert before["expected_seconds"] is None
    ablate(study, AblateOptions(RUN, jobs=2))
    Path("study.yaml").write_text(Path("study.yaml").read_text().replace("[0, 1]", "[0, 1, 2]"))
    after = make_plan(load_study(Path("study.yaml")), Store(Path("runs")))
    assert [run.state for run in after.arms[0].runs] == ["done", "done", "to_do"]
    seconds = after.expected_seconds()
    assert seconds is not None
    assert 0 < seconds < 60
    assert after.spread.df == 2
    assert after.spread.is_guess


def killed_worker(folder: Path) -> Outcome:
    """Kill a worker with SIGKILL as soon as it trains."""
    study = load_study(folder / "study.yaml", ["train.epochs=30"])
    killed: list[int] = []

    def kill_first(event: Event) -> None:
        if isinstance(event, Stepped) and not killed:
            import multiprocessing

            for child in multiprocessing.active_children():
                if child.pid and child.name.startswith("harness"):
                    killed.append(child.pid)
                    os.kill(child.pid, signal.SIGKILL)
                    return

    return ablate(study, AblateOptions(RUN, jobs=1), kill_first)


def test_a_killed_worker_is_told_and_the_next_ablate_goes_on(folder: Path) -> None:
    outcome = killed_worker(folder)
    assert sorted(outcome.statuses.values()) == ["completed"] * 3 + ["killed"]
    [record] = [record for record in Store(Path("runs")).records() if record.status == "killed"]
    study = load_study(folder / "study.yaml", ["train.epochs=30"])
    again = ablate(study, AblateOptions(RUN))
    assert again.statuses == {record.run_id: "completed"}


def test_seeds_extend_a_study(study: Study, folder: Path) -> None:
    ablate(study, AblateOptions(RUN, jobs=2))
    extended = load_study(folder / "study.yaml", seeds=3)
    outcome = ablate(extended, AblateOptions(RUN, jobs=2))
    assert len(outcome.statuses) == 2
    assert outcome.plan.count("done") == 6
    extended_report = reporting.render(reporting.build(extended, Store(Path("runs"))), "md")
    assert "Extended after a look**: planned with seeds 0, 1, then 0, 1, 2." in extended_report
    assert "harness ablate" in extended_report
    assert "study.yaml --seeds 3 " in extended_report
    assert "Extended" not in reporting.render(reporting.build(study, Store(Path("runs"))), "md")


def test_exit_codes_of_a_study(harness: Harness, folder: Path) -> None:
    add_arms(folder, "wild: {optim.optimizer.lr: 1.0e+30}")
    result = harness("ablate", "study.yaml", "--jobs", "2", "--json")
    assert result.code == 1
    assert "wild seed 0" in result.err
    document = json.loads(result.out)
    assert [run["state"] for run in document["arms"][-1]["runs"]] == ["failed", "failed"]
    assert Path("reports/study.md").exists()
    assert "diverged" in Path("reports/study.md").read_text()


def test_the_display_tells_every_kind_of_ending(study: Study) -> None:
    """In plain lines, as where the output is no terminal."""
    from io import StringIO

    from rich.console import Console

    from harness.events import EpochDone, Note
    from harness.terminal.live import StudyDisplay

    out = StringIO()
    plan = make_plan(study, Store(Path("runs")))
    arms = [(arm.arm.name, arm.runs) for arm in plan.arms]
    ids = [run.run_id for run in plan.runs]
    with StudyDisplay(Console(file=out, width=80), arms, {}, 2, set(ids)) as display:
        display(Started(ids[0], "tiny", 0, 3, 1, 0, 10, "cpu", "fp32", 1))
        display(EpochDone(ids[0], {"epoch": 1, "val_accuracy": 0.5}, 3, 9.0))
        display(Ended(ids[0], "completed"))
        display(Started(ids[1], "tiny", 1, 3, 1, 0, 10, "cpu", "fp32", 1))
        display(EpochDone(ids[1], {"epoch": 3, "val_accuracy": None}, 3, 0.0))
        display(Ended(ids[1], "completed"))
        display(Note("", "1 of 2 GPUs is used"))
        display(Note(ids[2], "already done: somewhere"))
        display(Ended(ids[2], "completed"))
        display(Ended(ids[3], "busy"))
        display(Ended(ids[3], "diverged", "loss is nan"))
        display(Ended(ids[3], "interrupted"))
        display(Ended(ids[3], "interrupted", "the disk is full"))
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("tiny seed 0: completed, 50.00 % in")
    assert lines[1].startswith("tiny seed 1: completed in")  # a protocol without validation
    assert lines[2:] == [
        "1 of 2 GPUs is used",
        "no_cutmix seed 0: already done: somewhere",
        "no_cutmix seed 1: another process is training it",
        "no_cutmix seed 1: diverged: loss is nan",
        "no_cutmix seed 1: interrupted, its state is saved",
        "no_cutmix seed 1: interrupted: the disk is full",
    ]


def test_the_display_tells_of_runs_whose_teacher_was_trained_meanwhile() -> None:
    """They had no id when it was made."""
    from io import StringIO

    from rich.console import Console

    from harness.events import Elsewhere, Note
    from harness.terminal.live import StudyDisplay

    out = StringIO()
    with StudyDisplay(Console(file=out, width=80), [], {}, 1, set()) as display:
        display(Started("0000000001", "student", 3, 3, 1, 0, 10, "cpu", "fp32", 1))
        display(Ended("0000000001", "diverged", "loss is nan"))
        display(Note("0000000002", "already done: somewhere"))
        display(Elsewhere("0000000003", "process 1 on there", 1, 3))
        display(Ended("0000000004", "refused", "no data"))
    assert out.getvalue().splitlines() == [
        "student seed 3: diverged: loss is nan",
        "run 0000000002: already done: somewhere",
        "run 0000000003: process 1 on there has it, 1 of 3 epochs are done; waiting for it",
        "run 0000000004: refused: no data",
    ]
