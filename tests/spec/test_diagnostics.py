from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from harness.spec.composition import apply_overrides
from harness.spec.documents import experiment_from_dict, load_experiment
from harness.training.model import build_model
from tests.spec.conftest import Writer, problem_at, problems_of

# A dotted path, a value that is wrong there, and the words that the message must have.
WRONG = [
    ("model.dropuot", 0.1, "unknown key `dropuot`", "did you mean `dropout`?"),
    (
        "model.zzz",
        0.1,
        "unknown key `zzz`",
        "`model` takes: depths, width, kernel_size, block, ",
    ),
    ("epochs", 5, "unknown key `epochs`", "did you mean `train.epochs`?"),
    ("modell", {}, "unknown key `modell`", "did you mean `model`?"),
    ("optim.schedule.min_lr", 0.1, "unknown key `min_lr`", "another `kind` has it."),
    ("model.<<", {}, "unknown key `<<`", "`base:`"),
    ("model.dropout", 1.5, "1.5 is out of range: it must be below 1", "Off: 0."),
    ("model.dropout", -0.1, "it must be at least 0", "Probability"),
    ("model.dropout", float("nan"), "nan", ""),
    ("model.dropout", True, "true is not a number", ""),
    ("model.dropout", "0.1", "'0.1' is not a number", "leave out the quotes"),
    ("model.width", -3, "-3 is out of range: it must be above 0", ""),
    ("model.width", 10**9, "it must be at most 65,536", ""),
    ("model.depths", [10**6], "it must be at most 256", ""),
    ("model.width", 1.5, "1.5 is not a whole number or a list", ""),
    ("model.width", "wide", "'wide' is not a whole number or a list", ""),
    ("model.width", {}, "{} is not a whole number or a list", ""),
    ("model.depths", [], "[] needs at least 1 item", ""),
    ("model.depths", [1] * 9, "at most 8 items", ""),
    ("model.depths", 3, "3 is not a list", ""),
    ("model.depths", None, "null is not a list", ""),
    ("model.se", 5, "5 is not a mapping (placement, reduction)", ""),
    ("model.se", "off", "'off' is not a mapping", "write false."),
    ("model.se", "None", "'None' is not a mapping", "write null."),
    ("model.se.placement", "blok", "'blok' is none of stem, block", "did you mean block?"),
    ("model.se.reduction", 0, "it must be above 0", ""),
    ("augment.flip", "yes", "'yes' is not true or false", "write true."),
    ("loss.label_smoothing", "yes", "'yes' is not a number", "Off: 0."),
    ("augment.flip", 1, "1 is not true or false", ""),
    ("augment.cutmix.probability", 0, "never acts", ""),
    ("augment.cutmix.alpha", float("inf"), "inf is not a finite number", ""),
    ("train.epochs", 100.0, "100.0 is not a whole number", "write 100."),
    ("train.epochs", 10**9 + 1, "1000000001 is out of range: it must be at most 1,000,000,000", "Passes over"),
    ("train.epochs", 10**30, "it must be at most 1,000,000,000", ""),
    ("optim.schedule", {"kind": "plateau", "patience": 10**30}, "it must be at most 1,000,000,000", ""),
    ("train.epochs", True, "true is not a whole number", ""),
    ("train.compile", "aut", "'aut' is none of true, false, auto", "did you mean auto?"),
    ("train.compile", 1, "1 is none of true, false, auto", ""),
    ("train", None, "null is not a mapping (epochs", ""),
    ("train", [1], "[1] is not a mapping", ""),
    ("data.dataset", "cifar-10", "is none of cifar10, cifar100, digits, folder", "did you mean cifar10?"),
    ("name", "../x", "can't be a name", ""),
    ("name", 5, "5 is not text", "put it in quotes: '5'"),
    ("model.\x1b[31m", 1, "unknown key `\\x1b[31m`", ""),
    ("seed", 2**63, "it must be below 9,223,372,036,854,775,808", ""),
    ("seed", -1, "it must be at least 0", ""),
    ("guard.max_parameters", 0, "it must be above 0", ""),
    ("loss.distill", {"teacher": ""}, "is empty", "teacher: An experiment file"),
    ("data", {"dataset": "folder", "folder": {"path": ""}}, "is empty", "path: The folder"),
    ("optim.clip", {}, "is missing", "write `value:` under `optim.clip:`. The bound."),
]


