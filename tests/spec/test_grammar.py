"""The grammar of ablation files, beyond named arms: files and what they say, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from harness.spec.ablation import Study, load_study
from harness.spec.identity import run_id
from tests.spec.conftest import Writer, problem_at, problems_of, tells_of_a_line

# plain.yaml: depths [1, 1], width 16, dropout 0, lr 0.1, no schedule, no augmentation

EMA = {"decay": 0.99}


def arms_of(study: Study) -> dict[str, dict[str, Any]]:
    return {arm.name: dict(arm.overrides) for arm in study.arms[1:]}


# What stands in the file -> arms beside the base, in order: name -> what it sets.
TABLE: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "a ladder keeps what was set": (
        """\
        ladder:
          - ema: {optim.ema: {decay: 0.99}}
          - smoothing: {loss.label_smoothing: 0.1}
          - wide: {model.width: 32, model.dropout: 0.1}
        """,
        {
            "plus_ema": {"optim.ema": EMA},
            "plus_smoothing": {"optim.ema": EMA, "loss.label_smoothing": 0.1},
            "plus_wide": {
                "optim.ema": EMA,
                "loss.label_smoothing": 0.1,
                "model.width": 32,
                "model.dropout": 0.1,
            },
        },
    ),
    "a step lays its mapping over what a step before it set": (
        """\
        ladder:
          - cutmix: {augment.cutmix: {alpha: 0.5}}
          - rare: {augment.cutmix.probability: 0.1}
        """,
        {
            "plus_cutmix": {"augment.cutmix": {"alpha": 0.5}},
            "plus_rare": {"augment.cutmix": {"alpha": 0.5}, "augment.cutmix.probability": 0.1},
        },
    ),
    "a path that two steps set has its last value, in full": (
        """\
        ladder:
          - cutmix: {augment.cutmix: {alpha: 0.5}}
          - off: {augment.cutmix: null, model.width: 32}
          - rare: {augment.cutmix: {probability: 0.1}}
        """,
        {
            "plus_cutmix": {"augment.cutmix": {"alpha": 0.5}},
            "plus_off": {"augment.cutmix": None, "model.width": 32},
            "plus_rare": {"model.width": 32, "augment.cutmix": {"probability": 0.1, "alpha": 1.0}},
        },
    ),
    "what a later step made meaningless is left out": (
        """\
        ladder:
          - plateau: {optim.schedule: {kind: plateau, patience: 3}}
          - patient: {optim.schedule.patience: 5}
          - slow: {optim.schedule.patience: 7, augment.cutmix.alpha: 0.5}
          - cosine: {optim.schedule: {kind: cosine}, augment.cutmix: false}
          - mixed: {augment.cutmix: true}
        """,
        {
            "plus_plateau": {"optim.schedule": {"kind": "plateau", "patience": 3}},
            "plus_patient": {
                "optim.schedule": {"kind": "plateau", "patience": 3},
                "optim.schedule.patience": 5,
            },
            "plus_slow": {
                "optim.schedule": {"kind": "plateau", "patience": 3},
                "optim.schedule.patience": 7,
                "augment.cutmix.alpha": 0.5,
            },
            "plus_cosine": {"optim.schedule": {"kind": "cosine", "min_lr": 0.0}, "augment.cutmix": False},
            "plus_mixed": {
                "augment.cutmix.alpha": 1.0,
                "optim.schedule": {"kind": "cosine", "min_lr": 0.0},
                "augment.cutmix": {"probability": 0.5, "alpha": 1.0},
            },
        },
    ),
    "a grid is the product, the first field slowest": (
        "grid: {model.width: [8, 32], model.dropout: [0.1, 0.25, 0.5]}",
        {
            "width8-dropout0.1": {"model.width": 8, "model.dropout": 0.1},
            "width8-dropout0.25": {"model.width": 8, "model.dropout": 0.25},
            "width8-dropout0.5": {"model.width": 8, "model.dropout": 0.5},
            "width32-dropout0.1": {"model.width": 32, "model.dropout": 0.1},
            "width32-dropout0.25": {"model.width": 32, "model.dropout": 0.25},
            "width32-dropout0.5": {"model.width": 32, "model.dropout": 0.5},
        },
    ),
    "what the base has is no difference, and the cell that is the base is the base": (
        "grid: {model.width: [8, 16], model.dropout: [0.0, 0.5]}",
        {
            "width8": {"model.width": 8},
            "width8-dropout0.5": {"model.width": 8, "model.dropout": 0.5},
            "dropout0.5": {"model.dropout": 0.5},
        },
    ),
    "a combination is excluded by all or some of its values": (
        """\
        grid: {model.width: [8, 32], model.dropout: [0.1, 0.5], train.epochs: [4, 5]}
        exclude:
          - {model.width: 8, model.dropout: 0.1}
          - {model.dropout: 0.5, train.epochs: 5}
          - {model.width: 32, model.dropout: 0.1, train.epochs: 4}
        """,
        {
            "width8-dropout0.5-epochs4": {"model.width": 8, "model.dropout": 0.5, "train.epochs": 4},
            "width32-dropout0.1-epochs5": {"model.width": 32, "model.dropout": 0.1, "train.epochs": 5},
            "width32-dropout0.5-epochs4": {"model.width": 32, "model.dropout": 0.5, "train.epochs": 4},
        },
    ),
    "1 excludes 1.0, and a list or mapping excludes its equal": (
        """\
        grid: {model.depths: [[2, 1], [1, 2]], optim.optimizer.lr: [1.0, 0.5], augment.crop: [{padding: 1}, null]}
        exclude:
          - {optim.optimizer.lr: 1}
          - {model.depths: [2, 1], augment.crop: {padding: 1}}
        """,
        {
            "depths2_1-lr0.5": {"model.depths": [2, 1], "optim.optimizer.lr": 0.5},
            "depths1_2-lr0.5-crop_padding1": {
                "model.depths": [1, 2],
                "optim.optimizer.lr": 0.5,
                "augment.crop": {"padding": 1},
            },
            "depths1_2-lr0.5": {"model.depths": [1, 2], "optim.optimizer.lr": 0.5},
        },
    ),
    "a zip goes in step": (
        "zip: {model.depths: [[1, 1], [2, 2], [3, 3]], model.width: [16, 12, 10]}",
        {
            "depths2_2-width12": {"model.depths": [2, 2], "model.width": 12},
            "depths3_3-width10": {"model.depths": [3, 3], "model.width": 10},
        },
    ),
    "names of toggles, kinds, words and mappings": (
        """\
        grid:
          model.zero_init: [false, true]
          optim.schedule.kind: [constant, cosine]
        zip:
          augment.cutmix: [true, {alpha: 0.5}]
          model.norm: [none, batch]
          optim.clip: [{kind: value, value: 0.1}, null]
        """,
        {
            "schedule_cosine": {"optim.schedule.kind": "cosine"},
            "zero_init": {"model.zero_init": True},
            "zero_init-schedule_cosine": {"model.zero_init": True, "optim.schedule.kind": "cosine"},
            "cutmix-norm_none-clip_value_value0.1": {
                "augment.cutmix": True,
                "model.norm": "none",
                "optim.clip": {"kind": "value", "value": 0.1},
            },
            "cutmix_alpha0.5": {"augment.cutmix": {"alpha": 0.5}},
        },
    ),
    "two fields of one last name are told apart by what stands before it": (
        "grid: {augment.cutmix.alpha: [0.5], augment.mixup.alpha: [0.5, 2.0], train.batch_size: [32]}",
        {
            "cutmix_alpha0.5-mixup_alpha0.5-ba-1aee19": {
                "augment.cutmix.alpha": 0.5,
                "augment.mixup.alpha": 0.5,
                "train.batch_size": 32,
            },
            "cutmix_alpha0.5-mixup_alpha2-batc-14290d": {
                "augment.cutmix.alpha": 0.5,
                "augment.mixup.alpha": 2.0,
                "train.batch_size": 32,
            },
        },
    ),
    "all of it in one file, in the order of the grammar whatever that of the file": (
        """\
        zip: {model.width: [64]}
        grid: {train.epochs: [4]}
        ladder: [crop: {augment.crop: true}]
        add_one_in: {flip: {augment.flip: true}}
        leave_one_out: {dropout: {model.dropout: 0.0}}
        arms: {mine: {model.width: 8}}
        overrides: {model.dropout: 0.2}
        """,
        {
            "mine": {"model.width": 8},
            "no_dropout": {"model.dropout": 0.0},
            "with_flip": {"augment.flip": True},
            "plus_crop": {"augment.crop": True},
            "epochs4": {"train.epochs": 4},
            "width64": {"model.width": 64},
        },
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_a_file_says(write: Writer, case: str) -> None:
    text, expected = TABLE[case]
    study = load_study(write("study.yaml", "name: study\nbase: plain.yaml\n" + _dedented(text)))
    assert list(arms_of(study).items()) == list(expected.items())
    assert (study.base.name, study.base.overrides) == ("plain", {})


def _dedented(text: str) -> str:
    from textwrap import dedent

    return dedent(text)


def test_each_arm_is_the_base_with_what_it_sets(write: Writer) -> None:
    """Its runs are those of the experiment file with the same overrides given on the command line."""
    import json

    from harness.spec.documents import load_experiment

    for text, expected in TABLE.values():
        study = load_study(write("study.yaml", "name: study\nbase: plain.yaml\n" + _dedented(text)))
        shared = ["model.dropout=0.2"] if "overrides:" in text else []
        for arm in study.arms[1:]:
            given = [f"{path}={json.dumps(value)}" for path, value in expected[arm.name].items()]
            alone = load_experiment(study.path.parent / "plain.yaml" if study.path else "", [*shared, *given])
            assert run_id(arm.spec, 0) == run_id(alone, 0), arm.name


# --- merged ---


def test_what_is_equal_is_merged_and_said_and_stands_in_both_places(write: Writer) -> None:
    study = load_study(
        write(
            "study.yaml",
            """\
            name: study
            base: plain.yaml
            arms: {wide: {model.width: 32}}
            add_one_in: {ema: {optim.ema: {decay: 0.99}}}
            ladder:
              - averaging: {optim.ema.decay: 0.99}
              - off: {optim.ema: null}
              - wider: {model.width: 32}
            grid: {model.width: [16, 32, 32, 64], model.dropout: [0.0]}
            zip: {model.width: [64]}
            """,
        )
    )
    assert list(arms_of(study)) == ["wide", "with_ema", "width64"]
    assert study.remarks == (
        "plus_averaging is equal to with_ema: one arm, called with_ema",
        "plus_off is equal to the base: one arm, called plain",
        "plus_wider is equal to wide: one arm, called wide",
        "model.width = 16, model.dropout = 0.0 of grid is equal to the base: one arm, called plain",
        "model.width = 32, model.dropout = 0.0 of grid is equal to wide: one arm, called wide",
        "model.width = 32, model.dropout = 0.0 of grid is equal to wide: one arm, called wide",
        "model.width = 64 of zip is equal to width64: one arm, called width64",
    )
    assert [(placement.key, arm.name) for placement, arm in study.placed("ladder")] == [
        ("averaging", "with_ema"),
        ("off", "plain"),
        ("wider", "wide"),
    ]
    assert [(placement.position, placement.coordinates, arm.name) for placement, arm in study.placed("grid")] == [
        (1, {"model.width": 16, "model.dropout": 0.0}, "plain"),
        (2, {"model.width": 32, "model.dropout": 0.0}, "wide"),
        (3, {"model.width": 32, "model.dropout": 0.0}, "wide"),
        (4, {"model.width": 64, "model.dropout": 0.0}, "width64"),
    ]
    assert [placement.section for placement in study.base.placements] == ["ladder", "grid"]


def test_a_field_beside_another_kind_is_said_even_where_the_base_has_its_value(write: Writer) -> None:
    """Weight decay 0 is SGD's default here, and so the base's: under AdamW the arm still says it."""
    text = (
        "grid: {optim.optimizer.kind: [sgd, adamw], optim.optimizer.weight_decay: [0.0]}\n"
        "overrides: {optim.optimizer.lr: 0.01}"
    )
    study = load_study(write("study.yaml", f"name: study\nbase: plain.yaml\n{text}\n"))
    assert arms_of(study) == {
        "optimizer_adamw-weight_decay0": {"optim.optimizer.kind": "adamw", "optim.optimizer.weight_decay": 0.0}
    }


# --- names ---


def test_a_name_that_is_taken_gets_a_mark_of_what_the_arm_sets(write: Writer) -> None:
    text = "arms: {width32: {model.dropout: 0.5}}\ngrid: {model.width: [32]}"
    (_, by_hand, generated) = load_study(write("study.yaml", f"name: study\nbase: plain.yaml\n{text}\n")).arms
    assert by_hand.name == "width32"
    assert generated.name == "width32-8929e3"
    assert generated.spec.model.width == 32


def test_names_stay_when_the_file_grows(write: Writer) -> None:
    short = "grid: {model.width: [8], train.batch_size: [32], train.epochs: [5], optim.optimizer.lr: [0.125]}"
    long = "grid: {model.width: [4, 8], train.batch_size: [8, 32], train.epochs: [5], optim.optimizer.lr: [0.125, 1.0]}"
    (name,) = arms_of(load_study(write("study.yaml", f"name: study\nbase: plain.yaml\n{short}\n")))
    assert len(name) <= 40
    more = load_study(write("study.yaml", f"name: study\nbase: plain.yaml\narms: {{x: {{model.width: 5}}}}\n{long}\n"))
    assert name in arms_of(more)


def test_a_base_with_a_long_name_leaves_less_room(write: Writer) -> None:
    base = "b" * 60
    write(f"{base}.yaml", "base: plain.yaml\n")
    text = f"name: study\nbase: {base}.yaml\ngrid: {{train.batch_size: [32], train.epochs: [5]}}\n"
    (name,) = arms_of(load_study(write("study.yaml", text)))
    assert len(base) + 1 + len(name) <= 80


def test_a_base_whose_name_leaves_no_room(write: Writer) -> None:
    base = "b" * 76
    write(f"{base}.yaml", "base: plain.yaml\n")
    path = write("study.yaml", f"name: study\nbase: {base}.yaml\ngrid: {{model.width: [8, 32]}}\n")
    (problem,) = problems_of(lambda: load_study(path))
    assert problem.where == f"{path}:3: grid"
    assert problem.what == f"the base's name, {base}, has 76 characters: that leaves 3 for the names of arms"
    named = write("study.yaml", f"name: study\nbase: {base}.yaml\narms: {{abc: {{model.width: 8}}}}\n")
    assert arms_of(load_study(named)) == {"abc": {"model.width": 8}}


# --- mistakes ---


@pytest.mark.parametrize(
    ("line", "where", "words"),
    [
        ("ladder: []", "ladder", "needs at least 1 item"),
        ("ladder: {a: {model.width: 8}}", "ladder", "is not a list"),
        ("ladder: [a]", "ladder[0]", "is not a mapping"),
        ("ladder: [a: 5]", "ladder[0].a", "is not a mapping"),
        ("ladder: [a: {}]", "ladder[0].a", "the step sets nothing"),
        ("ladder: [{}]", "ladder[0]", "this has 0"),
        ("ladder: [{a: {model.width: 8}, b: {model.width: 9}}]", "ladder[0]", "this has 2: a, b"),
        ("ladder: [a: {model.width: 8}, a: {model.dropout: 0.1}]", "ladder[1].a", "two steps are called a"),
        ("ladder: [a: {modle.width: 8}]", "ladder[0].a", "there is no field `modle.width`"),
        ("ladder: [a: {model.width: 8}, b: {model.width: -8}]", "ladder[1].b: model.width", "out of range"),
        ("ladder: [a: {model.width: -8}, b: {model.dropout: 0.1}]", "ladder[0].a: model.width", "out of range"),
        ("ladder: [a: {model.width: 16}]", "ladder[0].a", "equal to the base"),
        ("ladder: [a/b: {model.width: 8}]", "ladder[0].a/b", "can't be a name"),
        ("ladder: [a: {seed: 8}]", "ladder[0].a", "`seed` is set by the study"),
        ("grid: {}", "grid", "needs at least 1 item"),
        ("grid: []", "grid", "is not a mapping"),
        ("grid: {model.width: []}", "grid.model.width", "needs at least 1 item"),
        ("grid: {model.width: 8}", "grid.model.width", "is not a list"),
        ("grid: {modle.width: [8]}", "grid", "there is no field `modle.width`"),
        ("grid: {seed: [1, 2]}", "grid", "`seed` is set by the study"),
        ("grid: {model.width: [8, -8, 32]}", "grid: model.width", "-8 is out of range"),
        ("grid: {model.width: [8, -8], model.dropout: [0.1, 0.2]}", "grid: model.width", "-8 is out of range"),
        ("grid: {augment.cutmix: [null], augment.cutmix.alpha: [1.0]}", "grid", "are set in one place"),
        (f"grid: {{model.width: {list(range(1, 402))}, train.epochs: {list(range(1, 252))}}}", "grid", "100,651 arms"),
        ("grid: {model.depths: [[1], [1, 1, 1]], model.width: [[8, 16, 32]]}", "grid: model.width", "for 1 groups"),
        ("zip: {}", "zip", "needs at least 1 item"),
        ("zip: {model.width: []}", "zip.model.width", "needs at least 1 item"),
        ("zip: {model.width: [8, 9], train.epochs: [1, 2, 3]}", "zip", "model.width 2, train.epochs 3"),
        ("zip: {model.width: [8], model.dropout: [2]}", "zip: model.dropout", "2 is out of range"),
        ("zip: {name: [a]}", "zip", "`name` is set by the study"),
        ("exclude: [{model.width: 8}]", "exclude", "there is no grid"),
        ("match: model.width", "match", "is not a mapping"),
        ("match: {}", "match.parameters", "is missing"),
        ("match: {parameters: 3}", "match.parameters", "is not text"),
        ("match: {parameters: model.widht}", "match.parameters", "did you mean `model.width`"),
        ("match: {parameters: optim.optimizer.lr}", "match.parameters", "does not hang on it"),
        ("match: {parameters: model.dropout}", "match.parameters", "does not hang on it"),
        ("match: {parameters: train.batch_size}", "match.parameters", "does not hang on it"),
        ("match: {parameters: model}", "match.parameters", "can't be solved for"),
        ("match: {parameters: model.depths}", "match.parameters", "its numbers are one per group"),
        ("match: {parameters: model.se.reduction}", "match.parameters", "the base has no `model.se.reduction`"),
    ],
)
def test_a_mistake_is_told_at_its_line(write: Writer, line: str, where: str, words: str) -> None:
    tells_of_a_line(write, line, where, words)


def test_an_unknown_key_in_the_place_of_one_that_is_missing(write: Writer) -> None:
    path = write("study.yaml", "name: study\nbase: plain.yaml\nmatch: {macs: model.width}\n")
    places = {problem.where for problem in problems_of(lambda: load_study(path))}
    assert places == {f"{path}:3: match.macs", f"{path}:3: match.parameters"}


@pytest.mark.parametrize(
    ("exclude", "where", "words"),
    [
        ("[]", "exclude", "needs at least 1 item"),
        ("{model.width: 8}", "exclude", "is not a list"),
        ("[model.width]", "exclude[0]", "is not a mapping"),
        ("[{}]", "exclude[0]", "names no values"),
        ("[{model.width: 8}, {model.width: 9}]", "exclude[1]", "excludes nothing: model.width is never 9"),
        ("[{model.width: 8, model.dropout: 0.9}]", "exclude[0]", "model.dropout is never 0.9"),
        ("[{model.dropout: false}]", "exclude[0]", "model.dropout is never false"),
        ("[{model.depths: [1, 1]}]", "exclude[0]", "`model.depths` is not in the grid"),
        ("[{model.width: 8}, {model.width: 32}]", "exclude", "nothing is left of the 4 arms"),
        ("[{model.dropout: 0}, {model.dropout: 0.5}]", "exclude", "nothing is left of the 4 arms"),
    ],
)
def test_an_exclude_that_is_a_mistake(write: Writer, exclude: str, where: str, words: str) -> None:
    grid = "grid: {model.width: [8, 32], model.dropout: [0.0, 0.5]}"
    path = write("study.yaml", f"name: study\nbase: plain.yaml\n{grid}\nexclude: {exclude}\n")
    (problem,) = problems_of(lambda: load_study(path))
    assert problem.where == f"{path}:4: {where}"
    assert words in str(problem)


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("arms: {wide: {model.width: 32}}", "arms.wide"),
        ("arms: {wide: {model: {width: 32}}}", "arms.wide"),
        ("leave_one_out: {wide: {model.width: 32}}", "leave_one_out.wide"),
        ("ladder: [a: {model.dropout: 0.1}, b: {model.width: 32}, c: {train.epochs: 9}]", "ladder[1].b"),
        ("zip: {model.depths: [[2, 2]], model.width: [12]}", "zip"),
    ],
)
def test_an_arm_may_not_set_what_is_solved_for(write: Writer, line: str, where: str) -> None:
    path = write("study.yaml", f"name: study\nbase: plain.yaml\nmatch: {{parameters: model.width}}\n{line}\n")
    (problem,) = problems_of(lambda: load_study(path))
    assert problem.where == f"{path}:4: {where}"
    assert "`model.width` is what `match` solves for" in problem.what


def test_base_and_all_arms_must_have_one_number_to_solve_for(write: Writer) -> None:
    write("listed.yaml", "base: plain.yaml\nmodel: {width: [16, 32]}\n")
    path = write("study.yaml", "name: study\nbase: listed.yaml\nmatch: {parameters: model.width}\n")
    (problem,) = problems_of(lambda: load_study(path))
    assert problem.where == f"{path}:3: match.parameters"
    assert "the base has [16, 32] as `model.width`" in problem.what
    write("squeezed.yaml", "base: plain.yaml\nmodel: {se: {reduction: 4}}\n")
    text = "name: study\nbase: squeezed.yaml\nmatch: {parameters: model.se.reduction}\narms: {no: {model.se: false}}\n"
    (problem,) = problems_of(lambda: load_study(write("study.yaml", text)))
    assert problem.where == f"{path}:4: arms.no"
    assert "the arm has no `model.se.reduction`" in problem.what


def test_all_mistakes_at_once(write: Writer) -> None:
    path = write(
        "study.yaml",
        """\
        name: study
        base: plain.yaml
        seeds: [1, 1]
        ladder:
          - a: {model.width: 8}
            b: {model.width: 9}
          - c: {modle.width: 8}
        grid:
          model.width: [-1, 8]
          model.dropout: []
        exclude:
          - {model.width: 7}
        zip: {train.epochs: [4, 5], train.batch_size: [8]}
        match: {parameters: optim.optimizer.lr}
        arms:
          same: {model.width: 16}
          a/b: {model.width: 8}
        """,
    )
    problems = problems_of(lambda: load_study(path))
    for where in [
        f"{path}:3: seeds",
        f"{path}:5: ladder[0]",
        f"{path}:7: ladder[1].c",
        f"{path}:9: grid: model.width",
        f"{path}:10: grid.model.dropout",
        f"{path}:12: exclude[0]",
        f"{path}:13: zip",
        f"{path}:14: match.parameters",
        f"{path}:16: arms.same",
        f"{path}:17: arms.a/b",
    ]:
        problem_at(problems, where)
    assert len(problems) == 10
