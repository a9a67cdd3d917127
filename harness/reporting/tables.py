"""The tables of a report: which columns, and what each shows of an arm, a run, a class or a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from harness.reporting import words
from harness.reporting.contrasts import Contrast
from harness.reporting.document import Cell, Column, Table, table
from harness.reporting.factors import Grid
from harness.reporting.images import ClassAccuracy, ImageCount
from harness.reporting.method import ARMS_BESIDE, METRIC, further_runs
from harness.reporting.model import AgainstPublished, Arm, Interaction, Ladder, Run, RunCard, Step, StudyReport
from harness.reporting.runs import verdict_of
from harness.reporting.statistics import Interval, Summary

BASE = "base"
ARM = Column("arm", "arm")
SEED = Column("seed", "seed", right=True)
SAMPLES = 16
"""So many images, the first of the set, are shown as a sample of predictions."""
IMAGES_NAMED = 8
"""Of the images that an arm wins and loses, so many of each are named in its row."""


# --- cells --------------------------------------------------------------------------------------


def name(text: str, mark: str = "") -> Cell:
    return Cell(words.code(text) + mark, text)


def mean_accuracy(summary: Summary) -> Cell:
    return Cell(words.accuracy(summary), summary.mean, summary.interval, summary.n)


def mean_loss(summary: Summary) -> Cell:
    return Cell(words.loss(summary), summary.mean, summary.interval, summary.n)


def difference(mean: float | None, interval: Interval | None = None, n: int | None = None) -> Cell:
    """Of accuracies, in points."""
    return Cell(words.with_half(words.points(mean), interval), mean, interval, n)


def p_value(p: float | None, n: int | None = None) -> Cell:
    return Cell(words.p_value(p), p, n=n)


def count(number: int | None) -> Cell:
    return Cell(words.count(number), number)


def of_one_run(accuracy: float | None) -> Cell:
    return Cell(words.percent(accuracy), accuracy, n=None if accuracy is None else 1)


def note(text: str) -> Cell:
    """Free text, which may hold anything."""
    return Cell(words.escape(text), " ".join(text.split()) or None)


# --- the study ----------------------------------------------------------------------------------


def study(report: StudyReport) -> Table:
    """All arms: what they reach, how they differ from the base, what they cost."""
    columns: list[tuple[Column, Callable[[Arm], Cell]]] = [
        (ARM, lambda arm: name(arm.name, " ‡" if arm.marks else "")),
        (Column("n", "n", right=True), _counted),
        (Column("accuracy", "accuracy %", right=True), lambda arm: mean_accuracy(arm.last)),
        (Column("difference", "difference", right=True), _to_base),
        (
            Column("p", "p", right=True),
            lambda arm: p_value(arm.difference.p, arm.last.n) if arm.difference else Cell(""),
        ),
        (Column("verdict", "verdict"), _verdict),
    ]
    if report.published:
        head = f"to {words.percent(report.published.reference.accuracy)}"
        columns.append((Column("to_published", head, right=True), _to_published))
    columns += [
        (Column("parameters", "parameters", right=True, detail=True), lambda arm: count(arm.parameters)),
        (Column("headroom", "headroom", right=True, detail=True), lambda arm: count(arm.headroom)),
        (Column("macs", "MACs", right=True, detail=True), lambda arm: count(arm.macs)),
        (Column("what_differs", "what differs", detail=True, wraps=True), _what_differs),
    ]
    return table("study", columns, report.arms)


def _counted(arm: Arm) -> Cell:
    """A mean over those that came through flatters an arm that loses runs: say how many of how many."""
    shown = str(arm.last.n) if arm.last.n == len(arm.runs) else f"{arm.last.n} of {len(arm.runs)}"
    return Cell(shown, arm.last.n)


def _to_base(arm: Arm) -> Cell:
    return difference(arm.difference.mean, arm.difference.interval, arm.last.n) if arm.difference else Cell(BASE)


def _verdict(arm: Arm) -> Cell:
    if arm.difference is None:
        return Cell("")
    return Cell(verdict_of(arm) + (" †" if arm.difference.welch_differs else ""), arm.difference.verdict)


def _to_published(arm: Arm) -> Cell:
    return difference(arm.reference_difference, n=arm.last.n)


def _what_differs(arm: Arm) -> Cell:
    if arm.difference is None:
        return Cell(BASE, BASE)
    return Cell(words.overrides(arm.overrides), ", ".join(words.override(*change) for change in arm.overrides.items()))


def published(report: StudyReport) -> Table:
    """Each arm beside the published number."""
    predicted = further_runs(report.published.reference.runs if report.published else 1)
    columns: list[tuple[Column, Callable[[AgainstPublished], Cell]]] = [
        (ARM, lambda row: name(row.arm)),
        (Column("n", "n", right=True), lambda row: count(row.accuracy.n)),
        (Column("accuracy", "accuracy %", right=True), lambda row: mean_accuracy(row.accuracy)),
        (Column("difference", "difference", right=True), lambda row: difference(row.difference, n=row.accuracy.n)),
        (Column("further_run", predicted, right=True), _prediction),
        (Column("inside", "inside"), _inside),
    ]
    if report.published and report.published.reference.loss is not None:
        columns += [
            (Column("loss", "loss", right=True), _published_loss),
            (Column("loss_difference", "difference", right=True), _published_loss_difference),
        ]
    return table("published", columns, report.published.rows if report.published else ())


def _prediction(row: AgainstPublished) -> Cell:
    mean = row.accuracy.mean if row.prediction else None
    return Cell(words.percent_interval(row.prediction), mean, row.prediction, row.accuracy.n)


def _inside(row: AgainstPublished) -> Cell:
    shown = {True: "yes", False: "no", None: words.NONE}[row.inside]
    return Cell(shown, shown if row.inside is not None else None)


def _published_loss(row: AgainstPublished) -> Cell:
    loss = row.loss
    return Cell(words.NONE if loss.mean is None else f"{loss.mean:.4f}", loss.mean, loss.interval, loss.n)


def _published_loss_difference(row: AgainstPublished) -> Cell:
    apart = row.loss_difference
    return Cell(words.NONE if apart is None else words.signed(apart, 4), apart, n=row.loss.n)


def sensitivity(report: StudyReport) -> Table:
    """Each arm against the base under other assumptions than the verdict's."""
    columns: list[tuple[Column, Callable[[Arm], Cell]]] = [
        (ARM, lambda arm: name(arm.name)),
        (Column("seeds", "seeds", right=True), lambda arm: count(_paired(arm).n)),
        (Column("paired_difference", "paired", right=True),
         lambda arm: difference(_paired(arm).mean, _paired(arm).interval, _paired(arm).n)),
        (Column("paired_t_p", "t p", right=True), lambda arm: p_value(_paired(arm).t_p, _paired(arm).n)),
        (Column("sign_flip_p", "flip p", right=True), lambda arm: p_value(_paired(arm).sign_flip_p, _paired(arm).n)),
        (Column("correlation", "corr.", right=True), _correlation),
        (Column("welch_holm_p", "Welch p", right=True), lambda arm: p_value(_compared(arm).welch.p_holm, arm.last.n)),
        (Column("welch_verdict", "Welch with Holm"), _welch_verdict),
    ]  # fmt: skip
    return table("sensitivity", columns, [arm for arm in report.arms if arm.difference and arm.paired])


