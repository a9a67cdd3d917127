"""What stands in a report, in which order: sections of prose, tables and figures, whatever form they are shown in."""

from __future__ import annotations

from collections.abc import Sequence

from harness.reporting import figures, method, tables, words
from harness.reporting.answer import answer
from harness.reporting.document import Block, Commands, Document, Figure, Heading, Items, Paragraph, Quote
from harness.reporting.model import RunCard, RunsReport, StudyReport
from harness.reporting.statistics import Comparison


def document_of(report: StudyReport | RunsReport) -> Document:
    """The whole report. Depends on the report alone, not on where it is written."""
    if isinstance(report, RunsReport):
        return _runs_document(report)
    return _card(report) if isinstance(report, RunCard) else _study_document(report)


def _study_document(report: StudyReport) -> Document:
    sections = (
        _opening, _result, _together, _published, _curves, _sensitivity, _checkpoints, _classes, _images,
        _not_counted, _runs, _method,
    )  # fmt: skip
    return Document(report.name, report.name, tuple(block for section in sections for block in section(report)))


def _runs_document(report: RunsReport) -> Document:
    blocks: list[Block] = [] if report.groups else [Paragraph("There are no runs yet.")]
    for study, runs in report.groups:
        title = f"Study {words.escape(study)}" if study else "Without a study"
        blocks += [Heading(title), tables.runs(runs, "run")]
    return Document("runs", "Runs", tuple(blocks))


def _card(report: RunCard) -> Document:
    """One run: what it is, what it reached, and how it came about."""
    run = report.run
    blocks: list[Block] = [
        Paragraph(method.card(report)),
        tables.card(report),
        *_curves(report),
        *_classes(report),
        *_images(report),
        Heading("The experiment"),
        Items(tuple(method.experiment(run.spec))),
        Heading("What was done"),
        Items(tuple(method.what_was_done(report))),
        Heading("To reproduce"),
        Commands((f"harness report {run.run_id}   # this report from the record alone",)),
    ]
    return Document(report.name, f"{run.name}, seed {run.seed}", tuple(blocks))


def _figures(report: StudyReport, *kinds: str) -> list[Block]:
    """Those of `kinds` that have something to show."""
    return [Figure(kind, figures.KINDS[kind].caption(report)) for kind in kinds if figures.KINDS[kind].shows(report)]


def _opening(report: StudyReport) -> list[Block]:
    question: list[Block] = [Quote(words.escape(report.question))] if report.question else []
    return [*question, Paragraph(answer(report))]


def _result(report: StudyReport) -> list[Block]:
    seeds = words.plural(len(report.seeds), "seed")
    return [
        Heading(f"Result at {words.plural(report.epochs, 'epoch')}, {seeds}"),
        tables.study(report),
        *map(Paragraph, _result_notes(report)),
        *_figures(report, "differences", "parameters"),
    ]


def _result_notes(report: StudyReport) -> list[str]:
    notes = [f"Accuracy: {method.METRIC[report.metric]} after the last epoch, mean over n runs ± its 95 % t-interval."]
    if comparisons := len(report.arms) - 1:
        notes[0] += (
            f" Difference: to the base, in points, ± the simultaneous 95 % interval (Dunnett, "
            f"{words.plural(comparisons, 'planned comparison')}); p is adjusted by the same procedure. "
            + _verdict_rule(report)
        )
    if differing := [arm for arm in report.arms if arm.difference and arm.difference.welch_differs]:
        told = [f"{words.code(arm.name)}: {_welch_says(arm.difference)}" for arm in differing if arm.difference]
        notes.append(f"† Welch with Holm, which does not assume equal spreads, would say: {'; '.join(told)}.")
    notes += [f"‡ {words.code(arm.name)}: {words.escape('; '.join(arm.marks))}." for arm in report.arms if arm.marks]
    reasons: dict[str, list[str]] = {}
    for arm in report.arms:
        reason = arm.difference.reason if arm.difference else arm.last.reason
        if reason:
            reasons.setdefault(reason, []).append(words.code(arm.name))
    notes += [f"{words.listed(names)}: {reason}." for reason, names in reasons.items()]
    return [*notes, _costs(report)]


