"""The last word on a run: scores and predictions of its weights, and the readings of the test set."""

from __future__ import annotations

from typing import Any, Literal

import torch

from harness.tracking.media import Samples, chosen
from harness.tracking.record import Scores
from harness.training.data import Split
from harness.training.evaluate import Evaluation, evaluate
from harness.training.loop import Diverged, Training


def judged_set(split: Split) -> tuple[Any, Literal["test", "validation"]]:
    """What a run is judged on: the validation set, which under `paper` is the test set; under `full` the test set."""
    if split.validation is None or split.validation_is_test:
        return split.test, "test"
    return split.validation, "validation"


def samples(split: Split) -> Samples:
    """Some images of the judged set, to be shown beside what the network says of them."""
    judged, _ = judged_set(split)
    indices = chosen(judged.labels.cpu().numpy())
    return Samples(indices, judged.pixels[torch.from_numpy(indices)].cpu().numpy())


def judge(training: Training, epoch: int, protocol: str, *, flip: bool = False) -> tuple[Scores, Evaluation]:
    """Scores of the weights under evaluation: one clean pass over the training images and one over the judged set.

    With `flip` each image counts with its mirror image (`evaluation.flip_tta`).
    """
    judged, _ = judged_set(training.split)
    network, normalise, hardware = training.evaluated, training.normalise, training.hardware
    train = evaluate(network, training.split.train, normalise, hardware, flip=flip)
    result = evaluate(network, judged, normalise, hardware, flip=flip)
    if not torch.isfinite(result.logits).all():
        raise Diverged(f"the logits are not finite after epoch {epoch}")
    scores = Scores(epoch=epoch, train_loss=train.loss, train_accuracy=train.accuracy)
    if protocol != "full":
        scores = scores.model_copy(update={"val_loss": result.loss, "val_accuracy": result.accuracy})
    if protocol != "holdout":
        scores = scores.model_copy(update={"test_loss": result.loss, "test_accuracy": result.accuracy})
    return scores, result