def _paired(arm: Arm) -> Any:
    return arm.paired


def _compared(arm: Arm) -> Any:
    return arm.difference


def _welch_verdict(arm: Arm) -> Cell:
    welch = _compared(arm).welch
    return Cell(words.NONE if welch.p is None else welch.verdict, welch.verdict)


def _correlation(arm: Arm) -> Cell:
    correlation = _paired(arm).correlation
    shown = words.NONE if correlation is None else words.signed(correlation, 2)
    return Cell(shown, correlation, n=_paired(arm).n)


def checkpoints(report: StudyReport) -> Table:
    """The last epoch and, where there are such, the best checkpoint and test-time augmentation."""
    columns: list[tuple[Column, Callable[[Arm], Cell]]] = [
        (ARM, lambda arm: name(arm.name)),
        (Column("accuracy", "accuracy %", right=True), lambda arm: mean_accuracy(arm.last)),
        (Column("loss", "loss", right=True), lambda arm: mean_loss(arm.last_loss)),
        (Column("train_accuracy", "train %", right=True), lambda arm: mean_accuracy(arm.train)),
    ]
    if any(arm.best.n for arm in report.arms):
        columns += [
            (Column("best_accuracy", "best %", right=True), lambda arm: mean_accuracy(arm.best)),
            (Column("best_loss", "best loss", right=True), lambda arm: mean_loss(arm.best_loss)),
        ]
    if any(arm.flipped.n for arm in report.arms):
        columns.append((Column("flip_tta", "flip TTA %", right=True), lambda arm: mean_accuracy(arm.flipped)))
    return table("checkpoints", columns, report.arms)


