"""The report as data: what every renderer shows. Built from records by `study` and `runs`, formatted nowhere here.

Accuracies are fractions, losses nats, times seconds, all unrounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from harness.spec.ablation import Reference

Together = Literal["more together", "less together", "additive", "inconclusive"]

if TYPE_CHECKING:  # plain runs are listed without waiting for SciPy
    from harness.reporting.contrasts import Contrast
    from harness.reporting.factors import Factorial, Grid
    from harness.reporting.images import ClassAccuracy, PerImage, Predictions
    from harness.reporting.statistics import Comparison, Interval, Paired, Summary

MISSING = "missing"
"""Status of a planned run of which there is no record."""


@dataclass(frozen=True)
class Score:
    """What one set of weights reaches on one set of images; None: not evaluated."""

    accuracy: float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Run:
    """One planned (or recorded) run, and whether it counts in its arm's mean."""

    name: str
    arm: str
    seed: int
    status: str
    """The record's, or `missing`."""
    run_id: str | None
    epochs: int
    """As planned."""
    metric: str
    """What `last` and `best` are measured on: test_accuracy or val_accuracy."""
    epochs_done: int = 0
    last: Score = Score()
    """After the last epoch: the headline."""
    best: Score = Score()
    """The checkpoint with the lowest validation loss, on the same images."""
    flipped: Score = Score()
    """After the last epoch with flip test-time augmentation, on the same images; never the headline."""
    last_on_test: Score = Score()
    best_on_test: Score = Score()
    train_accuracy: float | None = None
    """One clean pass over the training images after the last epoch."""
    why_not: str | None = None
    """Why the run is not in the mean; None when it is."""
    error: str | None = None
    """What ended the run, without paths of the machine."""
    seconds: float | None = None
    images_per_second: float | None = None
    test_reads: int = 0
    trainable_parameters: int | None = None
    macs: int | None = None
    conditions: Mapping[str, str] = field(default_factory=dict)
    """What must be equal for runs to be compared (`conditions.CONDITIONS`); {} without a record."""
    spec: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The experiment in full; {} without a record."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    """The conditions in which this run differs from the usual one of the base."""
    journal: tuple[Mapping[str, Any], ...] = ()
    """One row an epoch."""
    predictions: Predictions | None = field(default=None, compare=False, repr=False)
    """Of the last epoch's weights; None where there are none, or a report does not need them."""
    contradiction: str | None = None
    """In what the record's accuracy is not the one that the predictions give; None where they agree."""

    @property
    def counted(self) -> bool:
        return self.why_not is None


@dataclass(frozen=True)
class Arm:
    """One arm: what differs, its runs, what they show. Summaries are over the counted runs."""

    name: str
    overrides: Mapping[str, Any]
    instead_of: Mapping[str, Any]
    """What the base has at the paths of `overrides`."""
    epochs: int
    parameters: int | None
    """Trainable parameters; None as long as no run of the arm has told."""
    max_parameters: int | None
    macs: int | None
    runs: tuple[Run, ...]
    last: Summary
    last_loss: Summary
    best: Summary
    best_loss: Summary
    flipped: Summary
    train: Summary
    difference: Comparison | None
    """To the base; None for the base itself."""
    paired: Paired | None
    reference_difference: float | None
    """Headline mean minus the published accuracy."""
    marks: tuple[str, ...] = ()
    """In words: under which other conditions than the base's it was run, and which records contradict themselves."""
    classes: tuple[ClassAccuracy, ...] = ()
    """Accuracy within each class, over the counted runs with predictions; () without any."""
    images: PerImage | None = None
    """Against the base, image by image; None for the base itself."""

    @property
    def headroom(self) -> int | None:
        """Parameters left under the budget; None without a budget or a count."""
        if self.max_parameters is None or self.parameters is None:
            return None
        return self.max_parameters - self.parameters

    @property
    def counted(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.counted)


@dataclass(frozen=True)
class AgainstPublished:
    """One arm beside the published number."""

    arm: str
    accuracy: Summary
    loss: Summary
    difference: float | None
    loss_difference: float | None
    prediction: Interval | None
    """Where a further mean of as many runs as were published would lie."""
    inside: bool | None
    """The published accuracy lies in `prediction`; None where there is none."""


