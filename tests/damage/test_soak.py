"""Hundreds of runs by one command: neither it nor its fork server grows, and nothing of theirs is left lying about.

`make soak`; 300 runs take one minute on two idle cores, four on busy ones. `SOAK_RUNS` makes it shorter.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.damage.place import TINY
from tests.study.commands import spawn, wait_until

RUNS = int(os.environ.get("SOAK_RUNS", "300"))
SETTLED = min(50, RUNS // 3)  # runs after which everything has been done once
LAST = 12  # runs before the end at which to look again
MEBIBYTE = 2**20
MAY_GROW = 8 * MEBIBYTE  # the command holds what it has seen of every run

pytestmark = pytest.mark.soak


def held_by(pid: int) -> tuple[int, int]:
    """Bytes of memory and open files, without what a run that begins or ends takes for a moment."""
    samples = []
    for _ in range(40):
        samples.append(_held_now(pid))
        time.sleep(0.05)
    return min(memory for memory, _ in samples), min(files for _, files in samples)


def _held_now(pid: int) -> tuple[int, int]:
    """Resident memory, not its share (Pss), which grows where a stranger's process that uses torch ends."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024, len(os.listdir(f"/proc/{pid}/fd"))


def server_of(pid: int) -> int:
    """The fork server: the command's child whose children the runs are."""
    [server] = [
        child
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        if b"forkserver" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return server


def test_hundreds_of_runs_leave_command_and_server_as_they_were(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    (tmp_path / "tiny.yaml").write_text(TINY.replace("epochs: 2", "epochs: 1"))
    (tmp_path / "soak.yaml").write_text(
        f"name: soak\nbase: tiny.yaml\nseeds: {RUNS // 2}\narms: {{flip: {{augment.flip: true}}}}\n"
    )
    runs = tmp_path / "runs"

    def done() -> int:
        return len(list(runs.glob("*/predictions.npz")))

    own = {"TMPDIR": str(temporary), "HARNESS_RUNS_DIR": str(runs)}
    with spawn(tmp_path, "ablate", "soak.yaml", "--jobs", "2", **own) as process:
        wait_until(lambda: done() >= SETTLED or process.poll() is not None, "the first runs", seconds=1800)
        watched = {"command": process.pid, "server": server_of(process.pid)}
        before = {name: held_by(pid) for name, pid in watched.items()}
        wait_until(lambda: done() >= RUNS - LAST or process.poll() is not None, "the last runs", seconds=3600)
        after = {name: held_by(pid) for name, pid in watched.items()}
        _, err = process.communicate(timeout=300)
    for name in watched:
        told = [f"{memory / MEBIBYTE:.1f} MiB in {files} open files" for memory, files in (before[name], after[name])]
        print(f"{name}: {told[0]} after {SETTLED} runs, {told[1]} after {RUNS - LAST}")
    assert process.returncode == 0, err
    assert done() == RUNS // 2 * 2
    for name, (memory, files) in after.items():
        assert memory - before[name][0] < MAY_GROW, name
        assert files <= before[name][1], name
    assert not [path for path in temporary.rglob("*") if not path.is_dir()]  # torch makes a folder for its compiler
    assert not list(runs.rglob("*.tmp"))
    assert not list((runs / ".claims").iterdir())
