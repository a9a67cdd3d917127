from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from harness.errors import InputError
from harness.spec import identity
from harness.spec.base import Spec
from harness.spec.composition import apply_overrides
from harness.spec.diagnostics import of_kind
from harness.spec.documents import experiment_from_dict, load_experiment
from harness.spec.experiment import ExperimentSpec
from harness.spec.fields import field_paths, fields_of, leaf_paths, submodels
from harness.spec.identity import canonical, run_id, spec_digest
from harness.spec.model import Model

ROOT = Path(__file__).parents[2]

# Fields that change no result; the seed is in the run's identity, not in the spec's. What lies at a path is in it by
# its digest, which for a folder is in its content.
INERT = {
    "name",
    "notes",
    "seed",
    "guard.max_parameters",
    "data.folder.path",
    "data.folder.content.image_shape",
    "data.folder.content.class_names",
    "data.folder.content.train_images",
    "data.folder.content.held_out",
    "data.folder.content.test_images",
    "loss.distill.teacher",
}

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
CONTENT = {
    "image_shape": [3, 8, 8],
    "class_names": ["a", "b"],
    "train_images": 90,
    "test_images": 10,
    "digest": "0123456789abcdef",
}
# Laid over it one at a time, so that together they hold every field of every kind.
SETTINGS: list[dict[str, Any]] = [
    {},
    {
        "model.kernel_size": [3, 5],
        "model.block": "preactivation",
        "model.norm": "none",
        "model.stochastic_depth": 0.2,
        "augment.rotation": {"degrees": 10.0},
        "augment.scaling": {"low": 0.6, "high": 1.3},
        "augment.trivial_augment": True,
        "augment.cutout": {"size": 4},
        "augment.mixup": {"probability": 0.4, "alpha": 0.6},
        "optim.warmup": {"epochs": 1, "start": 0.2},
        "optim.ema": {"decay": 0.9},
        "optim.optimizer.exempt_norm_and_bias": True,
        "loss.label_smoothing": 0.1,
        "loss.distill": {"teacher": "t.yaml", "temperature": 2.0, "weight": 0.4, "teacher_digest": "ab" * 32},
        "train.compile": True,
        "evaluation.flip_tta": True,
    },
    {"model.shortcut": "none"},
    {"model.zero_init": True},
    {
        "optim.optimizer": {
            "kind": "adamw",
            "lr": 0.001,
            "betas": [0.8, 0.9],
            "eps": 1e-6,
            "weight_decay": 0.1,
            "exempt_norm_and_bias": True,
        }
    },
    {"optim.schedule": {"kind": "cosine", "min_lr": 0.01}},
    {
        "optim.schedule": {
            "kind": "one_cycle",
            "peak_at": 0.2,
            "start_divisor": 5.0,
            "end_divisor": 10.0,
            "anneal": "linear",
        }
    },
    {"optim.schedule": {"kind": "cyclic", "min_lr": 0.01, "half_cycle": 2, "mode": "exp_range", "gamma": 0.9}},
    {"optim.schedule": {"kind": "cyclic", "min_lr": 0.01, "half_cycle": 2, "mode": "triangular2"}},
    {"optim.schedule": {"kind": "multi_step", "milestones": [1], "gamma": 0.5}, "train.epochs": 9},
    {
        "optim.schedule": {
            "kind": "plateau",
            "monitor": "val_accuracy",
            "factor": 0.5,
            "patience": 3,
            "threshold": 0.01,
            "min_lr": 0.001,
        }
    },
    {"data": {"dataset": "folder", "protocol": "paper", "folder": {"path": "x", "size": 8, "content": CONTENT}}},
]


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
    """A valid value of the field that differs from `value`; None where there is none."""
    if choices := literals(info.annotation):
        return next((choice for choice in choices if choice != value), None)
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value.replace("a", "c")
    if isinstance(value, list):
        return [item / 2 if isinstance(item, float) else item + 2 for item in value]
    return value / 2 if isinstance(value, float) else value + 1


def value_at(tree: Any, path: str) -> Any:
    """The value, or None where the tree does not have the path."""
    for part in path.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


RESULT_FIELDS = [path for path in leaf_paths(ExperimentSpec) if path not in INERT]
ONE_CHOICE = {"optim.optimizer.kind", "optim.schedule.kind"}  # each kind has a model of its own: see below


