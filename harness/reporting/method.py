"""The report's prose about itself: how the numbers came about, what they mean, how to get them again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.reporting import conditions, words
from harness.reporting.model import Arm, Published, Run, RunCard, StudyReport
from harness.reporting.statistics import ALPHA, EXACT_FLIPS, smallest_sign_flip_p

PROTOCOL = {
    "paper": (
        "trained on all training images; the test set is the validation set too, as in the paper. The headline, "
        "the last epoch of a budget fixed beforehand, is selected on nothing; the best checkpoint is selected on "
        "the test set, and so is every arm that is chosen by this report"
    ),
    "holdout": (
        "a fixed stratified tenth of the training images is the validation set; headline, verdicts and the best "
        "checkpoint are of these images, and the test set is left alone unless asked for"
    ),
    "full": (
        "trained on all training images, without a validation set; the test set is read once, after the last epoch, "
        "and nothing but the arm that is chosen by this report is selected on it"
    ),
}
METRIC = {"test_accuracy": "test accuracy", "val_accuracy": "validation accuracy"}
SELECTED_ON = {"paper": "test set", "holdout": "validation set"}
EXTENDED = 11
"""Of 100 studies without a true difference; from reports/calibration.md, to which a test holds it."""
DROPPED = 8
"""So many arms that were taken away are named."""
ARMS_BESIDE = 6
"""So many arms stand beside each other in one table, those furthest from the base."""
PACKAGES_SHOWN = ("budget-ablation-harness", "torch", "torchvision", "numpy", "scikit-learn")


# --- beside the tables --------------------------------------------------------------------------


def published_words(report: StudyReport, published: Published) -> str:
    """What is known of the published number and how far ours is comparable."""
    reference = published.reference
    runs = "one run" if reference.runs == 1 else f"{reference.runs} runs"
    selection = {
        "test": "its checkpoint selected on the test set",
        "validation": "its checkpoint selected on a validation set",
        "none": "after the last epoch",
        None: "how it was selected is not known",
    }[reference.selection]
    loss = f", loss {reference.loss:.4f}" if reference.loss is not None else ""
    text = [f"{words.escape(reference.label)}: {words.percent(reference.accuracy)} %{loss} ({runs}, {selection})."]
    if published.binomial:
        text.append(
            f"On {words.count(reference.images)} images its binomial (Wilson) 95 % interval is "
            f"{words.percent_interval(published.binomial)} %; "
            + ("one run carries the noise of its seed on top." if reference.runs == 1 else "seeds add theirs.")
        )
    ours = f"Beside it stands ours: {published.measured}"
    text.append(f"{ours}, selected alike." if published.alike else f"{ours}; that is not like with like.")
    if reference.parameters and report.base.parameters and reference.parameters != report.base.parameters:
        text.append(
            f"The published network has {words.count(reference.parameters)} parameters, this base "
            f"{words.count(report.base.parameters)}: not the same network."
        )
    further = further_runs(reference.runs)
    text.append(
        f"*{further[0].upper()}{further[1:]}*: 95 % prediction interval of {further} of the arm; *inside*: published "
        "lies in it."
    )
    return " ".join(text)


def further_runs(runs: int) -> str:
    """What is predicted, for a published number that is the mean of `runs`."""
    return "a further run" if runs == 1 else f"the mean of {runs} further runs"


def sensitivity(report: StudyReport) -> str:
    """How to read the sensitivity table."""
    pairs = max((arm.paired.n for arm in report.arms if arm.paired), default=0)
    least = smallest_sign_flip_p(pairs)
    smallest = f" (with {words.plural(pairs, 'pair')} it can't be below {least:.3g})" if pairs else ""
    flips = (
        "exact sign-flip test" if pairs <= EXACT_FLIPS else f"sign-flip test, of more than {EXACT_FLIPS} pairs drawn"
    )
    return (
        "Not the verdict, but whether it hangs on its assumptions. Paired: mean difference at equal seeds ± its 95 % "
        f"t-interval, unadjusted; flip p: {flips}{smallest}; corr.: between arm and base over seeds, "
        "which pairing profits from; Welch p: unequal spreads, Holm-adjusted over all planned arms."
    )


FLIPPED = (
    "Flip TTA: the weights after the last epoch, each image counting with its mirror image (the mean of both logits); "
    "an evaluation of its own, with which nothing here is compared."
)


LADDER = (
    "Cumulative: each arm keeps what the arms above it set. Step: the arm less the one it stands on, in points, ± its "
    "simultaneous 95 % interval over the ladder's steps; p is adjusted alike. To the base: all steps so far."
)
INTERACTIONS = (
    "Interaction: what both changes do together beyond the sum of what each does alone (both, less first, less second, "
    "plus neither), in points, ± its simultaneous 95 % interval over the study's interactions; *additive*: it lies "
    "within the margin."
)
GRID = "Accuracy after the last epoch, mean over the runs ± its 95 % t-interval."
IMAGES = (
    "Networks of the same seed, image by image: b, the base's is right and the arm's wrong; c, the other way round "
    "(McNemar's counts), by seed and their median. Always: with every seed the one right and the other wrong. Images "
    "by their number in the set, from 0. Descriptive, without a p value: two trained networks are not two methods."
)
NOT_COUNTED = (
    "They count in the family of comparisons all the same: an arm that loses its runs makes no other arm surer."
)


def classes(report: StudyReport) -> str:
    """How to read the table of classes."""
    text = "Of each class the share that is told rightly after the last epoch, mean over runs ± its 95 % t-interval"
    if len(report.arms) > 1:
        text += ", and the difference of each arm in points"
        shown = len(report.furthest(ARMS_BESIDE))
        if shown < len(report.arms) - 1:
            text += f" (the {shown} arms furthest from the base; the JSON report has all)"
    return f"{text}. Descriptive: no interval of a difference, no p."


def samples(run: Run) -> str:
    """Which run said it, and of which images."""
    return f"What {words.code(run.name)} with seed {run.seed} says of the first images of the set, unselected:"


METRIC_WORDS = {"test_accuracy": "test set", "val_accuracy": "validation set"}


def checkpoints(report: StudyReport, has_best: bool) -> str:
    """What the two sets of weights are."""
    text = "Accuracy and loss after the last epoch; train accuracy is one clean pass over the training images."
    if not has_best:
        return text
    where = SELECTED_ON.get(report.protocol)
    warning = f" **It is selected on the {where}**, so it flatters." if where else ""
    return f"{text} Best: the checkpoint with the lowest validation loss.{warning}"


# --- what was done ------------------------------------------------------------------------------


def what_was_done(report: StudyReport) -> list[str]:
    """Protocol, seeds, differences, budget, conditions, versions, test reads, time."""
    runs = [run for run in report.runs if run.run_id]
    reads = sum(run.test_reads for run in runs)
    return [
        f"Protocol `{report.protocol}` on {words.escape(report.dataset)}: {PROTOCOL[report.protocol]}.",
        f"Seeds {conditions.numbers(report.seeds)}: arms with the same seed share the initial weights of the parts "
        "they share, the order of images and the augmentation.",
        *_differences(report.arms),
        *(_teacher(run) for run in report.teachers),
        *_extension(report),
        *_dropped(report),
        f"Epochs: {_epochs(report.arms)}.",
        f"The test set was read {words.plural(reads, 'time')} over {words.plural(len(runs), 'recorded run')}.",
        *_conditions(runs),
        *_recomputed(runs),
        f"Devices: {_told(str(run.provenance.get('device_name') or conditions.UNKNOWN) for run in runs)}.",
        f"Versions: {_versions(runs)}.",
        _time(runs),
    ]


def _differences(arms: Sequence[Arm]) -> list[str]:
    """Of each arm, what it sets and what the base has there."""
    return [
        f"{words.code(arm.name)}: "
        + words.listed([_change(path, value, arm.instead_of.get(path)) for path, value in arm.overrides.items()])
        + "."
        for arm in arms
        if arm.overrides
    ]


def _change(path: str, value: Any, before: Any) -> str:
    return f"{words.code(path)} is {_setting(value)} instead of {_setting(before)}"


def _setting(value: Any) -> str:
    """A field's value in words: off, on, or what it holds."""
    if value is None or isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Mapping):
        told = ", ".join(f"{key} {words.value_of(item)}" for key, item in value.items() if item is not None)
        return words.code(told or "on")
    return words.code(words.value_of(value))


