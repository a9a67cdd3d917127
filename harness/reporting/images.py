"""What the arms say of each image: McNemar's counts, images won and lost, classes. Descriptive, no pooled p.

Two trained networks are not two methods: that an arm's network differs from the base's on more images than
chance allows says nothing of the next seed (Dietterich 1998, Neural Computation 10:1895), so the counts
stand without a test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.reporting.statistics import Summary, summarize
from harness.tracking.store import Images

SHOWN = 24
"""Of the images an arm wins and loses, so many of each are named."""


@dataclass(frozen=True)
class Predictions:
    """What one run's last weights said of each image, in data set order."""

    predicted: np.ndarray = field(repr=False)
    """[N], class numbers."""
    labels: np.ndarray = field(repr=False)
    """[N], the true ones."""
    images: Images
    """Which set."""

    @property
    def right(self) -> np.ndarray:
        """[N], whether the image was told rightly."""
        return np.asarray(self.predicted == self.labels)

    @property
    def accuracy(self) -> float:
        """As evaluation computes it: a whole number divided by another, so equal to the record's to the last bit."""
        return int(np.count_nonzero(self.right)) / len(self.labels)


@dataclass(frozen=True)
class Discordant:
    """McNemar's counts of the arm's and the base's networks of one seed."""

    seed: int
    lost: int
    """b: the base's network is right, the arm's wrong."""
    won: int
    """c: the base's network is wrong, the arm's right."""


@dataclass(frozen=True)
class ImageCount:
    """One image, and in how many of the common seeds each of the two tells it rightly."""

    index: int
    """In data set order, from 0."""
    label: int
    base_right: int
    arm_right: int


@dataclass(frozen=True)
class PerImage:
    """An arm against the base, image by image, over the seeds that both have predictions of."""

    images: int = 0
    seeds: tuple[Discordant, ...] = ()
    median_lost: float | None = None
    median_won: float | None = None
    always_lost: int = 0
    """Images that the base tells rightly with every common seed and the arm with none."""
    always_won: int = 0
    most_lost: tuple[ImageCount, ...] = ()
    """Where the base is right with more seeds than the arm, the largest gap first, then in data set order."""
    most_won: tuple[ImageCount, ...] = ()
    reason: str | None = None
    """Why there is nothing to compare."""


@dataclass(frozen=True)
class ClassAccuracy:
    """Share of a class's images that are told rightly, over an arm's runs."""

    label: int
    images: int
    accuracy: Summary
    difference: float | None = None
    """To the base's mean, over all runs of both; None for the base itself."""


def per_image(base: Mapping[int, Predictions], arm: Mapping[int, Predictions]) -> PerImage:
    """Compare the networks of equal seeds (seed -> predictions)."""
    seeds = sorted(base.keys() & arm.keys())
    if not seeds:
        return PerImage(reason="no seed of which both have predictions")
    if not _same_images([*(base[seed] for seed in seeds), *(arm[seed] for seed in seeds)]):
        return PerImage(reason="predictions of different images")
    ours = np.stack([arm[seed].right for seed in seeds])
    theirs = np.stack([base[seed].right for seed in seeds])
    lost, won = (theirs & ~ours).sum(1), (ours & ~theirs).sum(1)
    gap = ours.sum(0) - theirs.sum(0)  # of the seeds: whole numbers from -n to n
    labels = base[seeds[0]].labels

    def first(order: np.ndarray, shown: np.ndarray) -> tuple[ImageCount, ...]:
        indices = [int(i) for i in order[:SHOWN] if shown[i]]
        return tuple(ImageCount(i, int(labels[i]), int(theirs[:, i].sum()), int(ours[:, i].sum())) for i in indices)

    return PerImage(
        images=len(gap),
        seeds=tuple(Discordant(seed, int(b), int(c)) for seed, b, c in zip(seeds, lost, won, strict=True)),
        median_lost=float(np.median(lost)),
        median_won=float(np.median(won)),
        always_lost=int((gap == -len(seeds)).sum()),
        always_won=int((gap == len(seeds)).sum()),
        most_lost=first(np.argsort(gap, kind="stable"), gap < 0),
        most_won=first(np.argsort(-gap, kind="stable"), gap > 0),
    )


def per_class(runs: Sequence[Predictions], base: Sequence[ClassAccuracy] | None = None) -> tuple[ClassAccuracy, ...]:
    """Accuracy within each class, mean over `runs`; beside `base`'s where that is given and of the same images."""
    if not runs or not _same_images(runs):
        return ()
    labels = runs[0].labels
    theirs = {(one.label, one.images): one.accuracy.mean for one in base or ()}
    found = []
    for label in np.unique(labels):
        of_class = labels == label
        summary = summarize([float(run.right[of_class].mean()) for run in runs])
        key = int(label), int(of_class.sum())
        other = theirs.get(key)
        difference = summary.mean - other if summary.mean is not None and other is not None else None
        found.append(ClassAccuracy(*key, summary, difference))
    return tuple(found)


def confusion(runs: Sequence[Predictions], classes: int) -> np.ndarray:
    """[classes, classes]: of the images of a class (row), the share told to be each class (column), over `runs`.

    Rows sum to 1; those of a class without images are 0.
    """
    counts = np.zeros((classes, classes))
    for run in runs:
        np.add.at(counts, (run.labels, run.predicted), 1)
    totals = counts.sum(1, keepdims=True)
    shares: np.ndarray = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    return shares


def _same_images(runs: Sequence[Predictions]) -> bool:
    first = runs[0]
    return all(run.images == first.images and np.array_equal(run.labels, first.labels) for run in runs[1:])
