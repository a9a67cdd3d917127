"""`plan --explain`: why each run that is to do was not taken from the store."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from harness.spec import identity
from harness.spec.ablation import Arm, Study
from harness.spec.difference import Difference, differences
from harness.spec.documents import apply_overrides, experiment_from_dict
from harness.spec.experiment import ExperimentSpec
from harness.study.explain import Explainer, Reason
from harness.study.nearest import Nearest, _leaves
from harness.study.plan import make_plan
from harness.terminal.reasons import print_reasons
from harness.tracking.record import Record
from harness.tracking.store import Store
from tests.conftest import TINY, Harness
from tests.reporting.synthetic import BASE, add, make_record, make_study

HERE = ("cpu", "fp32")  # what the made-up records were made on


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def made(base: Mapping[str, Any] | None = None, **arms: dict[str, Any]) -> Study:
    return make_study(arms, seeds=[0], base=base)


def reasons(study: Study, store: Store, here: tuple[str, str] = HERE) -> dict[tuple[str, int], Reason | None]:
    plan = make_plan(study, store, hardware=lambda precision: here)
    explainer = Explainer(plan, store)
    return {(run.arm.name, run.seed): explainer.why(run) for run in plan.runs}


def of_the_base(study: Study, store: Store, here: tuple[str, str] = HERE) -> Reason:
    reason = reasons(study, store, here)[study.base.name, 0]
    assert reason
    return reason


def put(store: Store, study: Study, /, seed: int = 0, accuracy: float | None = 0.9, **changes: Any) -> Record:
    record = make_record(study, study.base, seed, accuracy, **changes)
    add(store, record)
    return record


def shown(study: Study, store: Store) -> str:
    out = io.StringIO()
    plan = make_plan(study, store)
    print_reasons(plan, Explainer(plan, store), Console(file=out, width=80, highlight=False))
    return out.getvalue()


# --- each reason has its sentence ---------------------------------------------------------------


def test_nothing_is_said_of_what_is_done(store: Store) -> None:
    put(store, made())
    assert reasons(made(), store) == {("small", 0): None}
    assert "every run is in the store" in shown(made(), store)


def test_nothing_near(store: Store) -> None:
    assert of_the_base(made(), store).text == "nothing like it in the store"
    far = made({"train.epochs": 3, "model.width": 24, "optim.optimizer.lr": 0.3, "model.dropout": 0.2})
    put(store, far)
    assert of_the_base(made(), store).kind == "nothing_near"


def test_one_field_changed(store: Store) -> None:
    record = put(store, made({"train.epochs": 5}))
    put(store, made({"train.epochs": 5, "optim.optimizer.lr": 0.2}))
    reason = of_the_base(made(), store)
    assert reason.kind == "other_fields"
    assert reason.text == "the nearest finished run has train.epochs 5, here 10"
    assert reason.nearest == record
    assert reason.differences == (Difference("train.epochs", 10, 5),)


def test_another_seed_of_the_nearest_run_is_no_reason_of_its_own(store: Store) -> None:
    put(store, made({"train.epochs": 5}), 3)
    reason = of_the_base(made(), store)
    assert reason.text == "the nearest finished run has train.epochs 5, here 10"
    assert reason.differences == (Difference("train.epochs", 10, 5), Difference("seed", 0, 3))


def test_a_toggle_that_is_off_in_one_is_one_difference(store: Store) -> None:
    put(store, made({"augment.cutmix": {"probability": 0.3, "alpha": 0.5}, "optim.clip": None}))
    off, on = made({"augment.cutmix": None, "optim.clip": None}), made({"optim.schedule": {"kind": "constant"}})
    assert "has augment.cutmix {alpha: 0.5, probability: 0.3}, here off" in of_the_base(off, store).text.replace(
        "{probability: 0.3, alpha: 0.5}", "{alpha: 0.5, probability: 0.3}"
    )
    fields = {item.field for item in of_the_base(made({"augment.cutmix": None}), store).differences}
    assert fields == {"augment.cutmix", "optim.clip"}
    other_kind = differences(on.base.spec, made().base.spec)
    assert [item.field for item in other_kind] == ["optim.schedule"]


def test_depths_are_not_told_as_widths(store: Store) -> None:
    put(store, made({"model.depths": [1, 1, 1]}))
    assert of_the_base(made(), store).differences == (Difference("model.depths", [1, 1], [1, 1, 1]),)


def test_another_seed(store: Store) -> None:
    for seed in (3, 1):
        put(store, made(), seed)
    reason = of_the_base(made(), store)
    assert (reason.kind, reason.text) == ("other_seed", "finished with other seeds only: 1, 3")
    assert reason.differences == (Difference("seed", 0, 1),)


def test_other_numerics(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    old = put(store, made())
    put(store, made(), 1)
    monkeypatch.setattr(identity, "NUMERICS", identity.NUMERICS + 1)
    put(store, made(), 2, numerics=identity.NUMERICS)
    reason = of_the_base(made(), store)
    assert (reason.kind, reason.nearest) == ("other_numerics", old)
    assert f"numerics {old.numerics}, now {identity.NUMERICS}" in reason.text
    assert reason.differences == (Difference("numerics", identity.NUMERICS, old.numerics),)


def test_another_seed_and_other_numerics(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, made(), 1)
    monkeypatch.setattr(identity, "NUMERICS", identity.NUMERICS + 1)
    reason = of_the_base(made(), store)
    assert reason.kind == "other_seed"
    assert "only: 1, and those were made by code that computed otherwise" in reason.text


def test_other_data(store: Store) -> None:
    put(store, made(), spec_digest="0" * 16, run_id="0" * 10, provenance={"data_digest": "ffff0000ffff0000"})
    reason = of_the_base(made(), store)
    assert reason.kind == "other_data"
    assert reason.text.startswith("finished on other data (digest ffff0000ffff, here 80387ddb9a0e)")


def test_another_teacher(store: Store) -> None:
    def learning(digest: str) -> Study:
        return made({"loss.distill": {"teacher": "teacher.pt", "teacher_digest": 64 * digest}})

    put(store, learning("a"))
    reason = of_the_base(learning("b"), store)
    assert reason.kind == "other_teacher"
    assert reason.text.startswith("finished with another teacher (weights 'aaaa")


def test_a_teacher_that_is_not_trained(harness: Harness, folder: Path) -> None:
    (folder / "teacher.yaml").write_text(TINY.replace("name: tiny", "name: teacher").replace("width: 4", "width: 8"))
    (folder / "study.yaml").write_text(
        "name: study\nbase: tiny.yaml\narms:\n  taught: {loss.distill.teacher: teacher.yaml}\n"
    )
    document = json.loads(harness("plan", "study.yaml", "--explain", "--json").out)
    why = document["arms"][1]["runs"][0]["why"]
    assert why["kind"] == "awaits_teacher"
    assert why["text"].startswith("its teacher, teacher.yaml, is not trained yet")
    assert document["teachers"][0]["runs"][0]["why"]["kind"] == "nothing_near"
    told = " ".join(harness("plan", "study.yaml", "--explain").out.split())
    assert "2 runs nothing like it in the store teacher, tiny" in told


@pytest.mark.parametrize("status", ["diverged", "crashed", "out_of_memory"])
def test_a_failure(store: Store, status: str) -> None:
    put(store, made(), 0, None, status=status, epochs_done=4, error={"message": "no luck"})
    reason = of_the_base(made(), store)
    assert reason.kind == "failed"
    words = status.replace("_", " ")
    assert reason.text == f"{words} after epoch 4 of 10 (no luck): --retry-failed runs it again"


@pytest.mark.parametrize(
    ("status", "told"), [("interrupted", "interrupted"), ("killed", "killed"), ("running", "killed")]
)
@pytest.mark.parametrize("saved", [True, False])
def test_a_run_that_was_left(store: Store, status: str, told: str, saved: bool) -> None:
    record = put(store, made(), 0, None, status=status, epochs_done=4)
    folder = store.find(record.run_id)
    assert folder
    if saved:
        folder.previous.write_bytes(b"a state")
    reason = of_the_base(made(), store)
    assert reason.kind == "left"
    goes_on = "its state is saved, and it goes on there" if saved else "no state was saved, and it begins again"
    assert reason.text == f"{told} after epoch 4 of 10: {goes_on}"


def test_a_damaged_record(store: Store) -> None:
    record = put(store, made())
    folder = store.find(record.run_id)
    assert folder
    folder.record_path.write_text("{")
    reason = of_the_base(made(), store)
    assert reason.kind == "damaged"
    assert str(folder.record_path) in reason.text
    assert "--fresh" in reason.text
    folder.record_path.unlink()
    assert of_the_base(made(), store).text == "ended before its first step: it begins again"


def test_a_record_that_is_lost(store: Store) -> None:
    """As after somebody removed it, or copied the folder without it."""
    record = put(store, made())
    folder = store.find(record.run_id)
    assert folder
    folder.record_path.unlink()
    folder.journal_path.write_text("")
    begins_again = "its record is lost: no state was saved, and it begins again"
    assert of_the_base(made(), store).text == begins_again
    folder.last.write_bytes(b"a state")
    assert of_the_base(made(), store).text == "its record is lost: its state is saved, and it goes on there"


def test_a_run_put_aside(store: Store) -> None:
    record = put(store, made())
    path = store.set_aside(record.run_id)
    assert store.aside() == {record.run_id: path}
    reason = of_the_base(made(), store)
    assert reason.kind == "put_aside"
    assert str(path) in reason.text


def test_other_hardware(store: Store) -> None:
    put(store, made())
    reason = of_the_base(made(), store, ("cuda", "bf16"))
    assert reason.kind == "other_hardware"
    assert reason.text.startswith("finished on cpu in fp32, and here it would be cuda in bf16: --any-device")


# --- many runs ----------------------------------------------------------------------------------


def test_many_runs_with_one_reason_are_told_together(store: Store) -> None:
    rates = {f"lr_{number}": {"optim.optimizer.lr": 0.001 * (number + 1)} for number in range(300)}
    put(store, made())
    put(store, made({"optim.optimizer.lr": 0.05}), 1)
    put(store, made({"optim.optimizer.lr": 0.001 * 51}), 0, None, status="diverged", epochs_done=1)
    text = shown(made(None, **rates), store)
    lines = text.splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    folded = " ".join(text.split())
    assert folded.index("1 run diverged") < folded.index("297 runs") < folded.index("1 run finished")
    assert "297 runs the nearest finished run differs in optim.optimizer.lr lr_0, lr_1, lr_2, lr_3 and" in folded
    assert "1 run finished with other seeds only: 1 lr_49" in folded
    assert "1 run diverged after epoch 1 of 10: --retry-failed runs it again lr_50" in folded


def test_the_document_tells_each_run(harness: Harness, folder: Path) -> None:
    study = json.loads(harness("plan", "study.yaml", "--json").out)
    assert "why" not in study["arms"][0]["runs"][0]
    harness("run", "tiny.yaml", "--device", "cpu")
    document = json.loads(harness("plan", "study.yaml", "--device", "cpu", "--explain", "--json").out)
    first, second = document["arms"][0]["runs"]
    assert first["why"] is None
    assert second["why"]["kind"] == "other_seed"
    assert second["why"]["nearest"] == first["run_id"]
    assert second["why"]["differences"] == [{"field": "seed", "here": 1, "there": 0}]
    assert document["arms"][1]["runs"][0]["why"]["kind"] == "other_fields"
    text = harness("plan", "study.yaml", "--device", "cpu", "--explain").out
    assert "augment.cutmix" in text
    assert f"nearest: run {first['run_id']} (tiny seed 0)" in text


SPECS = [
    experiment_from_dict(apply_overrides(BASE, overrides))
    for overrides in (
        {},
        {"train.epochs": 5},
        {"model.se": False},
        {"model.depths": [1, 1, 1]},
        {"optim.schedule": {"kind": "constant"}},
        {"augment.cutmix": None, "augment.mixup": True},
        {"model.width": 32, "train.epochs": 5, "augment.crop": None},
        {"data.protocol": "full", "loss.label_smoothing": 0.1},
    )
]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(SPECS), min_size=1, max_size=6), st.lists(st.sampled_from(SPECS), max_size=6))
def test_the_matrices_find_what_counting_finds(stored: list[ExperimentSpec], wanted: list[ExperimentSpec]) -> None:
    def distance(one: ExperimentSpec, other: ExperimentSpec) -> int:
        fields, theirs = (dict(_leaves(identity.canonical(spec))) for spec in (one, other))
        return sum(fields.get(path) != theirs.get(path) for path in fields.keys() | theirs.keys())

    found = list(Nearest(stored).of(wanted))
    assert len(found) == len(wanted)
    for spec, (position, differing) in zip(wanted, found, strict=True):
        assert distance(spec, stored[position]) == min(distance(spec, other) for other in stored)
        assert differing == differences(spec, stored[position])


def test_of_two_as_near_the_one_of_the_same_name() -> None:
    base, *_ = SPECS
    names = [base.model_copy(update={"name": name}) for name in ("a", "b", "c")]
    wanted = SPECS[1].model_copy(update={"name": "b"})
    assert [position for position, _ in Nearest(names).of([wanted])] == [1]


def test_arms_are_compared_once_whatever_their_seeds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, made({"train.epochs": 5}))
    study = make_study({"no_se": {"model.se": False}}, seeds=range(10))
    plan = make_plan(study, store)
    calls: list[Arm] = []
    original = identity.canonical

    def counting(spec: Any) -> Any:
        calls.append(spec)
        return original(spec)

    monkeypatch.setattr(identity, "canonical", counting)
    explainer = Explainer(plan, store)
    assert all(explainer.why(run) for run in plan.runs)
    assert len(calls) == 2 * 2 + 1  # of each arm for its digest and its comparison; of the stored one