def card(report: RunCard) -> str:
    """One run in a sentence or two."""
    run = report.run
    text = f"One run at {words.plural(run.epochs, 'epoch')} on {words.escape(report.dataset)}"
    if run.why_not:
        error = f" {words.escape(run.error)}" if run.error else ""
        return f"{text}, without a full-length result: {words.escape(run.why_not)}.{error}"
    return (
        f"{text}: {words.percent(run.last.accuracy)} % {METRIC[report.metric]} after the last epoch. "
        "n = 1: no interval; another seed gives another number."
    )


def experiment(spec: Mapping[str, Any]) -> list[str]:
    """Each section of the experiment with its fields, those that are off left out."""
    items = []
    for section, content in spec.items():
        fields = content.items() if isinstance(content, Mapping) else [(None, content)]
        told = [
            words.code(words.override(key, value) if key else words.value_of(value))
            for key, value in fields
            if value is not None and value is not False
        ]
        if told:
            items.append(f"{words.code(section)}: {', '.join(told)}")
    return items


def _teacher(run: Run) -> str:
    """Who taught, and that it was one and the same network."""
    accuracy = f"{words.percent(run.last.accuracy)} % on the {METRIC_WORDS[run.metric]}" if run.last.accuracy else ""
    told = ", ".join(
        filter(None, (f"seed {run.seed}", f"{words.count(run.trainable_parameters)} parameters", accuracy))
    )
    return (
        f"Teacher: {words.code(run.name)} ({told}, run {words.code(str(run.run_id))}), one network for every student "
        "and seed: the intervals hold for this teacher, not for teachers like it. Its readings of the test set are not "
        "in the count below."
    )


