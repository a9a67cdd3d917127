"""Runs as jobs of Slurm, with submitit's local executor in its place; tests/slurm/ has a real one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import InputError, Interrupted
from harness.events import Ended, EpochDone, Event, Note, Started
from harness.options import AblateOptions, RunOptions, SlurmOptions
from harness.spec.ablation import Study, load_study
from harness.stop import Stop
from harness.study import on_slurm
from harness.study.ablate import ablate
from harness.study.executor import Job
from harness.study.on_slurm import SlurmExecutor, _may_be_requeued, queue_states
from harness.study.slurm_options import parse_slurm
from harness.study.watch import RunWatch
from harness.tracking.journal import Journal
from harness.tracking.record import Record
from harness.tracking.store import Store
from tests.conftest import Harness
from tests.training.build import timeless

RUN = RunOptions(wandb="disabled", device="cpu")


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Run id -> submitit's job, of all that a study submits: processes of this machine, waited for at the end."""
    pytest.importorskip("submitit", reason='submitit is not installed: pip install -e ".[slurm]"')
    monkeypatch.setattr(on_slurm, "CLUSTER", "local")
    monkeypatch.setattr(on_slurm, "LOOK", 0.1)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    jobs: dict[str, Any] = {}
    submit = SlurmExecutor._submit

    def submit_and_keep(*arguments: Any) -> dict[str, Any]:
        new = submit(*arguments)
        jobs.update(new)
        return new

    monkeypatch.setattr(SlurmExecutor, "_submit", submit_and_keep)
    yield jobs
    for job in jobs.values():
        job._process.wait(timeout=60)


@pytest.mark.usefixtures("submitted")
def test_a_study_by_submitit_has_the_statuses_and_exit_code_of_any_other(harness: Harness, folder: Path) -> None:
    text = "name: study\nbase: tiny.yaml\narms:\n  wild: {optim.optimizer.lr: 1.0e+30}\n"
    (folder / "study.yaml").write_text(text)
    result = harness("ablate", "study.yaml", "--executor", "slurm", "--device", "cpu")
    assert result.code == 1, result.err
    assert "2 runs submitted as Slurm job" in result.out
    assert "1 of 2 runs failed: wild seed 0" in result.err
    records = Store(Path("runs")).records()
    assert {record.arm: record.status for record in records} == {"tiny": "completed", "wild": "diverged"}
    assert {record.provenance["threads"] for record in records} == {1}
    assert Path("reports/study.md").exists()
    assert list(Path("runs/.slurm").glob("*_log.out"))
    assert len(harness("runs", "--json").out.split('"run_id"')) == 3  # the hidden folder is no run
    again = harness("ablate", "study.yaml", "--executor", "slurm", "--device", "cpu")
    assert "nothing to train" in again.out
    assert len(list(Path("runs/.slurm").glob("*_log.out"))) == 2


class Signaller:
    """Sends a signal to the process of a job's run after its first epoch, once."""

    def __init__(self, number: signal.Signals, submitted: dict[str, Any]):
        self.number, self.submitted, self.events, self.sent = number, submitted, list[Event](), False

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, EpochDone) and not self.sent:
            self.sent = True
            controller = self.submitted[event.run_id].job_id  # submitit's, which starts its process again
            [child] = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
            os.kill(int(child), self.number)


def one_run(folder: Path, epochs: int) -> Study:
    study = load_study(folder / "study.yaml", [f"train.epochs={epochs}"], seeds=1)
    return replace(study, arms=study.arms[:1])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM])
def test_a_signal_saves_and_requeues(folder: Path, number: signal.Signals, submitted: dict[str, Any]) -> None:
    study, signaller = one_run(folder, 30), Signaller(number, submitted)
    outcome = ablate(study, AblateOptions(RUN, executor="slurm"), signaller)
    assert list(outcome.statuses.values()) == ["completed"]
    [record] = Store(Path("runs")).records()
    assert len(record.provenance["continued"]) == 1
    [log] = Path("runs/.slurm").glob("*_log.out")
    assert "Calling checkpoint method" in log.read_text()
    epochs = [event.row["epoch"] for event in signaller.events if isinstance(event, EpochDone)]
    assert epochs == list(range(1, 31))
    ablate(study, AblateOptions(replace(RUN, runs_dir=Path("alone"), threads=1)))
    here, there = (Store(root).find(record.run_id) for root in (Path("runs"), Path("alone")))
    assert here
    assert there
    assert timeless(Journal(here.journal_path).rows()) == timeless(Journal(there.journal_path).rows())


