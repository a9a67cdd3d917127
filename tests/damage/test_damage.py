"""Damaged files in bulk: whatever a file holds, a command answers in words, soon, and reading changes nothing."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from tests.damage import changes
from tests.damage.changes import Change
from tests.damage.place import Place, TooLong, call, fault, furnish

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


def in_bulk(place: Place, names: Iterable[str], cases: range) -> None:
    found = [told for name in names for number in cases if (told := case(place, KINDS[name], f"{name} {number}"))]
    assert not found, f"{len(found)} cases\n" + "\n\n".join(found[:20])


def test_a_few_of_each_kind(place: Place) -> None:
    in_bulk(place, KINDS, range(FEW))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_many_of_each_kind(place: Place, name: str) -> None:
    in_bulk(place, [name], range(FEW, MANY))
