"""`match`: the nearest whole number, the budget kept, the value in the runs' identity, and what the commands print."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.errors import InputError
from harness.matching import load_study, nearest, solve, with_value
from harness.reporting.factors import structure_of
from harness.spec import ablation
from harness.spec.documents import load_experiment
from harness.spec.identity import run_id
from harness.spec.model import Model
from harness.spec.solving import range_of, solvable
from harness.study.plan import make_plan
from harness.tracking.store import Store
from harness.training.guard import cost
from tests.conftest import Harness

BASE = """\
name: base
model: {depths: [2, 2], width: 16}
data: {dataset: digits}
optim: {optimizer: {lr: 0.1}}
train: {epochs: 3, batch_size: 64}
"""
MATCHED = """\
name: matched
base: base.yaml
seeds: 2
arms:
  plain_blocks: {model.norm: none}
  slow: {optim.optimizer.lr: 0.01}
grid: {model.depths: [[1, 1], [2, 2], [5, 5]]}
match: {parameters: model.width}
"""


@pytest.fixture
def matched(folder: Path) -> Path:
    (folder / "base.yaml").write_text(BASE)
    (folder / "matched.yaml").write_text(MATCHED)
    return folder / "matched.yaml"


# --- the search ---


@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=40).map(sorted),
    target=st.integers(0, 70),
    limit=st.none() | st.integers(0, 70),
    first=st.integers(-3, 45),
)
def test_the_nearest_is_the_nearest_of_all(counts: list[int], target: int, limit: int | None, first: int) -> None:
    """Plateaus included; of two as near the one with fewer parameters, of those the one that is there already."""
    values = range(1, len(counts) + 1)
    allowed = [value for value in values if limit is None or counts[value - 1] <= limit]
    found = nearest(values, lambda value: counts[value - 1], target, limit, first)
    if not allowed:
        assert found is None
        return
    assert found in allowed
    best = min((abs(counts[value - 1] - target), counts[value - 1]) for value in allowed)
    assert (abs(counts[found - 1] - target), counts[found - 1]) == best
    if first in allowed and (abs(counts[first - 1] - target), counts[first - 1]) == best:
        assert found == first


def test_few_networks_are_counted() -> None:
    counted: list[int] = []

    def count(value: int) -> int:
        counted.append(value)
        return value**2

    assert nearest(range(1, 65_537), count, 100**2, None, 64) == 100
    assert len(set(counted)) < 14
    assert max(counted) < 200


@pytest.mark.parametrize("field", solvable())
@pytest.mark.parametrize("placement", ["stem", "block"])
def test_a_range_holds_the_valid_values_and_the_count_follows_it(field: str, placement: str, folder: Path) -> None:
    (folder / "base.yaml").write_text(BASE)
    spec = load_experiment(folder / "base.yaml", [f"model.se={{placement: {placement}, reduction: 8}}"])
    values = range_of(field, spec.model)

    def with_it(value: int) -> Model:
        return with_value(spec.model, field.removeprefix("model."), value)

    def valid(value: int) -> bool:
        try:
            Model.model_validate(with_it(value).model_dump())
        except ValidationError:
            return False
        return True

    some = [*values[:20], values[-1]]
    assert all(map(valid, some))
    assert not any(valid(value) for value in (values[0] - values.step, values[-1] + values.step))
    counts = [cost(spec.model_copy(update={"model": with_it(value)})).trainable_parameters for value in values[:20]]
    assert all(one <= other for one, other in pairwise(counts))
    assert counts[0] < counts[-1]


def test_what_can_be_solved_for() -> None:
    assert solvable() == ("model.width", "model.kernel_size", "model.se.reduction")


# --- studies ---


def test_both_neighbours_are_further_away(matched: Path) -> None:
    study = load_study(matched)
    target = cost(study.base.spec).trainable_parameters
    names = [arm.name for arm in study.arms]
    assert names == ["base", "plain_blocks", "slow", "depths1_1", "depths5_5"]
    for arm in study.arms:
        assert arm.matched
        counts = {
            change: cost(with_value(arm.spec, "model.width", arm.matched.value + change)).trainable_parameters
            for change in (-1, 0, 1)
        }
        assert min(counts, key=lambda change: abs(counts[change] - target)) == 0
        assert arm.spec.model.width == arm.matched.value
        assert arm.matched.remainder == counts[0] - target
    widths = {arm.name: arm.spec.model.width for arm in study.arms}
    assert widths["slow"] == widths["base"] == 16
    assert widths["depths1_1"] > 16 > widths["depths5_5"]
    assert study.arms[2].overrides == {"optim.optimizer.lr": 0.01}
    assert study.arms[3].overrides == {"model.depths": [1, 1], "model.width": widths["depths1_1"]}
    assert [arm.name for _, arm in study.placed("grid")] == ["depths1_1", "base", "depths5_5"]


def test_the_runs_are_those_of_the_value_written_by_hand(matched: Path) -> None:
    study = load_study(matched)
    arm = study.arms[3]
    by_hand = load_experiment(
        matched.parent / "base.yaml", ["model.depths=[1, 1]", f"model.width={arm.spec.model.width}"]
    )
    assert run_id(arm.spec, 1) == run_id(by_hand, 1)
    unsolved = ablation.load_study(matched)
    assert run_id(unsolved.arms[3].spec, 1) != run_id(by_hand, 1)
    assert make_plan(unsolved, Store(matched.parent / "runs")).arms[3].runs[1].run_id == run_id(by_hand, 1)
    assert solve(study) is study


@pytest.mark.parametrize("field", ["model.kernel_size", "model.se.reduction"])
def test_other_fields_are_solved_for(matched: Path, field: str) -> None:
    """By trying all there are."""
    text = MATCHED.replace("model.width", field).replace("[5, 5]", "[3, 2]")
    matched.write_text(f"{text}overrides: {{model.se: {{reduction: 4}}, model.kernel_size: 3}}\n")
    study = load_study(matched)
    target = cost(study.base.spec).trainable_parameters
    for arm in study.arms:
        assert arm.matched
        counts = [
            cost(with_value(arm.spec, field, value)).trainable_parameters for value in range_of(field, arm.spec.model)
        ]
        assert abs(arm.matched.remainder) == min(abs(count - target) for count in counts)


def test_the_budget_comes_first(matched: Path) -> None:
    base = cost(load_study(matched).base.spec).trainable_parameters
    above = load_study(matched).arms[3]
    assert above.matched
    assert above.matched.remainder > 0
    within = load_study(matched, [f"guard.max_parameters={base}"]).arms[3]
    assert within.matched
    assert within.matched.remainder <= 0
    assert within.matched.value == above.matched.value - 1
    with pytest.raises(InputError) as caught:
        load_study(matched, ["guard.max_parameters=100"])
    assert {problem.where for problem in caught.value.problems} == {
        f"{matched}:5: arms.plain_blocks",
        f"{matched}:7: grid",
    }


def test_each_network_is_solved_once(matched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.training import guard

    built: list[Model] = []

    class Counting(guard.ResNet):
        def __init__(self, model: Model, *sizes: int):
            built.append(model)
            super().__init__(model, *sizes)

    guard._count.cache_clear()
    monkeypatch.setattr(guard, "ResNet", Counting)
    rates = [round(0.001 * step, 3) for step in range(1, 51)]
    matched.write_text(MATCHED.replace("grid: {", f"grid: {{optim.optimizer.lr: {rates}, "))
    study = load_study(matched)
    assert len(study.arms) == 1 + 2 + 150 - 1  # the lr of `slow`
    assert len(built) == len(set(built)) < 40


def test_a_grid_stays_a_grid_for_the_report(matched: Path) -> None:
    """The width is another in every row: it follows from the depths."""
    matched.write_text(MATCHED.replace("grid: {", "grid: {model.dropout: [0.0, 0.1], "))
    (grid,) = structure_of(load_study(matched)).grids
    assert {grid.rows, grid.columns} == {"model.dropout", "model.depths"}
    assert {arm for row in grid.cells for arm in row} == {
        *("depths1_1", "base", "depths5_5"),
        *("dropout0.1-depths1_1", "dropout0.1", "dropout0.1-depths5_5"),
    }


# --- what the commands say ---


def test_check_prints_value_remainder_and_macs(matched: Path, harness: Harness) -> None:
    shown = harness("check", "matched.yaml")
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[0].split() == ["name", "width", "parameters", "remainder", "limit", "headroom", "MACs"]
    document = json.loads(harness("check", "matched.yaml", "--json").out)
    by_name = {arm["name"]: arm for arm in document["arms"]}
    deep, base = by_name["depths5_5"], by_name["base"]
    assert base["match"] == {"field": "model.width", "value": 16, "remainder": 0}
    assert deep["match"]["remainder"] == deep["trainable_parameters"] - base["trainable_parameters"]
    (line,) = [line for line in lines if line.startswith("depths5_5")]
    for number in (deep["match"]["value"], deep["trainable_parameters"], deep["macs"]):
        assert f" {number:,} " in f"{line} "
    assert f"{deep['match']['remainder']:+,}".replace("-", "−") in line
    merged = "model.depths = [2, 2] of grid is equal to the base: one arm, called base"
    assert lines[-1] == merged
    assert document["remarks"] == [merged]


def test_plan_prints_it_too(matched: Path, harness: Harness) -> None:
    document = json.loads(harness("plan", "matched.yaml", "--json").out)
    by_name = {arm["name"]: arm for arm in document["arms"]}
    deep = by_name["depths5_5"]
    assert deep["overrides"] == {"model.depths": [5, 5], "model.width": deep["match"]["value"]}
    assert deep["match"]["remainder"] == deep["trainable_parameters"] - by_name["base"]["trainable_parameters"]
    shown = harness("plan", "matched.yaml").out
    assert "remainder" in shown
    assert f"{deep['match']['remainder']:+,}".replace("-", "−") in shown
    assert "is equal to the base" in " ".join(shown.split())


def test_without_match_nothing_of_it_is_shown(folder: Path, harness: Harness) -> None:
    assert "remainder" not in harness("check", "study.yaml").out + harness("plan", "study.yaml").out
    assert "match" not in json.loads(harness("plan", "study.yaml", "--json").out)["arms"][0]


@pytest.mark.parametrize("command", ["check", "plan", "ablate", "report"])
def test_a_bad_file_ends_every_command_with_all_its_mistakes(folder: Path, harness: Harness, command: str) -> None:
    (folder / "bad.yaml").write_text(
        """\