def _recomputed(runs: Sequence[Run]) -> list[str]:
    """Whether the accuracies are what the stored predictions give."""
    known = [run for run in runs if run.predictions is not None]
    if not known:
        return []
    wrong = [f"{words.code(run.arm)} seed {run.seed}, {run.contradiction}" for run in known if run.contradiction]
    told = f"Accuracy recomputed from the stored predictions of {words.plural(len(known), 'run')}"
    if wrong:
        told += f": **it contradicts {words.plural(len(wrong), 'record')}**: {'; '.join(wrong)}."
    else:
        told += ": equal to the records' in all of them, to the last digit."
    if without := [f"{words.code(run.arm)} seed {run.seed}" for run in runs if run.counted and run.predictions is None]:
        told += f" No predictions are there of {words.listed(without)}: by class and by image they are not counted."
    return [told]


def _extension(report: StudyReport) -> list[str]:
    """Told where runs of an arm were planned with fewer seeds than later ones, with what that does to the verdicts."""
    planned = report.looks
    if len(planned) < 2:
        return []
    told = ", then ".join(map(conditions.numbers, planned))
    return [
        f"**Extended after a look**: planned with seeds {told}. The intervals and p values do not account for the "
        f"choice to go on: of studies without any true difference that go from 3 to 5 to 8 seeds until an arm has a "
        f"verdict, about {EXTENDED} in 100 get one, not 5. {_after_looks(report, len(planned))}"
    ]


def _dropped(report: StudyReport) -> list[str]:
    """Runs that were made for this study and stand nowhere else in its report."""
    if not report.dropped:
        return []
    seeds: dict[str, list[int]] = {}
    for run in report.dropped:
        seeds.setdefault(run.arm, []).append(run.seed)
    told = [f"{words.code(arm)} (seed {conditions.numbers(sorted(set(of)))})" for arm, of in seeds.items()]
    more = [f"{len(told) - DROPPED} other arms"] if len(told) > DROPPED else []
    return [
        f"**Not asked for any more**: {words.plural(len(report.dropped), 'run')} made for this study, of "
        f"{words.listed([*told[:DROPPED], *more])}. Arms and seeds that are taken away after a look are comparisons "
        "that were made: the intervals do not count them."
    ]


def _after_looks(report: StudyReport, looks: int) -> str:
    """Which verdicts remain with p times the number of looks (Bonferroni), which holds whatever the rule to go on."""
    found = [arm for arm in report.arms if arm.difference and arm.difference.verdict in ("helps", "hurts")]
    if not found:
        return "No arm helps or hurts, so none does so for that reason."
    lost = [arm for arm in found if arm.difference and (arm.difference.p or 0) * looks >= ALPHA]
    rule = f"With p times the number of looks ({looks}), which accounts for it,"
    if not lost:
        return f"{rule} all verdicts of *helps* and *hurts* remain."
    return f"{rule} these would be inconclusive: {words.listed([words.code(arm.name) for arm in lost])}."


def _epochs(arms: Sequence[Arm]) -> str:
    base = arms[0].epochs
    others = [f"{words.code(arm.name)} {arm.epochs}" for arm in arms if arm.epochs != base]
    return f"{base}" + (f" ({', '.join(others)})" if others else " in every arm")


def _conditions(runs: Sequence[Run]) -> list[str]:
    told = {title: _told(run.conditions[key] for run in runs) for key, title in conditions.CONDITIONS.items()}
    return [f"{title[0].upper()}{title[1:]}: {values}." for title, values in told.items() if title != "epochs"]


def _told(values: Iterable[str]) -> str:
    """The one value, or each with its number of runs."""
    counts = Counter(values)
    if len(counts) < 2:
        return words.escape(next(iter(counts), conditions.UNKNOWN))
    ordered = sorted(counts, key=lambda value: (-counts[value], value))
    return ", ".join(f"{words.escape(value)} ({words.plural(counts[value], 'run')})" for value in ordered)


def _versions(runs: Sequence[Run]) -> str:
    def versions(run: Run) -> str:
        packages = run.provenance.get("packages") or {}
        known = [f"{name} {packages[name]}" for name in PACKAGES_SHOWN if name in packages]
        python = run.provenance.get("python")
        return ", ".join(([f"Python {python}"] if python else []) + known) or conditions.UNKNOWN

    return _told(versions(run) for run in runs)


def _time(runs: Sequence[Run]) -> str:
    seconds = [run.seconds for run in runs if run.seconds is not None]
    if not seconds:
        return "Time: not recorded."
    mean = sum(seconds) / len(seconds)
    return f"Time: {words.duration(sum(seconds))} in all, {words.duration(mean)} a run on average."


def reproduce(report: StudyReport) -> list[str]:
    """The exact commands; `--override` in full, for to `report` -o is the output."""
    return [
        f"harness ablate {report.file}   # trains what is missing and writes this report",
        f"harness report {report.file}   # this report from the records alone",
    ]