@pytest.mark.parametrize("path", RESULT_FIELDS)
def test_each_field_that_can_change_a_result_changes_the_identity(path: str) -> None:
    trees = [apply_overrides(EVERYTHING_ON, setting) for setting in SETTINGS]
    trees = [tree for tree in trees if value_at(tree, path) is not None]
    assert trees, "a new field is to be added to SETTINGS"
    if path in ONE_CHOICE:
        return
    changes = 0
    for tree in trees:
        kind = of_kind(submodels_at(path), value_at(tree, path.rpartition(".")[0]))
        other = another(value_at(tree, path), fields_of(kind)[path.rpartition(".")[2]])
        try:
            changed = experiment_from_dict(apply_overrides(tree, {path: other}))
        except InputError:
            continue  # does not go together with the rest of this tree
        changes += 1
        assert run_id(changed, 0) != run_id(experiment_from_dict(tree), 0)
    assert changes


def submodels_at(path: str) -> tuple[type[BaseModel], ...]:
    parent = path.rpartition(".")[0]
    return submodels(field_paths(ExperimentSpec)[parent].annotation) if parent else (ExperimentSpec,)


def test_all_settings_differ() -> None:
    """The kinds of optimiser and schedule too."""
    specs = [experiment_from_dict(apply_overrides(EVERYTHING_ON, setting)) for setting in SETTINGS]
    assert len({run_id(spec, 0) for spec in specs}) == len(SETTINGS)
    assert {spec.optim.schedule.kind for spec in specs} | {"constant"} == {
        "constant",
        *(literals(model.model_fields["kind"].annotation)[0] for model in submodels_at("optim.schedule.kind")),
    }


TOGGLES = [p for p, i in field_paths(ExperimentSpec).items() if submodels(i.annotation) and i.default is None]
TOGGLES = [path for path in TOGGLES if not path.startswith("data.folder")]  # not a toggle: dataset folder needs it


@pytest.mark.parametrize("path", TOGGLES)
def test_each_toggle_changes_the_identity(path: str) -> None:
    on = next(t for t in (apply_overrides(EVERYTHING_ON, s) for s in SETTINGS) if value_at(t, path) is not None)
    off = experiment_from_dict(apply_overrides(on, {path: None}))
    assert run_id(off, 0) != run_id(experiment_from_dict(on), 0)


def test_the_toggles_are_found() -> None:
    assert {"model.se", "augment.cutmix", "optim.clip", "train.early_stopping"} <= set(TOGGLES)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", "b"),
        ("notes", "x"),
        ("seed", 9),
        ("guard.max_parameters", None),
        ("data.folder.path", "elsewhere"),
        ("loss.distill.teacher", "runs/teacher-1234567890"),
    ],
)
def test_inert_fields_do_not(path: str, value: Any) -> None:
    section = path.rpartition(".")[0] or "name"
    on = next(
        t for t in (apply_overrides(EVERYTHING_ON, s) for s in SETTINGS) if section == "guard" or value_at(t, section)
    )
    changed = experiment_from_dict(apply_overrides(on, {path: value}))
    assert canonical(changed) == canonical(experiment_from_dict(on))
    assert path in INERT


def test_no_identity_before_the_teacher_is_known(plain: dict[str, Any]) -> None:
    one, other = (
        experiment_from_dict(apply_overrides(plain, {"loss.distill": {"teacher": name}}))
        for name in ("a.yaml", "b.yaml")
    )
    assert spec_digest(one) != spec_digest(other)  # two arms of a study, both planned
    with pytest.raises(ValueError, match="before its teacher is trained"):
        run_id(one, 0)


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


def test_a_kernel_size_is_what_it_means(plain: dict[str, Any]) -> None:
    def canonical_with(size: Any) -> dict[str, Any]:
        model = {"depths": [1, 1], "width": 16, "kernel_size": size}
        return canonical(experiment_from_dict(apply_overrides(plain, {"model": model})))

    assert canonical_with([3, 3]) == canonical_with(3)
    assert "kernel_size" not in canonical_with([3, 3])["model"]
    assert canonical_with([5, 5]) == canonical_with(5) != canonical_with([5, 3])


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
        colour: int = 3

    class Later(Spec):
        strength: float = 0.0

    class LaterSpec(ExperimentSpec):
        model: LaterModel
        later: Later = Later()

    for tree in (plain, EVERYTHING_ON):
        assert spec_digest(LaterSpec.model_validate(tree)) == spec_digest(ExperimentSpec.model_validate(tree))
    changed = LaterSpec.model_validate(apply_overrides(plain, {"model.colour": 5}))
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
