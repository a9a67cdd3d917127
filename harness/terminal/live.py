"""Live displays of one run and of a study; plain lines where the output is no terminal.

Each is an observer (`harness.events`) and a context manager.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.events import Elsewhere, Ended, EpochDone, Event, Note, Started, Stepped
from harness.study.expected import counted
from harness.terminal.live_table import Cell, live_table
from harness.terminal.words import accuracy, duration, epoch_line, time_left

QUIET = 30.0  # seconds after which a plain display says that it is alive
AROUND = 4  # lines beside the arms: the heads, what is left out, the summary, the one that the cursor stands in
WAITING = Cell("waiting", "dim")


class StudyRun(Protocol):
    """What the study's display needs of a planned run (`harness.study.plan.PlannedRun` is one)."""

    @property
    def run_id(self) -> str | None: ...
    @property
    def seed(self) -> int: ...


class _Display:
    """Owns the console and the live area; `draw` is what stands in it."""

    def __init__(self, console: Console):
        self.console = console
        self.live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
            self.redraw()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.live:
            self.live.stop()

    def say(self, text: str, style: str = "") -> None:
        """A line that stays, above the live area; never cut, so that it can be copied."""
        self.console.print(Text(text, style), soft_wrap=True)

    def note(self, event: Note) -> None:
        self.say(event.text, "yellow" if event.warning else "")

    def redraw(self) -> None:
        if self.live:
            self.live.update(self.draw())

    def draw(self) -> RenderableType:
        raise NotImplementedError


def waiting_line(event: Elsewhere) -> str:
    """Who has a run that is waited for, and how far it is."""
    return f"{event.holder} has it, {event.epoch} of {event.epochs} epochs are done; waiting for it"


class RunDisplay(_Display):
    """One run: a line per epoch that stays, and below it a bar for the epoch in progress."""

    def __init__(self, console: Console):
        super().__init__(console)
        self.step: Stepped | None = None
        self.told = time.monotonic()
        self.elsewhere: str | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self._started(event)
            case Stepped():
                self.step = event
                if not self.live and time.monotonic() - self.told > QUIET:
                    self._say_step(event)
            case EpochDone():
                self.say(f"{epoch_line(event.row, event.epochs)}  {time_left(event.seconds_left)}")
                self.told = time.monotonic()
            case Note():
                self.note(event)
            case Ended():
                self.step = None
            case Elsewhere() if event.holder != self.elsewhere:
                self.elsewhere = event.holder
                self.say(waiting_line(event))
        self.redraw()

    def _started(self, event: Started) -> None:
        where = f"{event.device}, {event.precision}, {counted(event.threads, 'thread')}"
        if not event.device.startswith("CPU"):
            where = f"{event.device}, {event.precision}"
        parameters = f"{event.trainable_parameters:,} parameters"
        self.say(f"{event.name} (seed {event.seed}, run {event.run_id}): {parameters}, {where}", "bold")
        if (event.epoch, event.step) != (1, 0):
            self.say(f"going on in epoch {event.epoch} after step {event.step}")

    def _say_step(self, event: Stepped) -> None:
        self.told = time.monotonic()
        pace = f"{event.images_per_second:,.0f} images/s  {time_left(event.seconds_left)}"
        self.say(f"epoch {event.epoch}/{event.epochs}  step {event.step}/{event.steps}  {pace}")

    def draw(self) -> RenderableType:
        if self.step is None:
            return Text("")
        at = self.step
        grid = Table.grid(padding=(0, 1))
        pace = f"{at.images_per_second:,.0f} images/s"
        bar = ProgressBar(total=at.steps, completed=at.step, width=16)
        grid.add_row(f"epoch {at.epoch}/{at.epochs}", bar, f"{at.step}/{at.steps}", pace, time_left(at.seconds_left))
        return grid


