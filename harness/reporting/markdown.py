"""The report as markdown: reads in a terminal (padded tables, wrapped lines) and on a code host."""

from __future__ import annotations

from harness.reporting import method, words
from harness.reporting.answer import METRIC, answer
from harness.reporting.figures import figures_of
from harness.reporting.model import Arm, Run, RunsReport, StudyReport

BASE = "base"


def study_markdown(report: StudyReport) -> str:
    """The whole report; ends with a newline. Depends on the report alone, not on where it is written."""
    parts = [
        [f"# {words.escape(report.name)}", *_question(report), "", *words.paragraph(answer(report))],
        _result(report),
        _arms(report),
        _published(report),
        _figures(report),
        _sensitivity(report),
        _checkpoints(report),
        _not_counted(report),
        _runs_section(report),
        method.what_was_done(report),
        method.reproduce(report),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def runs_markdown(report: RunsReport) -> str:
    """Plain runs, a table for each study they were made for."""
    lines = ["# Runs"]
    if not report.groups:
        lines += ["", "There are no runs yet."]
    for study, runs in report.groups:
        title = f"Study {words.escape(study)}" if study else "Without a study"
        lines += ["", f"## {title}", "", *runs_table(runs, "run")]
    return "\n".join(lines) + "\n"


def _question(report: StudyReport) -> list[str]:
    return ["", *(f"> {line}" for line in words.paragraph(words.escape(report.question)))] if report.question else []


# --- the result ---------------------------------------------------------------------------------


def _result(report: StudyReport) -> list[str]:
    seeds = words.plural(len(report.seeds), "seed")
    lines = [f"## Result at {words.plural(report.epochs, 'epoch')}, {seeds}", ""]
    heads = ["arm", "n", "accuracy %", "difference", "p", "verdict"]
    rows = [_result_row(arm) for arm in report.arms]
    if report.published:
        heads.append(f"to {words.percent(report.published.reference.accuracy)}")
        rows = [[*row, words.points(arm.reference_difference)] for row, arm in zip(rows, report.arms, strict=True)]
    lines += words.table(heads, rows, " rrrr r")
    for note in _result_notes(report):
        lines += ["", *words.paragraph(note)]
    if any(arm.difference and arm.difference.interval for arm in report.arms):
        caption = "Differences to the base with their simultaneous 95 % intervals"
        lines += ["", f"![{caption}]({figures_of(report)['differences']})"]
    return lines


def _result_row(arm: Arm) -> list[str]:
    name = words.code(arm.name) + (" ‡" if arm.marks else "")
    # A mean over those that came through flatters an arm that loses runs: say how many of how many.
    n = str(arm.last.n) if arm.last.n == len(arm.runs) else f"{arm.last.n} of {len(arm.runs)}"
    numbers = [n, words.accuracy(arm.last)]
    if arm.difference is None:
        return [name, *numbers, BASE, "", ""]
    verdict = arm.difference.verdict + (" †" if arm.difference.welch_differs else "")
    shown = words.with_half(words.points(arm.difference.mean), arm.difference.interval)
    return [name, *numbers, shown, words.p_value(arm.difference.p), verdict]


def _result_notes(report: StudyReport) -> list[str]:
    comparisons = len(report.arms) - 1
    notes = [
        f"Accuracy: {METRIC[report.metric]} after the last epoch, mean over n runs ± its 95 % t-interval.",
    ]
    if comparisons:
        notes[0] += (
            f" Difference: to the base, in points, ± the simultaneous 95 % interval (Dunnett, "
            f"{words.plural(comparisons, 'planned comparison')}); p is adjusted by the same procedure. "
            + _verdict_rule(report)
        )
    if differing := [arm for arm in report.arms if arm.difference and arm.difference.welch_differs]:
        told = [f"{words.code(arm.name)}: {arm.difference.welch.verdict}" for arm in differing if arm.difference]
        notes.append(f"† Welch with Holm, which does not assume equal spreads, would say: {'; '.join(told)}.")
    notes += [f"‡ {words.code(arm.name)}: {words.escape('; '.join(arm.marks))}." for arm in report.arms if arm.marks]
    reasons: dict[str, list[str]] = {}
    for arm in report.arms:
        reason = arm.difference.reason if arm.difference else arm.last.reason
        if reason:
            reasons.setdefault(reason, []).append(words.code(arm.name))
    notes += [f"{words.listed(names)}: {reason}." for reason, names in reasons.items()]
    return notes


def _verdict_rule(report: StudyReport) -> str:
    rule = "*helps* / *hurts*: the interval excludes 0"
    if report.margin is None:
        return f"{rule}."
    margin = f"±{100 * report.margin:.2f} points"
    return f"{rule}; *no relevant difference*: it lies within {margin}, which goes before the other two."


def _arms(report: StudyReport) -> list[str]:
    rows = [
        [words.code(arm.name), words.count(arm.parameters), words.count(arm.headroom), words.count(arm.macs),
         words.overrides(arm.overrides) if arm.difference else BASE]
        for arm in report.arms
    ]  # fmt: skip
    heads = ["arm", "parameters", "headroom", "MACs", "what differs"]
    note = "MACs: multiply-accumulates of one image, forward."
    if limit := report.base.max_parameters:
        note += f" Headroom: what is left under the budget of {words.count(limit)} trainable parameters."
    note = " ".join([note, *(f"{words.escape(remark)}." for remark in report.remarks)])
    return ["## The arms", "", *words.table(heads, rows, " rrr "), "", *words.paragraph(note)]


# --- beside the result --------------------------------------------------------------------------


def _published(report: StudyReport) -> list[str]:
    if report.published is None:
        return []
    published, with_loss = report.published, report.published.reference.loss is not None
    heads = ["arm", "n", "accuracy %", "difference", "a further run", "inside"]
    rows = [
        [words.code(row.arm), str(row.accuracy.n), words.accuracy(row.accuracy), words.points(row.difference),
         words.percent_interval(row.prediction), {True: "yes", False: "no", None: words.NONE}[row.inside]]
        for row in published.rows
    ]  # fmt: skip
    if with_loss:
        heads += ["loss", "difference"]
        for row, numbers in zip(rows, published.rows, strict=True):
            difference = words.NONE if numbers.loss_difference is None else words.signed(numbers.loss_difference, 4)
            row += [words.NONE if numbers.loss.mean is None else f"{numbers.loss.mean:.4f}", difference]
    lines = ["## Against the published number", "", *words.paragraph(method.published_words(report, published)), ""]
    return lines + words.table(heads, rows, " rrrr rr")


def _figures(report: StudyReport) -> list[str]:
    if not any(run.journal for run in report.runs if run.counted):
        return []
    caption = "Accuracy and loss over epochs, each arm's mean with the range over its seeds"
    return ["## Learning curves", "", f"![{caption}]({figures_of(report)['curves']})"]


def _sensitivity(report: StudyReport) -> list[str]:
    if len(report.arms) == 1:
        return []
    rows = []
    for arm in report.arms[1:]:
        if arm.difference is None or arm.paired is None:
            continue
        paired, welch = arm.paired, arm.difference.welch
        correlation = words.NONE if paired.correlation is None else words.signed(paired.correlation, 2)
        rows.append(
            [words.code(arm.name), str(paired.n), words.with_half(words.points(paired.mean), paired.interval),
             words.p_value(paired.t_p), words.p_value(paired.sign_flip_p), correlation,
             words.p_value(welch.p_holm), welch.verdict]
        )  # fmt: skip
    heads = ["arm", "seeds", "paired", "t p", "flip p", "corr.", "Welch p", "Welch with Holm"]
    lines = ["## Sensitivity", "", *words.table(heads, rows, " rrrrrr "), ""]
    return lines + words.paragraph(method.sensitivity(report))


def _checkpoints(report: StudyReport) -> list[str]:
    has_best = any(arm.best.n for arm in report.arms)
    heads = ["arm", "accuracy %", "loss", "train %"]
    rows = [
        [words.code(arm.name), words.accuracy(arm.last), words.loss(arm.last_loss), words.accuracy(arm.train)]
        for arm in report.arms
    ]
    if has_best:
        heads += ["best %", "best loss"]
        rows = [
            [*row, words.accuracy(arm.best), words.loss(arm.best_loss)]
            for row, arm in zip(rows, report.arms, strict=True)
        ]
    if flipped := any(arm.flipped.n for arm in report.arms):
        heads.append("flip TTA %")
        rows = [[*row, words.accuracy(arm.flipped)] for row, arm in zip(rows, report.arms, strict=True)]
    lines = ["## Last epoch and best checkpoint", "", *words.table(heads, rows, " rrrrrr"), ""]
    lines += words.paragraph(method.checkpoints(report, has_best))
    return [*lines, "", *words.paragraph(method.FLIPPED)] if flipped else lines


# --- runs ---------------------------------------------------------------------------------------


def _not_counted(report: StudyReport) -> list[str]:
    absent = [run for run in report.runs if not run.counted]
    if not absent:
        return []
    rows = [
        [words.code(run.arm), str(run.seed), words.escape(run.why_not or ""), words.percent(run.last.accuracy),
         words.escape(_shortened(run.error or ""))]
        for run in absent
    ]  # fmt: skip
    heads = ["arm", "seed", "why it is not in the means", "accuracy %", "error"]
    note = "They count in the family of comparisons all the same: an arm that loses its runs makes no other arm surer."
    return ["## Not counted", "", *words.table(heads, rows, " r r "), "", *words.paragraph(note)]


def _shortened(text: str, limit: int = 120) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _runs_section(report: StudyReport) -> list[str]:
    return ["## Runs", "", *runs_table(report.runs, "arm")]


def runs_table(runs: tuple[Run, ...], first: str) -> list[str]:
    """One row a run; `first` names the first column: arm or run."""
    rows = [
        [words.code(run.arm if first == "arm" else run.name), str(run.seed), _status(run),
         words.percent(run.last.accuracy), words.percent(run.best.accuracy), words.duration(run.seconds),
         words.escape(str(run.provenance.get("device_name") or words.NONE)),
         words.code(run.run_id) if run.run_id else words.NONE]
        for run in runs
    ]  # fmt: skip
    heads = [first, "seed", "status", "last %", "best %", "time", "device", "run id"]
    return words.table(heads, rows, " r rrr  ")


def _status(run: Run) -> str:
    marks = f" ‡ {', '.join(run.marks)}" if run.marks else ""
    short = f" ({run.epochs_done}/{run.epochs})" if run.run_id and run.epochs_done < run.epochs else ""
    return run.status.replace("_", " ") + short + marks
