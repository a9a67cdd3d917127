"""The mirror holds exactly the journal, stays in the run's folder, and never touches training."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.tracking import mirror as mirror_module
from harness.tracking.journal import Journal
from harness.tracking.mirror import NullMirror, WandbMirror, clean_tags, exit_code, open_mirror, summary
from harness.tracking.record import Results, Scores, Wandb
from harness.tracking.store import RunFolder, Store
from tests.tracking.examples import record, row
from tests.tracking.reading import Mirrored, read_mirror

REPOSITORY = Path(__file__).parents[2]
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = Store(tmp_path / "runs").folder("base", "0123456789")
    folder.create()
    return folder


def children() -> list[str]:
    """Living child processes of this one, by command."""
    listed = subprocess.run(["ps", "-eo", "ppid,stat,comm"], check=True, capture_output=True, text=True).stdout
    fields = [line.split(None, 2) for line in listed.splitlines()[1:]]
    return [command for parent, state, command in fields if parent == str(os.getpid()) and state[0] != "Z"]


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


# --- what is in it -----------------------------------------------------------------------------


def test_an_offline_run_holds_the_journal_and_the_record(folder: RunFolder) -> None:
    journal = Journal(folder.journal_path)
    surroundings = dict(os.environ), sys.exit, sys.excepthook
    labels = {"project": "p", "group": "se_vs_nose", "job_type": "no_se", "notes": "why?"}
    opened = open_mirror("offline", folder, record(), tags=["paper", "a"], **labels)
    assert opened.state == "offline"
    for epoch in range(1, 8):
        journal.append(row(epoch))
        opened.log(journal.rows()[-1])
    assert (dict(os.environ), sys.exit, sys.excepthook) == surroundings
    results = Results(best=Scores(epoch=4, val_accuracy=1 / 3), final=Scores(epoch=7, val_accuracy=0.25))
    done = opened.finish(record(status="completed", results=results, epochs_done=7))

    assert done == Wandb(id="0123456789", state="offline")
    read = read_mirror(folder)
    assert read.rows == journal.rows()
    counted = {"seed": 3, "trainable_parameters": 4697742, "macs": 798690304}
    assert read.config == record().spec | counted | {"spec_digest": "feedfacefeedface"}
    assert (read.run["run_id"], read.run["run_group"], read.run["job_type"]) == ("0123456789", "se_vs_nose", "no_se")
    assert (read.run["tags"], read.run["notes"], read.run["project"]) == (["paper", "a"], "why?", "p")
    assert read.run["display_name"] == "base-seed3"
    told = {"best/val_accuracy": 1 / 3, "best/epoch": 4, "final/val_accuracy": 0.25, "final/epoch": 7}
    assert read.summary | told | {"status": "completed", "epochs_done": 7} == read.summary
    assert "best/test_accuracy" not in read.summary
    assert (read.told["state"], read.told["exit_code"]) == ("finished", 0)
    assert not any("wandb" in command for command in children())
    assert not any(name.startswith(("best/", "final/")) for one in read.rows for name in one)


def test_a_continued_run_has_one_complete_file(folder: RunFolder) -> None:
    journal = Journal(folder.journal_path)
    first = open_mirror("offline", folder, record())
    for epoch in (1, 2, 3):
        journal.append(row(epoch))
        first.log(row(epoch))
    first.finish(record(status="interrupted"))
    assert read_mirror(folder).told["state"] == "failed"

    journal.truncate(after_epoch=2)
    second = open_mirror("offline", folder, record(), journal.rows())
    for epoch in (3, 4):
        journal.append(row(epoch, lr=0.5))
        second.log(row(epoch, lr=0.5))
    second.finish(record(status="stopped_early"))
    read = read_mirror(folder)
    assert read.rows == journal.rows()
    assert len(read.rows) == 4
    assert read.told["state"] == "finished"


def test_a_mirror_that_was_moved_and_linked_to_is_replaced_there(folder: RunFolder, tmp_path: Path) -> None:
    open_mirror("offline", folder, record(), [row(1)]).finish(record(status="interrupted"))
    folder.wandb_dir.rename(tmp_path / "larger")
    folder.wandb_dir.symlink_to(tmp_path / "larger")
    open_mirror("offline", folder, record(), [row(1), row(2)]).finish(record(status="completed"))
    assert [one["epoch"] for one in read_mirror(folder).rows] == [1, 2]
    assert folder.wandb_dir.is_symlink()


def test_statuses_become_exit_codes() -> None:
    codes = {status: exit_code(record(status=status)) for status in ("completed", "stopped_early", "crashed", "killed")}
    assert codes == {"completed": 0, "stopped_early": 0, "crashed": 1, "killed": 1}
    assert exit_code(record(status="interrupted")) not in (0, 1)


def test_the_summary_leaves_out_what_was_not_evaluated() -> None:
    told = summary(record(status="diverged", epochs_done=2, results=Results(final=Scores(epoch=2, train_loss=0.5))))
    assert told == {"status": "diverged", "epochs_done": 2, "final/epoch": 2, "final/train_loss": 0.5}


def test_tags_are_what_the_server_takes() -> None:
    assert clean_tags(["a", "", "b", "a", "x" * 100]) == ["a", "b", "x" * 64]


# --- where it can't be -------------------------------------------------------------------------


class BrokenRun:
    """A run of wandb's whose service has died: builtin errors, not wandb's own."""

    def __init__(self) -> None:
        self.calls = 0
        self.summary: dict[str, Any] = {}

    def log(self, row: Mapping[str, Any]) -> None:
        self.calls += 1
        raise ConnectionResetError("Connection lost")

    def finish(self, exit_code: int) -> None:
        raise BrokenPipeError(32, "Broken pipe")


def test_an_error_in_log_ends_the_mirror_and_not_the_training(folder: RunFolder) -> None:
    run = BrokenRun()
    broken = WandbMirror(run, folder, "offline")
    for epoch in (1, 2, 3):
        broken.log(row(epoch))
    assert run.calls == 1
    expected = Wandb(id="0123456789", state="failed: ConnectionResetError: Connection lost")
    assert broken.finish(record(status="completed")) == expected


def test_an_error_in_finish_is_a_state(folder: RunFolder) -> None:
    done = WandbMirror(BrokenRun(), folder, "offline").finish(record(status="completed"))
    assert done.state.startswith("failed: BrokenPipeError")


def test_ctrl_c_is_not_swallowed(folder: RunFolder) -> None:
    class Interrupted(BrokenRun):
        def log(self, row: Mapping[str, Any]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WandbMirror(Interrupted(), folder, "offline").log(row(1))


def test_a_wandb_that_raises_on_init_is_a_state(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("no\nway")

    monkeypatch.setattr(mirror_module, "_start", refuse)
    opened = open_mirror("offline", folder, record(), [row(1)])
    opened.log(row(2))
    assert opened.state == "failed: RuntimeError: no way"
    assert opened.finish(record(status="completed")) == Wandb(id=None, state="failed: RuntimeError: no way")


def test_a_folder_that_cannot_be_made_is_a_state(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    opened = open_mirror("offline", RunFolder(tmp_path / "file" / "base-0123456789"), record())
    assert opened.state.startswith("failed: NotADirectoryError")


def test_disabled_is_a_mirror_of_nothing(folder: RunFolder) -> None:
    opened = open_mirror("disabled", folder, record(), [row(1)])
    opened.log(row(2))
    assert isinstance(opened, NullMirror)
    assert opened.finish(record(status="completed")) == Wandb(id=None, state="disabled")
    assert not folder.wandb_dir.exists()


# --- a whole process ---------------------------------------------------------------------------

SCRIPT = """
import os, signal, subprocess, sys, time
from pathlib import Path
from harness.tracking.mirror import open_mirror
from harness.tracking.store import Store
from tests.tracking.examples import record, row

