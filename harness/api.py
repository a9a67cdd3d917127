"""The harness in a notebook: the same as the commands, as functions.

torch is imported by the functions that need it, and after the server that a study's runs are forked from was started.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.events import Observer, silent
from harness.matching import load_study as load_ablation
from harness.options import AblateOptions, RunOptions
from harness.spec.ablation import Study
from harness.spec.documents import load_experiment
from harness.spec.experiment import ExperimentSpec
from harness.stop import Stop
from harness.tracking.record import Record
from harness.tracking.store import Store

if TYPE_CHECKING:
    from harness.reporting import StudyReport
    from harness.study.ablate import Outcome

__all__ = ["AblateOptions", "RunOptions", "ablate", "load_ablation", "load_experiment", "report", "run"]


def run(
    spec: ExperimentSpec,
    seed: int | None = None,
    options: RunOptions | None = None,
    observer: Observer = silent,
    stop: Stop | None = None,
) -> Record:
    """Train one experiment: `harness.runner.run`."""
    if options is None or options.wandb != "disabled":
        from harness.tracking import mirror_process

        mirror_process.start()  # while this process imports torch
    from harness import runner

    return runner.run(spec, seed, options, observer, stop)


def ablate(
    study: Study, options: AblateOptions | None = None, observer: Observer = silent, stop: Stop | None = None
) -> Outcome:
    """Run what is missing of a study: `harness.study.ablate.ablate`."""
    options = options or AblateOptions()
    if options.executor == "local":
        from harness.study.local import start_servers

        start_servers(tracked=options.run.wandb != "disabled")
    from harness.study import ablate as studies

    return studies.ablate(study, options, observer, stop)


def report(study: Study, runs_dir: Path | str | None = None, output: Path | str | None = None) -> StudyReport:
    """Build a study's report from the records in `runs_dir` (None: as `RunOptions`); with `output`, write it there,
    with its figures, in the format that the file's name ends in (else Markdown).
    """
    from harness import reporting
    from harness.teacher import resolve_study

    store = Store(Path(runs_dir or RunOptions().runs_dir))
    built = reporting.build(resolve_study(study, store), store)
    if output is not None:
        path = Path(output)
        reporting.write(built, path, [reporting.format_of(path)])
    return built
