from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from harness.spec.ablation import Study, load_study
from harness.spec.identity import run_id, spec_digest
from tests.spec.conftest import Writer, problem_at, problems_of, tells_of_a_line


def arms_of(study: Study) -> dict[str, dict[str, Any]]:
    return {arm.name: dict(arm.overrides) for arm in study.arms}


def test_only_name_and_base_are_required(write: Writer) -> None:
    path = write("study.yaml", "name: study\nbase: plain.yaml\n")
    study = load_study(path)
    assert arms_of(study) == {"plain": {}}
    assert study.seeds == (0,)
    assert (study.margin, study.reference, study.path, study.question) == (None, None, path, None)


def test_arms_in_the_order_of_the_file_the_base_first(write: Writer) -> None:
    study = load_study(
        write(
            "study.yaml",
            """\
            name: study
            base: plain.yaml
            seeds: 3
            margin: 0.01
            reference: {label: someone, accuracy: 0.9}
            add_one_in: {cutmix: {augment.cutmix: true}}
            arms:
              wide: {model.width: 32}
              deep: {model.depths: [2, 2], model.dropout: 0.1}
            leave_one_out: {decay: {optim.optimizer.lr: 0.2}}
            """,
        )
    )
    assert arms_of(study) == {
        "plain": {},
        "wide": {"model.width": 32},
        "deep": {"model.depths": [2, 2], "model.dropout": 0.1},
        "no_decay": {"optim.optimizer.lr": 0.2},
        "with_cutmix": {"augment.cutmix": True},
    }
    assert [arm.spec.name for arm in study.arms][:2] == ["plain", "plain-wide"]
    assert study.base.name == "plain"
    assert study.arms[2].spec.model.depths == (2, 2)
    assert study.arms[4].spec.augment.cutmix is not None
    assert study.seeds == (0, 1, 2)
    assert study.reference is not None
    assert (study.reference.runs, study.reference.selection) == (1, None)


def test_overrides_hold_for_all_arms_and_the_command_line_comes_last(write: Writer) -> None:
    path = write(
        "study.yaml",
        """\
        name: study
        base: plain.yaml
        overrides: {train.epochs: 5, train.batch_size: 32, model.dropout: 0.3}
        arms:
          wide: {model.width: 32}
          dry: {model.dropout: 0.0}
        """,
    )
    study = load_study(path, ["train.epochs=7"])
    assert {arm.spec.train.epochs for arm in study.arms} == {7}
    assert {arm.spec.train.batch_size for arm in study.arms} == {32}
    assert [arm.spec.model.dropout for arm in study.arms] == [0.3, 0.3, 0.0]
    assert study.base.overrides == {}


def test_an_arm_is_the_base_with_its_overrides(write: Writer) -> None:
    from harness.spec.documents import load_experiment

    path = write("study.yaml", "name: study\nbase: plain.yaml\narms: {wide: {model.width: 32}}\n")
    alone = load_experiment(path.parent / "plain.yaml", ["model.width=32"])
    assert run_id(load_study(path).arms[1].spec, 3) == run_id(alone, 3)


@pytest.mark.parametrize(
    ("written", "count", "seeds"),
    [
        ("[0, 1, 2]", None, (0, 1, 2)),
        ("4", None, (0, 1, 2, 3)),
        ("[7, 1]", 4, (7, 1, 0, 2)),
        ("[7, 1]", 1, (7,)),
        ("3", 5, (0, 1, 2, 3, 4)),
        ("[5, 3, 4]", 3, (5, 3, 4)),
    ],
)
def test_seeds(write: Writer, written: str, count: int | None, seeds: tuple[int, ...]) -> None:
    path = write("study.yaml", f"name: study\nbase: plain.yaml\nseeds: {written}\n")
    assert load_study(path, seeds=count).seeds == seeds