@pytest.mark.parametrize(("path", "value", "what", "fix"), WRONG)
def test_a_wrong_value_is_told_in_plain_language(
    plain: dict[str, Any], path: str, value: Any, what: str, fix: str
) -> None:
    (problem,) = problems_of(lambda: experiment_from_dict(apply_overrides(plain, {path: value})))
    assert what in problem.what
    assert fix in (problem.fix or "")
    assert str(problem.where).startswith(path.split("\x1b")[0])
    assert str(problem).isprintable() or str(problem).replace("\n", "").isprintable()
    assert "input" not in str(problem).lower()  # pydantic's way of putting it


def test_a_wrong_item_of_a_list_is_named(plain: dict[str, Any]) -> None:
    tree = apply_overrides(plain, {"model.depths": [1, 0], "model.width": [16, "x"]})
    problems = problems_of(lambda: experiment_from_dict(tree))
    assert "out of range" in problem_at(problems, "model.depths[1]").what
    assert "'x' is not a whole number" in problem_at(problems, "model.width[1]").what
    assert len(problems) == 2


@pytest.mark.parametrize(
    ("overrides", "path", "what"),
    [
        ({"model.width": [16]}, "model.width", "[16] for 2 groups"),
        ({"model.width": [], "model.se": True}, "model.width", "[] for 2 groups"),
        ({"model.kernel_size": [], "model.se": True}, "model.kernel_size", "[] for 2 groups"),
        ({"model.se": True, "model.width": 8}, "model.se.reduction", "16 is larger than the 8 channels"),
        ({"optim.optimizer.nesterov": True}, "optim.optimizer.nesterov", "needs momentum above 0"),
        ({"model.depths": [1] * 5}, "model.depths", "below one pixel"),
        ({"augment.crop": {"padding": 9}}, "augment.crop.padding", "larger than the 8-pixel image"),
        ({"train.batch_size": 2000}, "train.batch_size", "larger than the"),
        (
            {"model.depths": [1] * 4, "train.batch_size": 3},  # 1,438 images
            "train.batch_size",
            "end with a batch of one, of which batch normalisation can't tell a spread",
        ),
        (
            {"data.protocol": "full", "train.early_stopping": {"patience": 3}},
            "train.early_stopping.monitor",
            "no validation set",
        ),
    ],
)
def test_values_that_do_not_go_together(plain: dict[str, Any], overrides: dict[str, Any], path: str, what: str) -> None:
    (problem,) = problems_of(lambda: experiment_from_dict(apply_overrides(plain, overrides)))
    assert problem.where == path
    assert what in problem.what


@pytest.mark.parametrize(
    "overrides",
    [
        {"model.depths": [1] * 3},  # maps of 2 x 2
        {"model.norm": "none"},
        {"train.batch_size": 4},
        {"data.protocol": "holdout"},  # 1,295 images: the last batch has two
    ],
)
def test_a_last_batch_of_one_image_is_no_conflict_where_it_trains(
    plain: dict[str, Any], overrides: dict[str, Any]
) -> None:
    tree = {"model.depths": [1] * 4, "model.width": 4, "train.batch_size": 3} | overrides
    spec = experiment_from_dict(apply_overrides(plain, tree))
    model = build_model(spec, "cpu").train()
    size = (spec.train_images - 1) % spec.train.batch_size + 1
    model(torch.zeros(size, *spec.dataset.image_shape))


def test_all_conflicts_of_a_file_are_told(plain: dict[str, Any]) -> None:
    tree = apply_overrides(plain, {"train.batch_size": 2000, "augment.crop.padding": 9, "model.depths": [1] * 5})
    assert len(problems_of(lambda: experiment_from_dict(tree))) == 3


def test_a_conflict_points_at_the_line_of_its_field(write: Writer) -> None:
    path = write("a.yaml", "base: plain.yaml\nmodel:\n  width: 8\n  se:\n    reduction: 12\n")
    problem_at(problems_of(lambda: load_experiment(path)), f"{path}:5: model.se.reduction")


def test_missing_fields_are_told_at_the_mapping_they_are_missing_from(write: Writer) -> None:
    path = write("a.yaml", "name: a\nmodel:\n  depths: [1]\noptim:\n  optimizer: {}\n")
    problems = problems_of(lambda: load_experiment(path))
    assert [problem.what for problem in problems] == ["is missing"] * 4
    problem_at(problems, f"{path}:2: model.width")
    problem_at(problems, f"{path}:5: optim.optimizer.lr")
    problem_at(problems, f"{path}:1: data")
    problem_at(problems, f"{path}:1: train")


