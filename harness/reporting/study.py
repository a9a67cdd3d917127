"""From a study and the records to the report's model: which run belongs where, and what the arms show."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.reporting import conditions
from harness.reporting.contrasts import Contrast, Weights, contrasts
from harness.reporting.factors import Factorial, structure_of, value_at
from harness.reporting.images import ClassAccuracy, Predictions, per_class, per_image
from harness.reporting.model import (
    MISSING,
    Arm,
    Interaction,
    Ladder,
    Run,
    RunCard,
    Step,
    StudyReport,
)
from harness.reporting.published import accuracy_of, against_published, loss_of
from harness.reporting.runs import metric_of, run_of, shown_path, statuses
from harness.reporting.statistics import (
    Comparison,
    compare,
    detectable_difference,
    pair,
    pooled_spread,
    summarize,
)
from harness.spec import ablation
from harness.spec.ablation import Study
from harness.spec.documents import experiment_from_dict
from harness.spec.identity import spec_digest
from harness.tracking.journal import Journal
from harness.tracking.record import Record
from harness.tracking.store import RunFolder, Store

Found = tuple[RunFolder, Record]
Values = Mapping[str, Mapping[int, float]]
"""Arm -> seed -> headline accuracy."""

OTHER_IMAGES = "measured on other images than the base"


def build(study: Study, store: Store) -> StudyReport:
    """The report of `study` from the records in `store`, and from nothing else (no clock, no paths).

    Planned runs without a record stand in it as missing; records of other seeds or arms are left out.
    What could not be read stands in `store.problems` afterwards: the caller is to tell.
    """
    entries = store.entries()
    report = _assembled(study, _planned(study, store, entries), _teachers(study, entries))
    return replace(report, dropped=tuple(run_of(record) for _, record in dropped(study, entries)))


def build_card(found: Found, store: Store) -> RunCard:
    """The report of one recorded run, and of nothing else. InputError where its spec can't be read any more."""
    record = found[1]
    arm = ablation.Arm(record.name, {}, experiment_from_dict(record.spec))
    study = Study(f"{record.name}-{record.run_id}", None, (arm,), (record.seed,), None, None)
    report = _assembled(study, {arm.name: [_run(arm, record.seed, found, store)]}, ())
    return RunCard(**{field.name: getattr(report, field.name) for field in fields(report)})


def _assembled(study: Study, runs: dict[str, list[Run]], teachers: tuple[Run, ...]) -> StudyReport:
    """From the study's runs (arm -> one a seed) to what they show."""
    everybody = [run for planned in runs.values() for run in planned]
    expected = conditions.usual([run for run in runs[study.base.name] if run.counted], everybody)
    runs = {name: [conditions.marked(run, expected) for run in planned] for name, planned in runs.items()}
    compared = _compared(study, runs)
    base_classes = per_class(_predictions(runs[study.base.name]))
    arms = tuple(_arm(arm, runs, compared, study, expected, base_classes) for arm in study.arms)
    structure, values = structure_of(study), _comparable(study, runs)
    spread = pooled_spread([list(by_seed.values()) for by_seed in values.values()])
    sd = spread[0] if spread else 0.0
    return StudyReport(
        name=study.name,
        question=study.question,
        file=shlex.join([shown_path(study.path or Path("ablations") / f"{study.name}.yaml"), *study.options]),
        dataset=study.base.spec.dataset.title,
        protocol=study.base.spec.data.protocol,
        metric=metric_of(study.base.spec.data.protocol),
        epochs=study.base.spec.train.epochs,
        seeds=study.seeds,
        margin=study.margin,
        arms=arms,
        class_names=study.base.spec.dataset.class_names,
        published=against_published(study.reference, arms, study.base.spec.data.protocol) if study.reference else None,
        spread=spread,
        detectable=detectable_difference(len(study.seeds), len(study.arms) - 1, sd),
        remarks=study.remarks,
        teachers=teachers,
        ladders=tuple(_ladder(study, names, values) for names in structure.ladders),
        interactions=_interactions(study, structure.factorials, values),
        grids=structure.grids,
    )


def _teachers(study: Study, entries: Sequence[Found]) -> tuple[Run, ...]:
    """The recorded runs whose weights the arms' specs name, each once."""
    digests = {arm.spec.loss.distill.teacher_digest for arm in study.arms if arm.spec.loss.distill}
    found = {r.weights["final"]: r for _, r in entries if r.finished and r.weights.get("final") in digests}
    return tuple(run_of(found[digest]) for digest in sorted(found))


