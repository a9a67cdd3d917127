"""One run, from its spec to its record: guard, data, train, track, evaluate. Knows nothing of arms."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from harness.earlier import check_same_hardware, claim, set_aside
from harness.errors import InputError, RunFailed
from harness.events import Note, Observer, silent, unbreakable
from harness.options import RunOptions
from harness.saved import find_state
from harness.session import Session
from harness.space import check_space, needed, space_of
from harness.spec import identity
from harness.spec.cost import Cost
from harness.spec.documents import experiment_from_dict
from harness.spec.experiment import ExperimentSpec
from harness.stop import Stop
from harness.teacher import load_network, resolve, to_train
from harness.tracking import provenance
from harness.tracking.record import Record, Results, Scores
from harness.tracking.store import RunFolder, Store
from harness.training import checkpoint, device, guard
from harness.training.data import Split, load_split
from harness.training.evaluate import evaluate
from harness.training.loop import Training, compiles


def run(
    spec: ExperimentSpec,
    seed: int | None = None,
    options: RunOptions | None = None,
    observer: Observer = silent,
    stop: Stop | None = None,
) -> Record:
    """Train one experiment to its end, or go on with it; a finished run is returned as it is.

    A teacher given as an experiment file is trained first, unless it is trained already.

    Args:
        spec: what to train.
        seed: in place of the spec's own.
        options: where and how; defaults are the command line's.
        observer: told of progress.
        stop: asked after each step; by default one that honours `options.time_limit`.

    Raises:
        InputError: over budget, data missing or damaged, runs folder not writable or without room, a state saved by
            another spec, torch or format.
        RunBusy: another process is training this run.
        RunLost: another process took the run over, because this one was suspended for too long.
        RunFailed: diverged, out of memory or crashed; the record says so.
        Interrupted, TimeLimitReached: stopped on purpose, state saved.
    """
    options = options or RunOptions()
    observer = unbreakable(observer)
    stop = stop or Stop(options.time_limit)
    seed = spec.seed if seed is None else seed
    spec = _with_teacher(spec, seed, options, observer, stop)
    cost = guard.check_budget([spec])[0]
    if options.threads:
        torch.set_num_threads(options.threads)
    hardware = device.resolve(options.device, spec.train.precision)
    store = Store(options.runs_dir)
    run_id = identity.run_id(spec, seed)
    folder = store.find(run_id) or store.folder(spec.name, run_id)
    # Data that is missing or damaged is told before anything is written, even the runs folder.
    split = None if not options.fresh and _is_finished(folder) else load_split(spec, options.data_dir)
    store.ensure_writable()
    with ExitStack() as listening, claim(folder, observer, patient=options.patient) as held:
        folder = store.find(run_id) or folder
        if options.fresh:
            set_aside(store, run_id, observer)
            folder = store.folder(spec.name, run_id)
        earlier = folder.read_record() if folder.record_path.exists() else None
        if earlier:
            if not options.any_device:
                check_same_hardware(earlier, folder, (hardware.kind, hardware.precision))
            if earlier.finished:
                observer(Note(run_id, f"already done: {folder.path} ({earlier.status}); --fresh runs it again"))
                return earlier
            if earlier.failed and earlier.status != "killed" and not options.retry:
                message = (earlier.error or {}).get("message", "no message")
                raise RunFailed(f"in another process: {message}", earlier.status)
        space = space_of(spec, cost, mirrored=options.wandb != "disabled")
        check_space(store.root, needed([space], 1) - folder.state_bytes, f"{spec.name} (seed {seed})")
        split = split or load_split(spec, options.data_dir)
        record = _new_record(spec, seed, run_id, cost, split, hardware, options, earlier)
        teacher = load_network(spec, store, hardware)
        state = find_state(folder, record, hardware.device, observer)
        session = Session(spec, record, folder, options, observer, stop, held, teacher, state)
        del state  # the session's, which lets go of it
        listening.enter_context(stop.on_signals())  # until nobody has the run: a second SIGTERM would end it in between
        try:
            with device.arithmetic(hardware, spec.train.deterministic):
                return session.train(split, hardware)
        finally:
            device.let_go(hardware)


def _with_teacher(
    spec: ExperimentSpec, seed: int, options: RunOptions, observer: Observer, stop: Stop
) -> ExperimentSpec:
    """The spec with its teacher's weights known; where they are not there yet, and needed, the teacher is trained."""
    store = Store(options.runs_dir)
    guard.check_budget([spec])  # before hours of a teacher's training
    done = not options.fresh and _is_done(spec, seed, store)
    teacher = None if done else to_train(spec, store)
    if teacher is None:
        return resolve(spec, store)
    observer(Note("", f"{spec.name} learns from {teacher.name}, which is trained first"))
    run(teacher, None, replace(options, fresh=False, study=None, arm=None, notes=None), observer, stop)
    return _with_teacher(spec, seed, options, observer, stop)


