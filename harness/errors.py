"""Every error a user can meet, as one small tree; each class carries its exit code.

Exit codes (the contract scripts rely on): 1 a run failed or a check did not hold, 2 the input is
wrong and nothing was started, 75 the time limit was reached, 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Problem:
    """One mistake: what is wrong, where it stands, what would be right.

    `where` is "file:line: field.path" as far as it is known; `fix` is one sentence.
    """

    what: str
    where: str | None = None
    fix: str | None = None

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return printable(f"{head}\n  {self.fix}" if self.fix else head)


def printable(text: str) -> str:
    """Without control characters: what a file holds must not steer the terminal that tells of it."""
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)


class HarnessError(Exception):
    """Base of all errors that the command line shows as a message instead of a traceback."""

    exit_code = 1


class InputError(HarnessError):
    """The input is wrong (spec, budget, usage, data); nothing was started. Holds all problems found."""

    exit_code = 2

    def __init__(
        self, problems: Problem | str | Sequence[Problem], *, where: str | None = None, fix: str | None = None
    ):
        if isinstance(problems, str):
            problems = Problem(problems, where, fix)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def with_fix(self, fix: str) -> InputError:
        """The same problems, each with what would be right."""
        return InputError([replace(problem, fix=fix) for problem in self.problems])


class RunBusy(InputError):
    """Another process is training this very run."""


class RunLost(HarnessError):
    """This process was suspended for so long that another one has taken its run over; it writes nothing more."""

    status = "busy"


class RunFailed(HarnessError):
    """A run ended without a result. `status` is the record's: diverged, crashed, out_of_memory, killed."""

    def __init__(self, message: str, status: str = "crashed"):
        super().__init__(message)
        self.status = status


class CheckFailed(HarnessError):
    """A check that was asked for did not hold (`harness report --check`)."""


class StorageError(HarnessError):
    """The disk refused a write in mid-run (full, gone, read-only): not the run's fault, which can go on."""

    status = "interrupted"


class TimeLimitReached(HarnessError):
    """The time limit was reached; the state is saved."""

    exit_code = 75


class Interrupted(HarnessError):
    """The user interrupted; the state is saved and the message says how to go on."""

    exit_code = 130
