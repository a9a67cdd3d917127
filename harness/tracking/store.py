"""The one module that knows where a run's files lie; every write is whole or not at all.

<root>/<name>-<run_id>/record.json, journal.jsonl, predictions.npz, checkpoints/, wandb/
<root>/aside/       runs put aside by `--fresh`, not listed
<root>/.claims/     who trains which run (`harness.tracking.claim`), outside its folder, which `--fresh` puts aside
<root>/.slurm/      logs and pickles of Slurm jobs
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from harness.errors import InputError, Problem
from harness.spec.base import check_name
from harness.spec.yaml_tree import shown
from harness.tracking.atomic import atomic_write_bytes as atomic_write_bytes
from harness.tracking.atomic import atomic_write_text as atomic_write_text
from harness.tracking.atomic import atomic_writer as atomic_writer
from harness.tracking.atomic import storage_error
from harness.tracking.claim import Holder, look, silence, sweep
from harness.tracking.record import FLAT_COLUMNS, RUN_ID, Record, flat_row, parse_record

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Images = Literal["test", "validation", "train"]

ASIDE = "aside"
CLAIMS = ".claims"
SLURM = ".slurm"
MOST_CLASSES = 2**15


# --- one run -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunFolder:
    """The files of one run. Making one touches nothing on disk."""

    path: Path

    @property
    def run_id(self) -> str:
        """As the folder's name ends; the record's own `run_id` is the authority."""
        return self.path.name.rpartition("-")[2]

    @property
    def record_path(self) -> Path:
        return self.path / "record.json"

    @property
    def journal_path(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def predictions_path(self) -> Path:
        return self.path / "predictions.npz"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The whole state, while the run goes on."""
        return self.checkpoints / "last.pt"

    @property
    def previous(self) -> Path:
        """The state before `last`, for when `last` can't be read."""
        return self.checkpoints / "previous.pt"

    def states(self) -> tuple[Path, Path]:
        """What an unfinished run goes on from, there or not; of no use to a finished one."""
        return self.last, self.previous

    @property
    def state_bytes(self) -> int:
        """What the states take of the disk now."""
        return sum(path.stat().st_size for path in self.states() if path.exists())

    @property
    def final(self) -> Path:
        """Weights after the last epoch."""
        return self.checkpoints / "final.pt"

    @property
    def best(self) -> Path:
        """Weights with the lowest validation loss."""
        return self.checkpoints / "best.pt"

    @property
    def wandb_dir(self) -> Path:
        return self.path / "wandb"

    @property
    def claim_path(self) -> Path:
        """By identity, not by name: the same run under two names is still one run."""
        return self.path.parent / CLAIMS / self.run_id

    def holder(self) -> Holder | None:
        """Who trains the run, as far as can be told by looking: another machine's process may have died."""
        holder = look(self.claim_path)
        return None if holder is None or holder.is_gone else holder

    def is_claimed(self) -> bool:
        """Whether a process trains the run."""
        return self.holder() is not None

    def silence(self) -> float | None:
        """Seconds without a sign of life of who trains the run, where they are many (`harness.tracking.claim`)."""
        return silence(self.claim_path)

    def keep_last(self) -> None:
        """Let the last state be the previous one, before a new one is written."""
        try:
            if self.last.exists():
                self.last.replace(self.previous)
        except OSError as error:
            raise storage_error(self.last, error) from error

    def put_away_damaged(self, checkpoint: Path) -> None:
        """Rename a checkpoint that can't be read to `<name>.damaged`."""
        try:
            checkpoint.replace(checkpoint.with_name(f"{checkpoint.name}.damaged"))
        except OSError as error:
            raise storage_error(checkpoint, error) from error

    def create(self) -> None:
        """Make the folder, and drop temporary files that a killed process left. Only under the run's claim."""
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            for folder in (self.path, self.checkpoints):
                for leftover in folder.glob(".*.tmp"):
                    leftover.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(self.path, error) from error

    def read_record(self) -> Record:
        """InputError naming the file when it is missing, unreadable or damaged."""
        try:
            text = self.record_path.read_bytes()
        except FileNotFoundError:
            raise InputError("the folder holds no record.json", where=str(self.path)) from None
        except OSError as error:
            raise InputError(f"can't be read: {error.strerror}", where=str(self.record_path)) from error
        return parse_record(text, self.record_path)

    def write_record(self, record: Record) -> None:
        """Atomic; floats unrounded; StorageError when the disk refuses."""
        atomic_write_text(self.record_path, record.model_dump_json(indent=2) + "\n")

    def write_predictions(
        self, logits: np.ndarray | None, predicted: np.ndarray, labels: np.ndarray, images: Images
    ) -> None:
        """What the network said of each image, in data set order; atomic.

        `logits` [N, C], kept as float16 (None: left out, as in committed evidence); `predicted` and
        `labels` [N] integers; `images` says which set they are of.
        """
        import numpy as np

        arrays = {"predicted": _smallest(predicted), "labels": _smallest(labels), "images": np.array(images)}
        if logits is not None:
            arrays["logits"] = np.asarray(logits, dtype=np.float16)
        if len({len(array) for name, array in arrays.items() if name != "images"}) != 1:
            raise ValueError("logits, predicted and labels must be of the same images")
        with atomic_writer(self.predictions_path) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def read_predictions(self, *, logits: bool = True) -> dict[str, Any]:
        """`predicted`, `labels` [N], `images` (str) and, where kept and unless left out, `logits` [N, C] float16.

        InputError naming the file when it is missing or damaged.
        """
        import numpy as np

        try:
            # Opened here: NumPy leaves its own file open when the archive is damaged.
            with open(self.predictions_path, "rb") as file, np.load(file, allow_pickle=False) as stored:
                wanted = [name for name in stored.files if logits or name != "logits"]
                arrays: dict[str, Any] = {name: stored[name] for name in wanted}
        except FileNotFoundError:
            raise InputError("the run has no predictions", where=str(self.predictions_path)) from None
        except Exception as error:  # a damaged archive, or header of an array, ends in whatever it leads to
            raise InputError(f"damaged predictions: {shown(str(error))}", where=str(self.predictions_path)) from error
        if problem := _wrong_with(arrays):
            raise InputError(f"damaged predictions: {problem}", where=str(self.predictions_path))
        return arrays | {"images": str(arrays["images"])}


