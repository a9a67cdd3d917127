"""A study's dashboard in Weights & Biases, described as data: its panels, and what each of them reads.

Every name in it is held against the study's own records before anything is made of it: a panel with a misspelt metric
stays empty in the browser, and nobody knows why.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from harness.errors import InputError, Problem
from harness.reporting import words
from harness.reporting.answer import METRIC, answer
from harness.reporting.model import Arm, StudyReport
from harness.reporting.runs import verdict_of
from harness.tracking import media
from harness.tracking.journal import Journal
from harness.tracking.mirror import config, summary
from harness.tracking.record import Record
from harness.tracking.store import RunFolder

Kind = Literal["markdown", "lines", "bars", "comparer", "importance", "table", "confusion"]
Grouping = Literal["job_type", "spec_digest"]
Source = Literal["rows", "summary", "config"]

SHOWN_CLASSES = 20  # more bars than that nobody reads


@dataclass(frozen=True)
class Panel:
    """One panel, with the names that it reads from the runs."""

    title: str
    kind: Kind
    rows: tuple[str, ...] = ()
    """Columns of the history, one row an epoch."""
    summary: tuple[str, ...] = ()
    optional: bool = False
    """Left out, and said so, where no record has what it reads."""
    text: str = ""


@dataclass(frozen=True)
class Section:
    name: str
    panels: tuple[Panel, ...]
    columns: int = 2


@dataclass(frozen=True)
class Dashboard:
    """What the workspace of a study holds."""

    study: str
    sections: tuple[Section, ...]
    run_ids: tuple[str, ...]
    """Only runs that count are in it: a shorter one would pull its arm's mean down. The first table names the rest."""
    grouping: Grouping
    """What tells the arms apart in Weights & Biases: the runs' job type or, where some were made as other arms of
    other studies, what they have trained (`config.spec_digest`)."""
    metric: str
    """The headline in the summary, final/test_accuracy or final/val_accuracy."""
    columns: tuple[str, ...]
    """Of the summary, beside each run's name."""
    left_out: tuple[str, ...] = ()
    """Optional panels that no record has anything for."""

    @property
    def config(self) -> tuple[str, ...]:
        """Names of the configuration that it reads."""
        return ("seed", "spec_digest") if self.grouping == "spec_digest" else ("seed",)

    @property
    def panels(self) -> Iterator[tuple[Section, Panel]]:
        return ((section, panel) for section in self.sections for panel in section.panels)


@dataclass(frozen=True)
class Names:
    """What the runs hold, as their mirrors tell it."""

    rows: frozenset[str]
    summary: frozenset[str]
    config: frozenset[str]


def build(report: StudyReport, entries: Sequence[tuple[RunFolder, Record]]) -> Dashboard:
    """The dashboard of a study, from its report and the store's entries.

    Raises:
        InputError: no run of it counts yet, or a panel would read what no record has.
    """
    counted = {run.run_id: run.arm for run in report.runs if run.counted and run.run_id}
    found = [entry for entry in entries if entry[1].run_id in counted]
    if not found:
        fix = f"harness ablate {report.file}"
        raise InputError(f"no run of {report.name} has finished: there is nothing to show", fix=fix)
    names = names_of(found)
    grouping = _grouping([record for _, record in found], counted)
    dashboard = Dashboard(
        study=report.name,
        sections=_sections(report, names, grouping, [record for _, record in found], counted),
        run_ids=tuple(counted),
        grouping=grouping,
        metric=f"final/{report.metric}",
        columns=(f"final/{report.metric}", "final/epoch", "status"),
    )
    check(dashboard, names)
    return _without_empty(dashboard, names)


def names_of(entries: Sequence[tuple[RunFolder, Record]]) -> Names:
    """What at least one of the runs holds; a column that is null throughout counts as missing."""
    rows, told, settings = set[str](), set[str](), set[str]()
    for folder, record in entries:
        rows |= {
            name for row in Journal(folder.journal_path).rows() for name, value in row.items() if value is not None
        }
        shown = media.shown(folder, record)
        told |= {*summary(record), *shown.scalars, *shown.tables}
        settings |= set(_paths(config(record)))
    return Names(frozenset(rows), frozenset(told), frozenset(settings))


def _paths(tree: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for name, value in tree.items():
        yield f"{before}{name}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{before}{name}.")


def _grouping(records: Sequence[Record], arms: Mapping[str, str]) -> Grouping:
    return "job_type" if all(record.arm == arms[record.run_id] for record in records) else "spec_digest"


# --- what is in it -----------------------------------------------------------------------------


