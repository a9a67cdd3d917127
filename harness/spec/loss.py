"""`loss:` of an experiment file: what the training makes small. Evaluation is always plain cross-entropy."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from harness.spec.base import SWITCH, ConflictError, PositiveFloat, Spec, Text


class Distill(Spec):
    """Distillation (Hinton et al. 2015, arXiv 1503.02531): (1 - weight) * cross-entropy + weight * T^2 * KL(teacher
    at temperature T || student at temperature T), the mean over the batch.

    The teacher sees the images as the student does, mixed ones too, without dropout and with its running batch
    statistics; label smoothing concerns the cross-entropy only.
    """

    teacher: Text
    """An experiment file (planned, trained first with its own seed, then reused), a run (its id or its folder) or a
    checkpoint (`.pt`); files are looked for relative to the file that names them."""
    temperature: PositiveFloat = 4.0
    """Softens both distributions; 1 leaves them as they are."""
    weight: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    """Share of the soft targets in the loss; 1: no labels at all."""
    teacher_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 over the teacher's weights, which the run's identity takes in place of `teacher`. Filled in once the
    teacher is trained; where it is written, a teacher with other weights is refused."""

    @property
    def uses_labels(self) -> bool:
        """Whether the labels have a share in the loss."""
        return self.weight < 1.0


class Loss(Spec):
    """What the training makes small: cross-entropy, and what is added to it."""

    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the target that is spread evenly over all classes (Szegedy et al. 2016, arXiv 1512.00567). Off: 0."""
    distill: Annotated[Distill | None, SWITCH] = None
    """Distillation from a teacher. Off: null or false."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.label_smoothing and self.distill and not self.distill.uses_labels:
            raise ConflictError(("label_smoothing", "never acts: with `distill.weight` 1 no labels are used"))
        return self
