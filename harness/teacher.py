"""A student's teacher: found among files and runs, its weights' digest put into the spec, its network built.

`resolve` makes a run id possible; `to_train` tells what has to be trained before; `load_network` is for training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from os.path import isfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import InputError
from harness.spec import identity
from harness.spec.ablation import Arm, Study
from harness.spec.data import Data
from harness.spec.documents import experiment_from_dict, load_experiment
from harness.spec.experiment import ExperimentSpec
from harness.spec.loss import Distill
from harness.spec.surroundings import EXPERIMENT_SUFFIXES, check_teacher
from harness.tracking.record import Record
from harness.tracking.select import find_run, recorded_contents
from harness.tracking.store import RunFolder, Store

if TYPE_CHECKING:
    from torch import nn

    from harness.training.device import Hardware

CHECKPOINT_SUFFIX = ".pt"


@dataclass(frozen=True)
class Teacher:
    """Who teaches: its experiment; its weights and their digest, None as long as it is not trained."""

    spec: ExperimentSpec
    weights: Path | None
    digest: str | None


@dataclass(frozen=True)
class _Known:
    """What is known of a teacher: its weights' digest, None before it is trained; its experiment, where looked for."""

    digest: str | None
    spec: ExperimentSpec | None


def resolve(spec: ExperimentSpec, store: Store) -> ExperimentSpec:
    """The spec with its teacher's digest; unchanged without a teacher, or where that is a file not trained yet.

    Raises:
        InputError: there is no such run or checkpoint, it can't teach this student, or it has other weights than
            the spec's `teacher_digest` says. (With that written, a teacher that is not there is no mistake yet.)
    """
    distill = spec.loss.distill
    return _with_digest(spec, _teacher_of(spec, distill, store).digest) if distill else spec


def _teacher_of(spec: ExperimentSpec, distill: Distill, store: Store) -> _Known:
    """Who teaches `spec`, as `resolve` puts it there."""
    if distill.teacher_digest is not None:
        _check_digest(distill, _known_digest(distill, store))
        return _Known(distill.teacher_digest, None)
    teacher = find(distill, store)
    check_teacher(spec, teacher.spec, f"teacher {distill.teacher}")
    return _Known(teacher.digest, teacher.spec)


def resolve_study(study: Study, store: Store) -> Study:
    """The study with every arm's teacher resolved, as far as they are trained; each teacher is looked for once.

    Arms that are equal then, since their teachers are one under two names, are merged, which the remarks say.
    """
    known: dict[tuple[str, str | None, Data], _Known] = {}
    arms: dict[str, Arm] = {}
    remarks = []
    for arm in study.arms:
        key = arm.name
        if distill := arm.spec.loss.distill:
            asked = distill.teacher, distill.teacher_digest, arm.spec.data
            if asked not in known:
                known[asked] = _teacher_of(arm.spec, distill, store)
            arm = replace(arm, spec=_with_digest(arm.spec, known[asked].digest))
            key = _digest_of_student(arm.spec, known[asked])
        if first := arms.get(key):
            other = "the base" if first.name == study.base.name else first.name
            remarks.append(f"{arm.name} is equal to {other}: one arm, called {first.name}")
            arm = replace(first, placements=(*first.placements, *arm.placements))
        arms[key] = arm
    return replace(study, arms=tuple(arms.values()), remarks=(*study.remarks, *remarks))


def _digest_of_student(spec: ExperimentSpec, teacher: _Known) -> str:
    """Equal for two students of one teacher, trained or not, whatever its file is called."""
    if teacher.digest is None and teacher.spec is not None:
        spec = _with(spec, teacher=f"{identity.spec_digest(teacher.spec)} seed {teacher.spec.seed}")
    return identity.spec_digest(spec)


def to_train(spec: ExperimentSpec, store: Store) -> ExperimentSpec | None:
    """The experiment to be trained before `spec` has a run id: its teacher, or that one's teacher; None for none."""
    distill = spec.loss.distill
    if distill is None or not distill.teacher.endswith(EXPERIMENT_SUFFIXES):
        return None
    teacher = find(distill, store)
    return None if teacher.digest else to_train(teacher.spec, store) or teacher.spec


def lineage(distill: Distill | None, store: Store) -> list[ExperimentSpec]:
    """The teachers that are experiment files, trained or not: a teacher's own teacher before it."""
    if distill is None or not distill.teacher.endswith(EXPERIMENT_SUFFIXES):
        return []
    teacher = find(distill, store).spec
    return [*lineage(teacher.loss.distill, store), teacher]


def find(distill: Distill, store: Store) -> Teacher:
    """The teacher that `distill` names.

    Raises:
        InputError: there is no such file, run or checkpoint, or it holds no weights.
    """
    text = distill.teacher
    if text.endswith(EXPERIMENT_SUFFIXES):
        return _of_experiment(Path(text), store)
    if text.endswith(CHECKPOINT_SUFFIX):
        return _of_checkpoint(Path(text))
    folder, record = find_run(store, text)
    if not record.finished:
        fix = "take a finished run, or name its experiment file, which is trained first"
        raise InputError(f"the teacher has not finished: it is {record.status}", where=str(folder.path), fix=fix)
    return _of_run(folder, record)


