"""Which specs are the same experiment: a hash of everything that can change a result, and of nothing else.

Neutral (default) values are left out of what is hashed, so a field added later keeps old identities;
hence a default, once released, is never changed: another value becomes the default by writing it in the files.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from harness.spec.experiment import ExperimentSpec

NUMERICS: int = 1
"""Raised when the code computes other numbers from the same spec: runs made before are then made again."""

INERT = {"name", "notes", "seed", "guard"}
"""Fields that change no result, and the seed, which `run_id` takes separately."""


def canonical(spec: ExperimentSpec) -> dict[str, Any]:
    """Every field that can change a result, JSON values, neutral ones left out, the width written per group.

    A toggle that is on stands there even when all its settings are neutral: `{"se": {}}` is not `{}`.
    """
    fields = spec.model_dump(mode="json", exclude=INERT, exclude_defaults=True)
    fields["model"]["width"] = list(spec.model.widths)
    return fields


def spec_digest(spec: ExperimentSpec) -> str:
    """16 hex digits over `canonical` and the data's digest: equal for two specs that give the same results."""
    content = {"spec": canonical(spec), "data": spec.dataset.digest}
    return _sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False))[:16]


def run_id(spec: ExperimentSpec, seed: int) -> str:
    """10 hex digits: the spec, trained with `seed` by code of these NUMERICS."""
    return _sha256(f"{spec_digest(spec)} seed {seed} numerics {NUMERICS}")[:10]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
