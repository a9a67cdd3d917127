"""What holds of every ablation file that the grammar takes: files drawn at random, expanded, looked at."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import InputError
from harness.spec.ablation import Study, load_study
from harness.spec.base import check_name
from harness.spec.documents import apply_overrides, experiment_from_dict
from harness.spec.identity import spec_digest
from tests.spec.conftest import PLAIN

# Values that go together in any combination, those of plain.yaml and equal ones written otherwise among them.
VALUES: dict[str, list[Any]] = {
    "model.width": [8, 16, 32, [16, 32]],
    "model.dropout": [0, 0.0, 0.1, 0.25],
    "model.norm": ["batch", "none"],
    "augment.cutmix": [None, False, True, {"alpha": 0.5}, {"probability": 0.5}],
    "augment.flip": [False, True],
    "optim.optimizer.lr": [0.1, 0.01, 1],
    "optim.optimizer.weight_decay": [0.0, 0.0005],
    "optim.schedule": [{"kind": "constant"}, {"kind": "cosine"}],
    "train.epochs": [3, 4, 5],
}
SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@st.composite
def sets(draw: st.DrawFn) -> dict[str, Any]:
    """A set of overrides."""
    paths = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=3, unique=True))
    return {path: draw(st.sampled_from(VALUES[path])) for path in paths}


@st.composite
def axes(draw: st.DrawFn, equally_long: bool = False) -> dict[str, list[Any]]:
    paths = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=3, unique=True))
    length = draw(st.integers(1, 4))
    sizes = {"min_size": length, "max_size": length} if equally_long else {"min_size": 1, "max_size": 4}
    return {path: draw(st.lists(st.sampled_from(VALUES[path]), **sizes)) for path in paths}


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """An ablation file as a tree; it may be one with mistakes."""
    names = st.sampled_from(["a", "b", "c", "width8", "no_a"])
    file: dict[str, Any] = {"name": "study", "base": "plain.yaml"}
    for section in ("arms", "leave_one_out", "add_one_in"):
        if draw(st.booleans()):
            file[section] = draw(st.dictionaries(names, sets(), max_size=2))
    if draw(st.booleans()):
        steps = draw(st.lists(st.tuples(names, sets()), min_size=1, max_size=3, unique_by=lambda step: step[0]))
        file["ladder"] = [{name: overrides} for name, overrides in steps]
    if draw(st.booleans()):
        file["grid"] = draw(axes())
        if draw(st.booleans()):
            paths = st.lists(st.sampled_from(list(file["grid"])), min_size=1, max_size=2, unique=True)
            item = paths.map(lambda chosen: {path: file["grid"][path][0] for path in chosen})
            file["exclude"] = draw(st.lists(item, min_size=1, max_size=2))
    if draw(st.booleans()):
        file["zip"] = draw(axes(equally_long=True))
    return file


def expanded(folder: Path, file: dict[str, Any]) -> Study | None:
    """The study; None where the file has a mistake."""
    (folder / "plain.yaml").write_text(PLAIN)
    (folder / "study.yaml").write_text(json.dumps(file))  # JSON is YAML
    try:
        return load_study(folder / "study.yaml")
    except InputError:
        return None


def cells(file: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The grid's combinations without those excluded: `itertools.product`, once more and slowly."""
    grid = file.get("grid", {})
    for values in itertools.product(*grid.values()):
        cell = dict(zip(grid, values, strict=True))
        excluded = any(all(_equal(cell[path], value) for path, value in item.items()) for item in file["exclude"])
        if not excluded:
            yield cell


def _equal(one: Any, other: Any) -> bool:
    """As YAML has it: 0 is 0.0, false is no number."""
    return json.dumps(one) == json.dumps(other) or (
        type(one) in (int, float) and type(other) in (int, float) and one == other
    )


@SETTINGS
@given(file=files())
def test_what_holds_of_every_study(tmp_path: Path, file: dict[str, Any]) -> None:
    study = expanded(tmp_path, file)
    if study is None:
        return
    base = study.arms[0]
    assert (base.name, dict(base.overrides)) == ("plain", {})
    names = [arm.name for arm in study.arms]
    assert len(set(names)) == len(names)
    assert len({spec_digest(arm.spec) for arm in study.arms}) == len(names)
    plain = base.spec.model_dump(mode="json")
    for arm in study.arms[1:]:
        check_name(arm.name)
        check_name(arm.spec.name)
        assert experiment_from_dict(arm.spec.model_dump(mode="json")) == arm.spec  # valid
        alone = experiment_from_dict(apply_overrides(_written_base(), dict(arm.overrides)))
        assert spec_digest(alone) == spec_digest(arm.spec)
    assert base.spec.model_dump(mode="json") == plain
    assert expanded(tmp_path, file) == study  # the same order, the same names


def _written_base() -> dict[str, Any]:
    from harness.spec.yaml_tree import parse_value

    tree: dict[str, Any] = parse_value(PLAIN)
    return tree


@SETTINGS
@given(file=files())
def test_nothing_of_the_file_is_lost_and_what_is_excluded_is_not_there(tmp_path: Path, file: dict[str, Any]) -> None:
    study = expanded(tmp_path, file)
    if study is None:
        return
    for section in ("arms", "leave_one_out", "add_one_in"):
        assert [placement.key for placement, _ in study.placed(section)] == list(file.get(section, {}))  # type: ignore[arg-type]
    assert [placement.key for placement, _ in study.placed("ladder")] == [
        key for step in file.get("ladder", []) for key in step
    ]
    expected = list(cells({"exclude": [], **file})) if "grid" in file else []
    assert [placement.coordinates for placement, _ in study.placed("grid")] == expected
    rows = (
        [dict(zip(file["zip"], row, strict=True)) for row in zip(*file["zip"].values(), strict=True)]
        if "zip" in file
        else []
    )
    assert [placement.coordinates for placement, _ in study.placed("zip")] == rows
    for section in ("grid", "zip"):
        for placement, arm in study.placed(section):  # type: ignore[arg-type]
            alone = experiment_from_dict(apply_overrides(_written_base(), dict(placement.coordinates)))
            assert spec_digest(alone) == spec_digest(arm.spec)
    assert len(study.remarks) == sum(len(arm.placements) for arm in study.arms) - (len(study.arms) - 1)


@SETTINGS
@given(steps=st.lists(sets(), min_size=1, max_size=4))
def test_a_step_is_the_one_before_it_with_its_own(tmp_path: Path, steps: list[dict[str, Any]]) -> None:
    study = expanded(
        tmp_path, {"name": "study", "base": "plain.yaml", "ladder": [{f"s{i}": s} for i, s in enumerate(steps)]}
    )
    if study is None:  # the first step is the base
        return
    tree = _written_base()
    for own, (_, arm) in zip(steps, study.placed("ladder"), strict=True):
        tree = apply_overrides(tree, own)
        assert spec_digest(experiment_from_dict(tree)) == spec_digest(arm.spec)


def test_the_files_drawn_are_mostly_without_mistakes(tmp_path: Path) -> None:
    """Else the tests above would say little."""
    taken: list[bool] = []

    @SETTINGS
    @given(file=files())
    def count(file: dict[str, Any]) -> None:
        taken.append(expanded(tmp_path, file) is not None)

    count()
    assert sum(taken) > len(taken) / 3
    assert len(taken) > 50