def services():
    listed = subprocess.run(["ps", "-eo", "pid,ppid,stat,comm"], capture_output=True, text=True).stdout
    fields = [line.split(None, 3) for line in listed.splitlines()[1:]]
    mine = [f for f in fields if f[1] == str(os.getpid()) and f[2][0] != "Z" and "wandb" in f[3]]
    return [int(f[0]) for f in mine]

def state(text):
    Path(os.environ["TOLD"]).open("a").write(f"{text}\\n")

folder = Store(Path(os.environ["RUNS"])).folder("base", "0123456789")
folder.create()
mirror = open_mirror(os.environ["MODE"], folder, record(), [row(1)])
state(mirror.state)
"""
END = """
mirror.log(row(2))
state(mirror.finish(record(status="completed")).state)
state(f"{len(services())} left")
state("torch" in sys.modules)
"""


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str
    told: list[str]
    seconds: float


def in_process(tmp_path: Path, body: str, *, before: str = "", mode: str = "offline", **environment: str) -> Ended:
    """Run `before`, SCRIPT and `body` in a process of their own, with everything it may write to below `tmp_path`."""
    places = {name: tmp_path / name for name in ("cwd", "home", "temp")}
    for place in places.values():
        place.mkdir(exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "XDG_"))}
    own = {"HOME": str(places["home"]), "TMPDIR": str(places["temp"]), "PYTHONPATH": str(REPOSITORY), "MODE": mode}
    own |= {"RUNS": str(tmp_path / "runs"), "TOLD": str(tmp_path / "told.txt"), "NETRC": str(tmp_path / "no-netrc")}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", before + SCRIPT + body],
        cwd=places["cwd"],
        env=inherited | own | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    told = tmp_path / "told.txt"
    lines = told.read_text().splitlines() if told.exists() else []
    return Ended(done.returncode, done.stdout, done.stderr, lines, time.perf_counter() - start)


def mirrored(tmp_path: Path) -> Mirrored:
    return read_mirror(Store(tmp_path / "runs").folder("base", "0123456789"))


def test_nothing_of_wandb_lands_outside_the_runs_folder_nor_on_the_terminal(tmp_path: Path) -> None:
    # A user's own variables must not steer our file: this one would resume, rename and move it.
    steering = {"WANDB_RUN_ID": "other", "WANDB_RESUME": "must", "WANDB_MODE": "disabled", "WANDB_NAME": "other"}
    ended = in_process(tmp_path, END, WANDB_DIR=str(tmp_path / "cwd" / "elsewhere"), **steering)
    assert ended.told == ["offline", "offline", "0 left", "False"]
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert [tree(tmp_path / place) for place in ("cwd", "home", "temp")] == [set(), set(), set()]
    assert {Path(name).parts[0] for name in tree(tmp_path / "runs" / "base-0123456789")} == {"wandb", "checkpoints"}
    assert mirrored(tmp_path).rows == [row(1), row(2)]
    assert mirrored(tmp_path).run["display_name"] == "base-seed3"


def test_a_home_that_cannot_be_written_just_works(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = in_process(tmp_path, END, HOME=str(tmp_path / "file" / "home"))
    assert (ended.code, ended.err) == (0, "")
    assert ended.told[:2] == ["offline", "offline"]
    assert mirrored(tmp_path).rows == [row(1), row(2)]


def test_a_run_that_wandb_moves_elsewhere_is_told_and_removed(tmp_path: Path) -> None:
    # wandb asks os.access, which tells root that everything can be written.
    refuse = "lambda path, mode: 'runs' not in str(path) and access(path, mode)"
    ended = in_process(tmp_path, END, before=f"import os; access = os.access; os.access = {refuse}\n")
    assert ended.told[0].startswith("failed: OSError: ")
    assert str(tmp_path / "temp") in ended.told[0]
    assert ended.told[2] == "0 left"
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert not [name for name in tree(tmp_path / "temp") if "0123456789" in name]


def test_disabled_imports_no_wandb_and_starts_no_process(tmp_path: Path) -> None:
    body = "state(f\"{len(services())} {'wandb' in sys.modules}\")" + END
    ended = in_process(tmp_path, body, mode="disabled")
    assert (ended.code, ended.err) == (0, "")
    assert ended.told == ["disabled", "0 False", "disabled", "0 left", "False"]
    assert not (tmp_path / "runs" / "base-0123456789" / "wandb").exists()


def test_a_folder_named_wandb_is_not_taken_for_the_package(tmp_path: Path) -> None:
    (tmp_path / "cwd" / "wandb").mkdir(parents=True)
    hidden = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        from importlib.machinery import PathFinder\n"
        "        if name == 'wandb': return PathFinder.find_spec(name, ['.'])\n"
        "sys.meta_path.insert(0, Hide)\n"
    )
    (tmp_path / "cwd" / "hide.py").write_text(hidden)
    ended = in_process(tmp_path, END, before="import sys; sys.path.insert(0, '.'); import hide\n")
    assert ended.told[:2] == ["failed: wandb is not installed"] * 2
    assert (ended.code, ended.err) == (0, "")


def test_a_service_that_dies_ends_the_mirror_quietly(tmp_path: Path) -> None:
    body = """