@pytest.mark.slow
def test_a_killed_job_is_told(folder: Path, submitted: dict[str, Any]) -> None:
    options = AblateOptions(RUN, executor="slurm")
    outcome = ablate(one_run(folder, 500), options, Signaller(signal.SIGKILL, submitted))
    assert list(outcome.statuses.values()) == ["killed"]
    assert "ended without a word; log: " in outcome.messages[outcome.failures[0].run_id or ""]
    [record] = Store(Path("runs")).records()
    assert record.status == "killed"


@pytest.mark.slow
def test_ctrl_c_leaves_the_jobs_and_says_how_to_look_and_cancel(folder: Path, submitted: dict[str, Any]) -> None:
    stop = Stop()

    def stop_at_once(event: Event) -> None:
        stop.reason = "signal"

    with pytest.raises(Interrupted, match=r"squeue -j \d+ .* scancel \d+") as caught:
        ablate(one_run(folder, 5), AblateOptions(RUN, executor="slurm"), stop_at_once, stop)
    assert "the jobs go on without this command" in str(caught.value)
    [job] = submitted.values()
    assert job.result().status == "completed"
    assert [record.status for record in Store(Path("runs")).records()] == ["completed"]


@pytest.fixture
def sbatch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put programs first on PATH: `sbatch("squeue", "echo 12 RUNNING")`."""
    pytest.importorskip("submitit", reason='submitit is not installed: pip install -e ".[slurm]"')
    (folder / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")

    def put(name: str, script: str) -> None:
        path = folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    put("srun", "exit 0")
    return put


def test_what_a_job_asks_for(sbatch: Callable[[str, str], None], folder: Path) -> None:
    sbatch("sbatch", 'cp "$1" asked; echo Submitted batch job 12')
    study = load_study(folder / "study.yaml")
    asked = SlurmOptions(partition="gpu", account="me", qos="low", time=240, grace=120, cpus=4, memory=16)
    executor = SlurmExecutor(AblateOptions(replace(RUN, device="auto"), jobs=3, slurm=asked))
    jobs = [Job(f"{index:010}", study.base.spec, index, replace(RUN, study="study")) for index in range(5)]
    notes: list[Event] = []
    submitted = executor._submit(jobs, notes.append)
    assert [job.job_id for job in submitted.values()] == [f"12_{index}" for index in range(5)]
    assert isinstance(notes[0], Note)
    assert notes[0].text.startswith("5 runs submitted as Slurm job 12; logs: ")
    script = Path("asked").read_text()
    for line in (
        "--account=me", "--array=0-4%3", "--cpus-per-task=4", "--gpus-per-node=1", "--job-name=harness-study",
        "--mem=16GB", "--partition=gpu", "--qos=low", "--requeue", "--signal=USR2@120", "--time=240",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in script
    assert "export OMP_NUM_THREADS=4" in script
    assert "srun --unbuffered" in script
    assert " --cpus-per-task=4 " in script
    assert (Path("runs/.slurm") / "0000000003.job").read_text() == "12_3"
    from submitit.core.utils import DelayedSubmission

    [job] = DelayedSubmission.load(submitted["0000000003"].paths.submitted_pickle).args
    assert (job.options.device, job.options.threads, job.seed) == ("cuda", 4, 3)


def test_so_many_jobs_at_once_however_many_arrays(
    sbatch: Callable[[str, str], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm limits each array by itself, so that one waits for the one before it, and for what is queued already."""
    monkeypatch.setattr(on_slurm, "ARRAY", 2)
    sbatch("sbatch", 'n=$(ls asked* 2>/dev/null | wc -l); cp "$1" asked$n; echo Submitted batch job 1$n')
    study = load_study(folder / "study.yaml")
    executor = SlurmExecutor(AblateOptions(RUN, jobs=1))
    jobs = [Job(f"{index:010}", study.base.spec, index, RUN) for index in range(5)]
    executor._submit(jobs, lambda event: None, ["8", "9"])
    asked = [Path(f"asked{number}").read_text() for number in range(3)]
    waits = [[line for line in text.splitlines() if "--dependency" in line] for text in asked]
    assert waits == [
        ["#SBATCH --dependency=afterany:8:9"],
        ["#SBATCH --dependency=afterany:10"],
        ["#SBATCH --dependency=afterany:11"],
    ]
    assert ["#SBATCH --array=0-1%1" in text for text in asked] == [True, True, False]  # the last is one job
    executor._submit(jobs[:1], lambda event: None)
    assert "--dependency" not in Path("asked3").read_text()


