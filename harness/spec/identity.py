"""Which specs are the same experiment: a hash of everything that can change a result, and of nothing else.

Neutral (default) values are left out of what is hashed, so a field added later keeps old identities;
hence a default, once released, is never changed: another value becomes the default by writing it in the files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from harness.spec.experiment import ExperimentSpec
from harness.spec.model import Model

NUMERICS: int = 1
"""Raised when the code computes other numbers from the same spec: runs made before are then made again."""

INERT: dict[str, Any] = {
    "name": True,
    "notes": True,
    "seed": True,
    "guard": True,
    "data": {"folder": {"path", "content"}},
    "loss": {"distill": {"teacher"}},
}
"""Fields that change no result, the seed, which `run_id` takes separately, and paths: what lies there is in the
identity by its digest."""


def canonical(spec: ExperimentSpec) -> dict[str, Any]:
    """Every field that can change a result, JSON values, neutral ones left out, per-group numbers written per group.

    A toggle that is on stands there even when all its settings are neutral: `{"se": {}}` is not `{}`. A teacher that
    is not trained yet has no digest: its name as written stands there instead, which tells arms of one study apart
    and makes no run's identity.
    """
    fields = spec.model_dump(mode="json", exclude=INERT, exclude_defaults=True)
    fields["model"]["width"] = list(spec.model.widths)
    if set(spec.model.kernel_sizes) == {Model.model_fields["kernel_size"].default}:
        fields["model"].pop("kernel_size", None)
    else:
        fields["model"]["kernel_size"] = list(spec.model.kernel_sizes)
    if awaits_teacher(spec):
        assert spec.loss.distill
        fields["loss"]["distill"]["teacher"] = spec.loss.distill.teacher
    return fields


def is_inert(path: str) -> bool:
    """Whether the field at a dotted path, or all that is under it, changes no result."""
    inert: Any = INERT
    for part in path.split("."):
        if inert is True or part not in inert:
            break
        inert = inert[part] if isinstance(inert, dict) else True
    return inert is True


def awaits_teacher(spec: ExperimentSpec) -> bool:
    """Whether the spec learns from a teacher whose weights are not known: it has no run id yet."""
    return spec.loss.distill is not None and spec.loss.distill.teacher_digest is None


def spec_digest(spec: ExperimentSpec) -> str:
    """16 hex digits over `canonical` and the data's digest: equal for two specs that give the same results."""
    content = {"spec": canonical(spec), "data": spec.dataset.digest}
    return _sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False))[:16]


def run_id(spec: ExperimentSpec, seed: int) -> str:
    """10 hex digits: the spec, trained with `seed` by code of these NUMERICS.

    ValueError while its teacher's weights are not known (`harness.teacher.resolve` fills them in).
    """
    return run_ids(spec, (seed,))[0]


def run_ids(spec: ExperimentSpec, seeds: Iterable[int]) -> tuple[str, ...]:
    """`run_id` for each of the seeds; the spec is digested once."""
    if awaits_teacher(spec):
        raise ValueError(f"{spec.name} has no run id before its teacher is trained")
    digest = spec_digest(spec)
    return tuple(_sha256(f"{digest} seed {seed} numerics {NUMERICS}")[:10] for seed in seeds)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
