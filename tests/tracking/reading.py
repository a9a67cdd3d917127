"""Reading an offline W&B run back with wandb's own reader, `wandb leet inspect`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.tracking.store import RunFolder


@dataclass
class Mirrored:
    """What `wandb leet inspect` says of an offline run."""

    file: Path
    rows: list[dict[str, Any]]
    run: dict[str, Any]

    @cached_property
    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(leet("--summary", "--json", str(self.file)))
        return told

    @property
    def config(self) -> dict[str, Any]:
        return self.told["config"]

    @property
    def summary(self) -> dict[str, Any]:
        return self.told["summary"]


def read_mirror(folder: RunFolder) -> Mirrored:
    (run_folder,) = folder.wandb_dir.glob("offline-run-*")
    (file,) = run_folder.glob("*.wandb")
    records = [json.loads(line) for line in leet("--json", str(file)).splitlines()]
    items = [one["history"]["item"] for one in records if one["type"] == "history"]
    (run,) = (one["run"] for one in records if one["type"] == "run")
    rows = [{key: value for key, value in item.items() if not key.startswith("_")} for item in items]
    return Mirrored(file, rows, run)


def leet(*arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
