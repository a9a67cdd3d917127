"""Several processes at one study: each run is done by one of them, and what another has is waited for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from harness import runner
from harness.errors import Interrupted, RunFailed, TimeLimitReached
from harness.events import Elsewhere, Ended, Event, Started, Stepped
from harness.options import AblateOptions, RunOptions
from harness.spec.ablation import Study, load_study
from harness.stop import Stop
from harness.study import ablate as studies
from harness.study.ablate import ablate
from harness.study.plan import PlannedRun, make_plan
from harness.tracking import claim
from harness.tracking.claim import Claim, acquire, look
from harness.tracking.select import standing
from harness.tracking.store import RunFolder, Store
from tests.study.commands import processes_of, spawn, wait_until

RUN = RunOptions(wandb="disabled", device="cpu", threads=1)
FOREIGN = "far~0123456789ab~1~77~00000000~5"


@pytest.fixture
def study(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setattr(studies, "LOOK_EVERY", 0.02)
    return load_study(folder / "study.yaml")


def planned(study: Study) -> list[PlannedRun]:
    return list(make_plan(study, Store(Path("runs"))).runs)


def folder_of(run: PlannedRun) -> RunFolder:
    assert run.folder
    return run.folder


def claimed_by_foreigner(run: PlannedRun) -> None:
    path = folder_of(run).claim_path
    path.mkdir(parents=True)
    (path / FOREIGN).touch()


def done_by(run_id: str | None) -> int:
    """How often a run was begun: once, and once more for each time it went on."""
    found = Store(Path("runs")).find(str(run_id))
    assert found
    return 1 + len(found.read_record().provenance.get("continued", []))


def nothing_is_left() -> bool:
    return not list(Path("runs/.claims").iterdir())


def test_what_others_have_is_waited_for_and_done_here_when_they_give_it_up(study: Study) -> None:
    """One run is with another process before this one plans, and one is taken from under its nose."""
    first, *_, second = planned(study)
    events: list[Event] = []
    with ExitStack() as others:
        others.enter_context(acquire(folder_of(first).claim_path))
        taken: list[Claim] = []

        def listen(event: Event) -> None:
            events.append(event)
            if isinstance(event, Started) and not taken:
                taken.append(others.enter_context(acquire(folder_of(second).claim_path)))
            if {one.run_id for one in events if isinstance(one, Elsewhere)} == {first.run_id, second.run_id}:
                others.close()

        outcome = ablate(study, AblateOptions(RUN), listen)
    assert outcome.plan.count("done") == 4
    assert not outcome.failures
    told = [event for event in events if isinstance(event, Elsewhere)]
    assert {event.holder for event in told} == {f"process {os.getpid()} on {os.uname().nodename}"}
    assert [event.status for event in events if isinstance(event, Ended)].count("busy") == 1
    assert {done_by(run.run_id) for run in planned(study)} == {1}
    assert nothing_is_left()


def test_what_others_finish_is_not_done_again(study: Study) -> None:
    first = planned(study)[0]
    held = acquire(folder_of(first).claim_path)
    held.__enter__()

    def finish(event: Event) -> None:
        if isinstance(event, Elsewhere):
            held.release()
            runner.run(first.arm.spec, first.seed, RUN)

    outcome = ablate(study, AblateOptions(RUN), finish)
    assert first.run_id not in outcome.statuses
    assert len(outcome.statuses) == 3
    assert outcome.plan.count("done") == 4
    assert {done_by(run.run_id) for run in planned(study)} == {1}


def test_what_fails_elsewhere_has_failed_here(folder: Path, study: Study) -> None:
    """It is not tried again, though it was planned before: only --retry-failed does that."""
    with open(folder / "study.yaml", "a") as file:
        file.write("  wild: {optim.optimizer.lr: 1.0e+30}\n")
    study = load_study(folder / "study.yaml", seeds=1)
    wild = planned(study)[-1]
    failed: list[RunFailed] = []

    def fail(event: Event) -> None:
        if isinstance(event, Started) and not failed:
            with pytest.raises(RunFailed) as caught:
                runner.run(wild.arm.spec, wild.seed, RUN)
            failed.append(caught.value)

    outcome = ablate(study, AblateOptions(RUN), fail)
    assert outcome.statuses[str(wild.run_id)] == "diverged"
    assert "train_loss" in outcome.messages[str(wild.run_id)]
    assert [run.arm.name for run in outcome.failures] == ["wild"]
    assert done_by(wild.run_id) == 1
    ablate(study, AblateOptions(RUN, retry_failed=True))
    assert done_by(wild.run_id) == 2


def test_another_machines_run_is_taken_over_once_its_heartbeat_has_stopped(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "STALE_AFTER", 1.0)
    first = planned(study)[0]
    claimed_by_foreigner(first)
    events: list[Event] = []
    outcome = ablate(study, AblateOptions(RUN), events.append)
    assert outcome.plan.count("done") == 4
    assert [event.holder for event in events if isinstance(event, Elsewhere)] == ["process 1 on far"]
    assert outcome.statuses[str(first.run_id)] == "completed"
    assert nothing_is_left()


def test_another_machines_run_is_waited_for_while_it_has_a_heartbeat(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "STALE_AFTER", 1.0)
    first = planned(study)[0]
    claimed_by_foreigner(first)
    over = threading.Event()

    def beat() -> None:
        path = folder_of(first).claim_path
        for count in range(6, 10**6):
            if over.wait(0.1):
                return
            holder = look(path)
            assert holder
            (path / holder.name).rename(path / f"{FOREIGN.rpartition('~')[0]}~{count}")

    beating = threading.Thread(target=beat)
    beating.start()
    began = time.monotonic()
    stop = Stop()

    def wait_a_while(event: Event) -> None:
        if isinstance(event, Elsewhere):
            threading.Timer(3.0, setattr, (stop, "reason", "time_limit")).start()

    with pytest.raises(TimeLimitReached, match="3 of 4 runs are done"):
        ablate(study, AblateOptions(RUN), wait_a_while, stop)
    over.set()
    beating.join()
    assert time.monotonic() - began > 3
    assert make_plan(study, Store(Path("runs"))).count("running") == 1


@pytest.mark.parametrize(("reason", "error"), [("signal", Interrupted), ("time_limit", TimeLimitReached)])
def test_waiting_ends_when_asked(study: Study, reason: str, error: type[Exception]) -> None:
    stop = Stop()

    def ask(event: Event) -> None:
        if isinstance(event, Elsewhere):
            stop.reason = reason  # type: ignore[assignment]

    with acquire(folder_of(planned(study)[0]).claim_path), pytest.raises(error, match="3 of 4 runs are done"):
        ablate(study, AblateOptions(RUN), ask, stop)


def test_plan_and_runs_tell_the_living_from_the_dead(study: Study) -> None:
    """And change nothing: what is told is looked up, not tried."""
    store = Store(Path("runs"))
    record = runner.run(study.base.spec, 0, RUN)
    living, dead, foreign, free = planned(study)
    [(found, _)] = store.entries()
    found.write_record(record.model_copy(update={"status": "running"}))

    def told() -> tuple[list[str], list[str]]:
        return [run.state for run in planned(study)], [one.status for one in standing(store)]

    assert told() == (["to_do"] * 4, ["killed"])
    claimed_by_foreigner(foreign)
    path = folder_of(dead).claim_path
    path.mkdir()
    with acquire(folder_of(living).claim_path) as held:
        (path / f"here~{claim.machine()}~{os.getpid()}~1~00000000~3").touch()  # this process began at another time
        before = sorted(str(entry) for entry in store.root.rglob("*"))
        assert told() == (["running", "to_do", "running", "to_do"], ["running"])
        assert sorted(str(entry) for entry in store.root.rglob("*")) == before
        held.check()
    assert folder_of(free).holder() is None


@pytest.fixture
def long_study(folder: Path, study: Study) -> Study:
    return load_study(folder / "study.yaml", ["train.epochs=40"], seeds=1)


@pytest.mark.slow
def test_a_run_that_was_suspended_too_long_is_its_takers_alone(long_study: Study) -> None:
    """It writes nothing more, and its study waits for the taker; here that one gives it back unfinished."""
    first = planned(long_study)[0]
    folder = folder_of(first)
    taker = Claim(folder.claim_path)
    written: list[tuple[bytes, bytes]] = []
    events: list[Event] = []

    def content() -> tuple[bytes, bytes]:
        return folder.record_path.read_bytes(), folder.journal_path.read_bytes()

    def suspend(event: Event) -> None:
        events.append(event)
        if isinstance(event, Stepped) and event.epoch > 2 and not written:
            [worker] = [child for child in multiprocessing.active_children() if child.pid]
            os.kill(int(worker.pid or 0), signal.SIGSTOP)
            while not ((holder := look(folder.claim_path)) and taker.take_over(holder)):
                time.sleep(0.01)
            written.append(content())
            os.kill(int(worker.pid or 0), signal.SIGCONT)
        if isinstance(event, Elsewhere) and event.run_id == first.run_id:
            written.append(content())
            taker.release()

    outcome = ablate(long_study, AblateOptions(replace(RUN, checkpoint_every=0.0)), suspend)
    assert outcome.plan.count("done") == 2
    ended = [event for event in events if isinstance(event, Ended) and event.run_id == first.run_id]
    assert [event.status for event in ended if event.message] == ["busy"]
    assert f"process {os.getpid()} on" in ended[0].message
    assert written[0] == written[1]
    assert outcome.statuses[str(first.run_id)] == "completed"
    assert nothing_is_left()


# --- the command -------------------------------------------------------------------------------


@pytest.fixture
def all_claimed(study: Study) -> Iterator[None]:
    with ExitStack() as others:
        for run in planned(study):
            others.enter_context(acquire(folder_of(run).claim_path))
        yield


@pytest.mark.usefixtures("all_claimed")
def test_ctrl_c_while_waiting_is_prompt_and_says_how_to_go_on(folder: Path) -> None:
    process = spawn(folder, "ablate", "study.yaml")
    assert process.stdout
    lines = [process.stdout.readline() for _ in range(2)]
    assert f"process {os.getpid()} on {os.uname().nodename} has it" in lines[1]
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert time.monotonic() - began < 10
    assert "0 of 4 runs are done; `harness ablate study.yaml` to go on" in err
    assert "Traceback" not in out + err


@pytest.mark.slow
@pytest.mark.usefixtures("all_claimed")
def test_the_time_limit_holds_while_waiting(folder: Path) -> None:
    process = spawn(folder, "ablate", "study.yaml", "--time-limit", "00:08")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, out + err
    assert "to go on" in err


@pytest.mark.slow
def test_two_started_together_finish_together_with_each_run_done_once(folder: Path) -> None:
    log = folder / "completions"
    command = ("ablate", "study.yaml", "--seeds", "4", "--threads", "1", "-o", "train.epochs=10", "--output")
    both = [
        spawn(folder, *command, f"{name}/study.md", hooked=True, TEST_COMPLETIONS=str(log)) for name in ("one", "two")
    ]
    outs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    done = set(log.read_text().splitlines())  # a record is written twice at its end
    assert len(done) == len({line.split()[0] for line in done}) == 8
    assert {len(record.provenance.get("continued", [])) for record in Store(folder / "runs").records()} == {0}
    reports = [(folder / f"{name}/study.md").read_bytes() for name in ("one", "two")]
    assert reports[0] == reports[1]
    assert not list((folder / "runs/.claims").iterdir())
    for process in both:
        wait_until(lambda pid=process.pid: not processes_of(pid), "processes are left", 60)  # type: ignore[misc]
