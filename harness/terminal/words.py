"""Numbers as people read them."""

from __future__ import annotations

from harness.duration import duration
from harness.space import size

__all__ = ["accuracy", "count", "duration", "epoch_line", "running", "size", "time_left"]


def accuracy(value: float | None) -> str:
    """A fraction as percent with two decimals; a dash for None."""
    return "–" if value is None else f"{100 * value:.2f} %"


def count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def time_left(seconds: float) -> str:
    """ "3 min left"; "done" only where nothing is left."""
    return f"{duration(seconds)} left" if seconds > 0 else "done"


def running(silence: float | None) -> str:
    """ "running", with a doubt where there were so many seconds without a sign of life (None: there were not)."""
    return "running" if silence is None else f"running? (no sign of life for {duration(silence)})"


def epoch_line(row: dict[str, float | None], epochs: int) -> str:
    """One journal row, short enough to stand in 80 columns with the time left behind it."""
    text = f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"
    for name in ("train", "val"):
        if row[f"{name}_loss"] is not None:
            text += f"  {name} {row[f'{name}_loss']:.3f} {_short(row[f'{name}_accuracy'])}"
    return f"{text}  lr {row['lr']:.3g}"


def _short(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:5.2f} %"