def _sections(
    report: StudyReport, names: Names, grouping: Grouping, records: Sequence[Record], arms: Mapping[str, str]
) -> tuple[Section, ...]:
    metric = METRIC[report.metric]
    headline, loss = f"final/{report.metric}", f"final/{report.metric.replace('accuracy', 'loss')}"
    digests = {record.spec_digest: arms[record.run_id] for record in records} if grouping == "spec_digest" else {}
    result = [Panel("What the runs show", "markdown", text=aggregate_markdown(report, digests))]
    bars = [
        Panel(f"Final {metric} by arm", "bars", summary=(headline,)),
        Panel("Final loss by arm", "bars", summary=(loss,)),
    ]
    curves = [Panel(f"{part} by arm", "lines", rows=(name,)) for part, name in _CURVES["train"]]
    if report.protocol != "full":  # it has no validation, and no best checkpoint
        bars += [Panel(f"Best checkpoint's {metric} by arm", "bars", summary=(headline.replace("final", "best"),))]
        bars += [Panel("Best checkpoint's epoch by arm", "bars", summary=("best/epoch",))]
        curves = [Panel(f"{part} by arm", "lines", rows=(name,)) for part, name in _CURVES["val"]] + curves
    classes = tuple(sorted(name for name in names.summary if name.startswith(media.CLASS_ACCURACY)))
    predictions = [
        Panel("Sample predictions", "table", summary=(media.SAMPLES,), optional=True),
        Panel("Confusion matrix", "confusion", summary=(media.CONFUSION,), optional=True),
    ]
    if len(classes) <= SHOWN_CLASSES:
        predictions.append(Panel("Accuracy by class and arm", "bars", summary=classes, optional=True))
    return (
        Section("Result", tuple(result), columns=1),
        Section("Last epoch and best checkpoint", tuple(bars)),
        Section("Learning curves", tuple(curves)),
        Section(
            "What differs",
            (
                Panel("Runs compared: only what differs", "comparer"),
                Panel(f"Parameter importance for the final {metric}", "importance", summary=(headline,)),
            ),
        ),
        Section("Predictions", tuple(predictions)),
        Section(
            "Speed",
            (
                Panel("Images per second by arm", "lines", rows=("images_per_second",)),
                Panel("Memory of the GPU by arm", "lines", rows=("memory_bytes",), optional=True),
                Panel("Utilisation of the GPU by arm", "lines", rows=("utilisation",), optional=True),
            ),
        ),
    )


_CURVES = {
    "val": (("Validation accuracy", "val_accuracy"), ("Validation loss", "val_loss")),
    "train": (
        ("Training accuracy", "train_accuracy"),
        ("Training loss", "train_loss"),
        ("Learning rate", "lr"),
    ),
}


def aggregate_markdown(report: StudyReport, digests: Mapping[str, str] | None = None) -> str:
    """Mean, standard deviation, n and interval of every arm, which Weights & Biases does not compute.

    `digests`: spec digest -> arm, where the panels know the arms by their digests.
    """
    heads = ["arm", "n", "mean %", "sd", "95 % interval", "difference", "verdict"]
    rows = [_row(arm) for arm in report.arms]
    lines = [*([f"> {words.escape(report.question)}", ""] if report.question else []), answer(report), ""]
    lines += words.table(heads, rows, " rrrrr ")
    what = f"{METRIC[report.metric]} after the last epoch of {words.plural(report.epochs, 'epoch')}"
    lines += ["", f"Accuracy: {what}; differences in points, with simultaneous 95 % intervals (Dunnett)."]
    lines += [f"All of it, and how it was computed: `harness report {report.file}`."]
    if absent := [run for run in report.runs if not run.counted]:
        told = [f"{words.code(run.arm)} seed {run.seed} ({words.escape(run.why_not or run.status)})" for run in absent]
        lines += ["", f"Not counted, and not in these panels: {'; '.join(told)}."]
    if digests:
        told = [f"{words.code(digest)} is {words.code(arm)}" for digest, arm in digests.items()]
        lines += ["", f"Some runs were made as arms of other studies; here {'; '.join(told)}."]
    return "\n".join(lines) + "\n"


def _row(arm: Arm) -> list[str]:
    last, difference = arm.last, arm.difference
    n = str(last.n) if last.n == len(arm.runs) else f"{last.n} of {len(arm.runs)}"
    row = [words.code(arm.name), n, words.percent(last.mean), words.percent(last.sd)]
    row.append(words.percent_interval(last.interval))
    if difference is None:
        return [*row, "base", ""]
    return [*row, words.with_half(words.points(difference.mean), difference.interval), verdict_of(arm)]


# --- held against the records ------------------------------------------------------------------


def check(dashboard: Dashboard, names: Names) -> None:
    """Every name that a panel or the list of runs reads is one that a record has.

    Raises:
        InputError: a problem for each that none has.
    """
    problems = [
        problem
        for section, panel in dashboard.panels
        if not panel.optional
        for problem in _missing(f"{section.name}: {panel.title}", panel, names)
    ]
    problems += _unknown("the list of runs", "summary", dashboard.columns, names.summary)
    problems += _unknown("the list of runs", "config", dashboard.config, names.config)
    if problems:
        raise InputError(problems)


def _missing(where: str, panel: Panel, names: Names) -> list[Problem]:
    return [
        *_unknown(where, "rows", panel.rows, names.rows),
        *_unknown(where, "summary", panel.summary, names.summary),
    ]


_WORDS: dict[Source, str] = {"rows": "column of the journal", "summary": "value of the summary", "config": "setting"}


def _unknown(where: str, source: Source, wanted: Sequence[str], known: frozenset[str]) -> list[Problem]:
    problems = []
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 1)
            fix = f"the nearest that there is: {near[0]}" if near else None
            problems.append(Problem(f"no record of the study has the {_WORDS[source]} {name!r}", where, fix))
    return problems


def _without_empty(dashboard: Dashboard, names: Names) -> Dashboard:
    """Without optional panels that have nothing to read."""
    empty = {panel.title for _, panel in dashboard.panels if panel.optional and _is_empty(panel, names)}
    sections = (
        replace(section, panels=tuple(panel for panel in section.panels if panel.title not in empty))
        for section in dashboard.sections
    )
    kept = tuple(section for section in sections if section.panels)
    return replace(dashboard, sections=kept, left_out=tuple(sorted(empty)))


def _is_empty(panel: Panel, names: Names) -> bool:
    return bool(_missing("", panel, names)) or not (panel.rows or panel.summary)
