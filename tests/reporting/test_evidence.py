"""The evidence gives the same report and tells nothing of the machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import InputError
from harness.reporting import build, evidence, render, write
from harness.reporting.scrub import scrub
from harness.spec.ablation import Study
from harness.tracking.record import Wandb
from harness.tracking.store import Store
from tests.reporting.synthetic import add, fill, make_record, make_study


def test_the_report_from_the_evidence_has_the_same_bytes(troubled: tuple[Study, Store], tmp_path: Path) -> None:
    study, store = troubled
    copies = evidence(study, store, tmp_path / "evidence" / "small")
    assert len(copies) == 3 * 7 - 3  # constant_lr has no record
    original, copied = build(study, store), build(study, Store(tmp_path / "evidence" / "small"))
    for format in ("md", "json"):
        assert render(original, format) == render(copied, format)
    first, second = write(original, tmp_path / "a" / "x.md"), write(copied, tmp_path / "b" / "x.md")
    assert len(first) == 3
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_evidence_tells_nothing_of_the_machine(troubled: tuple[Study, Store], tmp_path: Path) -> None:
    study, store = troubled
    evidence(study, store, tmp_path)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in written} == {"record.json", "journal.jsonl"}
    for path in written:
        text = path.read_text()
        assert "box7" not in text
        assert "/home" not in text
    record = json.loads(next(path for path in written if path.name == "record.json").read_text())
    assert record["provenance"]["command"] == ["harness", "ablate", "small.yaml"]
    failed = next(record for record in Store(tmp_path).records() if record.status == "diverged")
    assert failed.error == {"type": "RunFailed", "message": "loss is nan | in x.py on …\nat step 3"}


def test_predictions_come_without_logits_and_nothing_else_comes(store: Store, tmp_path: Path) -> None:
    study = make_study({}, seeds=(0,))
    record = make_record(study, study.base, 0, 0.7, wandb=Wandb(id="x", state="failed: no /home/someone/.netrc"))
    add(store, record, [])
    folder = store.folder(record.name, record.run_id)
    predicted, labels = np.array([3, 9, 0]), np.array([3, 1, 0])
    folder.write_predictions(np.ones((3, 10)), predicted, labels, "test")
    folder.wandb_dir.mkdir()
    (folder.wandb_dir / "debug.log").write_text("host box7")
    folder.final.write_bytes(b"weights")
    (copied,) = evidence(study, store, tmp_path / "evidence")
    assert sorted(path.name for path in copied.rglob("*")) == ["predictions.npz", "record.json"]
    (found,) = Store(tmp_path / "evidence").entries()
    stored = found[0].read_predictions()
    assert set(stored) == {"predicted", "labels", "images"}
    assert stored["predicted"].dtype == stored["labels"].dtype == np.uint8
    assert (list(stored["predicted"]), list(stored["labels"]), stored["images"]) == ([3, 9, 0], [3, 1, 0], "test")
    assert found[1].wandb.state == "failed"


def test_what_is_damaged_is_left_out_of_the_evidence_too(tmp_path: Path) -> None:
    """As of the report; and what was written before it was damaged does not stay behind."""
    study, store, copies = make_study({}, seeds=(0, 1)), Store(tmp_path / "runs"), tmp_path / "evidence"
    fill(store, study, {"small": [0.7, 0.8]})
    folders = [folder for folder, _ in store.entries()]
    for folder in folders:
        folder.write_predictions(None, np.array([3, 1]), np.array([3, 1]), "test")
    assert len(list(copied_files(study, store, copies))) == 6
    folders[0].predictions_path.write_bytes(b"PK")
    folders[1].journal_path.write_text("{\n{}\n")
    files = copied_files(study, store, copies)
    assert len([path for path in files if path.name == "record.json"]) == 2
    assert len(files) == 4
    assert render(build(study, store), "md") == render(build(study, Store(copies)), "md")


def copied_files(study: Study, store: Store, target: Path) -> list[Path]:
    evidence(study, store, target)
    return [path for path in target.rglob("*") if path.is_file()]


def test_a_machine_called_like_an_arm_changes_no_name(store: Store, tmp_path: Path) -> None:
    study = make_study({}, seeds=(0, 1))
    fill(store, study, {"small": [0.7, 0.8]}, provenance={"host": "small"})
    evidence(study, store, tmp_path / "evidence")
    assert [record.name for record in Store(tmp_path / "evidence").records()] == ["small", "small"]


def test_the_store_is_not_its_own_evidence(seven: tuple[Study, Store]) -> None:
    study, store = seven
    with pytest.raises(InputError, match="taken from"):
        evidence(study, store, store.root / ".." / store.root.name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/a/b.yaml", "b.yaml"),
        ("--data-dir=/data/cifar10", "--data-dir=cifar10"),
        ("can't read '/home/u/x.pt': gone", "can't read 'x.pt': gone"),
        ("3 images/s, 1/2, loss / accuracy", "3 images/s, 1/2, loss / accuracy"),
        ("https://pytorch.org/docs/x", "https://pytorch.org/docs/x"),
        ("file:///home/u/x", "x"),
        ("~/x/y.yaml ablations/z.yaml", "y.yaml ablations/z.yaml"),
        ("C:\\Users\\me\\x.yaml", "x.yaml"),
        ("PATH=/usr/bin:/opt/bin", "PATH=bin:bin"),
        ("ran on box7, not box77", "ran on …, not box77"),
        ("box7/x/y", "…y"),
        # Folders of several words, and sentences that go on after a path
        ("/home/John Doe/secret/x.py", "x.py"),
        ("/home/John J. Doe/lr=0.1/x (old)/y.py", "y.py"),
        ("/home/John\\ O'Brien/x.py", "x.py"),
        ("C:\\Users\\John Doe\\x\\y.txt", "y.txt"),
        ("C:\\Program Files (x86)\\x.exe", "x.exe"),
        ("/mnt/c/Documents and Settings/me/x.py", "x.py"),
        ("File '/home/john and mary/x.py', line 3", "File 'x.py', line 3"),
        ("wrote /tmp/a/b.md and runs/x", "wrote b.md and runs/x"),
        ("wrote '/tmp/a/b.md and runs/x'", "wrote 'b.md and runs/x'"),
        ("wrote /tmp/a and runs/x", "wrote a and runs/x"),
        ("wrote /tmp/a. Then runs/x", "wrote a. Then runs/x"),
        ("/data/cifar10 is read at 3 images/s", "cifar10 is read at 3 images/s"),
        ("cp /home/a/b /home/c/d --out runs/x", "cp b d --out runs/x"),
        ("and/or ablations/x.yaml, 3/4, a / b, -v/-q", "and/or ablations/x.yaml, 3/4, a / b, -v/-q"),
        # Other ways to write a path
        ("-o/home/me/out.md", "-oout.md"),
        ("~me/x/y", "y"),
        ("C:/Users/me/x.yaml and file:///D:/y.yaml", "x.yaml and y.yaml"),
        ("'C:\\\\Users\\\\me\\\\x.yaml'", "'x.yaml'"),  # as repr writes it
        ("\\\\server\\share\\x", "x"),
        ("'\\\\\\\\server\\\\share\\\\x'", "'x'"),
        ("'\\\\d+\\\\w'", "'\\\\d+\\\\w'"),
        ("http://me:secret@host/x", "http://…@host/x"),
        ("https://***@host/x", "https://***@host/x"),
    ],
)
def test_scrub(text: str, expected: str) -> None:
    assert scrub(text, "box7") == expected
    assert scrub(expected, "box7") == expected


PIECES = ["/", "\\", " ", "a", "b.md", "and", "John", "'", ":", "~", "-o", "file:", "C:", "http://", "@", "box7", "("]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
@settings(max_examples=500, deadline=None)
def test_scrub_is_idempotent(text: str) -> None:
    once = scrub(text, "box7")
    assert scrub(once, "box7") == once