def load_network(spec: ExperimentSpec, store: Store, hardware: Hardware) -> nn.Module | None:
    """The teacher's network with its weights, on the device, in evaluation mode; None where there is no teacher.

    Raises:
        InputError: the weights are gone, damaged, or others than the spec's `teacher_digest`.
    """
    from harness.training import checkpoint
    from harness.training.model import build_model

    distill = spec.loss.distill
    if distill is None:
        return None
    teacher = find(distill, store)
    check_teacher(spec, teacher.spec, f"teacher {distill.teacher}")
    if teacher.weights is None or not teacher.weights.is_file():
        fix = "train it again with --fresh, or name its checkpoint"
        where = str(teacher.weights or distill.teacher)
        raise InputError(f"the weights of the teacher, {teacher.spec.name}, are not there", where=where, fix=fix)
    weights = _read(teacher.weights)["weights"]
    _check_digest(distill, checkpoint.weights_digest(weights))
    network = build_model(teacher.spec, hardware.device)
    try:
        checkpoint.load_weights(network, weights, teacher.weights)
    except checkpoint.DamagedCheckpoint as error:
        raise InputError(f"the teacher's weights can't be used: {error}") from error
    network.requires_grad_(False)
    return network.to(memory_format=checkpoint.MEMORY_FORMAT).eval()


def _known_digest(distill: Distill, store: Store) -> str | None:
    try:
        return find(distill, store).digest
    except InputError:
        return None


def _check_digest(distill: Distill, found: str | None) -> None:
    if found and found != distill.teacher_digest:
        what = f"the weights of {distill.teacher} (digest {found[:12]}) are not those the spec names"
        where = f"loss.distill.teacher_digest {str(distill.teacher_digest)[:12]}"
        raise InputError(what, where=where, fix="leave `teacher_digest` out to take them as they are")


def _of_experiment(path: Path, store: Store) -> Teacher:
    spec = resolve(load_experiment(path, contents=recorded_contents(store)), store)
    folder = None if identity.awaits_teacher(spec) else store.find(identity.run_id(spec, spec.seed))
    record = _record_of(folder, path) if folder and folder.record_path.exists() else None
    if folder is None or record is None or not record.finished:
        return Teacher(spec, None, None)
    return _of_run(folder, record)


def _record_of(folder: RunFolder, path: Path) -> Record:
    try:
        return folder.read_record()
    except InputError as error:
        fix = f"`harness run {path} --fresh` puts it aside and trains this teacher again"
        raise InputError([replace(problem, fix=fix) for problem in error.problems]) from error


def _of_run(folder: RunFolder, record: Record) -> Teacher:
    """The weights after the last epoch. Records made before digests were kept have them in their weights alone."""
    from harness.training import checkpoint

    digest = record.weights.get("final")
    if digest is None:
        digest = checkpoint.weights_digest(_read(folder.final)["weights"])
    return Teacher(experiment_from_dict(record.spec), folder.final, digest)


def _of_checkpoint(path: Path) -> Teacher:
    from harness.training import checkpoint

    content = _read(path)
    return Teacher(experiment_from_dict(content["spec"]), path, checkpoint.weights_digest(content["weights"]))


def _read(path: Path) -> dict[str, Any]:
    from harness.training import checkpoint

    if not isfile(path):
        fix = "name a run's checkpoints/final.pt; without the file `teacher_digest` says which weights it was"
        raise InputError("there is no such checkpoint", where=str(path), fix=fix)
    try:
        content = checkpoint.read(path)
    except checkpoint.DamagedCheckpoint as error:
        raise InputError(f"the teacher's weights can't be read: {error}", where=str(path)) from error
    if not {"spec", "weights"} <= content.keys():
        raise InputError("the file holds no trained weights", where=str(path), fix="take final.pt or best.pt of a run")
    try:
        return content | {"weights": checkpoint.weights_of(content, path)}
    except checkpoint.DamagedCheckpoint as error:
        raise InputError(f"the teacher's weights can't be used: {error}", where=str(path)) from error


def _with_digest(spec: ExperimentSpec, digest: str | None) -> ExperimentSpec:
    if spec.loss.distill is None or spec.loss.distill.teacher_digest == digest:
        return spec
    return _with(spec, teacher_digest=digest)


def _with(spec: ExperimentSpec, **changes: str | None) -> ExperimentSpec:
    """A copy with these fields of `loss.distill`; not validated."""
    assert spec.loss.distill
    distill = spec.loss.distill.model_copy(update=changes)
    return spec.model_copy(update={"loss": spec.loss.model_copy(update={"distill": distill})})