def _smallest(classes: np.ndarray) -> np.ndarray:
    """Class numbers as uint8 where they fit, else int16 (a network of ours has no more classes)."""
    import numpy as np

    classes = np.asarray(classes)
    low, high = (int(classes.min()), int(classes.max())) if classes.size else (0, 0)
    if not (low >= -1 and high < MOST_CLASSES):
        raise ValueError(f"class numbers from {low} to {high} can't be stored")
    return classes.astype(np.uint8 if low >= 0 and high < 256 else np.int16)


def _wrong_with(arrays: dict[str, Any]) -> str | None:
    """Why these are not the predictions of a run; None where they are."""
    if missing := {"predicted", "labels", "images"} - arrays.keys():
        return f"no {', '.join(sorted(missing))} in it"
    if str(arrays["images"]) not in get_args(Images):
        return f"they are of the images {shown(str(arrays['images']))!r}"
    shapes = {arrays[name].shape for name in ("predicted", "labels")}
    if len(shapes) != 1 or len(shapes.pop()) != 1:
        return "the classes predicted and the true ones are no two lists of the same length"
    for name in ("predicted", "labels"):
        if arrays[name].dtype.kind not in "iu" or (arrays[name].size and arrays[name].max() >= MOST_CLASSES):
            return f"{name} are no class numbers"
        if not arrays[name].size:
            return "they are of no image"
        if arrays[name].min() < 0:
            return f"{name} are no class numbers"
    logits = arrays.get("logits")
    if logits is not None and not (
        logits.ndim == 2 and logits.dtype.kind == "f" and len(logits) == len(arrays["labels"])
    ):
        return "the logits are no numbers for each image and class"
    return None


# --- all runs ----------------------------------------------------------------------------------