def _is_done(spec: ExperimentSpec, seed: int, store: Store) -> bool:
    """A student that names its teacher's weights, and has learned from them."""
    if spec.loss.distill is None or identity.awaits_teacher(spec):
        return False
    folder = store.find(identity.run_id(spec, seed))
    return folder is not None and _is_finished(folder)


def _is_finished(folder: RunFolder) -> bool:
    if not folder.record_path.exists():
        return False
    try:
        return folder.read_record().finished
    except InputError as error:
        raise error.with_fix("--fresh puts it aside and runs again") from error


def _new_record(
    spec: ExperimentSpec,
    seed: int,
    run_id: str,
    cost: Cost,
    split: Split,
    hardware: device.Hardware,
    options: RunOptions,
    earlier: Record | None,
) -> Record:
    conditions = {
        "device": str(hardware.device),
        "device_type": hardware.kind,
        "device_name": hardware.name,
        "precision": hardware.precision,
        "threads": hardware.threads,
        "compiled": compiles(spec, hardware),
        "data_digest": split.digest,
        "planned_seeds": list(options.planned_seeds),
    }
    record = Record(
        run_id=run_id,
        name=spec.name,
        status="running",
        seed=seed,
        spec=spec.model_dump(mode="json"),
        spec_digest=identity.spec_digest(spec),
        numerics=identity.NUMERICS,
        study=options.study,
        arm=options.arm,
        trainable_parameters=cost.trainable_parameters,
        macs=cost.macs,
        provenance=provenance.collect(list(options.command)) | conditions,
    )
    if earlier:
        record.timings, record.test_reads = earlier.timings, earlier.test_reads
        record.provenance["continued"] = [*earlier.provenance.get("continued", []), earlier.provenance.get("started")]
        if options.study is None:  # a study's run stays one, whatever brings it to its end
            record.study, record.arm = earlier.study, earlier.arm
            record.provenance["planned_seeds"] = earlier.provenance.get("planned_seeds", [])
    return record


def read_test_set(run_id: str, options: RunOptions) -> Record:
    """Evaluate a finished `holdout` run on the test set, once more counted in its record.

    Raises:
        InputError: there is no such finished run, or its weights are gone or damaged.
    """
    folder = Store(options.runs_dir).find(run_id)
    if folder is None:
        raise InputError(f"there is no run {run_id}", where=str(options.runs_dir))
    with claim(folder):
        record = folder.read_record()
        check_readable(record.spec["data"]["protocol"])
        if not record.finished or record.results.final is None:
            raise InputError(f"run {run_id} has not finished: the test set is read afterwards", where=str(folder.path))
        spec = experiment_from_dict(record.spec)
        hardware = device.resolve(options.device, record.provenance.get("precision", spec.train.precision))
        split = load_split(spec, options.data_dir)
        try:
            with device.arithmetic(hardware, spec.train.deterministic):
                record.results = _tested(record, spec, folder, split, hardware)
        finally:
            device.let_go(hardware)
        record.test_reads += 1
        if record.wandb.state.startswith(("synced", "online")):
            record.wandb.state = "unverified: the test set was read since; `harness sync` brings what it gave"
        folder.write_record(record)
    return record


def _tested(
    record: Record, spec: ExperimentSpec, folder: RunFolder, split: Split, hardware: device.Hardware
) -> Results:
    """The record's results with the test set's values in them."""
    training = Training(spec, record.seed, replace(split, validation=None).to(hardware.device), hardware)
    results = {}
    for which, path in (("final", folder.final), ("best", folder.best), ("final_flip_tta", folder.final)):
        scores: Scores | None = getattr(record.results, which)
        results[which] = scores and _with_test_values(scores, path, training, flip=which == "final_flip_tta")
    return Results(**results)


def check_readable(protocol: str) -> None:
    """InputError unless the protocol is the one that leaves the test set for later."""
    if protocol != "holdout":
        raise InputError("--test is for protocol holdout; under the others the record already holds the test values")


def _with_test_values(scores: Scores, weights: Path, training: Training, *, flip: bool) -> Scores:
    try:
        content = checkpoint.read(weights, training.hardware.device)
        checkpoint.load_weights(training.model, checkpoint.weights_of(content, weights), weights)
    except checkpoint.DamagedCheckpoint as error:
        raise InputError(f"the weights can't be read: {error}", fix="--fresh trains them again") from error
    result = evaluate(training.model, training.split.test, training.normalise, training.hardware, flip=flip)
    return scores.model_copy(update={"test_loss": result.loss, "test_accuracy": result.accuracy})
