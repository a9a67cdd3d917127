"""Where and how runs are made, one or a study of them: nothing here is part of their identity."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class RunOptions:
    """Where and how to run; nothing here is part of a run's identity. Folders as HARNESS_DATA_DIR and HARNESS_RUNS_DIR
    name them, as for the commands.

    `time_limit` and `checkpoint_every` are seconds (0: after each epoch only); `threads` None leaves
    torch's choice; `planned_seeds` are those of the study at the time; `continue_with` is the command
    that goes on after an interruption, for messages. `patient`: a run that another machine has claimed is
    watched until that one shows a heartbeat, and taken over without one. `retry`: a run that failed is run again.
    """

    device: str = "auto"
    data_dir: Path = field(default_factory=lambda: Path(os.environ.get("HARNESS_DATA_DIR", "data")))
    runs_dir: Path = field(default_factory=lambda: Path(os.environ.get("HARNESS_RUNS_DIR", "runs")))
    wandb: Literal["offline", "online", "disabled"] = "offline"
    wandb_project: str | None = None
    wandb_entity: str | None = None
    time_limit: float | None = None
    checkpoint_every: float = 60.0
    fresh: bool = False
    any_device: bool = False
    threads: int | None = None
    study: str | None = None
    arm: str | None = None
    notes: str | None = None
    planned_seeds: tuple[int, ...] = ()
    patient: bool = True
    retry: bool = True
    continue_with: str = "run the same command again"
    command: tuple[str, ...] = field(default_factory=lambda: tuple(sys.argv))


@dataclass(frozen=True)
class SlurmOptions:
    """What each run asks Slurm for; None leaves it to Slurm.

    `time` is the limit of one sitting in minutes: a run that needs more is requeued and goes on from its checkpoint.
    `grace` are the seconds before that limit at which it saves its state. `gpus` None: one, or none with
    `--device cpu`. `memory` is in GB.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: int = 60
    grace: int = 90
    gpus: int | None = None
    cpus: int = 1
    memory: float | None = None


@dataclass(frozen=True)
class AblateOptions:
    """How to go through a study; `run` holds what each of its runs is given.

    `jobs` are runs at once, in all; None: one, or one for each of `devices`, the indices of the GPUs to use.
    """

    run: RunOptions = field(default_factory=RunOptions)
    jobs: int | None = None
    retry_failed: bool = False
    fail_fast: bool = False
    executor: Literal["local", "ray", "slurm"] = "local"
    devices: tuple[int, ...] = ()
    slurm: SlurmOptions = field(default_factory=SlurmOptions)
