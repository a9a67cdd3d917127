"""Experiment file or ablation file: told by the keys at the top level."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal

from harness.spec.ablation_file import AblationFile
from harness.spec.experiment import ExperimentSpec

Kind = Literal["experiment", "ablation"]

SHARED = {"name", "base"}
ABLATION_KEYS = set(AblationFile.model_fields) - SHARED
EXPERIMENT_KEYS = set(ExperimentSpec.model_fields) - SHARED


def kind_of_keys(keys: Iterable[str]) -> Kind:
    """The kind that more of the keys belong to, misspelt ones included; on a tie an experiment.

    `name` and `base` belong to both, so a file with nothing else is an experiment: its base under another name.
    """
    keys = [key for key in keys if key not in SHARED]
    ablation = sum(_resembles(key, ABLATION_KEYS) for key in keys)
    return "ablation" if ablation > sum(_resembles(key, EXPERIMENT_KEYS) for key in keys) else "experiment"


def _resembles(key: str, names: set[str]) -> bool:
    return key in names or bool(get_close_matches(key, names, n=1, cutoff=0.8))
