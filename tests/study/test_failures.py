"""Arms that end badly, through the real command: each told with its status, and the others go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.tracking.journal import Journal
from harness.tracking.store import Store
from tests.study.commands import processes_of, spawn, wait_until

ARMS = """\
name: study
base: tiny.yaml
arms:
  raises: {model.width: 5}
  diverges: {model.width: 6}
  hungry: {model.width: 7}
  fine: {model.width: 8}
"""


@pytest.mark.slow
def test_each_kind_of_failure_is_told_and_the_others_go_on(folder: Path) -> None:
    (folder / "study.yaml").write_text(ARMS)
    process = spawn(folder, "ablate", "study.yaml", "--jobs", "2", hooked=True, COLUMNS="200")
    out, err = process.communicate(timeout=180)
    assert process.returncode == 1, out + err
    assert "Traceback" not in out + err
    entries = {record.arm: (found, record) for found, record in Store(folder / "runs").entries()}
    assert {arm: record.status for arm, (_, record) in entries.items()} == {
        "tiny": "completed",
        "raises": "crashed",
        "diverges": "diverged",
        "hungry": "out_of_memory",
        "fine": "completed",
    }
    kinds = {"raises": "ZeroDivisionError", "diverges": "Diverged", "hungry": "OutOfMemoryError"}
    for arm, kind in kinds.items():
        found, record = entries[arm]
        assert record.epochs_done == len(Journal(found.journal_path).rows()) == 1, arm
        assert record.error
        assert record.error["type"] == kind
        assert "Traceback (most recent call last)" in record.error["traceback"]
        assert "in _train_epoch" in record.error["traceback"] or arm == "diverges"
    table = out[out.index("epoch  message") :].splitlines()  # what stands at the end
    assert [" ".join(line.split()) for line in table[1:4]] == [
        "raises 0 crashed 1/3 ZeroDivisionError: a fault of the test's",
        "diverges 0 diverged 1/3 train_loss is nan in epoch 2, step 1 of 6",
        "hungry 0 out of memory 1/3 CUDA out of memory. Tried to allocate 20.00 MiB",
    ]
    assert "--retry-failed runs failed runs again" in table
    assert "3 of 5 runs failed: raises seed 0, diverges seed 0, hungry seed 0" in err
    assert not list((folder / "runs/.claims").iterdir())
    wait_until(lambda: not processes_of(process.pid), "processes are left", 60)


@pytest.mark.slow
def test_one_arm_over_the_budget_means_exit_2_and_nothing_ran(folder: Path) -> None:
    (folder / "study.yaml").write_text(ARMS + "  wide: {model.width: 2000}\n")
    process = spawn(folder, "ablate", "study.yaml")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2, out + err
    assert "wide" in err
    assert "Traceback" not in out + err
    assert not (folder / "runs").exists()
    assert not (folder / "reports").exists()