name: bad
base: tiny.yaml
seeds: [1, 1]
arms: {same: {model.width: 4}, a/b: {model.width: 8}, c: {modle.width: 8}}
ladder: [{a: {model.width: 8}, b: {model.width: 9}}]
grid: {model.dropout: []}
zip: {train.epochs: [4, 5], train.batch_size: [8]}
match: {parameters: optim.optimizer.lr}
"""
    )
    result = harness(command, "bad.yaml")
    assert (result.code, result.out) == (2, "")
    for line in (
        "bad.yaml:3: seeds: each seed once",
        "bad.yaml:4: arms.same: the arm is equal to the base",
        "bad.yaml:4: arms.a/b: 'a/b' can't be a name",
        "bad.yaml:4: arms.c: there is no field `modle.width`",
        "bad.yaml:5: ladder[0]: a step is one name",
        "bad.yaml:6: grid.model.dropout: [] needs at least 1 item",
        "bad.yaml:7: zip: the lists are not equally long",
        "bad.yaml:8: match.parameters: `optim.optimizer.lr` can't be solved for",
    ):
        assert f"error: {line}" in result.err
    assert result.err.count("error: ") == 8
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("grid: {}", "one.yaml:3: grid"),
        ("grid: {model.width: [8]}\nexclude: [{model.width: 8}]", "one.yaml:4: exclude"),
        ("base: nowhere.yaml", "one.yaml:2: base"),
        ("match: {parameters: model.dropout}", "one.yaml:3: match.parameters"),
    ],
)
def test_one_mistake_one_message(folder: Path, harness: Harness, line: str, where: str) -> None:
    base = "" if line.startswith("base") else "base: tiny.yaml\n"
    (folder / "one.yaml").write_text(f"name: one\n{base}{line}\n")
    result = harness("check", "one.yaml")
    assert result.code == 2
    assert result.err.startswith(f"error: {where}: ")
    assert result.err.count("error: ") == 1
