from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.spec.composition import apply_overrides, parse_overrides
from harness.spec.documents import kind_of, load_experiment
from tests.spec.conftest import Writer, problem_at, problems_of


def test_a_mapping_merges_a_list_and_null_replace(write: Writer) -> None:
    write("a.yaml", "base: plain.yaml\nmodel: {dropout: 0.2, se: true}\naugment: {crop: {padding: 2}}\n")
    spec = load_experiment(write("b.yaml", "base: a.yaml\nmodel: {depths: [2], se: null}\ntrain: {epochs: 5}\n"))
    assert spec.model.depths == (2,)
    assert spec.model.se is None
    assert spec.model.dropout == 0.2
    assert spec.augment.crop is not None
    assert spec.augment.crop.padding == 2
    assert (spec.train.epochs, spec.train.batch_size) == (5, 64)


@pytest.mark.parametrize(
    ("below", "above", "placement_and_reduction"),
    [
        ("{placement: block, reduction: 4}", "{reduction: 8}", ("block", 8)),
        ("{placement: block, reduction: 4}", "true", ("stem", 16)),
        ("true", "{reduction: 8}", ("stem", 8)),
        ("false", "{reduction: 8}", ("stem", 8)),
        ("null", "true", ("stem", 16)),
        ("{reduction: 4}", "false", None),
        ("true", "null", None),
    ],
)
def test_toggles_laid_over_toggles(write: Writer, below: str, above: str, placement_and_reduction: Any) -> None:
    write("a.yaml", f"base: plain.yaml\nmodel: {{se: {below}}}\n")
    se = load_experiment(write("b.yaml", f"base: a.yaml\nmodel: {{se: {above}}}\n")).model.se
    assert (se and (se.placement, se.reduction)) == placement_and_reduction


def test_another_kind_replaces_the_mapping(write: Writer) -> None:
    write("a.yaml", "base: plain.yaml\noptim: {clip: {kind: norm, value: 0.1}}\n")
    same = load_experiment(write("b.yaml", "base: a.yaml\noptim: {clip: {kind: norm}}\n"))
    assert same.optim.clip is not None
    assert same.optim.clip.value == 0.1
    other = write("c.yaml", "base: a.yaml\noptim:\n  clip: {kind: value}\n")
    assert problem_at(problems_of(lambda: load_experiment(other)), f"{other}:3: optim.clip.value").what == "is missing"


@pytest.mark.parametrize("kind", ["", "kind: sgd, "])
def test_a_mapping_without_a_kind_has_the_default_one(write: Writer, kind: str) -> None:
    write("a.yaml", f"base: plain.yaml\noptim: {{optimizer: {{{kind}momentum: 0.9, weight_decay: 5.0e-4}}}}\n")
    adamw = "{kind: adamw, lr: 0.001}"
    in_a_file = write("b.yaml", f"base: a.yaml\noptim: {{optimizer: {adamw}}}\n")
    as_override = [f"optim.optimizer={adamw}"]
    as_section = [f"optim={{optimizer: {adamw}}}"]
    for spec in (
        load_experiment(in_a_file),
        load_experiment(write("c.yaml", "base: a.yaml\n"), as_override),
        load_experiment(write("c.yaml", "base: a.yaml\n"), as_section),
    ):
        assert (spec.optim.optimizer.kind, spec.optim.optimizer.weight_decay) == ("adamw", 0.0)


def test_the_default_kind_written_merges_with_a_mapping_that_has_none(write: Writer) -> None:
    write("a.yaml", "base: plain.yaml\noptim: {optimizer: {weight_decay: 5.0e-4}, clip: {value: 0.1}}\n")
    path = write("b.yaml", "base: a.yaml\noptim: {optimizer: {kind: sgd}, clip: {kind: norm}}\n")
    spec = load_experiment(path)
    assert (spec.optim.optimizer.lr, spec.optim.optimizer.weight_decay) == (0.1, 5e-4)
    assert spec.optim.clip is not None
    assert spec.optim.clip.value == 0.1


def test_a_mapping_without_a_kind_is_laid_over_any(write: Writer) -> None:
    write("a.yaml", "base: plain.yaml\noptim: {optimizer: {kind: adamw, lr: 0.001, weight_decay: 0.1}}\n")
    path = write("b.yaml", "base: a.yaml\noptim: {optimizer: {lr: 0.2}}\n")
    for spec in (load_experiment(path), load_experiment(write("c.yaml", "base: a.yaml\n"), ["optim.optimizer.lr=0.2"])):
        optimizer = spec.optim.optimizer
        assert (optimizer.kind, optimizer.lr, optimizer.weight_decay) == ("adamw", 0.2, 0.1)


