"""reports/README.md from the evidence of the committed studies.

    python -m tests.results

Nothing is trained. A test holds the committed file to it.
"""

from __future__ import annotations

import sys

from tests.results.document import REPORTS, markdown

if __name__ == "__main__":
    (REPORTS / "README.md").write_text(markdown())
    sys.exit(0)
