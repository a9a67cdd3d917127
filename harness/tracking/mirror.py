"""The Weights & Biases mirror of a run: one complete file, rebuilt from the journal whenever a run goes on.

The journal is the truth and this a copy, so nothing here may stop, change or speak over training: an
error of wandb's (whatever its type) ends the mirror and is kept as its state, "failed: <why>".
A history row carries exactly the journal row's keys and values, beside wandb's own `_step`, `_runtime`
and `_timestamp`; a value that is None is logged as None (null in the file), not left out.
Seen with wandb 0.31; what it does is told where the code answers to it.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from harness.tracking import media
from harness.tracking.media import Samples
from harness.tracking.record import Record, Results, Scores, Wandb
from harness.tracking.store import RunFolder

Mode = Literal["offline", "online", "disabled"]

DEFAULT_PROJECT = "budget-ablation-harness"
ONLINE_START_SECONDS = 30.0
ONLINE_FINISH_SECONDS = 60.0  # a run's rows take one or two; what does not arrive, `harness sync` brings later
LONGEST_TAG = 64  # the server refuses longer ones
EXIT_INTERRUPTED = 255  # what wandb itself reports after Ctrl-C

# What a user sets to reach a server. The rest of WANDB_* (a resume mode, a run id, a sweep, a console
# setting) would change which run is written and how, and mode, project and entity come as arguments.
_CONNECTION = ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_CREDENTIALS_FILE")

_SETTINGS: dict[str, Any] = {
    "console": "off",
    "silent": True,  # also keeps it from asking for a key at the terminal
    "quiet": True,
    "x_disable_stats": True,
    "x_disable_meta": True,  # it holds the command line, which may hold a secret; the record has it redacted
    "x_save_requirements": False,
    "save_code": False,
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "label_disable": True,
    "symlink": False,
    "init_timeout": ONLINE_START_SECONDS,
    "finish_timeout_raises": True,
}


class Mirror(Protocol):
    """What the runner writes to; nothing of it raises on wandb's account."""

    @property
    def state(self) -> str:
        """As `Wandb.state`: "offline", "offline: <why not online>", "online", "disabled" or "failed: <why>"."""
        ...

    def log(self, row: Mapping[str, Any]) -> None:
        """Add one row of the journal."""
        ...

    def finish(self, record: Record, samples: Samples | None = None) -> Wandb:
        """Write the scores, the status and what the predictions show, with `samples` as their images; close the file.

        Ends wandb's process; what the record is to say.
        """
        ...

    def abandon(self) -> None:
        """Leave it as it is: the run is another process's now."""
        ...


class NullMirror:
    """No mirror, because none is wanted or because it could not be opened; imports and starts nothing."""

    def __init__(self, state: str = "disabled"):
        self.state = state

    def log(self, row: Mapping[str, Any]) -> None:
        """Drop the row; the journal has it."""

    def finish(self, record: Record, samples: Samples | None = None) -> Wandb:
        """Only the state."""
        return Wandb(id=None, state=self.state)

    def abandon(self) -> None:
        """There is nothing to leave."""


class WandbMirror:
    """An open run of wandb's, until it finishes or fails."""

    def __init__(self, run: Any, folder: RunFolder, state: str):
        self._run = run
        self._folder = folder
        self.state = state
        # Else wandb's own hook, which runs after ours, would call an abandoned run finished.
        atexit.register(self.abandon)

    def log(self, row: Mapping[str, Any]) -> None:
        """Add one row; after a failure rows are dropped."""
        if self._run is None:
            return
        try:
            self._run.log(dict(row))
        except Exception as error:  # a dead service raises builtin errors, not only wandb's
            self._fail(error)

    def finish(self, record: Record, samples: Samples | None = None) -> Wandb:
        """Close the file with `best/...`, `final/...`, `status`, tables and the exit code (0: finished)."""
        self._close(summary(record), exit_code(record), media.shown(self._folder, record), samples)
        return Wandb(id=record.run_id, state=self.state)

    def _close(
        self,
        told: Mapping[str, Any],
        code: int,
        shown: media.Shown = media.NOTHING,
        samples: Samples | None = None,
    ) -> None:
        if self._run is None:
            return
        run, self._run = self._run, None
        atexit.unregister(self.abandon)
        try:
            with living_in(self._folder.wandb_dir, online=self.state == "online"):
                run.summary.update(told)
                if shown.tables:
                    run.summary.update(media.write(Path(run.dir), shown, samples))
                    _send_along(run)
                run.finish(exit_code=code)
        except Exception as error:
            self.state = _failure(error)
        finally:
            end_service()

    def abandon(self) -> None:
        """Close the file as that of a failed run."""
        self._close({}, code=1)

    def _fail(self, error: Exception) -> None:
        self._run = None
        atexit.unregister(self.abandon)
        self.state = _failure(error)
        end_service()


