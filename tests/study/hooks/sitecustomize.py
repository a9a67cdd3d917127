"""Python imports this by itself in every process whose PYTHONPATH has this folder: faults, and a log of what is done.

So the real command is watched and disturbed from outside, with nothing for it in the product. Importing is hooked,
since the modules to be changed must not be imported here: torch would be in every process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def log_completions(store: ModuleType) -> None:
    """One line, "run id, process", in $TEST_COMPLETIONS for each record of a finished run that is written.

    With $TEST_LAST_WORD, a file that is not there yet, the first such record is the last thing done by its run and by
    its study: both are killed, and the file has the run's id.
    """
    write_record = store.RunFolder.write_record

    def logging(self: Any, record: Any) -> None:
        write_record(self, record)
        if record.finished and "TEST_COMPLETIONS" in os.environ:
            with open(os.environ["TEST_COMPLETIONS"], "a") as log:
                log.write(f"{record.run_id} {os.getpid()}\n")
        if record.finished and "TEST_LAST_WORD" in os.environ:
            with contextlib.suppress(FileExistsError), open(os.environ["TEST_LAST_WORD"], "x") as said:
                said.write(record.run_id)
                said.flush()
                os.kill(os.getsid(0), signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)

    store.RunFolder.write_record = logging


def inject_faults(loop: ModuleType) -> None:
    """In their second epoch, arms named for it raise, run out of a GPU's memory, or get a loss that is not a number."""
    step = loop.Training._step

    def faulty(self: Any, batch: Any, kept: Any) -> Any:
        loss, *others = step(self, batch, kept)
        if self.progress.epoch == 2:
            if self.spec.name.endswith("raises"):
                raise ZeroDivisionError("a fault of the test's")
            if self.spec.name.endswith("hungry"):
                raise loop.torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            if self.spec.name.endswith("diverges"):
                loss = loss * float("nan")
        return loss, *others

    loop.Training._step = faulty


CHANGES = {"harness.tracking.store": log_completions, "harness.training.loop": inject_faults}


class AfterImport(MetaPathFinder):
    """Changes a module right after it was imported."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in CHANGES:
            return None
        sys.meta_path.remove(self)
        try:
            spec = find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        loader: Any = spec and spec.loader
        execute = loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            CHANGES[name](module)

        loader.exec_module = execute_and_change
        return spec


sys.meta_path.insert(0, AfterImport())
