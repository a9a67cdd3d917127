"""What the report's verdicts are worth: simulated studies whose truth is known.

    python -m tests.calibration [--simulations N] [--json FILE] [--markdown FILE]

Nothing is trained. The same N gives the same numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tests.calibration import document
from tests.calibration.parts import simulate

SIMULATIONS = 200_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.calibration", description="Calibration of the verdicts.")
    parser.add_argument("--simulations", type=int, default=SIMULATIONS, help=f"a case; default {SIMULATIONS:,}")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--markdown", type=Path, help="write them as tables here")
    options = parser.parse_args()
    if options.simulations < 1:
        parser.error(f"--simulations {options.simulations}: it must be at least 1")
    began = time.perf_counter()
    results = simulate(options.simulations)
    print(f"{options.simulations:,} simulations a case in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    text = document.markdown(results)
    if options.markdown:
        options.markdown.write_text(text)
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
