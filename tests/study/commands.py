"""The real command in processes of its own: started, waited for, and what is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HOOKS = Path(__file__).parent / "hooks"


def spawn(folder: Path, *arguments: str, hooked: bool = False, **variables: str) -> subprocess.Popen[str]:
    """`harness ARGUMENTS` in `folder`, leader of a session of its own; `hooked`: with tests/study/hooks in it."""
    command = [sys.executable, "-m", "harness.cli", *arguments]
    environment = {**os.environ, "WANDB_MODE": "disabled", "COLUMNS": "80", **variables}
    if hooked:
        known = environment.get("PYTHONPATH", "")
        environment["PYTHONPATH"] = os.pathsep.join([str(HOOKS), *filter(None, [known])])
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell has it ignored
    )


def wait_until(holds: Callable[[], object], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def wait_for(path: str, folder: Path, seconds: float = 90) -> None:
    wait_until(lambda: list(folder.glob(path)), f"no {path}", seconds)


def processes_of(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in (b"Z", b"X"):
            found.append(int(entry.name))
    return found