def test_name_and_notes_of_a_base_are_not_taken_over(write: Writer) -> None:
    write("a.yaml", "name: first\nnotes: about the first\nbase: plain.yaml\n")
    spec = load_experiment(write("b.yaml", "base: a.yaml\n"))
    assert (spec.name, spec.notes) == ("b", None)
    assert load_experiment(write("c.yaml", "base: a.yaml\nname: mine\n")).name == "mine"


def test_bases_are_relative_to_their_file(write: Writer, tmp_path: Path) -> None:
    write("deep/a.yaml", "base: ../plain.yaml\ntrain: {epochs: 7}\n")
    spec = load_experiment(write("other/b.yaml", "base: ../deep/a.yaml\n"))
    assert spec.train.epochs == 7
    assert load_experiment(write("c.yaml", f"base: {tmp_path / 'plain.yaml'}\n")).train.epochs == 3


def test_a_long_chain_is_no_problem(write: Writer) -> None:
    previous = "plain.yaml"
    for i in range(300):
        path = write(f"f{i}.yaml", f"base: {previous}\ntrain: {{epochs: {i + 1}}}\n")
        previous = path.name
    assert load_experiment(path).train.epochs == 300


def test_a_circle_is_shown(write: Writer) -> None:
    write("a.yaml", "base: b.yaml\n")
    write("b.yaml", "base: c.yaml\n")
    path = write("c.yaml", "name: c\nbase: a.yaml\n")
    (problem,) = problems_of(lambda: load_experiment(path))
    chain = problem.what.split(": ")[1].split(" -> ")
    assert [Path(name).name for name in chain] == ["c.yaml", "a.yaml", "b.yaml", "c.yaml"]
    own = write("own.yaml", "base: own.yaml\n")
    assert "circle" in problems_of(lambda: load_experiment(own))[0].what


def test_a_missing_base_is_told_at_its_key_with_the_nearest_file(write: Writer) -> None:
    path = write("a.yaml", "name: a\nbase: plan.yaml\nmodel: {widht: 3}\n")
    problems = problems_of(lambda: load_experiment(path, ["epochs=3"]))
    problem_at(problems, f"{path}:3: model.widht")
    problem_at(problems, "-o epochs=3")
    assert len(problems) == 3
    problem = problem_at(problems, f"{path}:2: base")
    assert "plan.yaml" in problem.what
    assert "plain.yaml" in str(problem.fix)


@pytest.mark.parametrize("value", ["[a]", "5", "''", '"\\0"'])
def test_a_base_that_is_no_path(write: Writer, value: str) -> None:
    path = write("a.yaml", f"base: {value}\n")
    assert problems_of(lambda: load_experiment(path))[0].where == f"{path}:1: base"


def test_a_base_that_is_an_ablation(write: Writer) -> None:
    write("study.yaml", "name: study\nbase: plain.yaml\narms: {a: {model.width: 8}}\n")
    path = write("a.yaml", "base: study.yaml\n")
    assert "is an ablation file" in problems_of(lambda: load_experiment(path))[0].what


@pytest.mark.parametrize(
    ("base", "words"),
    [
        (".", "is a folder, not a YAML file"),
        ("plain.yaml/x.yaml", "plain.yaml/x.yaml can't be read: Not a directory"),
        ("loop.yaml", "loop.yaml can't be read: Too many levels of symbolic links"),
        ("dangling.yaml", "dangling.yaml is a link to a file that is not there"),
        (f"{'n' * 300}.yaml", "nnn.yaml can't be read: File name too long"),
    ],
)
def test_a_base_that_is_no_file_is_told_at_its_key(write: Writer, tmp_path: Path, base: str, words: str) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "dangling.yaml").symlink_to("nowhere.yaml")
    path = write("a.yaml", f"base: {base}\n")
    (problem,) = problems_of(lambda: load_experiment(path))
    assert problem.where == f"{path}:1: base"
    assert words in problem.what


def test_mistakes_are_told_at_the_file_they_stand_in(write: Writer) -> None:
    base = write("a.yaml", "base: plain.yaml\nmodel:\n  dropout: 1.5\n  dropout: 0.5\n")
    path = write("b.yaml", "base: a.yaml\ntrain:\n  epochs: -1\n")
    problems = problems_of(lambda: load_experiment(path, ["train.batch_size=0"]))
    assert "out of range" in problem_at(problems, f"{base}:3: model.dropout").what
    assert "out of range" in problem_at(problems, f"{path}:3: train.epochs").what
    assert "out of range" in problem_at(problems, "-o train.batch_size=0").what
    assert "twice" in problem_at(problems, f"{base}:4").what
    assert len(problems) == 4


def test_overrides_are_yaml_values(write: Writer) -> None:
    path = write("a.yaml", "base: plain.yaml\naugment: {cutmix: true}\n")
    spec = load_experiment(
        path, ["model.width=72", "augment.cutmix=null", "model.depths=[3,3,3]", "optim.optimizer.lr=1e-4", "name=x"]
    )
    assert spec.model.width == 72
    assert spec.model.depths == (3, 3, 3)
    assert spec.augment.cutmix is None
    assert spec.optim.optimizer.lr == 1e-4
    assert spec.name == "x"