def _welch_says(difference: Comparison) -> str:
    if difference.welch.p is None:  # the interval's spread is that of the other arms
        return "nothing, for its runs are all equal and so are the base's"
    return difference.welch.verdict


def _verdict_rule(report: StudyReport) -> str:
    rule = "*helps* / *hurts*: the interval excludes 0"
    if report.margin is None:
        return f"{rule}."
    margin = f"±{100 * report.margin:.2f} points"
    return f"{rule}; *no relevant difference*: it lies within {margin}, which goes before the other two."


def _costs(report: StudyReport) -> str:
    note = "MACs: multiply-accumulates of one image, forward."
    if limit := report.base.max_parameters:
        note += f" Headroom: what is left under the budget of {words.count(limit)} trainable parameters."
    return " ".join([note, *(f"{words.escape(remark)}." for remark in report.remarks)])


def _together(report: StudyReport) -> list[Block]:
    """Ladders, interactions and grids, where the arms form such."""
    blocks: list[Block] = []
    for ladder in report.ladders:
        blocks += [Heading("Step by step"), tables.ladder(report, ladder), Paragraph(method.LADDER)]
    if report.interactions:
        blocks += [Heading("Two changes together"), tables.interactions(report), Paragraph(method.INTERACTIONS)]
    for grid in report.grids:
        title = f"{words.code(grid.rows)} by {words.code(grid.columns)}"
        fixed = f", {words.overrides(grid.fixed)}" if grid.fixed else ""
        blocks += [Heading(title + fixed), tables.grid(report, grid), Paragraph(method.GRID)]
    return blocks


def _published(report: StudyReport) -> list[Block]:
    if report.published is None:
        return []
    told = Paragraph(method.published_words(report, report.published))
    return [Heading("Against the published number"), told, tables.published(report)]


def _curves(report: StudyReport) -> list[Block]:
    shown = _figures(report, "curves")
    return [Heading("Learning curves"), *shown] if shown else []


def _sensitivity(report: StudyReport) -> list[Block]:
    if len(report.arms) == 1:
        return []
    return [Heading("Sensitivity"), tables.sensitivity(report), Paragraph(method.sensitivity(report))]


def _checkpoints(report: StudyReport) -> list[Block]:
    notes = [Paragraph(method.checkpoints(report, any(arm.best.n for arm in report.arms)))]
    if any(arm.flipped.n for arm in report.arms):
        notes.append(Paragraph(method.FLIPPED))
    return [Heading("Last epoch and best checkpoint"), tables.checkpoints(report), *notes]


def _classes(report: StudyReport) -> list[Block]:
    if not report.base.classes:
        return []
    return [
        Heading("By class"),
        tables.classes(report),
        Paragraph(method.classes(report)),
        *_figures(report, "confusion"),
    ]


def _images(report: StudyReport) -> list[Block]:
    shown = tables.images(report)
    blocks: list[Block] = [shown, Paragraph(method.IMAGES)] if shown.rows else []
    if (run := report.sampled) and run.predictions:
        indices = range(min(tables.SAMPLES, len(run.predictions.labels)))
        blocks += [Paragraph(method.samples(run)), tables.samples(report, run, indices)]
    blocks += _figures(report, figures.PICTURES)
    return [Heading("Image by image"), *blocks] if blocks else []


def _not_counted(report: StudyReport) -> list[Block]:
    absent = [run for run in report.runs if not run.counted]
    return [Heading("Not counted"), tables.not_counted(absent), Paragraph(method.NOT_COUNTED)] if absent else []


def _runs(report: StudyReport) -> list[Block]:
    return [Heading("Runs"), tables.runs(report.runs)]


def _method(report: StudyReport) -> Sequence[Block]:
    return [
        Heading("What was done"),
        Items(tuple(method.what_was_done(report))),
        Heading("To reproduce"),
        Commands(tuple(method.reproduce(report))),
    ]