@dataclass(frozen=True)
class Published:
    """The published number, what is known of it, and the arms measured as nearly alike as the records allow."""

    reference: Reference
    binomial: Interval | None
    """Wilson interval of the published accuracy; None where its number of images is not known."""
    measured: str
    """What of ours stands beside it, in words."""
    alike: bool
    """Ours was selected as the published number was, on the same kind of images."""
    rows: tuple[AgainstPublished, ...]


@dataclass(frozen=True)
class Step:
    """One step of a ladder: what its arm adds to the arm before it. What it adds to the base is the arm's own."""

    before: str
    arm: str
    contrast: Contrast
    """The arm less the one before it; simultaneous over the ladder's steps."""


@dataclass(frozen=True)
class Ladder:
    """Cumulative arms, the first step from the base."""

    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Interaction:
    """What two changes do together beyond the sum of what each does alone."""

    arms: Factorial
    contrast: Contrast
    """both - first - second + neither; simultaneous over the study's interactions."""

    @property
    def says(self) -> Together:
        """The contrast's verdict in the words of an interaction; additive: within the margin."""
        told: dict[str, Together] = {
            "helps": "more together",
            "hurts": "less together",
            "no relevant difference": "additive",
        }
        return told.get(self.contrast.verdict, "inconclusive")


@dataclass(frozen=True)
class StudyReport:
    """A study: everything its report tells."""

    name: str
    question: str | None
    file: str
    """The ablation file as in the commands that reproduce the report."""
    dataset: str
    protocol: str
    metric: str
    """test_accuracy or val_accuracy, after the last epoch."""
    epochs: int
    """The base's budget."""
    seeds: tuple[int, ...]
    margin: float | None
    arms: tuple[Arm, ...]
    """The base first."""
    class_names: tuple[str, ...]
    """Of the base's data set."""
    published: Published | None
    spread: tuple[float, int] | None
    """Pooled standard deviation between runs of an arm, and its degrees of freedom."""
    detectable: float | None
    """The difference that the planned seeds find with 80 % power at this spread."""
    remarks: tuple[str, ...] = ()
    """What the expansion of the ablation file did that its author may not expect (merged arms)."""
    dropped: tuple[Run, ...] = ()
    """Runs made for this study that it does not ask for any more."""
    teachers: tuple[Run, ...] = ()
    """The runs that arms learned from, as far as they are recorded."""
    ladders: tuple[Ladder, ...] = ()
    interactions: tuple[Interaction, ...] = ()
    grids: tuple[Grid, ...] = ()
    """Arms over two fields, for a matrix of their numbers."""
    pixels: Any = field(default=None, compare=False, repr=False)
    """The evaluated set's images, uint8 [N, H, W, C], for pictures; None: they are listed by their numbers alone."""

    @property
    def base(self) -> Arm:
        return self.arms[0]

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for arm in self.arms for run in arm.runs)

    @property
    def looks(self) -> tuple[tuple[int, ...], ...]:
        """The seeds that were planned, one after the other, each time more of them; one entry where none were added.

        Whichever study planned them: two that share an arm and the base have looked at the same difference.
        """
        planned: list[tuple[int, ...]] = []
        for run in sorted(self.runs, key=lambda run: str(run.provenance.get("started") or "")):
            seeds = tuple(run.provenance.get("planned_seeds") or ())
            if run.arm != self.base.name and len(seeds) > len(planned[-1] if planned else ()):
                planned.append(seeds)
        return tuple(planned)

    @property
    def sampled(self) -> Run | None:
        """The run whose predictions are shown as a sample: the base's first that counts."""
        return next((run for run in self.base.counted if run.predictions is not None), None)

    def furthest(self, number: int) -> tuple[Arm, ...]:
        """The `number` arms that differ most from the base, in the study's order; all of them where they are fewer."""

        def distance(arm: Arm) -> float:
            return abs(arm.difference.mean) if arm.difference and arm.difference.mean is not None else -1.0

        kept = {arm.name for arm in sorted(self.arms[1:], key=distance, reverse=True)[:number]}
        return tuple(arm for arm in self.arms[1:] if arm.name in kept)


@dataclass(frozen=True)
class RunCard(StudyReport):
    """One run: a study of one arm and one seed, which is shown as what it is."""

    @property
    def run(self) -> Run:
        return self.base.runs[0]


@dataclass(frozen=True)
class RunsReport:
    """Plain runs, grouped by the study they were made for (None: none)."""

    groups: tuple[tuple[str | None, tuple[Run, ...]], ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        return tuple(run for _, runs in self.groups for run in runs)
