"""Whether Weights & Biases would find a key, and for which server: asked of wandb itself, and of no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.tracking.mirror import end_service, import_wandb, one_line, quarters

PATIENCE = 60.0  # seconds that wandb may take to be imported and to look


@dataclass(frozen=True)
class Login:
    """What wandb would use."""

    server: str
    """As WANDB_BASE_URL names it, else wandb's settings."""
    key: bool
    """Whether there is one for that server, right or wrong."""


def login(wandb: Any) -> Login:
    """What wandb finds, in this process, where it logs in with it; nobody is asked for a key.

    Raises whatever wandb raises of a key that can't be one.
    """
    return Login(wandb.setup().settings.base_url, bool(wandb.login(prompt=False, verify=False)))


def look() -> Login | str:
    """What wandb finds, in a process of its own that leaves nothing behind; a string is why it can't tell."""
    with tempfile.TemporaryDirectory(prefix="harness-") as place:
        others = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        environment = others | quarters(Path(place), online=True) | {"WANDB_SILENT": "true", "WANDB_MODE": "online"}
        command = [sys.executable, "-m", "harness.tracking.login"]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True
            )
            return Login(**json.loads(done.stdout))
        except subprocess.CalledProcessError as error:
            return str(error.stderr).strip().rpartition("\n")[2]
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            return one_line(error)


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(login(import_wandb()))))
    finally:
        end_service()  # it writes in that folder
