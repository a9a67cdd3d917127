"""How a study's runs are shared out among GPUs: the arithmetic, on a machine without any."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness.errors import InputError
from harness.events import Event, Note
from harness.options import AblateOptions, RunOptions
from harness.spec.ablation import load_study
from harness.spec.documents import load_experiment
from harness.study import asked, local
from harness.study.ablate import ablate
from harness.study.devices import check_devices, parse_devices, share_out
from harness.study.executor import Job
from harness.study.local import LocalExecutor, Worker, free_slot, threads_per_worker
from harness.training import device, guard
from tests.conftest import Harness


@pytest.mark.parametrize(
    ("text", "devices"), [("0-3", (0, 1, 2, 3)), ("0,2", (0, 2)), ("3", (3,)), ("0-1, 4", (0, 1, 4)), ("2,0", (2, 0))]
)
def test_devices_as_they_are_written(text: str, devices: tuple[int, ...]) -> None:
    assert parse_devices(text) == devices


@pytest.mark.parametrize(
    "text", ["", "a", "0-", "-1", "3-1", "0,0", "0-2,1", "cuda:0", "0;1", "0-20000", "1024", "9" * 5000]
)
def test_devices_as_they_are_not(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_devices(text)
    assert all(problem.where == "--devices" for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("jobs", "count", "expected"),
    [
        (None, 4, [0, 1, 2, 3]),
        (4, 4, [0, 1, 2, 3]),
        (8, 4, [0, 1, 2, 3, 0, 1, 2, 3]),
        (6, 4, [0, 1, 2, 3, 0, 1]),
        (2, 4, [0, 1]),
        (3, 1, [0, 0, 0]),
    ],
)
def test_jobs_are_shared_out_evenly(jobs: int | None, count: int, expected: list[int]) -> None:
    assert share_out(jobs, [f"cuda:{index}" for index in range(count)]) == [f"cuda:{index}" for index in expected]


def test_gpus_that_are_not_there_are_told_with_those_that_are() -> None:
    check_devices([0, 1], 2, None)
    with pytest.raises(InputError, match=r"no GPU 2, 3: this machine has 2 GPUs, 0 to 1$"):
        check_devices([0, 2, 3], 2, None)
    with pytest.raises(InputError, match=r"no GPU 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 1012 more: this machine has"):
        check_devices(parse_devices("0-1023"), 2, None)
    with pytest.raises(InputError, match=r"one GPU, 0 \(CUDA_VISIBLE_DEVICES=5: indices are positions in it\)"):
        check_devices([5], 1, "5")


@pytest.mark.parametrize(
    ("wanted", "slots", "expected"),
    [("", 2, 4), ("3", 2, 3), ("16", 2, 4), ("2,1", 1, 2), ("0", 1, 8), ("none", 1, 8), ("", 16, 1), ("1", 16, 1)],
)
def test_a_worker_takes_no_more_threads_than_the_user_allows(
    monkeypatch: pytest.MonkeyPatch, wanted: str, slots: int, expected: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert threads_per_worker(slots) == expected


def test_the_peak_of_memory_is_the_run_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may train one run after another, a teacher first; the peak decides whether steps are recorded."""
    reset: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device", nullcontext)  # there is no GPU
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    hardware = device.Hardware(torch.device("cuda", 1), "none", "fp32", 1)
    for initialized, expected in ((False, []), (True, [hardware.device])):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda initialized=initialized: initialized)
        with device.arithmetic(hardware, deterministic=False):
            assert reset == expected


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "count_gpus", lambda: 4)
    monkeypatch.setattr(local, "threads_per_worker", lambda slots: 32 // slots)


@pytest.mark.usefixtures("four_gpus")
def test_every_worker_gets_its_device_and_its_share_of_the_threads(folder: Path) -> None:
    executor = LocalExecutor(AblateOptions(RunOptions(wandb="disabled"), jobs=4, devices=(1, 3)))
    assert executor.devices == ["cuda:1", "cuda:3", "cuda:1", "cuda:3"]
    job = Job("0" * 10, load_experiment(folder / "tiny.yaml"), 0, RunOptions())
    working: list[Worker] = []
    for expected in executor.devices:
        slot = free_slot(working, executor.slots, early=True)
        assert slot is not None
        filled = executor.fill_in(job, slot, None)
        assert (filled.options.device, filled.options.threads) == (expected, 8)
        working.append(Worker(filled, multiprocessing.Process(), multiprocessing.Pipe()[0], slot))
    assert free_slot(working, executor.slots, early=True) is None
    working[2].seconds_left = 0.0  # on a GPU even a run that is nearly done keeps its slot
    assert free_slot(working, executor.slots, early=True) is None
    gone = working.pop(1)
    assert free_slot(working, executor.slots, early=True) == gone.slot


def test_a_cpu_slot_is_free_once_its_run_is_nearly_done(folder: Path) -> None:
    job = Job("0" * 10, load_experiment(folder / "tiny.yaml"), 0, RunOptions(device="cpu", threads=1))
    working = [Worker(job, multiprocessing.Process(), multiprocessing.Pipe()[0], slot) for slot in (0, 1)]
    working[1].seconds_left = 0.1
    assert free_slot(working, 2, early=True) == 1
    assert free_slot(working, 2, early=False) is None


@pytest.mark.usefixtures("four_gpus")
def test_one_run_a_gpu_is_the_default() -> None:
    options = AblateOptions(RunOptions(wandb="disabled"), devices=(0, 1, 2, 3))
    assert LocalExecutor(options).devices == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    assert LocalExecutor(replace(options, devices=(), run=replace(options.run, device="cpu"))).devices == ["cpu"]


class Refusing:
    """An executor that starts nothing."""

    slots = 1

    def conditions(self, precision: str) -> tuple[str, str]:
        return "cuda", "bf16"

    def execute(self, jobs: Sequence[Job], *rest: object, **options: object) -> dict[str, str]:
        return dict.fromkeys([job.run_id for job in jobs], "refused")


IDLE = "1 of 4 GPUs is used: --devices 0-3 uses them all"


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (AblateOptions(), [IDLE]),
        (AblateOptions(RunOptions(device="cuda")), [IDLE]),
        (AblateOptions(RunOptions(device="cuda:0")), []),
        (AblateOptions(RunOptions(device="cpu")), []),
        (AblateOptions(devices=(0,)), []),
        (AblateOptions(executor="ray"), []),
    ],
)
def test_gpus_that_stay_idle_are_told_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: AblateOptions, told: list[str]
) -> None:
    monkeypatch.setattr(asked, "check_budget", guard.check_budget)
    monkeypatch.setattr(asked, "ensure_data", lambda names, data_dir: None)
    monkeypatch.setattr("harness.study.ablate.executor_for", lambda options: Refusing())
    events: list[Event] = []
    ablate(load_study(folder / "study.yaml"), options, events.append)
    assert [event.text for event in events if isinstance(event, Note)] == told
    monkeypatch.setattr(asked, "count_gpus", lambda: 1)
    ablate(load_study(folder / "study.yaml"), options, events.append)
    assert [event.text for event in events if isinstance(event, Note)] == told


def test_gpus_that_are_not_there_are_exit_2_and_nothing_runs(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "count_gpus", lambda: 0)
    result = harness("ablate", "study.yaml", "--devices", "0-3")
    assert result.code == 2
    assert "--devices: there is no GPU 0, 1, 2, 3: this machine has no CUDA device" in result.err
    result = harness("ablate", "study.yaml", "--devices", "0", "--device", "cpu")
    assert result.code == 2
    assert "--device says cpu" in result.err
    assert not Path("runs").exists()


def test_a_gpu_tells_of_memory_and_how_busy_it_was_and_a_cpu_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.usage(device.resolve("cpu", "fp32")) == {}
    gpu = device.Hardware(torch.device("cuda", 1), "some GPU", "bf16", 1)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1000 + device.index)
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 73)
    assert device.usage(gpu) == {"memory_bytes": 1001, "utilisation": 0.73}

    def no_library(device: torch.device) -> int:
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(torch.cuda, "utilization", no_library)
    assert device.usage(gpu) == {"memory_bytes": 1001}