def open_mirror(
    mode: Mode,
    folder: RunFolder,
    record: Record,
    rows: Sequence[Mapping[str, Any]] = (),
    *,
    project: str | None = None,
    entity: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    tags: Sequence[str] = (),
    notes: str | None = None,
    finish_seconds: float = ONLINE_FINISH_SECONDS,
) -> Mirror:
    """The mirror of `record`'s run, made anew in `folder.wandb_dir` with the journal's `rows` already in it.

    An earlier mirror there is replaced, so that a run that was continued has one complete file. "online"
    without a key, or with a server that does not answer, becomes offline and its state says why.
    Raises nothing but KeyboardInterrupt.
    """
    if mode == "disabled":
        return NullMirror()
    named = {"project": project or DEFAULT_PROJECT, "entity": entity, "group": group, "job_type": job_type}
    arguments = named | {"tags": clean_tags(tags), "notes": notes}
    try:
        mirror = _open(mode, folder, record, arguments, _SETTINGS | {"finish_timeout": finish_seconds})
    except Exception as error:
        end_service()
        return NullMirror(_failure(error))
    for row in rows:
        mirror.log(row)
    return mirror


def _open(
    mode: Mode, folder: RunFolder, record: Record, arguments: dict[str, Any], settings: dict[str, Any]
) -> WandbMirror:
    """Offline where online can't be had; raises whatever wandb raises."""
    wandb = import_wandb()
    known = {name: value for name, value in settings.items() if name in wandb.Settings.model_fields}
    arguments["settings"] = wandb.Settings(**known)
    if mode == "offline":
        return WandbMirror(_start(wandb, "offline", folder, record, arguments), folder, "offline")
    try:
        return WandbMirror(_start(wandb, "online", folder, record, arguments), folder, "online")
    except Exception as error:
        end_service()
        state = f"offline: {one_line(error)}"
    return WandbMirror(_start(wandb, "offline", folder, record, arguments), folder, state)


def _start(wandb: Any, mode: Mode, folder: RunFolder, record: Record, arguments: dict[str, Any]) -> Any:
    folder.wandb_dir.mkdir(parents=True, exist_ok=True)
    for earlier in folder.wandb_dir.iterdir():  # the folder itself may be a link to a larger disk
        shutil.rmtree(earlier, ignore_errors=True)
    with living_in(folder.wandb_dir, online=mode == "online"):
        run = wandb.init(
            mode=mode,
            dir=str(folder.path),
            id=record.run_id,
            name=f"{record.name}-seed{record.seed}",
            config=config(record),
            reinit="create_new",  # else a run that the user has open would be taken for ours
            **arguments,
        )
        _refuse_elsewhere(run, folder)
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")
    return run


def _refuse_elsewhere(run: Any, folder: RunFolder) -> None:
    """wandb moves a folder it can't write to the system's temporary one, without a word."""
    written, asked = Path(run.dir).resolve(), folder.wandb_dir.resolve()
    if not written.is_relative_to(asked):
        run.finish(exit_code=1)
        shutil.rmtree(written.parent, ignore_errors=True)
        raise OSError(f"{asked} can't be written, wandb went to {written.parent}")


def _send_along(run: Any) -> None:
    """The files of `media` are to go to the server with the run."""
    for path in sorted(Path(run.dir).glob("media/*/*")):
        run.save(str(path), base_path=run.dir, policy="now", glob=False)


# --- what is told ------------------------------------------------------------------------------


def config(record: Record) -> dict[str, Any]:
    """The experiment as nested config, what it makes of the parameters, and what is the same for all of its seeds."""
    counted = {"seed": record.seed, "trainable_parameters": record.trainable_parameters, "macs": record.macs}
    return {**record.spec, **counted, "spec_digest": record.spec_digest}


