"""Made-up studies and stores: small enough to work out by hand, or large enough to look like the real thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.spec.ablation import Arm, Reference, Study
from harness.spec.documents import apply_overrides, experiment_from_dict
from harness.spec.identity import NUMERICS, run_id, spec_digest
from harness.tracking.journal import Journal
from harness.tracking.record import Record, Results, Scores
from harness.tracking.store import Store

HOSTILE = "a|b*c*<script>\n`x` _y_ [z](q) 日本 $m$"
"""What every form could take for its own markup."""
BASE: dict[str, Any] = {
    "name": "small",
    "model": {"depths": [1, 1], "width": 16, "se": True},
    "data": {"dataset": "cifar10", "protocol": "paper"},
    "augment": {"crop": True, "flip": True, "cutmix": True},
    "optim": {
        "optimizer": {"lr": 0.1, "momentum": 0.9},
        "schedule": {"kind": "cosine"},
        "lookahead": True,
        "clip": {"kind": "norm", "value": 0.1},
    },
    "train": {"epochs": 10, "batch_size": 128},
}
ARMS: dict[str, dict[str, Any]] = {
    "no_se": {"model.se": False},
    "no_cutmix": {"augment.cutmix": None},
    "no_lookahead": {"optim.lookahead": None},
    "no_clip": {"optim.clip": None},
    "no_crop_flip": {"augment.crop": None, "augment.flip": False},
    "constant_lr": {"optim.schedule.kind": "constant"},
}
REFERENCE = Reference(
    label="Lakkimsetty et al. 2024",
    accuracy=0.9367,
    loss=0.2790,
    images=10_000,
    parameters=4_697_742,
    selection="test",
)
PROVENANCE: dict[str, Any] = {
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
    "git_dirty": False,
    "git_diff_digest": None,
    "packages": {"torch": "2.9.0", "numpy": "2.3.0"},
    "python": "3.11.9",
    "host": "box7",
    "command": ["/home/someone/.venv/bin/harness", "ablate", "/home/someone/ablations/small.yaml"],
    "started": "2026-01-01T00:00:00.000+00:00",
    "ended": "2026-01-01T00:02:00.000+00:00",
    "device": "cpu",
    "device_name": "AMD EPYC 9B45",
    "device_type": "cpu",
    "precision": "fp32",
    "data_digest": "abcdef0123456789",
}


def make_study(
    arms: Mapping[str, Mapping[str, Any]] = ARMS,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    margin: float | None = 0.002,
    reference: Reference | None = REFERENCE,
    question: str | None = "Which part of the recipe earns its place?",
    base: Mapping[str, Any] | None = None,
    name: str = "small",
) -> Study:
    """A study as `load_study` gives it; `base` holds overrides (dotted) of the base experiment."""
    tree = apply_overrides(BASE, dict(base or {}))
    first = experiment_from_dict(tree)
    made = [Arm(first.name, {}, first)]
    for arm, overrides in arms.items():
        spec = experiment_from_dict(apply_overrides(tree, dict(overrides)))
        made.append(Arm(arm, overrides, spec.model_copy(update={"name": f"{first.name}-{arm}"})))
    return Study(name, question, tuple(made), tuple(seeds), margin, reference, Path("ablations") / f"{name}.yaml")


def make_record(study: Study, arm: Arm, seed: int, accuracy: float | None, /, **changes: Any) -> Record:
    """A finished record with this last-epoch accuracy (None: no result); `changes` replace its fields."""
    epochs = arm.spec.train.epochs
    results = Results()
    if accuracy is not None:
        final = _scores(arm, epochs, accuracy, 1.5 - accuracy)
        best = None if arm.spec.data.protocol == "full" else _scores(arm, epochs - 1, accuracy + 0.001, 1.49 - accuracy)
        results = Results(final=final, best=best)
    fields: dict[str, Any] = {
        "run_id": run_id(arm.spec, seed),
        "name": arm.spec.name,
        "status": "completed",
        "seed": seed,
        "spec": arm.spec.model_dump(mode="json"),
        "spec_digest": spec_digest(arm.spec),
        "numerics": NUMERICS,
        "study": study.name,
        "arm": arm.name,
        "trainable_parameters": 80_000 - (40 if arm.name == "no_se" else 0),
        "macs": 12_345_678,
        "results": results,
        "epochs_done": epochs,
        "test_reads": 2 if arm.spec.data.protocol == "paper" else 0,
        "timings": {"train": 100.0 + seed, "evaluate": 3.5, "total": 104.25 + seed, "images_per_second": 4900.5},
        "provenance": dict(PROVENANCE),
    }
    provenance = fields["provenance"] | changes.pop("provenance", {})
    return Record(**(fields | changes | {"provenance": provenance}))


def _scores(arm: Arm, epoch: int, accuracy: float, loss: float) -> Scores:
    protocol = arm.spec.data.protocol
    train = {"epoch": epoch, "train_loss": loss - 0.1, "train_accuracy": min(1.0, accuracy + 0.05)}
    validation = {} if protocol == "full" else {"val_loss": loss, "val_accuracy": accuracy}
    test = {} if protocol == "holdout" else {"test_loss": loss, "test_accuracy": accuracy}
    return Scores(**train, **validation, **test)


def make_rows(arm: Arm, seed: int, accuracy: float, epochs: int) -> list[dict[str, Any]]:
    """A journal that rises to `accuracy`, with a seed's own wobble."""
    rng = np.random.default_rng([seed, sum(map(ord, arm.name))])
    rows = []
    for epoch in range(1, epochs + 1):
        reached = accuracy * (1 - 0.6 * np.exp(-4 * epoch / epochs)) / (1 - 0.6 * np.exp(-4))
        wobble = float(rng.normal(0, 0.012 * (1 - epoch / epochs)))
        validates = arm.spec.data.protocol != "full"
        rows.append(
            {
                "epoch": epoch,
                "train_loss": 2.1 - 1.6 * float(reached),
                "train_accuracy": float(reached) - 0.06 + wobble / 2,
                "val_loss": 1.9 - 1.5 * float(reached) - wobble if validates else None,
                "val_accuracy": float(reached) + wobble if validates else None,
                "lr": 0.1,
                "seconds": 10.0 + seed,
                "images_per_second": 5000.0 - seed,
            }
        )
    return rows


def add(store: Store, record: Record, rows: Sequence[Mapping[str, Any]] = ()) -> None:
    """Put one run on disk."""
    folder = store.folder(record.name, record.run_id)
    folder.create()
    folder.write_record(record)
    journal = Journal(folder.journal_path)
    for row in rows:
        journal.append(row)


def fill(store: Store, study: Study, accuracies: Mapping[str, Sequence[float | None]], **changes: Any) -> None:
    """One run for each arm's accuracies, in the order of the study's seeds; None leaves the run out."""
    for arm in study.arms:
        for seed, accuracy in zip(study.seeds, accuracies.get(arm.name, ()), strict=False):
            if accuracy is not None:
                record = make_record(study, arm, seed, accuracy, **changes)
                add(store, record, make_rows(arm, seed, accuracy, arm.spec.train.epochs))


def seven_arms(study: Study) -> dict[str, list[float]]:
    """Accuracies that look like those of a small network at ten epochs."""
    rng = np.random.default_rng(5)
    means = {"small": 0.712, "no_se": 0.7115, "no_cutmix": 0.735, "no_clip": 0.716, "no_crop_flip": 0.668}
    return {
        arm.name: [round(means.get(arm.name, 0.709) + float(rng.normal(0, 0.003)), 4) for _ in study.seeds]
        for arm in study.arms
    }
