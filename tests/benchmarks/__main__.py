"""The benchmarks, one after another: what the engine, the studies, the start and the tracking cost, against what.

    python -m tests.benchmarks [--json FILE] [--markdown FILE] [PART ...]

Reads the official CIFAR-10 batches from HARNESS_DATA_DIR (or data/). Everything is measured in this one run, arms in
turn, and told as ratios of medians; nothing here passes or fails by time.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks import document
from tests.benchmarks.measuring import Unavailable, machine

PARTS = {
    "step": "step",
    "input": "pipeline",
    "tracking": "tracking",
    "start": "start",
    "study": "study",
    "scale": "scale",
    "cost": "cost",
    "gpu": "gpu",
    "packing": "packing",
}
"""Part, and the module whose `measure` it is."""
ON_A_GPU = ("gpu", "packing")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Benchmarks of the harness.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all that this machine can do")
    parser.add_argument("--json", type=Path, help="write the results here; parts that it has and are not run stay")
    parser.add_argument("--markdown", type=Path, help="write them as tables here")
    options = parser.parse_args()
    if unknown := [part for part in options.parts if part not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    results: dict[str, Any] = {}
    if options.json and options.json.exists() and options.parts:
        results = json.loads(options.json.read_text())
    results["machine"] = machine()
    for part in options.parts or PARTS:
        try:
            results[part] = _measured(part)
        except Unavailable as error:
            if part in options.parts or part not in ON_A_GPU:
                print(f"error: {error}", file=sys.stderr)
                return 2
            print(f"{part}: left out, {error}", file=sys.stderr)
            continue
        if options.json:
            options.json.write_text(json.dumps(results, indent=2) + "\n")
    print(document.headline(results))
    if options.markdown:
        options.markdown.write_text(document.markdown(results))
    return 0


def _measured(part: str) -> dict[str, Any]:
    print(f"{part} ...", file=sys.stderr, end=" ", flush=True)
    began = time.perf_counter()
    found: dict[str, Any] = importlib.import_module(f"tests.benchmarks.{PARTS[part]}").measure()
    print(f"{time.perf_counter() - began:.0f} s, load average {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return found | {"load_average": os.getloadavg()[0]}


if __name__ == "__main__":
    sys.exit(main())
