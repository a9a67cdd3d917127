"""The record of one run (`record.json`): what was asked, what came out, and under which conditions.

Unknown keys are ignored, so that a record written by a newer harness stays readable; a missing or
ill-typed one, a number that is not finite, or a name that would leave the runs folder, is an error that names the
file: whoever reads a record may rely on its types. Floats are written unrounded.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo

from harness.errors import InputError, Problem
from harness.spec.base import check_name
from harness.spec.yaml_tree import shown
from harness.tracking.relied import Count, Relied

Status = Literal[
    "running", "completed", "stopped_early", "diverged", "out_of_memory", "crashed", "interrupted", "killed"
]
FINISHED: frozenset[str] = frozenset({"completed", "stopped_early"})
FAILED: frozenset[str] = frozenset({"diverged", "out_of_memory", "crashed", "killed"})
RUN_ID = re.compile(r"[0-9a-z]{4,64}")
FROM_DISK = "from disk"  # the context in which a record is validated that is read


def _finite(value: float, info: ValidationInfo) -> float:
    if info.context == FROM_DISK and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    return value


Number = Annotated[float, AfterValidator(_finite)]


class Stored(BaseModel):
    """Base of everything read back from disk: keys of a newer harness are ignored, not refused."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)


class Scores(Stored):
    """Loss (mean cross-entropy, nats) and accuracy (fraction) of one set of weights; None: not evaluated."""

    epoch: Count
    """Epoch (from 1) after which these weights were taken."""
    train_loss: Number | None = None
    train_accuracy: Number | None = None
    """One clean pass over the training images, unlike the journal's running figure."""
    val_loss: Number | None = None
    val_accuracy: Number | None = None
    test_loss: Number | None = None
    test_accuracy: Number | None = None


class Results(Stored):
    """The two sets of weights a run may be judged by, and the last ones once more with test-time augmentation."""

    final: Scores | None = None
    """After the last epoch; None as long as the run has not finished."""
    best: Scores | None = None
    """The checkpoint with the lowest validation loss; None where the protocol has no validation."""
    final_flip_tta: Scores | None = None
    """The last epoch's weights with flip test-time augmentation; None where the spec does not ask for it."""


class Wandb(Stored):
    """Where the Weights & Biases mirror stands, and where it belongs.

    `state` is "disabled", "offline", "online" or "synced" (proven to be on the server), or begins with "offline",
    "online", "unverified" or "failed" and says why.
    """

    id: str | None = None
    state: str = "disabled"
    project: str | None = None
    """None: `harness.tracking.mirror.DEFAULT_PROJECT`."""
    entity: str | None = None
    """User or team; None: the server's default."""
    notes: str | None = None


class Record(Stored):
    """One run. `name`, `study` and `arm` are labels; `spec_digest`, `seed` and `numerics` are its identity."""

    run_id: Annotated[str, Field(pattern=rf"^{RUN_ID.pattern}$")]
    name: Annotated[str, AfterValidator(check_name)]
    status: Status
    seed: Count
    spec: dict[str, Any]
    """The experiment in full, as `experiment_from_dict` takes it."""
    spec_digest: str
    numerics: Count
    """`harness.spec.identity.NUMERICS` at the time of the run."""
    study: str | None = None
    arm: str | None = None
    trainable_parameters: Count
    macs: Count
    """Multiply-accumulates of one forward pass of one image."""
    results: Results = Field(default_factory=Results)
    epochs_done: Count = 0
    test_reads: Count = 0
    """How often the test set was read for this run."""
    timings: dict[str, Number] = Field(default_factory=dict)
    """Seconds by part ("train", "evaluate", "total"), and "images_per_second"."""
    provenance: dict[str, Any] = Field(default_factory=dict)
    weights: dict[str, str] = Field(default_factory=dict)
    """SHA-256 over the kept weights ("final", "best"): what a student's identity takes of its teacher."""
    wandb: Wandb = Field(default_factory=Wandb)
    error: dict[str, Any] | None = None
    """`type`, `message` and `traceback` of what ended the run; None where nothing did."""

    @property
    def finished(self) -> bool:
        """The run ended with a result."""
        return self.status in FINISHED

    @property
    def failed(self) -> bool:
        """The run ended without a result, and not because somebody stopped it."""
        return self.status in FAILED


def parse_record(text: bytes | str, path: Path) -> Record:
    """The record in `text`; InputError names `path` and every field that is wrong."""
    try:
        record = Record.model_validate_json(text, context=FROM_DISK)
        Relied.model_validate_json(text)
        return record
    except ValidationError as error:
        problems = [Problem(_describe(item), str(path)) for item in error.errors(include_url=False)]
        raise InputError(problems) from None


def _describe(item: Any) -> str:
    field = ".".join(shown(str(part)) for part in item["loc"])
    message = shown(item["msg"])
    return f"damaged record: {field}: {message}" if field else f"damaged record: {message}"


_LABELS = (
    "run_id", "name", "study", "arm", "seed", "status", "spec_digest", "numerics",
    "trainable_parameters", "macs", "epochs_done", "test_reads",
)  # fmt: skip
_CONDITIONS = ("started", "ended", "device_type", "device_name", "precision", "git_commit", "data_digest")
FLAT_COLUMNS = (
    *_LABELS,
    *(f"{which}_{field}" for which in Results.model_fields for field in Scores.model_fields),
    *_CONDITIONS,
    "wandb_state",
    "error",
)
"""Columns every flat row has; the timings a run has stand behind them (`seconds_train`, ...)."""


def flat_row(record: Record) -> dict[str, Any]:
    """The record as one flat row of a table: `final_val_accuracy`, `seconds_train`, `device_name`, ..."""
    row = {field: getattr(record, field) for field in _LABELS}
    for which in Results.model_fields:
        scores = getattr(record.results, which)
        row |= {f"{which}_{field}": getattr(scores, field) if scores else None for field in Scores.model_fields}
    row |= {key: record.provenance.get(key) for key in _CONDITIONS}
    row |= {"wandb_state": record.wandb.state, "error": record.error.get("message") if record.error else None}
    timings = record.timings.items()
    return row | {part if part == "images_per_second" else f"seconds_{part}": value for part, value in timings}