class Store:
    """A folder of runs. Reading never fails because of one bad run: see `problems`."""

    def __init__(self, root: Path):
        self.root = Path(root)
        self.problems: list[Problem] = []
        """What the latest reading had to leave out, and why."""

    def folder(self, name: str, run_id: str) -> RunFolder:
        """Where this run belongs, there or not; InputError for a name that would leave the store."""
        try:
            check_name(name)
        except ValueError as error:
            raise InputError(str(error)) from None
        if not RUN_ID.fullmatch(run_id):
            raise InputError(f"{run_id!r} can't be a run id: use 4 to 64 of a-z and 0-9")
        return RunFolder(self.root / f"{name}-{run_id}")

    def claims(self) -> frozenset[str]:
        """The run ids that have a claim, of a living process or a dead one: nobody trains any other run."""
        try:
            return frozenset(os.listdir(self.root / CLAIMS))
        except OSError:
            return frozenset()

    def sweep_claims(self) -> None:
        """Drop the claims of this machine's dead processes."""
        sweep(self.root / CLAIMS)

    @property
    def slurm_dir(self) -> Path:
        """What submitit keeps of Slurm jobs: what they are to do, their logs, and what came of them."""
        return self.root.resolve() / SLURM

    def slurm_job_path(self, run_id: str) -> Path:
        """Holds the id of the Slurm job that was submitted last for the run."""
        return self.slurm_dir / f"{run_id}.job"

    def find(self, run_id: str) -> RunFolder | None:
        """The run with this id, whatever its name (or its folder's); of several as `by_run_id`."""
        named = [folder for folder in self._folders() if folder.run_id == run_id]
        if len(named) == 1:
            return named[0]
        entries, _ = _read_records(named or self._folders())
        found = by_run_id(entries).get(run_id)
        return found[0] if found else next(iter(named), None)

    def named_ids(self) -> frozenset[str]:
        """The run ids that folders are named for, whatever they hold."""
        return frozenset(folder.run_id for folder in self._folders())

    def entries(self) -> list[tuple[RunFolder, Record]]:
        """Every readable run with its folder, sorted by (name, seed, run_id); fills `problems`."""
        entries, self.problems = _read_records(self._folders())
        return sorted(entries, key=lambda item: (item[1].name, item[1].seed, item[1].run_id, item[0].path.name))

    def records(self) -> list[Record]:
        """Every readable record, sorted by (name, seed, run_id); what is left out stands in `problems`."""
        return [record for _, record in self.entries()]

    def frame(self) -> pd.DataFrame:
        """One row a run, flat columns (`run_id`, `arm`, `seed`, `status`, `final_val_accuracy`, ...)."""
        import pandas as pd  # half a second that most commands need not wait

        rows = [flat_row(record) for record in self.records()]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(FLAT_COLUMNS))

    def ensure_writable(self) -> None:
        """Create the root and try a file in it; InputError when that can't be."""
        probe = self.root / f".probe.{secrets.token_hex(6)}.tmp"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise InputError(
                f"the runs folder can't be written: {error.strerror or error}",
                where=str(self.root),
                fix="name another one with --runs-dir or HARNESS_RUNS_DIR",
            ) from None

    def set_aside(self, run_id: str) -> Path | None:
        """Move a run to `aside/`, never deleting anything; its new place, or None when there is no such run."""
        found = self.find(run_id)
        if found is None:
            return None
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        target = self.root / ASIDE / f"{found.path.name}-{moment}-{secrets.token_hex(2)}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            found.path.rename(target)
        except OSError as error:
            raise storage_error(target, error) from error
        return target

    def aside(self) -> dict[str, Path]:
        """Where the runs are that were set aside, by run id; of several of one id the latest."""
        # <name>-<run_id>-<moment>-<token>; a name may have dashes of its own
        parts = [(path.name.rsplit("-", 3), path) for path in self.set_aside_runs()]
        latest = sorted((split[2], split[1], path) for split, path in parts if len(split) == 4)
        return {run_id: path for _, run_id, path in latest}

    def set_aside_runs(self) -> list[Path]:
        """All of them, sorted by name."""
        try:
            return sorted((self.root / ASIDE).iterdir())
        except OSError:
            return []

    def _folders(self) -> list[RunFolder]:
        """Sorted by name; files, hidden folders and `aside/` are no runs. Empty when there is no root."""
        try:
            with os.scandir(self.root) as entries:
                names = sorted(entry.name for entry in entries if _may_be_folder(entry))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise InputError(f"the runs folder can't be read: {error.strerror}", where=str(self.root)) from error
        return [RunFolder(self.root / name) for name in names if name != ASIDE and not name.startswith(".")]


def _may_be_folder(entry: os.DirEntry[str]) -> bool:
    """Also a link that leads in circles, or where one may not look: whoever reads it is told why it can't be."""
    try:
        return entry.is_dir()
    except OSError:
        return True


def by_run_id(entries: Iterable[tuple[RunFolder, Record]]) -> dict[str, tuple[RunFolder, Record]]:
    """Each run once: of several folders with one run one named for it, of these a finished one, else the first."""

    def rank(entry: tuple[RunFolder, Record]) -> tuple[bool, bool, str]:
        folder, record = entry
        return folder.run_id != record.run_id, not record.finished, folder.path.name

    return {entry[1].run_id: entry for entry in sorted(entries, key=rank, reverse=True)}


def _read_records(folders: list[RunFolder]) -> tuple[list[tuple[RunFolder, Record]], list[Problem]]:
    """What can be read, and what is wrong with the rest."""
    entries: list[tuple[RunFolder, Record]] = []
    problems: list[Problem] = []
    for folder in folders:
        try:
            entries.append((folder, folder.read_record()))
        except InputError as error:
            if folder.record_path.exists() or not folder.is_claimed():  # else its run is just beginning
                problems.extend(error.problems)
    return entries, problems
