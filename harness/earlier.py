"""What there may be of a run already: it is claimed, put aside, or held against the hardware it is to go on with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.errors import InputError, RunBusy
from harness.events import Note, Observer, silent
from harness.tracking.claim import STALE_AFTER, Claim, Held, Holder, acquire
from harness.tracking.record import Record
from harness.tracking.store import RunFolder, Store


@contextmanager
def claim(folder: RunFolder, observer: Observer = silent, *, patient: bool = False) -> Iterator[Claim]:
    """Hold the run, with a heartbeat, until the block ends; one whose holder died is taken over.

    `patient`: watch another machine's claim for a heartbeat before it counts as busy; without one it is taken over.

    Raises:
        RunBusy: another process has it.
        StorageError: the runs folder can't be written.
    """

    def tell(holder: Holder) -> None:
        text = f"{holder} has this run: watching for its heartbeat, for {STALE_AFTER:.0f} seconds at most"
        observer(Note(folder.run_id, text))

    try:
        held = acquire(folder.claim_path, patient=patient, tell=tell)
    except Held as error:
        raise RunBusy(
            f"run {folder.run_id} is being trained at this moment, by {error.holder}",
            where=str(folder.path),
            fix="wait for it, or stop it; `harness runs` shows its state",
        ) from None
    with held:
        yield held


def set_aside(store: Store, run_id: str, observer: Observer) -> None:
    """Keep what there is of a run under `aside/`, in however many folders; under its claim."""
    while aside := store.set_aside(run_id):
        observer(Note(run_id, f"what was there is kept in {aside}"))


def on_other_hardware(earlier: Record, folder: RunFolder, now: tuple[str, str]) -> str | None:
    """What tells this run from one on the hardware of `now`, in words; None where it fits, or has nothing to lose.

    `now`: type of device and precision of the run that is to be; an `auto` of a machine that is to be found is any.
    """
    then = earlier.provenance.get("device_type"), earlier.provenance.get("precision")
    if now[1] == "auto":
        now = now[0], str(then[1])
    if None in then or then == now:
        return None
    if not earlier.finished and not any(path.exists() for path in folder.states()):
        return None
    verb = "finished" if earlier.finished else "began"
    return f"{verb} on {then[0]} in {then[1]}, and here it would be {now[0]} in {now[1]}"


def check_same_hardware(earlier: Record, folder: RunFolder, now: tuple[str, str]) -> None:
    """A result of another type of device, or in another precision, is not silently taken for this one.

    Raises:
        InputError: it finished, or has a state saved, on other hardware than `now`.
    """
    if other := on_other_hardware(earlier, folder, now):
        fix = "--any-device accepts that, --fresh runs it again here"
        raise InputError(f"this run {other}", where=str(folder.path), fix=fix)