def test_a_job_that_is_queued_is_not_submitted_again(sbatch: Callable[[str, str], None], folder: Path) -> None:
    sbatch("sbatch", "echo Submitted batch job 12")
    sbatch("squeue", "echo 12_0 PENDING; echo 12_1 CANCELLED")
    study = load_study(folder / "study.yaml")
    executor = SlurmExecutor(AblateOptions(RUN))
    jobs = [Job(f"{index:010}", study.base.spec, index, RUN) for index in range(3)]
    executor._submit(jobs[:2], lambda event: None)
    assert list(executor._still_queued(jobs)) == ["0000000000"]


def test_a_job_is_gone_once_it_is_missing_twice_in_a_row(
    sbatch: Callable[[str, str], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node failed and it was queued again; when it ends much later, its result may be a moment late as ever."""
    monkeypatch.setattr(on_slurm, "LOOK", 0.01)
    monkeypatch.setattr(on_slurm, "ASK", 0.0)
    sbatch("sbatch", "echo Submitted batch job 12")
    executor = SlurmExecutor(AblateOptions(RUN))
    job = Job("0000000000", load_study(folder / "study.yaml").base.spec, 0, RUN)
    looks = iter([set(), {"12"}, set(), set()])  # the ids that Slurm knows
    results = iter([None, None, None, Ended(job.run_id, "completed")])
    monkeypatch.setattr(executor, "_still_queued", lambda jobs: {})
    monkeypatch.setattr(executor, "_alive", lambda jobs: next(looks))
    monkeypatch.setattr(executor, "_result", lambda run_id, job: next(results))
    assert executor.execute([job], lambda event: None, Stop()) == {job.run_id: "completed"}
    looks, results = iter([set(), set()]), iter([None, None])
    assert executor.execute([job], lambda event: None, Stop()) == {job.run_id: "killed"}


@pytest.mark.parametrize(
    ("script", "requeued"),
    [("echo 12_3 RUNNING", True), ("echo 12_3 COMPLETING", False), ("echo 12_3 CANCELLED", False), ("exit 1", True)],
)
def test_only_a_job_that_runs_is_requeued(sbatch: Callable[[str, str], None], script: str, requeued: bool) -> None:
    """Not one that was cancelled; and of an array this job alone is asked for: 12 would be all of it."""
    sbatch("squeue", f'echo "$@" > asked; {script}')
    assert _may_be_requeued(SimpleNamespace(cluster="slurm", job_id="12_3")) is requeued
    assert "--jobs=12_3 " in Path("asked").read_text()
    assert _may_be_requeued(SimpleNamespace(cluster="local", job_id="1"))


def test_sbatch_that_refuses_is_exit_2(sbatch: Callable[[str, str], None], harness: Harness) -> None:
    sbatch("sbatch", "echo 'sbatch: error: invalid partition specified: nowhere' >&2; exit 1")
    sbatch("squeue", "exit 0")
    result = harness("ablate", "study.yaml", "--executor", "slurm", "--slurm", "partition=nowhere")
    assert result.code == 2
    assert "invalid partition specified: nowhere" in result.err
    assert "Traceback" not in result.err


def test_what_is_submitted_already_is_told_when_a_later_array_is_refused(
    sbatch: Callable[[str, str], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_slurm, "ARRAY", 2)
    sbatch("sbatch", "if mkdir first; then echo Submitted batch job 12; else echo too many jobs >&2; exit 1; fi")
    executor = SlurmExecutor(AblateOptions(RUN))
    spec = load_study(folder / "study.yaml").base.spec
    jobs = [Job(f"{index:010}", spec, index, RUN) for index in range(5)]
    notes: list[Any] = []
    with pytest.raises(InputError, match=r"too many jobs \(3 runs of 5 are not submitted\)") as caught:
        executor._submit(jobs, notes.append)
    assert "once it has ended, run the same command again to submit the rest" in str(caught.value)
    assert [note.text.partition(";")[0] for note in notes] == ["2 runs submitted as Slurm job 12"]


@pytest.mark.slow
def test_results_of_other_hardware_are_not_taken_in_silence(
    sbatch: Callable[[str, str], None], harness: Harness
) -> None:
    """The type of device is known before Slurm has found a machine; the precision that `auto` means there is not."""
    harness("ablate", "study.yaml", "-o", "train.precision=auto", "--device", "cpu")
    arguments = ("ablate", "study.yaml", "-o", "train.precision=auto", "--executor", "slurm")
    result = harness(*arguments)
    assert result.code == 2
    assert result.err.count("this run finished on cpu in") == 4
    assert "here it would be cuda in" in result.err
    assert harness(*arguments, "--device", "cpu").code == 0


@pytest.mark.parametrize(
    ("script", "states"),
    [
        ("echo 12_0 RUNNING; echo 12_1 PENDING", {"12_0": "RUNNING", "12_1": "PENDING"}),
        ("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", {}),
        ("echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1", None),
    ],
)
def test_what_squeue_says(sbatch: Callable[[str, str], None], script: str, states: dict[str, str] | None) -> None:
    """A controller that does not answer is no word about the jobs."""
    sbatch("squeue", script)
    assert queue_states(["12"]) == states


def test_a_watch_tells_each_epoch_once_though_the_run_starts_again(folder: Path) -> None:
    study = load_study(folder / "study.yaml")
    store = Store(Path("runs"))
    watch = RunWatch(Job("0" * 10, study.base.spec, 0, RUN), store)
    assert watch.events() == []
    here = store.folder("tiny", "0" * 10)
    here.create()
    row = {"train_loss": 1.0, "train_accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.5, "lr": 0.1, "seconds": 2.0}
    journal = Journal(here.journal_path)

    def write(status: str, started: str, epochs_done: int) -> None:
        record = Record(
            run_id="0" * 10, name="tiny", status=status, seed=0, spec=study.base.spec.model_dump(mode="json"),
            spec_digest="", numerics=1, trainable_parameters=10, macs=10, epochs_done=epochs_done,
            provenance={"started": started},
        )  # fmt: skip
        here.write_record(record)

    write("running", "first", 0)
    assert [type(event) for event in watch.events()] == [Started]
    journal.append(row | {"epoch": 1})
    journal.append(row | {"epoch": 2})
    told = watch.events()
    assert [(event.row["epoch"], event.seconds_left) for event in told if isinstance(event, EpochDone)] == [
        (1, 4.0),
        (2, 2.0),
    ]
    assert watch.events() == []
    journal.truncate(1)  # it goes on elsewhere, from a state that was saved after the first epoch
    write("running", "second", 1)
    assert [type(event) for event in watch.events()] == [Started]
    journal.append(row | {"epoch": 2})
    journal.append(row | {"epoch": 3})
    assert [event.row["epoch"] for event in watch.events() if isinstance(event, EpochDone)] == [3]


def test_slurm_options_as_they_are_written() -> None:
    given = ["partition=gpu", "time=1:30:00", "gpus=0", "cpus=8", "memory=1.5", "grace=30", "constraint=a100|h100"]
    assert parse_slurm(given) == SlurmOptions(
        partition="gpu", time=90, gpus=0, cpus=8, memory=1.5, grace=30, constraint="a100|h100"
    )
    assert parse_slurm([]) == SlurmOptions()


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("2:00:00", 120), ("90:00", 90), ("1:30", 2), ("1-00:00:00", 1440), ("1-12", 2160)],
)
def test_times_are_read_as_slurm_reads_them(text: str, minutes: int) -> None:
    assert parse_slurm([f"time={text}", "grace=5"]).time == minutes


def test_all_mistakes_in_slurm_options_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        parse_slurm(["partion=gpu", "time=soon", "cpus=0", "memory=16G", "gpu", "qos=a", "qos=b", "gpus=-1"])
    told = str(caught.value)
    for part in ("did you mean partition?", "time=soon", "cpus=0", "memory=16G", "'gpu'", "'qos' is given", "gpus=-1"):
        assert part in told
    with pytest.raises(InputError, match="90 seconds of grace leave nothing of time=2"):
        parse_slurm(["time=2"])


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ("cpus=99999", "a whole number from 1 to 4,096"),
        (f"cpus={'9' * 5000}", "a whole number from 1 to 4,096"),
        ("gpus=1025", "a whole number from 0 to 1,024"),
        ("grace=86401", "a whole number from 5 to 86,400"),
        ("time=99999-00", "a whole number of minutes from 1 to 5,256,000"),
        (f"time={'9' * 5000}", "write minutes, H:MM:SS"),
        (f"memory={'9' * 400}", "1,000,000 at most"),
    ],
)
def test_what_no_machine_has_is_not_asked_of_slurm(given: str, right: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_slurm([given])
    assert right in str(caught.value)


def test_where_there_is_no_slurm(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason='submitit is not installed: pip install -e ".[slurm]"')
    monkeypatch.setenv("PATH", "")
    result = harness("ablate", "study.yaml", "--executor", "slurm")
    assert (result.code, "srun is not found" in result.err) == (2, True)
    assert not Path("runs").exists()


def test_without_submitit_the_extra_is_named(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    result = harness("ablate", "study.yaml", "--executor", "slurm")
    assert result.code == 2
    assert 'pip install "budget-ablation-harness[slurm]"' in result.err


def test_options_of_another_executor(harness: Harness) -> None:
    result = harness("ablate", "study.yaml", "--slurm", "partition=gpu")
    assert (result.code, "--slurm is for --executor slurm" in result.err) == (2, True)
