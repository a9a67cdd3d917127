"""The state that an unfinished run goes on from: as it is kept, and as it is found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harness.errors import InputError
from harness.events import Note, Observer
from harness.tracking.record import Record
from harness.tracking.store import RunFolder
from harness.training import checkpoint
from harness.training.loop import State


def pack_state(record: Record, state: State) -> bytes:
    """The state of this run's training, with who made it, as bytes."""
    return checkpoint.serialise({"made_by": _maker(record), "state": state})


def find_state(folder: RunFolder, record: Record, device: torch.device, observer: Observer) -> State | None:
    """The latest state of this run that can be read, tensors on `device`; None where there is none.

    Damaged ones are told of and put away, or the next save would put one over the good state before it. Only under
    the run's claim.

    Raises:
        InputError: the state is of another run, another version of torch or another format: going on from it would
            give neither run's result. Or the disk does not give it.
        RunFailed: there is no memory for the state, which is left as it is.
    """
    for path in folder.states():
        if not path.exists():
            continue
        try:
            content = checkpoint.read(path, device)
            if not {"made_by", "state"} <= content.keys():
                raise checkpoint.DamagedCheckpoint(f"{path}: it holds no state to go on from")
        except checkpoint.DamagedCheckpoint as error:
            folder.put_away_damaged(path)
            observer(Note(record.run_id, f"a damaged checkpoint is passed over: {error}", warning=True))
            continue
        _check_maker(path, content["made_by"], _maker(record))
        state: State = content["state"]
        return state
    return None


def _maker(record: Record) -> dict[str, Any]:
    """What has to be the same for a training to go on as it began; `run_id` stands for spec, seed and numerics."""
    run = f"{record.run_id} ({record.name}, seed {record.seed}, numerics {record.numerics})"
    return {"run_id": record.run_id, "run": run, "torch": str(torch.__version__)}


def _check_maker(path: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    if then["run_id"] != now["run_id"]:
        what = f"the state is of run {then['run']}, and this is run {now['run']}"
    elif then["torch"] != now["torch"]:
        what = f"the state was made under torch {then['torch']}, and here is torch {now['torch']}"
    else:
        return
    raise InputError(what, where=str(path), fix=f"`--fresh` starts this run over; so does removing {path.parent}")
