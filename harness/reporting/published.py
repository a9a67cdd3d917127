"""The published number, and what of ours stands beside it: like with like, as far as the records allow."""

from __future__ import annotations

from collections.abc import Sequence

from harness.reporting.model import AgainstPublished, Arm, Published, Score
from harness.reporting.statistics import Summary, prediction_interval, summarize, wilson_interval
from harness.spec.ablation import Reference


def against_published(reference: Reference, arms: Sequence[Arm], protocol: str) -> Published:
    """Like with like: ours selected as the published number was, where the records have that."""
    which, measured, alike = _alike(reference, arms, protocol)
    rows = []
    for arm in arms:
        scores = [getattr(run, which) for run in arm.counted]
        accuracy, loss = accuracy_of(scores), loss_of(scores)
        prediction = prediction_interval(accuracy, reference.runs)
        rows.append(
            AgainstPublished(
                arm=arm.name,
                accuracy=accuracy,
                loss=loss,
                difference=None if accuracy.mean is None else accuracy.mean - reference.accuracy,
                loss_difference=None if loss.mean is None or reference.loss is None else loss.mean - reference.loss,
                prediction=prediction,
                inside=prediction[0] <= reference.accuracy <= prediction[1] if prediction else None,
            )
        )
    binomial = wilson_interval(reference.accuracy, reference.images) if reference.images else None
    return Published(reference, binomial, measured, alike, tuple(rows))


def _alike(reference: Reference, arms: Sequence[Arm], protocol: str) -> tuple[str, str, bool]:
    """Which of a run's scores stands beside the published number, in words, and whether it is like with like."""
    counted = [run for arm in arms for run in arm.counted]

    def all_have(which: str) -> bool:
        return bool(counted) and all(getattr(run, which).accuracy is not None for run in counted)

    if reference.selection == "test" and protocol == "paper" and all_have("best_on_test"):
        return "best_on_test", "the checkpoint with the lowest loss on the test set, its test accuracy", True
    if reference.selection == "validation" and protocol == "holdout" and all_have("best_on_test"):
        return "best_on_test", "the checkpoint with the lowest validation loss, its test accuracy", True
    if all_have("last_on_test"):
        return "last_on_test", "the last epoch, its test accuracy", reference.selection == "none"
    return "last", "the last epoch, its validation accuracy", False


def accuracy_of(scores: Sequence[Score]) -> Summary:
    """Over the scores that have one."""
    return summarize([score.accuracy for score in scores if score.accuracy is not None])


def loss_of(scores: Sequence[Score]) -> Summary:
    """Over the scores that have one."""
    return summarize([score.loss for score in scores if score.loss is not None])
