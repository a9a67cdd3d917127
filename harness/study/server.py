"""The process that a study's runs are forked from: it imports what they use once, and is started before it is needed.

No torch here, so that a command can start the server first and import torch itself while the server does.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

PRELOADED = ["harness.runner", "torch._dynamo", "numpy.ma", "harness.study.frozen"]
"""What the server imports, so that the processes it forks have it at once: all that any run uses.

Importing starts no thread and opens no CUDA context, so forking is safe. torch's optimizers import its compiler when
the first is made: a second that no run has to wait for.
"""


def start() -> ForkServerContext:
    """Start the server unless it runs, without waiting for it; the context that forks from it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
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


def ignore_interrupts() -> None:
    """In such a process, once its work is done: what is left of it ends by itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def follow_parent() -> None:
    """In such a process: once the command that asked for it is dead, save the state and end, as on SIGTERM.

    Before a run listens to signals that ends it at once, which loses nothing.
    """
    command = multiprocessing.parent_process()

    def follow() -> None:
        assert command
        command.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, name="parent", daemon=True).start()


def ask(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """What `function` returns or raises, done in a process that the server forks.

    So this process gets an answer that takes torch without importing torch: it stays small, and it starts and ends
    at once. Function, arguments and answer are pickled.
    """
    context = start()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, arguments, named), name=function.__name__)
    process.start()
    sender.close()
    try:
        error, answer = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the process that was to do {function.__name__} ended with {process.exitcode}") from None
    except BaseException:  # Ctrl-C
        process.kill()
        raise
    finally:
        receiver.close()
        process.join()
    if error is not None:
        raise error
    return answer  # type: ignore[no-any-return]


def _answer(
    sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]
) -> None:
    with suppress(KeyboardInterrupt, BrokenPipeError):  # the asking process has the one too, or is gone
        heed_interrupts()
        sender.send(_answered(function, arguments, named))


def _answered(
    function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[Exception | None, Any]:
    try:
        return None, function(*arguments, **named)
    except Exception as error:
        where = traceback.format_exc()
        error.add_note(f"in the process that did {function.__name__}:\n{where}")
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return RuntimeError(where), None
        return error, None