for pid in services():
    os.kill(pid, signal.SIGKILL)
time.sleep(0.2)
for epoch in range(2, 20):
    mirror.log(row(epoch))
"""
    ended = in_process(tmp_path, body + END)
    assert ended.told[0] == "offline"
    assert ended.told[1].startswith("failed: ConnectionResetError")
    assert ended.told[2] == "0 left"
    assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_ctrl_c_reaches_the_user_of_the_mirror_who_can_still_finish(tmp_path: Path) -> None:
    body = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
except KeyboardInterrupt:
    state(mirror.finish(record(status="interrupted")).state)
"""
    ended = in_process(tmp_path, body)
    assert ended.told == ["offline", "offline"]
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert mirrored(tmp_path).told["exit_code"] == 255


def test_an_abandoned_run_is_not_called_finished(tmp_path: Path) -> None:
    ended = in_process(tmp_path, "raise KeyboardInterrupt")
    assert ended.err.count("Traceback") == 1
    assert mirrored(tmp_path).told["state"] == "failed"
    assert mirrored(tmp_path).rows == [row(1)]


@pytest.mark.slow
def test_two_runs_in_one_process_have_a_file_each(tmp_path: Path) -> None:
    body = END + (
        'other = Store(Path(os.environ["RUNS"])).folder("other", "9876543210"); other.create()\n'
        'mirror = open_mirror("offline", other, record(name="other", run_id="9876543210"), [row(5)])\n'
        'state(mirror.finish(record(run_id="9876543210", status="crashed")).state)\n'
    )
    ended = in_process(tmp_path, body)
    assert (ended.code, ended.err, ended.told[-1]) == (0, "", "offline")
    assert mirrored(tmp_path).rows == [row(1), row(2)]
    other = read_mirror(Store(tmp_path / "runs").folder("other", "9876543210"))
    assert (other.rows, other.told["exit_code"]) == ([row(5)], 1)


