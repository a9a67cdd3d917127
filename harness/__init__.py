"""Ablations under a parameter budget: `from harness import load_experiment, run, load_ablation, ablate, report`.

The names are imported when they are first used, so that `import harness` does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api import AblateOptions, RunOptions, ablate, load_ablation, load_experiment, report, run

    __version__: str

__all__ = ["AblateOptions", "RunOptions", "ablate", "load_ablation", "load_experiment", "report", "run"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("budget-ablation-harness")
    if name not in __all__:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    return getattr(importlib.import_module("harness.api"), name)