# --- records to runs ----------------------------------------------------------------------------


def match(study: Study, entries: Sequence[Found]) -> dict[tuple[str, int], Found | None]:
    """(arm, seed) -> its run's folder and record among `entries`, for all planned runs; None where there is none.

    By spec and seed, whatever the numerics of the code were: the report marks what differs.
    """
    found: dict[tuple[str, int], list[Found]] = {}
    for folder, record in entries:
        found.setdefault((record.spec_digest, record.seed), []).append((folder, record))
    digests = {arm.name: spec_digest(arm.spec) for arm in study.arms}
    return {
        (arm.name, seed): max(found.get((digests[arm.name], seed), []), key=_preference, default=None)
        for arm in study.arms
        for seed in study.seeds
    }


def dropped(study: Study, entries: Sequence[Found]) -> list[Found]:
    """Runs that were made for this study and that it does not ask for any more, by arm and seed.

    An arm that was taken away after a look at it, a seed, an arm that has become another experiment. What has come to
    no end has shown nothing.
    """
    asked = {(spec_digest(arm.spec), seed) for arm in study.arms for seed in study.seeds}
    ended = [one for one in entries if one[1].study == study.name and (one[1].finished or one[1].failed)]
    found = [one for one in ended if (one[1].spec_digest, one[1].seed) not in asked]
    return sorted(found, key=lambda one: (one[1].arm or "", one[1].seed, one[1].run_id))


def _planned(study: Study, store: Store, entries: Sequence[Found]) -> dict[str, list[Run]]:
    """For each arm one run per planned seed, in the study's order."""
    matched = match(study, entries)
    return {arm.name: [_run(arm, seed, matched[arm.name, seed], store) for seed in study.seeds] for arm in study.arms}


def _run(arm: ablation.Arm, seed: int, found: Found | None, store: Store) -> Run:
    if found is None:
        epochs, metric = arm.spec.train.epochs, metric_of(arm.spec.data.protocol)
        return Run(arm.spec.name, arm.name, seed, MISSING, None, epochs, metric, why_not="no record of it")
    folder, record = found
    run = run_of(record, arm.name, stored_rows(folder, store))
    predictions = stored_predictions(folder, store)
    return replace(run, predictions=predictions, contradiction=_contradiction(record, predictions))


def stored_predictions(folder: RunFolder, store: Store) -> Predictions | None:
    """None where there are none; damaged ones cost the run what is told by image, and are told like a record."""
    if not folder.predictions_path.exists():
        return None
    try:
        stored = folder.read_predictions(logits=False)
    except InputError as error:
        store.problems.extend(error.problems)
        return None
    return Predictions(stored["predicted"], stored["labels"], stored["images"])


def _contradiction(record: Record, predictions: Predictions | None) -> str | None:
    """The accuracy is a whole number of images over another, so record and predictions agree exactly or not at all."""
    final = record.results.final
    if predictions is None or final is None:
        return None
    on_validation = predictions.images == "validation" or final.test_accuracy is None
    told = final.val_accuracy if on_validation else final.test_accuracy
    if told is None or predictions.accuracy == told:
        return None
    right, images = int(predictions.right.sum()), len(predictions.labels)
    return f"its predictions are right on {right} of {images} images ({predictions.accuracy}), its record says {told}"


def stored_rows(folder: RunFolder, store: Store) -> list[dict[str, Any]]:
    """The journal; a damaged one costs the run its curve, not the study its report, and is told like a record."""
    try:
        return Journal(folder.journal_path).rows()
    except InputError as error:
        store.problems.extend(error.problems)
        return []


def _preference(found: Found) -> tuple[bool, bool, str, str]:
    """A finished run before any other, among these the newest; the id settles what is left."""
    record = found[1]
    return record.finished, record.status == "completed", str(record.provenance.get("started") or ""), record.run_id


# --- runs to arms -------------------------------------------------------------------------------


def _accuracies(runs: Sequence[Run]) -> list[float]:
    return [run.last.accuracy for run in runs if run.counted and run.last.accuracy is not None]


def _by_seed(runs: Sequence[Run]) -> dict[int, float]:
    return {run.seed: run.last.accuracy for run in runs if run.counted and run.last.accuracy is not None}


def _predictions(runs: Sequence[Run]) -> list[Predictions]:
    return list(_predictions_by_seed(runs).values())


def _predictions_by_seed(runs: Sequence[Run]) -> dict[int, Predictions]:
    return {run.seed: run.predictions for run in runs if run.counted and run.predictions is not None}