def summary(record: Record) -> dict[str, Any]:
    """`best/...`, `final/...` and `final_flip_tta/...` scores that there are, the status, and the digests of the kept
    weights: a checkpoint is named by what it holds, and stays where it is."""
    told: dict[str, Any] = {"status": record.status, "epochs_done": record.epochs_done}
    for which in Results.model_fields:
        scores: Scores | None = getattr(record.results, which)
        if scores:
            values = {f"{which}/{field}": getattr(scores, field) for field in Scores.model_fields}
            told |= {name: value for name, value in values.items() if value is not None}
    return told | {f"checkpoint/{which}": f"sha256:{digest}" for which, digest in record.weights.items()}


def exit_code(record: Record) -> int:
    """0 makes the run "finished" in Weights & Biases, anything else "failed"."""
    if record.finished:
        return 0
    return EXIT_INTERRUPTED if record.status == "interrupted" else 1


def labels(record: Record) -> dict[str, Any]:
    """The arguments of `open_mirror` that the record knows: where the run goes, and under which labels."""
    data = record.spec.get("data", {})
    tags = (record.study, record.arm, data.get("dataset"), data.get("protocol"))
    to = {"project": record.wandb.project, "entity": record.wandb.entity, "notes": record.wandb.notes}
    return to | {"group": record.study, "job_type": record.arm, "tags": [tag for tag in tags if tag]}


def clean_tags(tags: Sequence[str]) -> list[str]:
    """Each tag once, none empty, none longer than the server takes."""
    return list(dict.fromkeys(tag[:LONGEST_TAG] for tag in tags if tag))


# --- wandb's surroundings ----------------------------------------------------------------------


def import_wandb() -> Any:
    """The package; ImportError when it is missing, even where a folder `wandb/` passes for one."""
    wandb: Any = None
    with contextlib.suppress(ImportError):
        wandb = importlib.import_module("wandb")
    if getattr(wandb, "__version__", None) is None:
        raise ImportError("wandb is not installed")
    return wandb


@contextlib.contextmanager
def living_in(place: Path, online: bool) -> Iterator[None]:
    """Give wandb and its service a folder to live in (a run's own), and leave the process as it was.

    Not only for tidiness: WANDB_SERVICE, which wandb leaves in the environment, would make the child
    processes of this one write to its service, and its `sys.excepthook` prints a traceback for Ctrl-C.
    Online the user's own configuration stays in force, since it holds which server they log in to.
    """
    before = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    hooks = sys.exit, sys.excepthook
    _replace_environment(quarters(place, online) | {"WANDB_SILENT": "true"})
    try:
        yield
    finally:
        _replace_environment(before)
        sys.exit, sys.excepthook = hooks


def quarters(place: Path, online: bool) -> dict[str, str]:
    """The WANDB_* variables for a wandb that lives in `place`, of the user's own only those that reach a server."""
    own = {"WANDB_CACHE_DIR": "cache", "WANDB_DATA_DIR": "data", "WANDB_ARTIFACT_DIR": "artifacts"}
    own |= {} if online else {"WANDB_CONFIG_DIR": "config"}
    kept = {name: value for name, value in os.environ.items() if name in (*_CONNECTION, "WANDB_CONFIG_DIR")}
    return kept | {name: str(place / folder) for name, folder in own.items()} | {"WANDB_ERROR_REPORTING": "false"}


def _replace_environment(variables: Mapping[str, str]) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        del os.environ[name]
    os.environ.update(variables)


def end_service() -> None:
    """End the process that wandb started, unless the user has a run of their own open in it."""
    wandb = sys.modules.get("wandb")
    if wandb is None or getattr(wandb, "run", None) is not None or not hasattr(wandb, "teardown"):
        return
    # A service that died makes teardown raise, or leave the process through sys.exit.
    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()


def kill_service() -> None:
    """Kill the process that wandb started, which may be frozen; nothing where there is none."""
    setup = sys.modules.get("wandb.sdk.wandb_setup")
    singleton: Any = getattr(setup, "_singleton", None)
    connection = getattr(singleton, "_connection", None)
    process = getattr(getattr(connection, "_proc", None), "_process", None)
    if process is not None:
        process.kill()


def _failure(error: Exception) -> str:
    return f"failed: {one_line(error)}"


def one_line(error: Exception) -> str:
    """One line, with the type: the builtin errors of a dead service have little text of their own."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, ImportError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
