"""Numbers as people read them."""

from __future__ import annotations

from harness.training.pace import duration

__all__ = ["accuracy", "count", "duration", "epoch_line", "time_left"]


def accuracy(value: float | None) -> str:
    """A fraction as percent with two decimals; a dash for None."""
    return "–" if value is None else f"{100 * value:.2f} %"


def count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def time_left(seconds: float) -> str:
    return f"{duration(seconds)} left" if seconds >= 1 else "done"


def epoch_line(row: dict[str, float | None], epochs: int) -> str:
    """One journal row on one line of at most 80 columns."""
    width = len(str(epochs))
    text = f"epoch {row['epoch']:>{width}}/{epochs}  loss {row['train_loss']:.4f}  acc {_short(row['train_accuracy'])}"
    if row["val_loss"] is not None:
        text += f"  val loss {row['val_loss']:.4f}  val acc {_short(row['val_accuracy'])}"
    return f"{text}  lr {row['lr']:.3g}"


def _short(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:5.2f} %"