@pytest.mark.parametrize(
    ("line", "where", "words"),
    [
        ("seeds: [0, 1, 0]", "seeds", "twice there: 0"),
        ("seeds: [0, -1]", "seeds[1]", "at least 0"),
        ("seeds: []", "seeds", "at least 1 item"),
        ("seeds: 0", "seeds", "must be above 0"),
        ("seeds: -2", "seeds", "must be above 0"),
        ("seeds: 1.5", "seeds", "is not a whole number or a list"),
        ("seeds: [0, one]", "seeds[1]", "is not a whole number"),
        ("seedz: 3", "seedz", "unknown key"),
        ("margin: -0.1", "margin", "at least 0"),
        ("margin: 2", "margin", "below 1"),
        ("margin: small", "margin", "is not a number"),
        ("reference: {accuracy: 0.9}", "reference.label", "is missing"),
        ("reference: {label: x, accuracy: 93.67}", "reference.accuracy", "at most 1"),
        ("reference: {label: x, accuracy: 0.9, selection: tests}", "reference.selection", "is none of"),
        ("question: [why]", "question", "is not text"),
        ("arms: [a, b]", "arms", "is not a mapping"),
        ("arms: {a: 5}", "arms.a", "is not a mapping"),
        ("arms: {a: null}", "arms.a", "is not a mapping"),
        ("arms: {a: {modle.width: 8}}", "arms.a", "there is no field `modle.width`"),
        ("arms: {a: {model.width: -8}}", "arms.a: model.width", "out of range"),
        ("arms: {a: {model.depths: [1], model.width: [8, 8]}}", "arms.a: model.width", "[8, 8] for 1 groups"),
        ("arms: {a: {seed: 3}}", "arms.a", "`seed` is set by the study"),
        ("arms: {a: {name: b}}", "arms.a", "`name` is set by the study"),
        ("arms: {a: {augment.cutmix: null, augment.cutmix.alpha: 2}}", "arms.a", "are set in one place"),
        ("arms: {a: {}}", "arms.a", "sets nothing"),
        ("arms: {a: {model.width: 16}}", "arms.a", "equal to the base"),
        ("arms: {a: {model.width: [16, 32]}}", "arms.a", "the base has that value already"),
        ("arms: {a: {guard.max_parameters: 900_000}}", "arms.a", "no result hangs on guard.max_parameters"),
        ("arms: {a: {guard: {max_parameters: null}}}", "arms.a", "no result hangs on guard"),
        ("arms: {a: {model.width: 16, notes: x}}", "arms.a", "no result hangs on notes"),
        ("arms: {a: {model.se: false}}", "arms.a", "equal to the base"),
        ("arms: {a: {notes: other}}", "arms.a", "equal to the base"),
        ("arms: {plain: {model.width: 8}}", "arms.plain", "already called plain"),
        ("arms: {../a: {model.width: 8}}", "arms.../a", "can't be a name"),
        ("arms: {a/b: {model.width: 8}}", "arms.a/b", "can't be a name"),
        ("arms: {'': {model.width: 8}}", "arms.", "can't be a name"),
        (f"arms: {{{'a' * 78}: {{model.width: 8}}}}", f"arms.{'a' * 78}", "and the base's name before it leaves 74"),
        ("leave_one_out: {se: {model.se: false}}", "leave_one_out.se", "equal to the base"),
        ("add_one_in: {se: {model.se: off}}", "add_one_in.se: model.se", "write false."),
        ("overrides: {train.epoch: 3}", "overrides", "there is no field `train.epoch`"),
        ("overrides: {train.epochs: 0}", "overrides: train.epochs", "out of range"),
        ("overrides: {seed: 3}", "overrides", "`seed` is set by the study"),
    ],
)
def test_a_mistake_is_told_at_its_line(write: Writer, line: str, where: str, words: str) -> None:
    tells_of_a_line(write, line, where, words)


@pytest.mark.parametrize("line", ["train: {epochs: 3}", "train.epochs: 3"])
def test_a_field_of_the_experiment_among_the_study_s_keys_is_told_where_it_goes(write: Writer, line: str) -> None:
    path = write("study.yaml", f"name: study\nbase: plain.yaml\n{line}\narms: {{a: {{model.width: 8}}}}\n")
    (problem,) = problems_of(lambda: load_study(path))
    assert problem.where == f"{path}:3: {line.partition(':')[0]}"
    assert "write `overrides: {train.epochs: 3}`" in str(problem.fix)


def test_two_equal_arms_are_both_named(write: Writer) -> None:
    path = write(
        "study.yaml",
        """\
        name: study
        base: plain.yaml
        arms:
          one: {model.width: 32}
          two: {model.width: [32, 64]}
        """,
    )
    (problem,) = problems_of(lambda: load_study(path))
    assert problem.where == f"{path}:5: arms.two"
    assert "one and two are equal" in problem.what
    assert f"{path}:4" in str(problem.fix)


