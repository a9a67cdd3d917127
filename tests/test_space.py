"""The space that runs need, against what real ones take, and what is said where it is not there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from harness import runner
from harness.errors import InputError, Interrupted
from harness.matching import load_study
from harness.options import RunOptions
from harness.space import Space, needed, size, space_of
from harness.spec.documents import load_experiment
from harness.spec.experiment import ExperimentSpec
from harness.study.plan import make_plan
from harness.tracking.store import RunFolder, Store
from harness.training import checkpoint, guard
from harness.training.loop import Row, State, Training
from tests.conftest import Harness
from tests.training.build import CPU, Recorder, StopAfter, make_split

ROOT = Path(__file__).parent.parent
WITHIN = 1.5  # a factor


def on_disk(*paths: Path) -> int:
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    return sum(file.stat().st_blocks * 512 for file in files if file.is_file())


def check(estimate: Space, *, kept: int, working: int) -> None:
    print(estimate.kept / kept, estimate.working / working)
    assert 1 / WITHIN < estimate.kept / kept < WITHIN, (estimate, kept)
    assert 1 / WITHIN < estimate.working / working < WITHIN, (estimate, working)


@pytest.mark.parametrize(
    ("mirrored", "more"), [(True, []), (False, ["data.protocol=holdout", "optim.ema={decay: 0.9}"])]
)
def test_what_a_run_really_takes(folder: Path, mirrored: bool, more: list[str]) -> None:
    spec = load_experiment(folder / "tiny.yaml", more)
    options = RunOptions(device="cpu", wandb="offline" if mirrored else "disabled", checkpoint_every=0)
    with pytest.raises(Interrupted):
        runner.run(spec, options=options, stop=StopAfter(8))
    [(found, _)] = Store(Path("runs")).entries()
    working = 2 * on_disk(found.last)
    shutil.rmtree("runs")
    runner.run(spec, options=options)
    check(space_of(spec, guard.cost(spec), mirrored=mirrored), kept=on_disk(found.path), working=working)


OPTIMISERS: list[dict[str, Any]] = [
    {},
    {"optimizer": {"kind": "adamw", "lr": 0.001}, "lookahead": None, "ema": {"decay": 0.9}},
    {"optimizer": {"kind": "sgd", "lr": 0.1}, "lookahead": None},
]


@pytest.mark.parametrize("optim", OPTIMISERS, ids=["as it is", "adamw and ema", "plain sgd"])
def test_what_the_small_network_takes(tmp_path: Path, optim: dict[str, Any]) -> None:
    """Its state, weights and predictions; trained on a few images, with the rows of as many epochs as it has."""
    spec = load_experiment(ROOT / "experiments/small.yaml")
    changed = spec.model_dump(mode="json")
    changed["optim"] |= optim
    spec = ExperimentSpec.model_validate(changed)
    folder = RunFolder(tmp_path / "small-0123456789")
    folder.create()

    class Saving(Recorder):
        def epoch_done(self, row: Row, state: State) -> None:
            folder.last.write_bytes(checkpoint.serialise({"state": state}))

    one_epoch = spec.model_copy(update={"train": spec.train.model_copy(update={"epochs": 1, "precision": "fp32"})})
    training = Training(one_epoch, 0, make_split(40, shape=(32, 32, 3)), CPU)
    training.fit(Saving())
    working = 2 * on_disk(folder.last)
    folder.last.unlink()
    weights = checkpoint.serialise({"spec": changed, "weights": training.evaluated.state_dict()})
    for path in (folder.final, folder.best):
        path.write_bytes(weights)
    logits = np.random.default_rng(0).normal(size=(10_000, 10))
    folder.write_predictions(logits, logits.argmax(1), logits.argmin(1), "test")
    folder.journal_path.write_bytes(b"x" * 250 * spec.train.epochs)
    folder.record_path.write_bytes(b"x" * 4000)
    check(space_of(spec, guard.cost(spec), mirrored=False), kept=on_disk(folder.path), working=working)


def test_a_larger_network_takes_more_and_full_keeps_no_best_weights() -> None:
    spec = load_experiment(ROOT / "experiments/baseline.yaml")
    space = space_of(spec, guard.cost(spec))
    assert space.kept == pytest.approx(2 * 4 * 4_697_742, rel=0.05)
    assert space.working == pytest.approx(2 * 4 * 4 * 4_697_742, rel=0.05)  # momentum, Lookahead, best weights
    full = spec.model_copy(update={"data": spec.data.model_copy(update={"protocol": "full"})})
    assert space_of(full, guard.cost(full)).kept == pytest.approx(4 * 4_697_742, rel=0.05)


def test_only_so_many_runs_work_at_once() -> None:
    spaces = [Space(10, 300), Space(10, 500), Space(10, 400)]
    assert [needed(spaces, at_once) for at_once in (1, 2, 9)] == [530, 930, 1230]
    assert needed([], 2) == 0


# --- where it is not there ---------------------------------------------------------------------


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One number: the bytes that are free."""
    free = [10**9]
    monkeypatch.setattr("harness.space.shutil.disk_usage", lambda path: Usage(10**12, 0, free[0]))
    return free


def test_a_study_without_room_starts_nothing(harness: Harness, folder: Path, disk: list[int]) -> None:
    plan = make_plan(load_study(Path("study.yaml")), Store(Path("runs")))
    need = plan.space(plan.runs, 1, mirrored=False)
    disk[0] = need - 1
    result = harness("ablate", "study.yaml", "--device", "cpu")
    assert result.code == 2
    told = f"{folder}/runs: the 4 runs that are to do would take about {size(need)}, and {size(disk[0])} are free"
    assert told in result.err
    assert "--prune" in result.err
    assert "--runs-dir" in result.err
    assert not Path("runs").exists()


def test_a_run_without_room_starts_nothing_and_one_that_goes_on_needs_less(folder: Path, disk: list[int]) -> None:
    spec = load_experiment(Path("tiny.yaml"))
    need = needed([space_of(spec, guard.cost(spec), mirrored=False)], 1)
    options = RunOptions(device="cpu", wandb="disabled", checkpoint_every=0)
    disk[0] = need - 1
    with pytest.raises(InputError, match=r"tiny \(seed 0\) would take about"):
        runner.run(spec, options=options)
    assert Store(Path("runs")).records() == []
    disk[0] = need
    with pytest.raises(Interrupted):
        runner.run(spec, options=options, stop=StopAfter(14))
    [(found, _)] = Store(Path("runs")).entries()
    disk[0] = need - found.state_bytes
    assert runner.run(spec, options=options).finished
    disk[0] = 0
    assert runner.run(spec, options=options).finished  # it is there


def test_the_plan_tells_it(harness: Harness, folder: Path, disk: list[int]) -> None:
    plan = make_plan(load_study(Path("study.yaml")), Store(Path("runs")))
    first, second = plan.space(plan.runs, 1), plan.space(plan.runs, 2)
    of_one = plan.space(plan.runs[:1], 1)
    assert of_one < first < second
    assert f"about {size(first)} for what is to do" in harness("plan", "study.yaml").out
    assert f'"disk_bytes": {second}' in harness("plan", "study.yaml", "--jobs", "2", "--json").out
