"""How fast runs go: from finished ones, else from the epochs of unfinished ones, scaled by the work there is.

Which runs tell something of a study's time, here and nowhere else:

- they trained on the data set of the study's base, and a step of theirs (MACs of an image x images of a batch) is at
  most `MOST_SCALED` times as much work as a step of the base, and no less than its `MOST_SCALED`th part;
- their epochs took `LEAST_SECONDS` or more, so that starting is little of it; a finished run of the study itself may
  be shorter, since those that are to come start likewise.

Where none does, no time is told: `harness plan --measure` times a few steps.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from harness.errors import InputError
from harness.spec.data import Data
from harness.spec.experiment import ExperimentSpec
from harness.tracking.journal import Journal
from harness.tracking.record import Record
from harness.tracking.store import RunFolder

MOST_SCALED = 4
"""Times. On two CPU cores a MAC of a step 4 times larger took 0.55 of the time, of one 16 times larger 0.3 of it."""
LEAST_SECONDS = 10.0


@dataclass(frozen=True)
class Pace:
    """Seconds that a run takes for each multiply-accumulate of its training, evaluation included, on one device."""

    seconds_per_mac: float
    device_type: str
    device_name: str
    source: str
    """Where the number comes from, in words: "from 6 finished runs of this study"."""


@dataclass(frozen=True)
class Sample:
    """A run that tells something of the pace. `epoch_work`: MACs of one of its epochs; `own`: of this study."""

    record: Record
    folder: RunFolder
    epoch_work: int
    own: bool

    @property
    def device(self) -> tuple[str, str]:
        """Type and name."""
        provenance = self.record.provenance
        return str(provenance.get("device_type", "unknown")), str(provenance.get("device_name", "device"))


@dataclass(frozen=True)
class _Measured:
    sample: Sample
    epochs: int
    seconds: float


def pace_of(
    base: ExperimentSpec,
    macs: int,
    own: Sequence[Sample],
    stored: Iterable[tuple[RunFolder, Record]],
    device_type: str | None = None,
) -> Pace | None:
    """The pace of the runs that resemble the study's `base` (of so many `macs`) best; None where none tells of it.

    A run on a device of `device_type` counts before one on another, a finished one before an unfinished one, one of
    the study (`own`) before another (`stored`, where its own are among them). Those of one device are pooled: of that
    on which there are most.
    """
    others = [
        Sample(record, folder, _epoch_work(record, data), own=False)
        for folder, record in stored
        if not _learns(record) and (data := _data_of(record))
    ]
    every = [sample for sample in (*own, *others) if _resembles(sample.record, base, macs)]
    wanted = [sample for sample in every if device_type is None or sample.device[0] == device_type]
    for samples in (wanted, every):
        for measure in (_finished, _unfinished):
            for is_own in (True, False):
                measured = [found for sample in samples if sample.own is is_own and (found := measure(sample))]
                if measured:
                    return _pooled(measured)
    return None


def _resembles(record: Record, base: ExperimentSpec, macs: int) -> bool:
    """A step of it is a step of the base, or nearly."""
    data = _data_of(record)
    scaled = record.macs * record.spec["train"]["batch_size"] / (macs * base.train.batch_size)
    alike = data is not None and data.facts.digest == base.dataset.digest
    return alike and 1 / MOST_SCALED <= scaled <= MOST_SCALED


def _finished(sample: Sample) -> _Measured | None:
    record = sample.record
    if not record.finished or not record.epochs_done or not record.timings.get("total"):
        return None
    told = sample.own or record.timings.get("train", 0.0) >= LEAST_SECONDS
    return _Measured(sample, record.epochs_done, record.timings["total"]) if told else None


def _unfinished(sample: Sample) -> _Measured | None:
    """From its journal; the evaluation of each epoch is not in there, a few per cent."""
    if sample.record.finished:
        return None
    try:
        seconds = [float(row["seconds"]) for row in Journal(sample.folder.journal_path).rows() if row.get("seconds")]
    except InputError:
        return None
    return _Measured(sample, len(seconds), sum(seconds)) if sum(seconds) >= LEAST_SECONDS else None


def _pooled(measured: Sequence[_Measured]) -> Pace:
    [(device, _)] = Counter(item.sample.device for item in measured).most_common(1)
    there = [item for item in measured if item.sample.device == device]
    work = sum(item.epochs * item.sample.epoch_work for item in there)
    whose = "of this study" if there[0].sample.own else "of others, scaled by MACs, images and epochs"
    if there[0].sample.record.finished:
        source = f"from {counted(len(there), 'finished run')} {whose}"
    else:
        source = f"from {counted(sum(item.epochs for item in there), 'epoch')} of unfinished runs {whose}"
    return Pace(sum(item.seconds for item in there) / work, *device, source)


def counted(number: int, what: str) -> str:
    """ "1 run", "2 runs"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _learns(record: Record) -> bool:
    """From a teacher, whose share of the work is not in the record."""
    return bool(record.spec.get("loss", {}).get("distill"))


def _epoch_work(record: Record, data: Data) -> int:
    """MACs of an epoch, as `PlannedArm.epoch_work`."""
    return 3 * record.macs * data.images_of_an_epoch


def _data_of(record: Record) -> Data | None:
    """None where it can't be understood: another version's, which knows other data sets."""
    try:
        return Data.model_validate(record.spec["data"])
    except ValidationError:
        return None


def schedule(durations: Sequence[float], slots: int) -> float:
    """When the last one ends, if each begins as soon as one of `slots` is free, in this order."""
    ends = [0.0] * slots
    for duration in durations:
        heapq.heapreplace(ends, ends[0] + duration)
    return max(ends)