# --- how arms hang together ---------------------------------------------------------------------


def ladder(report: StudyReport, steps: Ladder) -> Table:
    """Cumulative: what each step adds to the one before it and, so far, to the base."""
    arms = {arm.name: arm for arm in report.arms}
    columns: list[tuple[Column, Callable[[Step], Cell]]] = [
        (ARM, lambda step: name(step.arm)),
        (Column("before", "on top of"), lambda step: name(step.before)),
        (Column("accuracy", "accuracy %", right=True), lambda step: mean_accuracy(arms[step.arm].last)),
        *_contrast_columns(lambda step: step.contrast, "step"),
        (Column("verdict", "verdict"), lambda step: _contrast_verdict(step.contrast, step.contrast.verdict)),
        (Column("so_far", "to the base", right=True), lambda step: _to_base(arms[step.arm])),
    ]
    return table("ladder", columns, steps.steps)


def interactions(report: StudyReport) -> Table:
    """What two changes do together beyond the sum of what each does alone."""
    columns: list[tuple[Column, Callable[[Interaction], Cell]]] = [
        (ARM, lambda one: name(one.arms.both)),
        (Column("first", "first"), lambda one: name(one.arms.first)),
        (Column("second", "second"), lambda one: name(one.arms.second)),
        (Column("neither", "neither"), lambda one: name(one.arms.neither)),
        *_contrast_columns(lambda one: one.contrast, "interaction"),
        (Column("says", "together"), lambda one: _contrast_verdict(one.contrast, one.says)),
    ]
    return table("interactions", columns, report.interactions)


def _contrast_columns(of: Callable[[Any], Contrast], head: str) -> list[tuple[Column, Callable[[Any], Cell]]]:
    def runs(thing: Any) -> int:
        return min(of(thing).n.values())

    return [
        (Column("n", "n", right=True), lambda thing: count(runs(thing))),
        (Column(head, head, right=True), lambda thing: difference(of(thing).mean, of(thing).interval, runs(thing))),
        (Column("p", "p", right=True), lambda thing: p_value(of(thing).p, runs(thing))),
    ]


def _contrast_verdict(contrast: Contrast, verdict: str) -> Cell:
    shown = verdict + (" †" if contrast.welch_differs else "") if contrast.interval else words.NONE
    return Cell(shown, verdict)


def grid(report: StudyReport, cells: Grid) -> Table:
    """A matrix of accuracies over two fields, a row for each value of the first."""
    arms = {arm.name: arm for arm in report.arms}

    def shown(column: int) -> Callable[[int], Cell]:
        return lambda row: mean_accuracy(arms[arm].last) if (arm := cells.cells[row][column]) else Cell(words.NONE)

    columns: list[tuple[Column, Callable[[int], Cell]]] = [
        (Column("row", f"{words.escape(cells.rows)} by {words.escape(cells.columns)}"),
         lambda row: name(words.value_of(cells.row_values[row]))),
        *((Column(f"{cells.columns}={value}", words.code(value), right=True), shown(column))
          for column, value in enumerate(map(words.value_of, cells.column_values))),
    ]  # fmt: skip
    return table(f"grid {cells.rows} x {cells.columns}", columns, range(len(cells.row_values)))


