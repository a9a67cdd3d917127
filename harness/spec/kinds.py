"""Experiment file or ablation file: told by the keys at the top level."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal, get_args

from harness.spec.ablation_file import AblationFile
from harness.spec.arm import Section
from harness.spec.experiment import ExperimentSpec

Kind = Literal["experiment", "ablation"]

SHARED = {"name", "base"}
ABLATION_KEYS = set(AblationFile.model_fields) - SHARED
EXPERIMENT_KEYS = set(ExperimentSpec.model_fields) - SHARED


def kind_of_keys(keys: Iterable[str]) -> Kind | None:
    """The kind that more of the keys belong to, misspelt ones included; on a tie an ablation where one makes arms, else
    None.

    `name` and `base` belong to both: a file with nothing else is whatever it is taken for.
    """
    keys = [key for key in keys if key not in SHARED][:100]  # no file of either kind has more
    ablation = sum(_belongs(key, ABLATION_KEYS, EXPERIMENT_KEYS) for key in keys)
    experiment = sum(_belongs(key, EXPERIMENT_KEYS, ABLATION_KEYS) for key in keys)
    if ablation == experiment:
        return "ablation" if set(get_args(Section)).intersection(keys) else None
    return "ablation" if ablation > experiment else "experiment"


def _belongs(key: str, names: set[str], others: set[str]) -> bool:
    return key in names or (key not in others and bool(get_close_matches(key, names, n=1, cutoff=0.8)))