@pytest.mark.parametrize(
    ("key", "nested"),
    [
        ("model.width", "write `width:` under `model:`."),
        ("optim.optimizer.lr", "write `lr:` under `optim.optimizer:`."),
        ("augment.cutmix", "write `cutmix:` under `augment:`."),
    ],
)
def test_a_dotted_path_as_a_key_is_told_how_to_nest(plain: dict[str, Any], key: str, nested: str) -> None:
    (problem,) = problems_of(lambda: experiment_from_dict(plain | {key: 0.1}))
    assert problem.what == f"unknown key `{key}`"
    assert str(problem.fix).startswith(f"dotted paths are for overrides: {nested}")


def test_a_misspelt_key_is_told_once_not_as_missing_too(write: Writer) -> None:
    path = write(
        "a.yaml",
        """\
        name: a
        model: {depth: [1], width: 8}
        data: {dataset: digits}
        optim: {optimizer: {learning_rate: 0.1}}
        epochs: 3
        train: {batchsize: 32, epoch: 3}
        """,
    )
    problems = problems_of(lambda: load_experiment(path))
    told = [(problem.what, str(problem.fix).split("?")[0]) for problem in problems]
    assert told == [
        ("unknown key `depth`", "did you mean `depths`"),
        ("unknown key `learning_rate`", "did you mean `lr`"),
        ("unknown key `epochs`", "did you mean `train.epochs`"),
        ("unknown key `batchsize`", "did you mean `batch_size`"),
        ("unknown key `epoch`", "did you mean `epochs`"),
    ]


def test_what_an_unknown_key_is_not_taken_for_is_told_as_missing(plain: dict[str, Any]) -> None:
    problems = problems_of(lambda: experiment_from_dict(apply_overrides(plain, {"optim.clip": {"kinds": "norm"}})))
    assert [problem.what for problem in problems] == ["is missing", "unknown key `kinds`"]


def test_everything_wrong_with_a_file_is_told_at_once_each_at_its_line(write: Writer) -> None:
    path = write(
        "a.yaml",
        """\
        base: plain.yaml
        model:
          dropuot: 0.1
          dropout: 1.5
          width: -3
          depths: []
        augment: {flip: yes}
        train:
          epochs: ten
          epochs: 3
        """,
    )
    problems = problems_of(lambda: load_experiment(path, ["modle.width=3"]))
    lines = {
        3: "model.dropuot",
        4: "model.dropout",
        5: "model.width",
        6: "model.depths",
        7: "augment.flip",
        9: "train.epochs",
    }
    for line, field in lines.items():
        problem_at(problems, f"{path}:{line}: {field}")
    problem_at(problems, f"{path}:10")
    problem_at(problems, "-o modle.width=3")
    assert len(problems) == 8


def test_mistakes_stand_in_the_order_of_the_lines(write: Writer) -> None:
    path = write("a.yaml", "train: {epochs: 0}\nmodel:\n  dropout: 2\n  widht: 8\n  depths: []\nname: 5\n")
    problems = problems_of(lambda: load_experiment(path, ["modle.x=1"]))
    places = [problem.where or "" for problem in problems]
    lines = [int(place.split(":")[1]) for place in places if place.startswith(f"{path}:")]
    assert lines == sorted(lines)
    assert {1, 3, 4, 5, 6} <= set(lines)
    assert places[-1].startswith("-o modle.x")


def test_a_file_full_of_nonsense_is_answered_briefly(write: Writer) -> None:
    path = write("a.yaml", "".join(f"k{i}: 1\n" for i in range(3000)))
    problems = problems_of(lambda: load_experiment(path))
    assert len(problems) < 150
    assert "more mistakes" in problems[-1].what


def test_a_long_value_is_cut(plain: dict[str, Any]) -> None:
    (problem,) = problems_of(lambda: experiment_from_dict(plain | {"train": ["x" * 1000] * 1000}))
    assert len(problem.what) < 200


def test_a_record_survives_json(plain: dict[str, Any]) -> None:
    spec = experiment_from_dict(apply_overrides(plain, {"model.width": [16, 32], "model.se": True}))
    assert experiment_from_dict(spec.model_dump(mode="json")) == spec
    assert experiment_from_dict(spec.model_dump()) == spec


def test_data_that_is_no_mapping() -> None:
    nothing: list[Any] = [None, [], "text", 5]
    for data in nothing:
        (problem,) = problems_of(partial(experiment_from_dict, data))
        assert "is not a mapping" in problem.what