# --- images -------------------------------------------------------------------------------------


def classes(report: StudyReport) -> Table:
    """A row for each class, a column for each of the arms that are furthest from the base."""
    base = report.base
    others = [arm for arm in report.furthest(ARMS_BESIDE) if arm.classes]
    by_label = {arm.name: {one.label: one for one in arm.classes} for arm in others}

    def apart(arm: Arm) -> Callable[[ClassAccuracy], Cell]:
        def shown(one: ClassAccuracy) -> Cell:
            own = by_label[arm.name].get(one.label)
            return difference(own.difference, n=own.accuracy.n) if own else Cell(words.NONE)

        return shown

    columns: list[tuple[Column, Callable[[ClassAccuracy], Cell]]] = [
        (Column("row", "class"), lambda one: note(class_name(report, one.label))),
        (Column("images", "images", right=True), lambda one: count(one.images)),
        (Column("accuracy", f"{words.escape(base.name)} %", right=True), lambda one: mean_accuracy(one.accuracy)),
        *((Column(f"difference of {arm.name}", words.escape(arm.name), right=True), apart(arm)) for arm in others),
    ]
    return table("classes", columns, base.classes)


def class_name(report: StudyReport, label: int) -> str:
    """As the data set calls it, or its number."""
    return report.class_names[label] if label < len(report.class_names) else str(label)


def images(report: StudyReport) -> Table:
    """McNemar's counts, and which images an arm wins and loses."""
    columns: list[tuple[Column, Callable[[Arm], Cell]]] = [
        (ARM, lambda arm: name(arm.name)),
        (Column("pairs", "seeds", right=True), lambda arm: count(len(_images(arm).seeds))),
        (Column("median_lost", "lost (b)", right=True), lambda arm: _median(arm, _images(arm).median_lost)),
        (Column("median_won", "won (c)", right=True), lambda arm: _median(arm, _images(arm).median_won)),
        (Column("by_seed", "b, c by seed", wraps=True), _by_seed),
        (Column("always_lost", "always lost", right=True), lambda arm: count(_images(arm).always_lost)),
        (Column("always_won", "always won", right=True), lambda arm: count(_images(arm).always_won)),
        (Column("lost_images", "lost images", wraps=True, detail=True), lambda arm: _indices(_images(arm).most_lost)),
        (Column("won_images", "won images", wraps=True, detail=True), lambda arm: _indices(_images(arm).most_won)),
    ]
    return table("images", columns, [arm for arm in report.arms if arm.images and not arm.images.reason])


def _images(arm: Arm) -> Any:
    return arm.images


def _median(arm: Arm, number: float) -> Cell:
    return Cell(f"{number:,.1f}".removesuffix(".0"), number, n=len(_images(arm).seeds))


def _by_seed(arm: Arm) -> Cell:
    shown = "; ".join(f"{one.lost}, {one.won}" for one in _images(arm).seeds)
    return Cell(shown, shown)


def _indices(counts: Sequence[ImageCount]) -> Cell:
    shown = ", ".join(str(one.index) for one in counts[:IMAGES_NAMED])
    return Cell(shown or words.NONE, shown or None)


def samples(report: StudyReport, run: Run, indices: Sequence[int]) -> Table:
    """What one run says of some images."""
    predictions: Any = run.predictions

    def told(index: int, numbers: Any) -> Cell:
        return note(class_name(report, int(numbers[index])))

    columns: list[tuple[Column, Callable[[int], Cell]]] = [
        (Column("row", "image", right=True), count),
        (Column("truth", "truth"), lambda index: told(index, predictions.labels)),
        (Column("prediction", "prediction"), lambda index: told(index, predictions.predicted)),
        (Column("right", ""), lambda index: Cell("" if predictions.right[index] else "wrong")),
    ]
    return table("samples", columns, indices)


# --- runs ---------------------------------------------------------------------------------------