def test_online_without_a_key_asks_nothing_and_is_offline(tmp_path: Path) -> None:
    """At a real terminal, where wandb would ask for one."""
    import pty

    (tmp_path / "home").mkdir()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "XDG_"))}
    own = {"HOME": str(tmp_path / "home"), "NETRC": str(tmp_path / "no-netrc"), "PYTHONPATH": str(REPOSITORY)}
    own |= {"RUNS": str(tmp_path / "runs"), "TOLD": str(tmp_path / "told.txt"), "MODE": "online"}
    terminal, end = pty.openpty()
    try:
        code = subprocess.run(
            [sys.executable, "-c", SCRIPT + END],
            env=inherited | own,
            stdin=end,
            stdout=end,
            stderr=end,
            timeout=60,
            cwd=tmp_path,
        ).returncode
    finally:
        os.close(end)
        os.close(terminal)
    told = (tmp_path / "told.txt").read_text().splitlines()
    assert code == 0
    assert told[0].startswith("offline: ")
    assert "API key" in told[0]
    assert mirrored(tmp_path).rows == [row(1), row(2)]


@pytest.mark.slow
def test_online_without_a_server_is_offline_after_a_while(tmp_path: Path) -> None:
    ended = in_process(tmp_path, END, mode="online", WANDB_API_KEY=KEY, WANDB_BASE_URL="http://127.0.0.1:9")
    assert ended.told[0].startswith("offline: ")
    assert KEY not in "".join(ended.told) + ended.out + ended.err
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert ended.seconds < 60
    assert mirrored(tmp_path).rows == [row(1), row(2)]