def _compared(study: Study, runs: Mapping[str, Sequence[Run]]) -> dict[str, Comparison]:
    """Every arm against the base; one that is measured on other images than the base counts, but gets no number."""
    base = study.base
    alike = {arm.name for arm in study.arms if _images(arm) == _images(base)}
    values = {name: list(by_seed.values()) for name, by_seed in _comparable(study, runs).items()}
    compared = compare(values.pop(base.name), values, study.margin)
    return {name: _explained(one, runs[name], name in alike) for name, one in compared.items()}


def _comparable(study: Study, runs: Mapping[str, Sequence[Run]]) -> dict[str, dict[int, float]]:
    """`Values`; {} for an arm that is measured on other images than the base."""
    images = _images(study.base)
    return {arm.name: _by_seed(runs[arm.name]) if _images(arm) == images else {} for arm in study.arms}


def _ladder(study: Study, names: Sequence[str], values: Values) -> Ladder:
    steps = list(pairwise(names))
    found = _contrasts(study, [{arm: 1, before: -1} for before, arm in steps], values)
    return Ladder(tuple(Step(before, arm, one) for (before, arm), one in zip(steps, found, strict=True)))


def _interactions(study: Study, factorials: Sequence[Factorial], values: Values) -> tuple[Interaction, ...]:
    family = [{one.both: 1, one.first: -1, one.second: -1, one.neither: 1} for one in factorials]
    return tuple(map(Interaction, factorials, _contrasts(study, family, values)))


def _contrasts(study: Study, family: Sequence[Weights], values: Values) -> list[Contrast]:
    """With the reason where an arm has runs enough, but on other images."""
    others = {arm.name for arm in study.arms if _images(arm) != _images(study.base)}
    found = contrasts(values, family, study.margin)
    return [replace(one, reason=OTHER_IMAGES) if others & one.weights.keys() else one for one in found]


def _explained(comparison: Comparison, runs: Sequence[Run], alike: bool) -> Comparison:
    """Where there is no number, why not: that all its runs diverged is what the study found out about an arm."""
    if not alike:
        return replace(comparison, reason=OTHER_IMAGES)
    if comparison.reason and not any(run.counted for run in runs):
        return replace(comparison, reason=f"the arm has no full-length run: {statuses(runs)}")
    return comparison


def _images(arm: ablation.Arm) -> tuple[str, str]:
    return arm.spec.data.dataset, metric_of(arm.spec.data.protocol)


def _arm(
    arm: ablation.Arm,
    runs: Mapping[str, Sequence[Run]],
    compared: Mapping[str, Comparison],
    study: Study,
    expected: Mapping[str, str],
    base_classes: Sequence[ClassAccuracy],
) -> Arm:
    own = runs[arm.name]
    counted = [run for run in own if run.counted]
    recorded = [run for run in own if run.run_id]
    last = summarize(_accuracies(own))
    difference = compared.get(arm.name)
    comparable = difference is not None and difference.mean is not None
    published = study.reference.accuracy if study.reference else None
    return Arm(
        name=arm.name,
        overrides=dict(arm.overrides),
        instead_of={path: value_at(study.base.spec.model_dump(mode="json"), path) for path in arm.overrides},
        epochs=arm.spec.train.epochs,
        parameters=recorded[0].trainable_parameters if recorded else None,
        max_parameters=arm.spec.guard.max_parameters,
        macs=recorded[0].macs if recorded else None,
        runs=tuple(own),
        last=last,
        last_loss=loss_of([run.last for run in counted]),
        best=accuracy_of([run.best for run in counted]),
        best_loss=loss_of([run.best for run in counted]),
        flipped=accuracy_of([run.flipped for run in counted]),
        train=summarize([run.train_accuracy for run in counted if run.train_accuracy is not None]),
        difference=difference,
        paired=pair(_by_seed(runs[study.base.name]), _by_seed(own) if comparable else {}) if difference else None,
        reference_difference=last.mean - published if last.mean is not None and published is not None else None,
        marks=(*conditions.in_words(own, expected), *_contradictions(own)),
        classes=per_class(_predictions(own), base_classes) if difference else tuple(base_classes),
        images=per_image(_predictions_by_seed(runs[study.base.name]), _predictions_by_seed(own))
        if difference
        else None,
    )


def _contradictions(runs: Sequence[Run]) -> list[str]:
    return [f"seed {run.seed}: {run.contradiction}" for run in runs if run.contradiction]
