"""What the commands that look cost, at the size where it begins to matter: start-up, 1,000 runs, 10,000 arms.

    python -m tests.benchmarks.scale

Each number is that of a fresh process, as a user meets it. The limits beside them are not tests: time depends on
the machine. What keeps the numbers low is tested in tests/test_imports.py and tests/test_scale.py.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from harness.spec.ablation import Study, load_study
from harness.tracking.store import Store
from tests.benchmarks.measuring import Process, harness, run
from tests.reporting.synthetic import ARMS, BASE, make_record, make_rows

LIMITS = {
    "help_cpu_seconds": 0.35,
    "report_1000_runs_seconds": 5.0,
    "runs_1000_seconds": 2.0,
    "plan_10000_arms_seconds": 10.0,
    "plan_10000_arms_max_rss_bytes": 2.0**30,
}
EPOCHS = 200
SEEDS = 100
MORE_ARMS = {
    "smoothing": {"loss.label_smoothing": 0.1},
    "ema": {"optim.ema": {"decay": 0.99}},
    "cutout": {"augment.cutout": {"size": 16}},
}
WIDTHS = (16, 20, 24, 32)
DEPTHS = ([1, 1, 1], [2, 1, 1], [2, 2, 1], [2, 2, 2], [3, 2, 2])
RATES = 20
DECAYS = 25


def measure() -> dict[str, float]:
    """Seconds (of CPU time for `--help`, else from start to end) and the largest resident memory of a plan, bytes."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs_dir, plan_file = folder / "runs", write_wide_study(folder)
        study_file = write_runs(folder, runs_dir)
        stored = "--runs-dir", str(runs_dir)
        plan = _run("plan", str(plan_file), "--json", "--runs-dir", str(folder / "none"))
        return {
            "help_cpu_seconds": statistics.median(_run("--help").cpu for _ in range(3)),
            "report_1000_runs_seconds": statistics.median(
                _run("report", str(study_file), *stored, "-o", str(folder / "report.md")).wall for _ in range(3)
            ),
            "runs_1000_seconds": statistics.median(_run("runs", *stored).wall for _ in range(3)),
            "plan_10000_arms_seconds": plan.wall,
            "plan_10000_arms_max_rss_bytes": plan.memory,
        }


def _run(*arguments: str) -> Process:
    """`harness` with these arguments, in a process of its own."""
    return run(harness(*arguments))


# --- 1,000 runs in 10 arms ----------------------------------------------------------------------


def write_runs(folder: Path, runs_dir: Path) -> Path:
    """A finished study of 10 arms x 100 seeds with a journal of 200 rows a run; its ablation file."""
    _write(folder / "narrow_base.yaml", BASE | {"name": "narrow_base", "train": BASE["train"] | {"epochs": EPOCHS}})
    arms = ARMS | MORE_ARMS
    file = folder / "narrow.yaml"
    _write(file, {"name": "narrow", "base": "narrow_base.yaml", "seeds": SEEDS, "margin": 0.002, "arms": arms})
    study = load_study(file)
    for number in range(len(study.arms)):
        for seed in study.seeds:
            _write_run(Store(runs_dir), study, number, seed)
    return file


def _write_run(store: Store, study: Study, number: int, seed: int) -> None:
    """In one go: appending to a journal waits for the disk at every row."""
    arm = study.arms[number]
    accuracy = round(0.93 - 0.001 * number + 0.0001 * (37 * seed % 41), 4)
    record = make_record(study, arm, seed, accuracy)
    folder = store.folder(record.name, record.run_id)
    folder.path.mkdir(parents=True)
    folder.record_path.write_text(record.model_dump_json(indent=2) + "\n")
    rows = make_rows(arm, seed, accuracy, EPOCHS)
    folder.journal_path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2))  # JSON is YAML


# --- 10,000 arms over 20 networks ---------------------------------------------------------------


def write_wide_study(folder: Path) -> Path:
    """10,000 arms, written out one a line as a script or a patient person writes them, over 20 distinct networks."""
    base = BASE | {"name": "wide_base", "model": {"depths": [1, 1, 1], "width": 8}}
    _write(folder / "wide_base.yaml", base)
    lines = ["name: wide", "base: wide_base.yaml", "seeds: [0]", "arms:"]
    networks = [(width, depths) for width in WIDTHS for depths in DEPTHS]
    for number in range(len(networks) * RATES * DECAYS):
        settings, (width, depths) = divmod(number, len(networks))[0], networks[number % len(networks)]
        decay, rate = divmod(settings, RATES)
        optimiser = f"optim.optimizer.lr: {0.01 * (rate + 1):.2f}, optim.optimizer.weight_decay: {2e-5 * decay:.5f}"
        lines.append(f"  arm_{number:05}: {{model.width: {width}, model.depths: {depths}, {optimiser}}}")
    file = folder / "wide.yaml"
    file.write_text("\n".join(lines) + "\n")
    return file


def main() -> None:
    for name, value in measure().items():
        in_bytes = name.endswith("bytes")
        shown, limit = (
            f"{number / 2**20:,.0f} MiB" if in_bytes else f"{number:.2f} s" for number in (value, LIMITS[name])
        )
        print(f"{name:32}{shown:>12}   limit {limit}")


if __name__ == "__main__":
    main()