def test_equal_generated_arms_are_merged_and_said(write: Writer) -> None:
    study = load_study(
        write(
            "study.yaml",
            """\
            name: study
            base: plain.yaml
            arms: {wide: {model.width: 32}}
            leave_one_out: {small: {model.width: 32}, drop: {model.dropout: 0.5}}
            add_one_in: {drop: {model.dropout: 0.5}}
            """,
        )
    )
    assert list(arms_of(study)) == ["plain", "wide", "no_drop"]
    assert study.remarks == (
        "no_small is equal to wide: one arm, called wide",
        "with_drop is equal to no_drop: one arm, called no_drop",
    )


def test_two_different_arms_of_one_name(write: Writer) -> None:
    path = write(
        "study.yaml",
        """\
        name: study
        base: plain.yaml
        arms: {no_x: {model.width: 32}}
        leave_one_out: {x: {model.width: 64}}
        """,
    )
    (problem,) = problems_of(lambda: load_study(path))
    assert problem.where == f"{path}:4: leave_one_out.x"
    assert "two arms are called no_x" in problem.what


def test_a_name_that_is_not_the_stem(write: Writer) -> None:
    path = write("study.yaml", "name: other\nbase: plain.yaml\nseeds: 2\n")
    (problem,) = problems_of(lambda: load_study(path))
    assert problem.where == f"{path}:1: name"
    assert "'study'" in problem.what


def test_missing_name_and_base(write: Writer) -> None:
    path = write("study.yaml", "seeds: 2\n")
    problems = problems_of(lambda: load_study(path))
    assert [(p.where, p.what) for p in problems] == [
        (f"{path}:1: name", "is missing"),
        (f"{path}:1: base", "is missing"),
    ]


def test_a_missing_base_file(write: Writer) -> None:
    path = write("study.yaml", "name: study\nbase: plane.yaml\nseeds: -1\n")
    problems = problems_of(lambda: load_study(path))
    assert "plain.yaml" in str(problem_at(problems, f"{path}:2: base").fix)
    assert len(problems) == 2


def test_a_base_that_is_an_ablation(write: Writer) -> None:
    write("a.yaml", "name: a\nbase: plain.yaml\nseeds: 2\n")
    path = write("study.yaml", "name: study\nbase: a.yaml\nseeds: 2\n")
    assert "is an ablation file" in problems_of(lambda: load_study(path))[0].what


def test_an_experiment_given_as_ablation_is_one_message(write: Writer) -> None:
    path = write("x.yaml", "base: plain.yaml\nmodel: {width: 8}\n")
    (problem,) = problems_of(lambda: load_study(path))
    assert "harness run" in str(problem.fix)


def test_all_mistakes_of_file_base_arms_and_command_line_at_once(write: Writer) -> None:
    base = write("bad.yaml", "base: plain.yaml\nmodel:\n  dropout: 2\n")
    path = write(
        "study.yaml",
        """\
        name: study
        base: bad.yaml
        seeds: [0, 0]
        arms:
          a: {modle.width: 8}
          b: {model.width: -8}
          c: {train.epochs: 3, train.epochs: 4}
          ../d: {train.epochs: 4}
        """,
    )
    problems = problems_of(lambda: load_study(path, ["train.batch_size=0", "nothing"], seeds=0))
    for where in [
        f"{base}:3: model.dropout",
        f"{path}:3: seeds",
        f"{path}:5: arms.a",
        f"{path}:6: arms.b: model.width",
        f"{path}:7",
        f"{path}:8: arms.../d",
        "-o train.batch_size=0",
        "-o nothing",
        "--seeds",
    ]:
        problem_at(problems, where)
    assert len(problems) == 9


@pytest.mark.parametrize("text", ["seed=3", "name=x"])
def test_the_command_line_may_not_set_what_the_study_sets(write: Writer, text: str) -> None:
    path = write("study.yaml", "name: study\nbase: plain.yaml\nseeds: 2\n")
    (problem,) = problems_of(lambda: load_study(path, [text]))
    assert problem.where == f"-o {text}"


def test_ten_thousand_arms_are_expanded_in_seconds(write: Writer) -> None:
    arms = "".join(f"  a{i}: {{model.dropout: {(i + 1) / 20_000}}}\n" for i in range(10_000))
    path = write("study.yaml", f"name: study\nbase: plain.yaml\narms:\n{arms}")
    started = time.process_time()
    study = load_study(path)
    assert time.process_time() - started < 30
    assert len({spec_digest(arm.spec) for arm in study.arms}) == 10_001


def test_a_study_can_be_loaded_from_anywhere(write: Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write("ablations/study.yaml", "name: study\nbase: ../plain.yaml\nseeds: 2\n")
    monkeypatch.chdir(tmp_path / "ablations")
    assert load_study(Path("study.yaml")).base.name == "plain"
