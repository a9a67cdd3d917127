"""Damaged files in bulk: whatever a file holds, a command answers in words, soon, and reading changes nothing."""

from __future__ import annotations

import contextlib
import json
import shutil
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.spec.experiment import ExperimentSpec
from harness.spec.fields import field_paths
from tests.conftest import Result
from tests.damage import changes
from tests.damage.changes import Change
from tests.damage.place import Place, TooLong, call, fault, furnish
from tests.study.commands import spawn

FEW, MANY = 5, 180  # cases of each kind: about 2,300 in all
LOOKS = """
runs
runs --json
runs {id}
runs {id} --json
runs --where arm=x
runs --where status=failed --json
runs --prune
plan study.yaml --explain
plan study.yaml --json
plan study.yaml --explain --json
plan grammar.yaml --explain
plan student.yaml
report study.yaml -o out/report.md
report study.yaml --format html,tex -o out/report.html
report study.yaml --format json,csv -o out/report.json
report {id} -o out/run.md
report {id} --format json,csv -o out/run.json
report -o out/all.md
report --format csv,json,tex,html -o out/all.csv
report study.yaml --evidence out/evidence
diff {id} {half}
diff {id} {half} --json
diff {folder} tiny.yaml --json
predict {folder} images.npy --json
dashboard study.yaml -o out
"""
OF_AN_EXPERIMENT = """
check tiny.yaml
check tiny.yaml --json
diff tiny.yaml half.yaml
plan study.yaml
"""
OF_AN_ABLATION = """
check grammar.yaml
check grammar.yaml --json
plan grammar.yaml
plan grammar.yaml --json
report grammar.yaml --format json -o out/report.json
dashboard grammar.yaml -o out
"""
OF_PREDICTIONS = """
report study.yaml --format json,csv -o out/report.json
report study.yaml --format html -o out/report.html
report {id} --format json -o out/run.json
report {id} --format csv -o out/run.csv
report study.yaml --evidence out/evidence
"""
PREDICT = """
predict {id} images.npy
predict {id} images.npy --json
"""
OF_A_TEACHER = """
check student.yaml
plan student.yaml
diff student.yaml tiny.yaml
"""


@dataclass(frozen=True)
class Kind:
    """What is damaged, how, and who reads it. `writes`: the commands may change the runs folder."""

    victim: str
    changes: tuple[Change, ...]
    commands: str
    writes: bool = False


YAML, JSON = changes.YAML + changes.BYTES, changes.JSON * 3 + changes.BYTES
JOURNAL, ARRAYS = (changes.journal_rows,) * 8 + changes.BYTES, changes.PREDICTIONS * 3 + changes.BYTES
KINDS = {
    "experiment": Kind("tiny.yaml", YAML, OF_AN_EXPERIMENT),
    "ablation": Kind("grammar.yaml", YAML, OF_AN_ABLATION),
    "record": Kind("{folder}/record.json", JSON, LOOKS),
    "journal": Kind("{folder}/journal.jsonl", JOURNAL, LOOKS),
    "predictions": Kind("{folder}/predictions.npz", ARRAYS, OF_PREDICTIONS),
    "weights": Kind("{folder}/checkpoints/final.pt", changes.CHECKPOINT, PREDICT),
    "images": Kind("images.npy", changes.BYTES, PREDICT),
    "teacher": Kind("teacher.pt", changes.CHECKPOINT, OF_A_TEACHER),
    "experiment to run": Kind("half.yaml", YAML, "run half.yaml\nrun half.yaml --json", writes=True),
    "record to go on from": Kind("{half_folder}/record.json", JSON, "run half.yaml", writes=True),
    "journal to go on from": Kind("{half_folder}/journal.jsonl", JOURNAL, "run half.yaml", writes=True),
    "checkpoint to go on from": Kind(
        "{half_folder}/checkpoints/last.pt", changes.CHECKPOINT, "run half.yaml", writes=True
    ),
    "teacher to learn from": Kind("teacher.pt", changes.CHECKPOINT, "run student.yaml", writes=True),
}


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return furnish(tmp_path_factory.mktemp("place"))


