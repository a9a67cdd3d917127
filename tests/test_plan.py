"""The plan of a study: how far it is, how long the rest takes and on what, what its seeds can show."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.reporting.dunnett import detectable_difference
from harness.spec.ablation import Study
from harness.study.expected import schedule
from harness.study.measure import measure
from harness.study.plan import Plan, PlannedRun, make_plan, to_json
from harness.terminal.plan import marks, print_plan
from harness.tracking.journal import Journal
from harness.tracking.record import Record
from harness.tracking.store import Store
from tests.conftest import Harness
from tests.reporting.synthetic import PROVENANCE, add, fill, make_record, make_rows, make_study

ROOT = Path(__file__).parent.parent
TWO_ARMS: dict[str, dict[str, Any]] = {"no_se": {"model.se": False}, "no_clip": {"optim.clip": None}}
GPU = {"device_type": "cuda", "device_name": "NVIDIA H100"}
TOOK = {"timings": {"train": 90.0, "total": 100.0}}


@pytest.fixture
def study() -> Study:
    return make_study(TWO_ARMS)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def shown(plan: Plan, jobs: int = 1, *, every: bool = False) -> str:
    out = io.StringIO()
    print_plan(plan, Console(file=out, width=80, highlight=False), jobs, every=every)
    return out.getvalue()


def as_one_line(text: str) -> str:
    return " ".join(text.split())


def put(store: Store, study: Study, number: int, seed: int, accuracy: float | None = 0.9, /, **changes: Any) -> Record:
    """One run of an arm, with its journal as far as it went."""
    arm = study.arms[number]
    record = make_record(study, arm, seed, accuracy, **changes)
    add(store, record, make_rows(arm, seed, 0.9, record.epochs_done))
    return record


def left_with_a_state(store: Store, study: Study, number: int, seed: int, epochs: int) -> None:
    record = put(store, study, number, seed, None, status="interrupted", epochs_done=epochs, timings={})
    folder = store.find(record.run_id)
    assert folder
    folder.last.write_bytes(b"a state")


# --- how far each run is ------------------------------------------------------------------------


def test_each_run_has_a_mark_that_needs_no_colour(study: Study, store: Store) -> None:
    fill(store, study, {"small": [0.91, 0.92, 0.93], "no_se": [0.91]})
    put(store, study, 1, 1, None, status="diverged", epochs_done=2)
    left_with_a_state(store, study, 2, 0, 4)
    put(store, study, 2, 1, None, status="killed", epochs_done=0)
    text = shown(make_plan(study, store))
    rows = {line.split()[0]: line.split()[-1] for line in text.splitlines() if line.strip()}
    assert (rows["small"], rows["no_se"], rows["no_clip"]) == ("+++", "+x.", "~..")
    size = "3 arms x 3 seeds (0, 1, 2) = 9 runs"
    assert f"{size}: + 4 done, ~ 1 begun, . 3 to do, x 1 failed" in as_one_line(text)


def test_runs_of_other_hardware_are_marked_and_their_state_is_what_it_was(study: Study, store: Store) -> None:
    fill(store, study, {"small": [0.91, 0.92]})
    put(store, study, 0, 2, provenance=GPU)
    left_with_a_state(store, study, 1, 0, 4)
    put(store, study, 2, 0, None, status="crashed", epochs_done=2)
    on_gpu = make_plan(study, store, hardware=lambda precision: ("cuda", "fp32"))
    text = shown(on_gpu)
    rows = {line.split()[0]: line.split()[-1] for line in text.splitlines() if line.strip()}
    assert (rows["small"], rows["no_se"], rows["no_clip"]) == ("!!+", "!..", "x..")
    assert "+ 1 done, ! 3 on other hardware, . 4 to do, x 1 failed" in as_one_line(text)
    assert "! 2 runs finished on cpu in fp32, and here it would be cuda in fp32: ablate takes" in as_one_line(text)
    assert "! 1 run began on cpu in fp32, and here it would be cuda in fp32: ablate takes" in as_one_line(text)
    runs = [run for arm in to_json(on_gpu)["arms"] for run in arm["runs"]]
    assert [run["state"] for run in runs[:4]] == ["done", "done", "done", "to_do"]
    assert [run["made_on"] for run in runs[:5]] == ["cpu", "cpu", "cuda", "cpu", None]
    assert [bool(run["other_hardware"]) for run in runs[:5]] == [True, True, False, True, False]
    for here, refused in ((None, 0), (("cpu", "auto"), 1), (("cpu", "fp32"), 1), (("cpu", "bf16"), 4)):
        plan = make_plan(study, store, hardware=here and (lambda precision, here=here: here))
        assert sum(run.is_refused for run in plan.runs) == refused


def test_of_a_device_that_is_elsewhere_the_type_is_held_against_runs(harness: Harness) -> None:
    harness("run", "tiny.yaml", "--device", "cpu", "-o", "train.epochs=1")
    plan = "plan", "study.yaml", "-o", "train.epochs=1", "--device"
    told = "finished on cpu in fp32, and here it would be cuda in fp32"
    for options, expected in ((("cuda:63", "--explain"), told), (("cuda:63",), told), (("cpu",), None)):
        result = harness(*plan, *options, "--json")
        assert result.code == 0, result.err
        assert json.loads(result.out)["arms"][0]["runs"][0]["other_hardware"] == expected


def test_marks_of_many_seeds_are_counted(study: Study) -> None:
    runs = [PlannedRun(study.base, seed, "a" * 10, "done", None, None) for seed in range(12)]
    rest = [PlannedRun(study.base, seed, "a" * 10, "running", None, None) for seed in range(12, 17)]
    assert marks([*runs, *rest[:1]]) == "[green]+[/]" * 12 + "[cyan]>[/]"
    assert marks([*runs, *rest]) == "[green]12+[/] [cyan]5>[/]"


def test_a_long_study_is_shown_in_part(store: Store) -> None:
    arms = {f"lr_{number}": {"optim.optimizer.lr": 0.001 * (number + 1)} for number in range(80)}
    plan = make_plan(make_study(arms), store)
    text = shown(plan)
    assert "lr_58 " in text
    assert "lr_59 " not in text
    assert "and 21 more arms" in text
    assert "81 arms x 3 seeds (0, 1, 2) = 243 runs" in text
    assert "lr_79 " in shown(plan, every=True)


@pytest.mark.parametrize("name", ["quickstart", "components", "se_vs_nose", "small"])
def test_a_shipped_plan_is_80_columns_wide_and_needs_no_data(
    harness: Harness, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HARNESS_DATA_DIR", str(folder / "no_data"))
    monkeypatch.setattr(socket, "socket", None)
    for runs in (folder / "none", ROOT / "reports/evidence/small"):
        result = harness("plan", str(ROOT / f"ablations/{name}.yaml"), "--runs-dir", str(runs))
        assert (result.code, result.err) == (0, "")
        assert max(map(len, result.out.splitlines())) <= 80
    assert not list(folder.glob("no_data*"))


# --- what other studies have done ---------------------------------------------------------------


def test_arms_that_another_study_has_run_are_done(study: Study, store: Store) -> None:
    other = replace(make_study({"without": {"model.se": False}}), name="first")
    fill(store, other, {"small": [0.91, 0.92, 0.93], "without": [0.9, 0.9, 0.9]})
    put(store, study, 2, 0, study=None)
    plan = make_plan(study, store)
    assert [[run.state for run in arm.runs] for arm in plan.arms[:2]] == [["done"] * 3] * 2
    text = as_one_line(shown(plan))
    assert "6 runs of those done made for the study first: small, no_se" in text
    assert "1 run of those done made by `harness run`: no_clip" in text
    assert [run["made_by"] for run in to_json(plan)["arms"][1]["runs"]] == ["first"] * 3
    fill(own := Store(store.root.parent / "own"), study, {"small": [0.91]})
    assert "made" not in shown(make_plan(study, own))


# --- how long it takes --------------------------------------------------------------------------


def test_time_of_finished_runs_is_scaled_by_work(study: Study, store: Store) -> None:
    nothing = make_plan(study, store)
    assert nothing.expected_seconds() is None
    base, no_se, no_clip = (arm.cost.macs for arm in nothing.arms)
    fill(store, study, {"small": [0.91, 0.92, 0.93]}, **TOOK, macs=base)
    plan = make_plan(study, store)
    assert base == no_clip
    assert plan.expected_seconds() == pytest.approx(300 * (no_se + no_clip) / base)
    longer = make_study(TWO_ARMS, base={"train.epochs": 30})
    assert make_plan(longer, store).expected_seconds() == pytest.approx(900 * (base + no_se + no_clip) / base, rel=0.01)
    assert "from 3 finished runs of others, scaled by MACs" in as_one_line(shown(make_plan(longer, store)))


@pytest.mark.parametrize(
    ("base", "changes", "told"),
    [
        ({}, {}, True),
        ({"data.dataset": "digits"}, {}, False),
        ({"data.dataset": "cifar100"}, {}, False),  # as large, but other images
        ({"train.batch_size": 32}, {}, True),
        ({"train.batch_size": 16}, {}, False),
        ({}, {"macs": 1_000_000}, False),
        ({}, {"macs": 200_000_000}, False),
        ({}, {"timings": {"train": 9.0, "total": 100.0}}, False),
    ],
)
def test_time_is_told_by_runs_alike_alone(
    study: Study, store: Store, base: dict[str, Any], changes: dict[str, Any], told: bool
) -> None:
    [planned, *_] = make_plan(study, store).arms
    other = make_study({}, base={"train.epochs": 20, **base}, name="other")
    put(store, other, 0, 0, **({"macs": planned.cost.macs} | TOOK | changes))
    plan = make_plan(study, store)
    assert (plan.pace is not None) is told
    text = as_one_line(shown(plan))
    assert ("from 1 finished run of others" in text) is told
    assert ("time not known: no run on this data with steps like these tells it; --measure" in text) is not told


def test_records_of_data_that_this_version_does_not_know_are_passed_over(study: Study, store: Store) -> None:
    other = make_study({}, base={"train.epochs": 20}, name="other")
    record = make_record(other, other.base, 0, 0.9, **TOOK)
    record.spec["data"]["dataset"] = "svhn"
    add(store, record)
    own = make_record(study, study.base, 0, 0.9)
    own.spec["data"]["dataset"] = "svhn"
    add(store, own)
    plan = make_plan(study, store)
    assert (plan.pace, plan.count("done")) == (None, 1)


@pytest.mark.parametrize("held_out", [3, None])
def test_of_a_run_under_holdout_the_images_of_an_epoch_are_those_it_had(store: Store, held_out: int | None) -> None:
    """Of each of 3 classes of 6 images one is held out; before that was counted, a tenth of all."""
    content = {"image_shape": (3, 32, 32), "class_names": ("a", "b", "c"), "train_images": 18, "held_out": held_out}
    content |= {"test_images": 9, "digest": "d"}
    base = {
        "data": {"dataset": "folder", "protocol": "holdout", "folder": {"path": "x", "content": content}},
        "train.batch_size": 8,
    }
    study = make_study({}, base=base, seeds=[0])
    other = make_study({}, base=base | {"train.epochs": 20}, seeds=[0], name="other")
    macs = make_plan(study, store).arms[0].cost.macs
    record = make_record(other, other.base, 0, 0.9, **TOOK, macs=macs)
    add(store, record)
    pace = make_plan(study, store).pace
    assert pace
    assert pace.seconds_per_mac == pytest.approx(100 / (3 * macs * (15 if held_out else 16) * 20))


def test_a_short_run_tells_of_those_of_its_own_study_alone(study: Study, store: Store) -> None:
    short = {"train": 0.5, "total": 2.0}
    put(store, study, 1, 0, timings=short)
    assert make_plan(study, store).expected_seconds() == pytest.approx(8 * 2, rel=0.02)
    assert make_plan(make_study({}, base={"train.epochs": 20}), store).pace is None
    put(store, study, 0, 0, timings=short, macs=100_000_000)  # one that the base's steps resemble no more
    pace = make_plan(study, store).pace
    assert pace
    assert pace.source == "from 1 finished run of this study"


def test_a_run_that_stopped_early_counts_for_the_epochs_it_had(study: Study, store: Store) -> None:
    put(store, study, 0, 0, status="stopped_early", epochs_done=5, timings={"total": 50.0})
    plan = make_plan(study, store)
    assert plan.expected_seconds() == pytest.approx(100 * 8, rel=0.01)


def test_of_a_run_begun_only_the_rest_is_to_come(study: Study, store: Store) -> None:
    put(store, study, 0, 0, timings={"total": 100.0})
    before = make_plan(study, store).expected_seconds()
    left_with_a_state(store, study, 0, 1, 7)
    after = make_plan(study, store).expected_seconds()
    assert before
    assert after == pytest.approx(before - 70)


def test_a_failed_run_is_counted_apart(study: Study, store: Store) -> None:
    put(store, study, 0, 0, timings={"total": 7200.0})
    put(store, study, 0, 1, None, status="crashed", epochs_done=3)
    plan = make_plan(study, store)
    assert plan.expected_seconds(("failed",)) == pytest.approx(7200)
    assert plan.expected_seconds() == pytest.approx(7200 * 7, rel=0.01)
    assert "about 2 h more for what failed, with --retry-failed" in as_one_line(shown(plan))


def test_the_device_of_the_time_is_told(study: Study, store: Store) -> None:
    put(store, study, 0, 0, timings={"total": 36000.0})
    put(store, study, 0, 1, timings={"total": 3600.0}, provenance=GPU)
    on_gpu = make_plan(study, store, "cuda")
    assert on_gpu.expected_seconds() == pytest.approx(7 * 3600, rel=0.01)
    assert "of one NVIDIA H100 (7.0 GPU-hours), from 1 finished run of this study" in as_one_line(shown(on_gpu))
    assert make_plan(study, store, "cpu").expected_seconds() == pytest.approx(7 * 36000, rel=0.01)
    elsewhere = make_plan(study, store, "mps")  # none of the kind asked for: what is known, and of what
    assert elsewhere.pace
    assert elsewhere.pace.device_name in ("AMD EPYC 9B45", "NVIDIA H100")


def test_a_run_of_this_device_counts_before_one_of_this_study(study: Study, store: Store) -> None:
    other = make_study({}, base={"train.epochs": 20}, name="other")
    put(store, study, 0, 0, timings={"total": 100.0}, provenance=GPU)
    put(store, other, 0, 0, timings={"train": 2900.0, "total": 3000.0})
    pace = make_plan(study, store, "cpu").pace
    assert pace
    assert (pace.device_type, pace.source) == (
        "cpu",
        "from 1 finished run of others, scaled by MACs, images and epochs",
    )


def test_without_a_finished_run_the_epochs_of_unfinished_ones_tell(study: Study, store: Store) -> None:
    put(store, study, 0, 0, None, status="interrupted", epochs_done=4, timings={})  # 10 seconds an epoch
    plan = make_plan(study, store)
    assert plan.pace
    assert plan.pace.source == "from 4 epochs of unfinished runs of this study"
    assert plan.expected_seconds() == pytest.approx(9 * 100, rel=0.01)
    [(folder, _)] = store.entries()
    Journal(folder.journal_path).truncate(0)
    assert make_plan(study, store).pace is None


def test_wall_time_with_several_runs_at_once(study: Study, store: Store) -> None:
    assert schedule([3, 1, 1, 1], 2) == 3
    assert schedule([1, 1, 1, 3], 2) == 4
    assert schedule([2, 2], 5) == 2
    assert schedule([], 2) == 0
    put(store, study, 0, 0, timings={"total": 600.0})
    plan = make_plan(study, store)
    assert plan.wall_seconds(2) == pytest.approx(4 * 600, rel=0.01)
    assert plan.wall_seconds(100) == pytest.approx(600, rel=0.01)
    assert "with 2 at once about 40 min" in as_one_line(shown(plan, jobs=2))


def test_measured_steps_need_no_data(harness: Harness, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", None)
    (folder / "study.yaml").write_text((folder / "study.yaml").read_text() + "overrides: {data.dataset: cifar10}\n")
    assert json.loads(harness("plan", "study.yaml", "--json").out)["expected"] is None
    result = harness("plan", "study.yaml", "--measure", "--device", "cpu", "--json")
    assert (result.code, result.err) == (0, "")
    expected = json.loads(result.out)["expected"]
    assert expected["device_type"] == "cpu"
    assert "measured here" in expected["source"]
    assert expected["device_seconds"] > 0
    assert not Path("runs").exists()
    assert not Path("data").exists()


def test_what_is_measured_is_the_time_of_a_run(harness: Harness, folder: Path) -> None:
    """Within a factor that a busy machine may make."""
    from harness.spec.documents import load_experiment

    spec = load_experiment(folder / "tiny.yaml", ["train.epochs=20"])
    pace = measure(spec, "cpu")
    record = json.loads(harness("run", "tiny.yaml", "--device", "cpu", "-o", "train.epochs=20", "--json").out)
    measured = pace.seconds_per_mac * 3 * record["macs"] * spec.train_images * 20
    assert 0.1 < measured / record["timings"]["train"] < 10


# --- what the seeds can show --------------------------------------------------------------------


def test_the_spread_is_of_this_study_else_of_runs_like_it_else_assumed(study: Study, store: Store) -> None:
    assert make_plan(study, store).spread.is_guess
    alike = make_study({"wide": {"model.width": 24}}, name="alike", base={"optim.optimizer.lr": 0.2})
    fill(store, alike, {"small": [0.90, 0.92, 0.94], "wide": [0.91]})
    shorter = make_study({}, name="shorter", base={"train.epochs": 5})
    fill(store, shorter, {"small": [0.1, 0.5, 0.9]})
    spread = make_plan(study, store).spread
    assert (spread.sd, spread.df) == (pytest.approx(0.02), 2)
    assert "other finished runs" in spread.source
    fill(store, study, {"small": [0.90, 0.91, 0.92]})
    own = make_plan(study, store).spread
    assert (own.sd, own.df, own.is_guess) == (pytest.approx(0.01), 2, True)
    assert "1.00 points over seeds, pooled over this study's finished runs (2 degrees of freedom: a guess)" in (
        as_one_line(shown(make_plan(study, store)))
    )


def test_runs_on_the_same_images_in_another_place_are_alike(store: Store) -> None:
    content = {"image_shape": (3, 32, 32), "class_names": ("a", "b"), "train_images": 200, "test_images": 9}
    content |= {"digest": "d"}

    def images(**changes: Any) -> dict[str, Any]:
        folder = {"path": "x", "size": 32, "content": content} | changes
        return {"data": {"dataset": "folder", "folder": folder}, "train.batch_size": 32}

    elsewhere = make_study({}, base=images(path="y") | {"optim.optimizer.lr": 0.2}, name="elsewhere")
    fill(store, elsewhere, {"small": [0.90, 0.92, 0.94]})
    assert make_plan(make_study({}, base=images()), store).spread.sd == pytest.approx(0.02)
    for other in (images(content=content | {"digest": "e"}), images(size=None)):
        assert make_plan(make_study({}, base=other), store).spread.is_guess


@pytest.mark.parametrize(("seeds", "told"), [((0, 1), [2, 3, 5, 8]), ((0, 1, 2), [3, 5, 8, 10])])
def test_more_seeds_show_less(store: Store, seeds: Sequence[int], told: list[int]) -> None:
    plan = make_plan(make_study(TWO_ARMS, seeds=seeds), store)
    assert [n for n, _ in plan.more_seeds] == told
    assert [value for _, value in plan.more_seeds] == [detectable_difference(n, 2, 0.002) for n in told]
    text = as_one_line(shown(plan))
    assert f"5 seeds {100 * (detectable_difference(5, 2, 0.002) or 0):.2f}" in text
    assert "no verdict is possible" not in text


def test_one_seed_shows_nothing(store: Store) -> None:
    plan = make_plan(make_study(TWO_ARMS, seeds=[0]), store)
    assert (plan.detectable_difference, plan.more_seeds) == (None, ())
    assert "no verdict is possible" in as_one_line(shown(plan))


def test_of_a_base_alone_there_is_nothing_to_find(store: Store) -> None:
    plan = make_plan(make_study({}), store)
    assert (plan.detectable_difference, plan.more_seeds) == (None, ())
    assert "points over seeds" not in shown(plan)


# --- the command --------------------------------------------------------------------------------


def test_the_document_has_the_keys_that_scripts_rely_on(study: Study, store: Store) -> None:
    put(store, study, 0, 0, timings={"total": 100.0}, provenance=dict(PROVENANCE))
    document = to_json(make_plan(study, store), jobs=2)
    assert document.keys() >= {"study", "detectable_difference", "smallest_sign_flip_p", "arms", "expected_seconds"}
    assert document["arms"][0].keys() >= {"name", "overrides", "trainable_parameters", "macs", "runs"}
    run = document["arms"][0]["runs"][0]
    assert run.keys() >= {"seed", "run_id", "state"}
    assert (run["state"], run["status"]) == ("done", "completed")
    assert document["expected"]["wall_seconds"] == pytest.approx(400, rel=0.01)
    json.dumps(document, allow_nan=False)


def test_an_unknown_device_is_a_mistake_and_one_that_is_elsewhere_is_none(harness: Harness) -> None:
    assert harness("plan", "study.yaml", "--device", "cuda:3").code == 0
    result = harness("plan", "study.yaml", "--device", "gpu")
    assert result.code == 2
    assert "'gpu' is no device" in result.err