def card(report: RunCard) -> Table:
    """One run's counts and results, one a row."""
    run, arm = report.run, report.base
    rows = [
        ("status", Cell(run.status.replace("_", " "), run.status)),
        ("trainable parameters", count(run.trainable_parameters)),
        ("headroom under the budget", count(arm.headroom)),
        ("MACs of one image, forward", count(run.macs)),
        ("epochs", Cell(f"{run.epochs_done} of {run.epochs}", run.epochs_done)),
        (f"{METRIC[report.metric]} %, last epoch", of_one_run(run.last.accuracy)),
        ("loss, last epoch", _loss_of_one(run.last.loss)),
        (f"{METRIC[report.metric]} %, checkpoint with the lowest validation loss", of_one_run(run.best.accuracy)),
        ("loss of that checkpoint", _loss_of_one(run.best.loss)),
        (f"{METRIC[report.metric]} % with flip test-time augmentation", of_one_run(run.flipped.accuracy)),
        ("train accuracy %, last epoch, one clean pass", of_one_run(run.train_accuracy)),
        ("time", Cell(words.duration(run.seconds), run.seconds)),
        ("images per second", count(round(run.images_per_second) if run.images_per_second else None)),
        ("test set read, times", count(run.test_reads)),
        ("seed", Cell(str(run.seed), run.seed)),
        ("run id", name(run.run_id or "")),
    ]
    columns: list[tuple[Column, Callable[[tuple[str, Cell]], Cell]]] = [
        # Shown in percent, in CSV a fraction as everywhere.
        (Column("row", ""), lambda row: Cell(words.escape(row[0]), row[0].replace(" %", ""))),
        (Column("value", "value", right=True), lambda row: row[1]),
    ]
    return table("run", columns, [row for row in rows if row[1].text != words.NONE])


def _loss_of_one(loss: float | None) -> Cell:
    return Cell(words.NONE if loss is None else f"{loss:.4f}", loss, n=None if loss is None else 1)


def not_counted(runs: Sequence[Run]) -> Table:
    """Planned runs that are in no mean, and why."""
    columns: list[tuple[Column, Callable[[Run], Cell]]] = [
        (ARM, lambda run: name(run.arm)),
        (SEED, lambda run: Cell(str(run.seed), run.seed)),
        (Column("why", "why it is not in the means", wraps=True), lambda run: note(run.why_not or "")),
        (Column("accuracy", "accuracy %", right=True), lambda run: of_one_run(run.last.accuracy)),
        (Column("error", "error", wraps=True), lambda run: note(_shortened(run.error or ""))),
    ]
    return table("not_counted", columns, runs)


def _shortened(text: str, limit: int = 120) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def runs(shown: Sequence[Run], first: str = "arm") -> Table:
    """One row a run; `first` is the first column's head: arm or run."""
    columns: list[tuple[Column, Callable[[Run], Cell]]] = [
        (Column("arm", first), lambda run: name(run.arm if first == "arm" else run.name)),
        (SEED, lambda run: Cell(str(run.seed), run.seed)),
        (Column("status", "status", wraps=True), _status),
        (Column("accuracy", "last %", right=True), lambda run: of_one_run(run.last.accuracy)),
        (Column("best_accuracy", "best %", right=True), lambda run: of_one_run(run.best.accuracy)),
        (Column("seconds", "time", right=True), lambda run: Cell(words.duration(run.seconds), run.seconds)),
        (Column("device", "device"), lambda run: _device(run.provenance.get("device_name"))),
        (Column("run_id", "run id"), lambda run: name(run.run_id) if run.run_id else Cell(words.NONE)),
    ]
    return table("runs", columns, shown)


def _status(run: Run) -> Cell:
    marks = f" ‡ {', '.join(run.marks)}" if run.marks else ""
    short = f" ({run.epochs_done}/{run.epochs})" if run.run_id and run.epochs_done < run.epochs else ""
    return Cell(run.status.replace("_", " ") + short + marks, run.status + marks)


def _device(told: object) -> Cell:
    return note(str(told)) if told else Cell(words.NONE)
