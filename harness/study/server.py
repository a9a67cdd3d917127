"""The process that a study's runs are forked from: it imports what they use once, and is started before it is needed.

No torch here, so that a command can start the server first and import torch itself while the server does.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext


def start(tracked: bool) -> ForkServerContext:
    """Start the server unless it runs, without waiting for it; the context that forks from it.

    `tracked`: whether runs have a Weights & Biases mirror.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(preloaded(tracked))
    with _interrupts_held():
        forkserver.ensure_running()
    return context


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """What is started in the block has SIGINT blocked: Ctrl-C reaches all processes of a terminal, and would end the
    server's imports with a traceback. Its children unblock it (`heed_interrupts`).
    """
    resource_tracker.ensure_running()  # it would unblock the signal if it were started inside
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed_interrupts() -> None:
    """In a process that the server has forked, first of all."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def preloaded(tracked: bool) -> list[str]:
    """What the server imports, so that the processes it forks have it at once: all that any of these runs uses.

    Importing starts no thread and opens no CUDA context, so forking is safe. torch's optimizers import its compiler
    when the first is made, wandb its launcher when a run begins: a second each that no run has to wait for.
    """
    modules = ["harness.runner", "torch._dynamo"]
    if tracked:
        modules += ["wandb", "wandb.sdk.launch.inputs.internal", "requests"]
    return [*modules, "harness.study.frozen"]
