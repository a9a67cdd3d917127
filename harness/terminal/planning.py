"""`harness plan`: a study against the runs there are, printed as tables or as one document."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.errors import InputError
from harness.spec.ablation import Study
from harness.study import explain
from harness.study.plan import PlannedRun, make_plan, to_json
from harness.terminal.plan import print_plan
from harness.tracking.store import Store
from harness.training import device as devices


def plan_and_show(
    study: Study,
    runs_dir: Path,
    device: str,
    jobs: int,
    console: Console,
    *,
    measured: bool = False,
    explained: bool = False,
    every: bool = False,
    as_json: bool = False,
) -> None:
    """Plan against the runs there are and print it.

    `measured`: with the pace of this machine's `device`. `explained`: why runs were not taken from the store.
    `every`: every arm, however many there are.
    """
    store = Store(runs_dir)
    plan = make_plan(study, store, devices.type_of(device), hardware=partial(_hardware, device))
    for problem in store.problems:
        print(f"left out: {problem}", file=sys.stderr)
    if measured:
        from harness.study.measure import measure  # the whole training: two seconds that a plan need not wait

        plan = replace(plan, pace=measure(plan.study.base.spec, device, jobs))
    explainer = explain.Explainer(plan, store) if explained else None

    def why(run: PlannedRun) -> dict[str, Any] | None:
        reason = explainer.why(run) if explainer else None
        return explain.to_json(reason) if reason else None

    if as_json:
        print(json.dumps(to_json(plan, jobs, why if explainer else None), indent=2, allow_nan=False))
    elif explainer:
        from harness.terminal.reasons import print_reasons

        print_reasons(plan, explainer, console)
    else:
        print_plan(plan, console, jobs, every=every)


def _hardware(device: str, precision: str) -> tuple[str, str]:
    """What a run of this precision would be made on; of a device that is elsewhere `auto` stays."""
    try:
        found = devices.resolve(device, precision)
    except InputError:
        return devices.type_of(device), precision
    return found.kind, found.precision
