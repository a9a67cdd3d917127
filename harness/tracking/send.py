"""One run sent to Weights & Biases and read back, in a process of its own: `python -m harness.tracking.send`.

`wandb sync` ends well even where the server refused what it was sent, so what is believed is only what wandb's public
API reads back. The journal and the record say what there must be; what people added on the server beside it is theirs.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from harness.tracking import wandb_file
from harness.tracking.background import RebuildFailed, rebuild
from harness.tracking.journal import Journal
from harness.tracking.login import login
from harness.tracking.mirror import config, end_service, import_wandb, labels, one_line
from harness.tracking.readback import difference
from harness.tracking.record import Record
from harness.tracking.store import RunFolder

Outcome = Literal["synced", "unverified", "failed", "no_key"]


@dataclass(frozen=True)
class Arrival:
    """What came of one run. Plain values: it is handed over as JSON."""

    outcome: Outcome
    reason: str = ""
    """Why it is not synced; empty where it is."""
    sent: bool = False
    """Whether anything was sent now; False also where the server had it all."""
    rebuilt: str = ""
    """Why the mirror was written anew first; empty where it was not."""
    rows: int = 0
    """Rows of the journal."""
    project: str = ""
    entity: str = ""
    url: str = ""


def send(
    folder: RunFolder, record: Record, project: str | None, entity: str | None, pauses: Sequence[float]
) -> Arrival:
    """Mend the mirror, look what the server has, send what it has not, and look again.

    Args:
        folder, record: the run.
        project, entity: in place of those the mirror was made for.
        pauses: seconds before each look, since a server may show a little later what it took.

    Raises whatever wandb raises.
    """
    wandb = import_wandb()
    if not login(wandb).key:  # one that is refused is another error
        return Arrival("no_key")
    api = wandb.Api()
    rebuilt = difference(folder, record) or ""
    if rebuilt:
        rebuild(folder, record, labels(record) | {"project": project, "entity": entity})
    told = wandb_file.read(_file(folder))
    project, entity = project or told.run["project"], entity or told.run["entity"] or api.default_entity
    goal = Goal(project, entity, told, folder, record)
    arrival = Arrival("synced", rebuilt=rebuilt, rows=len(goal.rows), project=project, entity=entity)
    with contextlib.suppress(Exception):  # no such run yet, most likely; what else it is shows when it is sent
        if goal.missing(api) is None:
            return _with(arrival, url=goal.url(api))
    complaints = _wandb_sync(_file(folder), goal)
    missing = _wait_for(goal, api, pauses[:1] if complaints else pauses)
    if missing is None:
        return _with(arrival, sent=True, url=goal.url(api))
    if complaints:
        return _with(arrival, outcome="failed", sent=True, reason=f"{missing}; wandb says: {complaints}")
    return _with(arrival, outcome="unverified", sent=True, reason=missing)


def _wait_for(goal: Goal, api: Any, pauses: Sequence[float]) -> str | None:
    """What is missing still after these looks; None as soon as nothing is."""
    missing: str | None = None
    for pause in pauses:
        time.sleep(pause)
        api.flush()
        try:
            missing = goal.missing(api)
        except Exception as error:  # wandb has asked more than once by now
            return f"it can't be read back: {one_line(error)}"
        if missing is None:
            return None
    return missing


def _with(arrival: Arrival, **changes: Any) -> Arrival:
    return Arrival(**(asdict(arrival) | changes))


def _file(folder: RunFolder) -> Path:
    path = wandb_file.find(folder.wandb_dir)
    if path is None:
        raise FileNotFoundError("there is no mirror")
    return path


# --- sending -----------------------------------------------------------------------------------


def _wandb_sync(file: Path, goal: Goal) -> str:
    """wandb's own command, without its marker's say in the matter; its complaints in one line."""
    from wandb.cli.cli import cli

    to = ["--project", goal.project, "--entity", goal.entity]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            cli.main(["sync", "--include-online", "--include-synced", *to, str(file)], standalone_mode=False)
        except SystemExit as ended:
            if ended.code:
                print(f"ERROR it ended with {ended.code}", file=said)
    lines = [line.removeprefix("wandb: ").strip() for line in said.getvalue().splitlines()]
    sys.stderr.write(said.getvalue())
    return " ".join(line for line in lines if "ERROR" in line or "Fatal" in line)


# --- reading back ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """What the server is to have of a run, and where."""

    project: str
    entity: str
    told: wandb_file.WandbFile
    folder: RunFolder
    record: Record

    @property
    def rows(self) -> list[dict[str, Any]]:
        return Journal(self.folder.journal_path).rows()

    def url(self, api: Any) -> str:
        """The run's page."""
        url: str = self._run(api).url
        return url

    def missing(self, api: Any) -> str | None:
        """What the server does not have as journal, record and mirror say, in a few words; None: it has all of it.

        Raises whatever wandb raises, also where there is no such run.
        """
        run = self._run(api)
        ours, theirs = _solid(self.rows), [_public(row) for row in run.scan_history(use_cache=False)]
        if ours != theirs:
            many = len(theirs) != len(ours)
            return f"{len(theirs)} of {len(ours)} rows are there" if many else "other rows are there"
        for what, wanted, there in (
            ("config", config(self.record), run.config),
            ("summary", self.told.summary, run.summary),
        ):
            if lacking := _lacking(wanted, there):
                return f"its {what} is not there: {', '.join(lacking[:3])}"
        if set(self.told.run["tags"]) - set(run.tags):
            return "its tags are not there"
        if files := self._files() - {(file.name, file.size) for file in run.files()}:
            return f"files are not there: {', '.join(sorted(name for name, _ in files)[:3])}"
        return "it is not marked as ended" if run.state == "running" else None

    def _run(self, api: Any) -> Any:
        return api.run(f"{self.entity}/{self.project}/{self.record.run_id}")

    def _files(self) -> set[tuple[str, int]]:
        """What wandb uploads beside the rows, and how many bytes each file has."""
        files = _file(self.folder).parent / "files"
        paths = [path for path in files.rglob("*") if path.is_file()]
        return {(path.relative_to(files).as_posix(), path.stat().st_size) for path in paths}


def _solid(value: Any) -> Any:
    """As plain JSON without nulls, at any depth: a server may keep a null, or leave it out."""
    if hasattr(value, "items"):  # wandb's own mappings, too
        return {key: _solid(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_solid(item) for item in value]
    return value


def _public(row: Mapping[str, Any]) -> Any:
    return _solid({key: value for key, value in row.items() if not key.startswith("_")})


def _lacking(wanted: Any, there: Any) -> list[str]:
    found = _solid(there)
    return sorted(key for key, value in _solid(wanted).items() if found.get(key) != value)


# --- as a process ------------------------------------------------------------------------------


def _main() -> None:
    """Takes the run as JSON on stdin, leaves an `Arrival` as JSON in the file that it is told."""
    given = json.load(sys.stdin)
    threading.Thread(target=_end_with, args=(given["parent"],), daemon=True).start()
    folder, record = RunFolder(Path(given["folder"])), Record.model_validate(given["record"])
    try:
        arrival = send(folder, record, given["project"], given["entity"], given["pauses"])
    except RebuildFailed as error:
        arrival = Arrival("failed", f"its mirror can't be written anew: {error}")
    except Exception as error:
        arrival = Arrival("failed", one_line(error))
    Path(given["answer"]).write_text(json.dumps(asdict(arrival)))
    end_service()


def _end_with(parent: int) -> None:
    """When the command that started this process is gone, nobody has the run for it any more, or its time limit."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    _main()