def test_an_override_below_something_off_switches_it_on(write: Writer) -> None:
    for cutmix in ["null", "false", "true", "{}"]:
        path = write("a.yaml", f"base: plain.yaml\naugment: {{cutmix: {cutmix}}}\n")
        spec = load_experiment(path, ["augment.cutmix.alpha=0.3"])
        assert spec.augment.cutmix is not None
        assert (spec.augment.cutmix.alpha, spec.augment.cutmix.probability) == (0.3, 0.5)
    incomplete = problems_of(lambda: load_experiment(path, ["optim.clip.kind=value"]))
    assert incomplete[0].where == "-o optim.clip.kind=value: optim.clip.value"


def test_the_last_of_two_overrides_holds(write: Writer) -> None:
    path = write("a.yaml", "base: plain.yaml\n")
    assert load_experiment(path, ["train.epochs=5", "train.epochs=6"]).train.epochs == 6


def test_a_mapping_as_override_merges_unless_its_kind_differs(plain: dict[str, Any]) -> None:
    clipped = apply_overrides(plain, {"optim.clip": {"kind": "norm", "value": 0.1}})
    assert apply_overrides(clipped, {"optim.clip": {"value": 5.0}})["optim"]["clip"] == {"kind": "norm", "value": 5.0}
    assert apply_overrides(clipped, {"optim.clip": {"kind": "value"}})["optim"]["clip"] == {"kind": "value"}
    assert apply_overrides(clipped, {"optim.clip.kind": "value"})["optim"]["clip"] == {"kind": "value", "value": 0.1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model.width", "is not PATH=VALUE"),
        ("=5", "is not PATH=VALUE"),
        ("", "is not PATH=VALUE"),
        ("modle.width=5", "did you mean `model.width`"),
        ("width=5", "did you mean `model.width`"),
        ("model.depths.0=5", "did you mean `model.depths`"),
        ("model.depths[0]=5", "did you mean `model.depths`"),
        ("model.=5", "there is no field"),
        (".=5", "there is no field"),
        ("base=x.yaml", "there is no field"),
        ("model.width=[1", "can't be read as YAML"),
        ("model.se={reduction: 4, reduction: 5}", "twice"),
        ("model.width=!!python/name:os.system", "tag"),
    ],
)
def test_malformed_overrides(write: Writer, text: str, words: str) -> None:
    path = write("a.yaml", "base: plain.yaml\n")
    (problem,) = problems_of(lambda: load_experiment(path, [text]))
    assert words in str(problem)
    assert str(problem.where).startswith("-o ")


def test_all_wrong_overrides_are_told_at_once() -> None:
    overrides, problems = parse_overrides(["a=1", "model.width=3", "b"])
    assert [override.path for override in overrides] == ["model.width"]
    assert len(problems) == 2


NAMES = st.sampled_from("abc")
TREES = st.recursive(st.integers() | st.none() | st.booleans(), lambda t: st.dictionaries(NAMES, t, max_size=3))
ROOTS = st.dictionaries(NAMES, TREES, max_size=3)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(".".join)


@given(ROOTS, PATHS, st.integers())
def test_an_override_is_read_back_and_leaves_its_input_alone(tree: dict[str, Any], path: str, value: int) -> None:
    before = repr(tree)
    found: Any = apply_overrides(tree, {path: value})
    for part in path.split("."):
        found = found[part]
    assert found == value
    assert repr(tree) == before


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("name: a\nmodel: {}\n", "experiment"),
        ("name: a\nbase: b.yaml\n", "experiment"),
        ("base: b.yaml\nseed: 3\n", "experiment"),
        ("base: b.yaml\nseeds: 3\n", "ablation"),
        ("name: a\nbase: b.yaml\narms: {}\n", "ablation"),
        ("base: b.yaml\narm: {}\n", "ablation"),
        ("base: b.yaml\nleave_one_ot: {}\n", "ablation"),
        ("modle: {}\n", "experiment"),
        ("what: is this\n", "experiment"),
        ("base: b.yaml\ntrain: {epochs: 3}\narms: {}\n", "ablation"),
        ("base: b.yaml\ntrain: {epochs: 3}\nseeds: 3\n", "experiment"),
    ],
)
def test_the_kind_of_a_file_is_told_by_its_keys(write: Writer, text: str, kind: str) -> None:
    assert kind_of(write("x.yaml", text)) == kind


def test_an_ablation_given_as_experiment_is_one_message(write: Writer) -> None:
    path = write("x.yaml", "name: x\nbase: plain.yaml\nseeds: 3\narms: {a: {model.width: 8}}\n")
    (problem,) = problems_of(lambda: load_experiment(path))
    assert "ablation file" in problem.what
    assert "harness ablate" in str(problem.fix)
