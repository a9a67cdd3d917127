"""What whoever reads a record relies on, beside the types that a record has while it is made.

`spec`, `provenance` and `error` are plain mappings, so that another version's keys find room in them; those keys that
are read have their types all the same. A record where that does not hold is damaged, and is told as that instead of
ending a report in the middle.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.spec.data import Protocol

Count = Annotated[int, Field(ge=0, lt=2**63)]


class Part(BaseModel):
    """Strict: `true` is no number. Keys that nobody reads may hold anything."""

    model_config = ConfigDict(extra="ignore", strict=True)


class Content(Part):
    train_images: Count


class Folder(Part):
    content: Content


class Data(Part):
    dataset: str
    protocol: Protocol
    folder: Folder | None = None


class Train(Part):
    epochs: Count


class Guard(Part):
    max_parameters: int | None


class Distill(Part):
    teacher_digest: str | None = None


class Loss(Part):
    distill: Distill | None = None


class Spec(Part):
    """Whoever needs more of it takes it as a whole, by `experiment_from_dict`."""

    data: Data
    train: Train
    guard: Guard
    loss: Loss = Loss()


class Provenance(Part):
    """See `harness.tracking.provenance.collect`, and the conditions of a run that stand beside that."""

    git_commit: str | None = None
    git_dirty: bool | None = None
    git_diff_digest: str | None = None
    packages: dict[str, str] = {}
    python: str | None = None
    host: str | None = None
    command: list[str] = []
    started: str | None = None
    ended: str | None = None
    continued: list[str | None] = []
    device_type: str | None = None
    device_name: str | None = None
    precision: Literal["fp32", "bf16"] | None = None
    data_digest: str | None = None
    planned_seeds: list[Count] = []


class Error(Part):
    type: str = ""
    message: str = ""
    traceback: str = ""


class Relied(Part):
    spec: Spec
    provenance: Provenance = Provenance()
    error: Error | None = None