@pytest.fixture
def place(furnished: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.chdir(furnished.root)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(
        "harness.session.Training.fit", lambda training, listener: "interrupted"
    )  # up to the first step
    yield furnished
    furnished.mend()


def names_of(place: Place) -> dict[str, str]:
    folder, half = (next(path for path in sorted(Path("runs").glob(f"{name}-*"))) for name in ("tiny", "half"))
    return {"folder": str(folder), "half_folder": str(half), "id": folder.name[5:], "half": half.name[5:]}


def case(place: Place, kind: Kind, seed: str) -> str | None:
    """Damage one file, give one command; what is wrong with the answer, with the seed it can be had again by."""
    rng = Random(seed)
    names = names_of(place)
    place.damage(kind.victim.format(**names), rng, kind.changes)
    command = [part.format(**names) for part in rng.choice(kind.commands.strip().splitlines()).split()]
    before = place.digest()
    told = wrong(command, kind.writes)
    if told is None and not kind.writes and place.digest() != before:
        told = "the runs folder has changed"
    if told is None and Path("sprung").exists():
        told = "a program in the file was run"
    place.mend()
    return told and f"case {seed!r}, `harness {' '.join(command)}`: {told}"


def wrong(command: Sequence[str], writes: bool = False) -> str | None:
    try:
        result = call(*command)
    except TooLong:
        return "it did not come back"
    except Exception:
        return traceback.format_exc()
    if writes and result.code == 130:  # it would have trained
        return None
    told = fault(result, command)
    return told and f"{told}\n{result.err}{result.out[:500]}"


OVERRIDES = (
    "check tiny.yaml",
    "check grammar.yaml",
    "plan study.yaml",
    "run half.yaml",
    "report study.yaml --format csv",
)


def override_case(place: Place, seed: str) -> str | None:
    """As `case`, with something on the command line that is no override, or one that cannot be."""
    rng = Random(seed)
    command = rng.choice(OVERRIDES).split()
    for _ in range(rng.choice((1, 1, 2))):
        path = rng.choice(
            [
                *sorted(field_paths(ExperimentSpec)),
                "",
                "a",
                "model.",
                ".model",
                "model..width",
                "\x1b[31m",
                "seeds",
                "é",
            ]
        )
        text = (
            f"{path}{rng.choice(('=', '=', '=', '=', '', '==', ' = '))}{rng.choice((*changes.SCALARS, *changes.LINES))}"
        )
        command += ["--override", text]
    told = wrong(command, writes=True)
    place.mend()
    return told and f"case {seed!r}, {command!r}: {told}"


def in_bulk(place: Place, names: Iterable[str], cases: range) -> None:
    found = [told for name in names for number in cases if (told := case(place, KINDS[name], f"{name} {number}"))]
    assert not found, f"{len(found)} cases\n" + "\n\n".join(found[:20])


def test_a_few_of_each_kind(place: Place) -> None:
    in_bulk(place, KINDS, range(FEW))


def test_overrides_of_every_kind(place: Place) -> None:
    found = [told for number in range(100) if (told := override_case(place, f"override {number}"))]
    assert not found, "\n\n".join(found[:20])


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_many_of_each_kind(place: Place, name: str) -> None:
    in_bulk(place, [name], range(FEW, MANY))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_value_anywhere_in_a_record_and_in_a_row(place: Place, data: st.DataObject) -> None:
    names = names_of(place)
    file = data.draw(st.sampled_from(["record.json", "journal.jsonl"]))
    path = Path(names["folder"], file)
    first, *rest = place.files[str(path)].splitlines() if file == "journal.jsonl" else [place.files[str(path)]]
    tree = json.loads(first)
    where = data.draw(st.sampled_from(changes.places(tree)))
    path.write_bytes(b"\n".join([changes.to_json(changes.with_value(tree, where, data.draw(JSON_VALUES))), *rest]))
    for command in ("runs --json", "plan study.yaml --explain --json", "report {id} --format json -o out/run.json"):
        told = wrong(command.format(**names).split())
        assert told is None, f"{command}: {told}"
    place.mend()


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_some_of_each_kind_as_a_user_gives_the_command(furnished: Place, name: str, tmp_path: Path) -> None:
    """In a process of its own, which trains where it can."""
    root = tmp_path / "place"
    for number in range(MANY, MANY + 4):
        shutil.copytree(furnished.root, root)
        seed = f"{name} {number}"
        kind, rng = KINDS[name], Random(seed)
        place = Place(root, furnished.files)
        with contextlib.chdir(root):
            names = names_of(place)
            place.damage(kind.victim.format(**names), rng, kind.changes)
            command = [part.format(**names) for part in rng.choice(kind.commands.strip().splitlines()).split()]
            before = place.digest()
            with spawn(root, *command) as process:
                out, err = process.communicate(timeout=120)
            told = fault(Result(process.returncode, out, err), command)
            assert told is None, f"case {seed!r}, {command}: {told}\n{err}"
            assert kind.writes or place.digest() == before, f"case {seed!r}, {command}"
            assert not Path("sprung").exists(), seed
        shutil.rmtree(root)
