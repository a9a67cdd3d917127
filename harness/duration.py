"""How long something takes, as people say it; apart from what measures it, which needs torch."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """For people: "19 h", "2 h 05 min", "12 min", "40 s"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{round(seconds / 3600)} h" if hours >= 10 or rest == 0 else f"{hours} h {rest:02d} min"