class StudyDisplay(_Display):
    """A study: a table of arms x seeds with each run's state, as far as it fits, and the time that is left.

    Args:
        console: where to draw.
        arms: (arm name, its runs in the order of the seeds), the base first.
        states: what is to be shown of runs that are not started here, by run id.
        slots: runs at once.
        waiting: run ids that are to be run here.
    """

    def __init__(
        self,
        console: Console,
        arms: Sequence[tuple[str, Sequence[StudyRun]]],
        states: dict[str, str],
        slots: int,
        waiting: set[str],
    ):
        super().__init__(console)
        self.arms, self.slots = arms, slots
        self.cells = {run_id: Cell(state) for run_id, state in states.items()}
        self.labels = {run.run_id or "": f"{name} seed {run.seed}" for name, runs in arms for run in runs}
        self.waiting = set(waiting)
        self.total, self.done = len(waiting), 0
        self.running: dict[str, tuple[float, float]] = {}  # run id -> (started, seconds left)
        self.durations: list[float] = []
        self.accuracies: dict[str, float | None] = {}
        self.elsewhere: dict[str, str] = {}  # run id -> who has it
        self.told = time.monotonic()

    def __call__(self, event: Event) -> None:
        run_id = event.run_id
        match event:
            case Started():
                self.labels.setdefault(run_id, f"{event.name} seed {event.seed}")
                self.waiting.discard(run_id)
                self.running[run_id] = (time.monotonic(), 0.0)
                self.cells[run_id] = Cell("starting", "cyan", active=True)
            case Stepped():
                self._progress(run_id, event.seconds_left)
                self.cells[run_id] = self._at(run_id, event.epoch, event.epochs)
            case EpochDone():
                self._progress(run_id, event.seconds_left)
                self.accuracies[run_id] = event.row["val_accuracy"]
                self.cells[run_id] = self._at(run_id, event.row["epoch"], event.epochs)
            case Note():
                text = f"{self._label(run_id)}: {event.text}" if run_id else event.text
                self.say(text, "yellow" if event.warning else "")
            case Ended():
                self._ended(event)
            case Elsewhere():
                self._elsewhere(event)
        if not self.live and self.running and time.monotonic() - self.told > QUIET:
            self.told = time.monotonic()
            self.say(self._summary())
        self.redraw()

    def _elsewhere(self, event: Elsewhere) -> None:
        """A line for each new holder, and now and then how far it is where no table shows that."""
        self.waiting.discard(event.run_id)
        self.cells[event.run_id] = Cell(f"{event.epoch}/{event.epochs}", "magenta", "elsewhere", active=True)
        overdue = not self.live and time.monotonic() - self.told > QUIET
        if self.elsewhere.get(event.run_id) != event.holder or overdue:
            self.elsewhere[event.run_id] = event.holder
            self.told = time.monotonic()
            self.say(f"{self._label(event.run_id)}: {waiting_line(event)}")

    def _label(self, run_id: str) -> str:
        """Arm and seed; the id of a run that had none when the study began, since its teacher was not trained."""
        return self.labels.get(run_id, f"run {run_id}")

    def _at(self, run_id: str, epoch: int, epochs: int) -> Cell:
        so_far = self.accuracies.get(run_id)
        beside = "" if so_far is None else accuracy(so_far)
        return Cell(f"{epoch}/{epochs}", "cyan", beside, active=True)

    def _progress(self, run_id: str, seconds_left: float) -> None:
        started = self.running.get(run_id, (time.monotonic(), 0.0))[0]
        self.running[run_id] = (started, seconds_left)

    def _ended(self, event: Ended) -> None:
        self.waiting.discard(event.run_id)
        started = self.running.pop(event.run_id, None)
        good = event.status in ("completed", "stopped_early")
        self.done += good
        if good and started:
            self.durations.append(time.monotonic() - started[0])
        if good and event.run_id not in self.accuracies:  # another process was faster; its note has told so
            self.cells[event.run_id] = Cell("done", "green")
            return
        reached = self.accuracies.get(event.run_id)  # None under a protocol without validation
        result = "done" if reached is None else accuracy(reached)
        self.cells[event.run_id] = Cell(result, "green") if good else Cell(event.status, "red")
        self.say(f"{self._label(event.run_id)}: {self._told(event, started, reached)}", "" if good else "red")
        self.told = time.monotonic()

    def _told(self, event: Ended, started: tuple[float, float] | None, reached: float | None) -> str:
        if event.status == "interrupted":
            return f"interrupted: {event.message}" if event.message else "interrupted, its state is saved"
        if event.status == "busy":
            return "another process is training it"
        if event.status not in ("completed", "stopped_early"):
            return f"{event.status}: {event.message}" if event.message else event.status
        took = f" in {duration(time.monotonic() - started[0])}" if started else ""
        result = "" if reached is None else f", {accuracy(reached)}"
        return f"{event.status.replace('_', ' ')}{result}{took}"

    def seconds_left(self) -> float | None:
        """For all that is waiting and running, at this many slots; None before anything is measured."""
        now = time.monotonic()
        measured = self.durations or [now - began + left for began, left in self.running.values() if left]
        if not measured:
            return None
        one = sum(measured) / len(measured)
        running = sum(left or one for _, left in self.running.values())
        return (running + one * len(self.waiting)) / min(self.slots, max(len(self.running) + len(self.waiting), 1))

    def _summary(self) -> str:
        left = self.seconds_left()
        text = f"{self.done} of {self.total} runs done, {len(self.running)} running"
        return f"{text}, {time_left(left)}" if left else text

    def draw(self) -> RenderableType:
        seeds = [run.seed for run in self.arms[0][1]] if self.arms else []
        rows = [(name, [self.cells.get(run.run_id or "", WAITING) for run in runs]) for name, runs in self.arms]
        table, left_out = live_table(seeds, rows, self.console, self.console.height - AROUND)
        below = [Text(left_out)] if left_out else []
        return Group(table, *below, Text(self._summary(), "bold", no_wrap=True, overflow="ellipsis"))
