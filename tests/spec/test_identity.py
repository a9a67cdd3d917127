from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic.fields import FieldInfo

from harness.spec import identity
from harness.spec.composition import apply_overrides
from harness.spec.documents import experiment_from_dict, load_experiment
from harness.spec.experiment import ExperimentSpec, Model, Spec
from harness.spec.fields import field_paths, leaf_paths, submodels
from harness.spec.identity import canonical, run_id, spec_digest

ROOT = Path(__file__).parents[2]

# Fields that change no result; the seed is in the run's identity, not in the spec's.
INERT = {"name", "notes", "seed", "guard.max_parameters"}

EVERYTHING_ON = {
    "name": "full",
    "model": {"depths": [2, 2], "width": 32, "se": {"placement": "block", "reduction": 4}, "dropout": 0.1},
    "data": {"dataset": "digits", "protocol": "holdout"},
    "augment": {"crop": {"padding": 2}, "flip": True, "cutmix": {"probability": 0.3, "alpha": 0.7}},
    "optim": {
        "optimizer": {"kind": "sgd", "lr": 0.2, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
        "schedule": {"kind": "cosine"},
        "lookahead": {"k": 3, "alpha": 0.3},
        "clip": {"kind": "value", "value": 0.3},
    },
    "train": {
        "epochs": 3,
        "batch_size": 32,
        "early_stopping": {"monitor": "train_loss", "patience": 2},
        "precision": "fp32",
        "deterministic": True,
    },
}


# Never edit these for a new field: a neutral default keeps them. They change with `NUMERICS`, or with the files.
GOLDEN_FULL = (
    '{"augment":{"crop":{"padding":2},"cutmix":{"alpha":0.7,"probability":0.3},"flip":true},'
    '"data":{"dataset":"digits","protocol":"holdout"},'
    '"model":{"depths":[2,2],"dropout":0.1,"se":{"placement":"block","reduction":4},"width":[32,64]},'
    '"optim":{"clip":{"kind":"value","value":0.3},"lookahead":{"alpha":0.3,"k":3},'
    '"optimizer":{"lr":0.2,"momentum":0.8,"nesterov":true,"weight_decay":0.01},"schedule":{"kind":"cosine"}},'
    '"train":{"batch_size":32,"deterministic":true,"early_stopping":{"monitor":"train_loss","patience":2},'
    '"epochs":3,"precision":"fp32"}}'
)
GOLDEN_BASELINE = (
    '{"augment":{"crop":{},"cutmix":{},"flip":true},"data":{"dataset":"cifar10"},'
    '"model":{"depths":[4,4,3],"dropout":0.1,"se":{},"width":[64,128,256]},'
    '"optim":{"clip":{"value":0.1},"lookahead":{},'
    '"optimizer":{"lr":0.1,"momentum":0.9,"weight_decay":0.0005},"schedule":{"kind":"cosine"}},'
    '"train":{"batch_size":128,"early_stopping":{"patience":80},"epochs":200}}'
)
GOLDEN_IDS: list[tuple[list[str], int, str]] = [
    ([], 0, "c241a440f4"),
    ([], 1, "46f1fcb6a2"),
    (["model.se=false"], 0, "7bd5feb7dd"),
    (["model.width=16", "model.depths=[1, 1, 1]"], 0, "9f315a023b"),
    (["data.dataset=digits", "data.protocol=full", "train.early_stopping=null", "augment.flip=false"], 0, "e6998a02db"),
    (["optim.lookahead=null", "optim.clip={kind: value, value: 0.1}", "train.precision=fp32"], 4, "d15854147b"),
]


def literals(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is Literal:
        return list(typing.get_args(annotation))
    return [choice for argument in typing.get_args(annotation) for choice in literals(argument)]


def another(value: Any, info: FieldInfo) -> Any:
    """A valid value of the field that differs from `value`."""
    if choices := literals(info.annotation):
        return next((choice for choice in choices if choice != value), None)
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value / 2
    return [item + 1 for item in value] if isinstance(value, list) else value + 1


def value_at(tree: Any, path: str) -> Any:
    for part in path.split("."):
        tree = tree[part]
    return tree


RESULT_FIELDS = [path for path in leaf_paths(ExperimentSpec) if path not in INERT]
ONE_CHOICE = {"optim.optimizer.kind"}  # nothing to change it to, yet


@pytest.mark.parametrize("path", RESULT_FIELDS)
def test_each_field_that_can_change_a_result_changes_the_identity(path: str) -> None:
    value = value_at(EVERYTHING_ON, path)  # a KeyError: a new field is to be added above
    other = another(value, field_paths(ExperimentSpec)[path])
    if path in ONE_CHOICE:
        assert other is None
        return
    changed = experiment_from_dict(apply_overrides(EVERYTHING_ON, {path: other}))
    assert run_id(changed, 0) != run_id(experiment_from_dict(EVERYTHING_ON), 0)


TOGGLES = [p for p, i in field_paths(ExperimentSpec).items() if submodels(i.annotation) and i.default is None]


@pytest.mark.parametrize("path", TOGGLES)
def test_each_toggle_changes_the_identity(path: str) -> None:
    off = experiment_from_dict(apply_overrides(EVERYTHING_ON, {path: None}))
    assert run_id(off, 0) != run_id(experiment_from_dict(EVERYTHING_ON), 0)


def test_the_toggles_are_found() -> None:
    assert {"model.se", "augment.cutmix", "optim.clip", "train.early_stopping"} <= set(TOGGLES)


@pytest.mark.parametrize(
    ("path", "value"), [("name", "b"), ("notes", "x"), ("seed", 9), ("guard.max_parameters", None)]
)
def test_inert_fields_do_not(path: str, value: Any) -> None:
    changed = experiment_from_dict(apply_overrides(EVERYTHING_ON, {path: value}))
    assert canonical(changed) == canonical(experiment_from_dict(EVERYTHING_ON))
    assert path in INERT


def test_the_seed_and_the_numerics_are_in_the_run(spec: ExperimentSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {run_id(spec, seed) for seed in range(100)}
    assert len(ids) == 100
    digest = spec_digest(spec)
    monkeypatch.setattr(identity, "NUMERICS", identity.NUMERICS + 1)
    assert run_id(spec, 0) not in ids
    assert spec_digest(spec) == digest


def test_ids_are_short_hex(spec: ExperimentSpec) -> None:
    assert len(run_id(spec, 0)) == 10
    assert len(spec_digest(spec)) == 16
    int(run_id(spec, 0) + spec_digest(spec), 16)


def test_a_width_is_what_it_means(plain: dict[str, Any]) -> None:
    short = experiment_from_dict(apply_overrides(plain, {"model": {"depths": [1, 1, 1], "width": 16}}))
    full = experiment_from_dict(apply_overrides(plain, {"model": {"depths": [1, 1, 1], "width": [16, 32, 64]}}))
    assert run_id(short, 0) == run_id(full, 0)
    assert canonical(short)["model"]["width"] == [16, 32, 64]


@pytest.mark.parametrize(
    ("path", "one", "other"),
    [
        ("model.se", True, {"placement": "stem", "reduction": 16}),
        ("model.se", False, None),
        ("augment.cutmix", {}, {"probability": 0.5, "alpha": 1}),
        ("optim.optimizer.momentum", 0, 0.0),
        ("optim.optimizer.momentum", 0, -0.0),
        ("optim.optimizer.lr", 1, 1.0),
    ],
)
def test_two_ways_to_write_the_same_are_one_identity(plain: dict[str, Any], path: str, one: Any, other: Any) -> None:
    first, second = (experiment_from_dict(apply_overrides(plain, {path: value})) for value in (one, other))
    assert run_id(first, 0) == run_id(second, 0)


def test_on_with_neutral_settings_is_not_off(plain: dict[str, Any]) -> None:
    on = experiment_from_dict(apply_overrides(plain, {"model.se": True}))
    assert canonical(on)["model"]["se"] == {}
    assert "se" not in canonical(experiment_from_dict(plain))["model"]
    assert run_id(on, 0) != run_id(experiment_from_dict(plain), 0)


def test_a_field_added_later_with_a_neutral_default_keeps_old_identities(plain: dict[str, Any]) -> None:
    class LaterModel(Model):
        kernel: int = 3

    class Loss(Spec):
        label_smoothing: float = 0.0

    class LaterSpec(ExperimentSpec):
        model: LaterModel
        loss: Loss = Loss()

    for tree in (plain, EVERYTHING_ON):
        assert spec_digest(LaterSpec.model_validate(tree)) == spec_digest(ExperimentSpec.model_validate(tree))
    changed = LaterSpec.model_validate(apply_overrides(plain, {"model.kernel": 5}))
    assert spec_digest(changed) != spec_digest(ExperimentSpec.model_validate(plain))


def test_the_data_are_in_the_identity(spec: ExperimentSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from harness.spec.datasets import DATASETS

    before = spec_digest(spec)
    monkeypatch.setitem(DATASETS, "digits", replace(DATASETS["digits"], digest="other pixels"))
    assert spec_digest(spec) != before


def test_what_is_hashed_is_pinned() -> None:
    """What a spec's identity rests on, to the letter: a change here orphans every run ever made."""
    assert as_text(experiment_from_dict(EVERYTHING_ON)) == GOLDEN_FULL
    assert as_text(load_experiment(ROOT / "experiments/baseline.yaml")) == GOLDEN_BASELINE


def as_text(spec: ExperimentSpec) -> str:
    return json.dumps(canonical(spec), sort_keys=True, separators=(",", ":"))


@pytest.mark.parametrize(("overrides", "seed", "golden"), GOLDEN_IDS)
def test_run_ids_of_the_baseline_are_pinned(overrides: list[str], seed: int, golden: str) -> None:
    assert run_id(load_experiment(ROOT / "experiments/baseline.yaml", overrides), seed) == golden
