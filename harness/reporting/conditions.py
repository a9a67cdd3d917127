"""The conditions of runs: what must be equal for them to be compared, and which runs differ in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from harness.reporting.model import Run
from harness.tracking.record import Record

CONDITIONS = {
    "epochs": "epochs",
    "numerics": "numerics of the code",
    "code": "git commit",
    "data": "data digest",
    "precision": "precision",
    "device": "device type",
}
"""Key -> its name in words."""
UNKNOWN = "unknown"


def of_record(record: Record, epochs: int) -> dict[str, str]:
    """The conditions of one run as short text; what the record does not tell is `unknown`."""
    told = record.provenance
    return {
        "epochs": str(epochs),
        "numerics": str(record.numerics),
        "code": _code(told),
        "data": str(told.get("data_digest") or UNKNOWN)[:12],
        "precision": str(told.get("precision") or UNKNOWN),
        "device": str(told.get("device_type") or UNKNOWN),
    }


def _code(provenance: Mapping[str, object]) -> str:
    """The commit, and for uncommitted changes which ones: two dirty trees are not the same code."""
    commit = str(provenance.get("git_commit") or UNKNOWN)[:10]
    if not provenance.get("git_dirty"):
        return commit
    return f"{commit} with changes {str(provenance.get('git_diff_digest') or UNKNOWN)[:8]}"


def usual(base: Sequence[Run], everybody: Sequence[Run]) -> dict[str, str]:
    """The base's most frequent conditions; those of all runs where the base has none. {} without any run."""
    known = [run for run in base if run.conditions] or [run for run in everybody if run.conditions]
    return {key: _most_frequent(run.conditions[key] for run in known) for key in CONDITIONS} if known else {}


def _most_frequent(values: Iterable[str]) -> str:
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def marked(run: Run, expected: Mapping[str, str]) -> Run:
    """The run with the names of the conditions in which it differs."""
    if not run.conditions:
        return run
    return replace(run, marks=tuple(key for key in CONDITIONS if run.conditions[key] != expected[key]))


def in_words(runs: Sequence[Run], expected: Mapping[str, str]) -> tuple[str, ...]:
    """For an arm: each condition in which counted runs differ, with the value and the seeds it concerns."""
    words = []
    for key, title in CONDITIONS.items():
        different = [run for run in runs if run.counted and key in run.marks]
        for value in sorted({run.conditions[key] for run in different}):
            seeds = [run.seed for run in different if run.conditions[key] == value]
            which = "" if len(seeds) == len(runs) else f" in {'seed' if len(seeds) == 1 else 'seeds'} {numbers(seeds)}"
            words.append(f"{title} {value}{which} (usual: {expected[key]})")
    return tuple(words)


def numbers(seeds: Iterable[int]) -> str:
    """Seeds as text: 0, 1, 2; runs of four and more as 0 to 3."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(f"{part[0]} to {part[-1]}" if len(part) > 3 else ", ".join(map(str, part)) for part in parts)
