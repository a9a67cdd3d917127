"""`harness runs --prune`: what would go and how much space that frees; with `--yes` it goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from harness.terminal.tables import table
from harness.terminal.words import size
from harness.tracking.prune import Prunable, prunable, prune
from harness.tracking.store import Store

MOST_PATHS = 20


def prune_and_show(runs_dir: Path, where: str | None, console: Console, *, yes: bool, as_json: bool) -> None:
    """`where`: which failed runs go too; `yes`: delete it."""
    store = Store(runs_dir)
    items = prunable(store, where)
    gone = prune(store, items) if yes else []
    if as_json:
        listed = [
            {"what": item.what, "path": str(item.path), "bytes": item.bytes, "gone": item in gone} for item in items
        ]
        print(json.dumps({"prunable": listed, "bytes": _bytes(gone if yes else items), "removed": yes}, indent=2))
        return
    if not items:
        console.print(f"nothing to prune in {runs_dir}", markup=False, soft_wrap=True)
        return
    shown = table("what", "size", "where", right=("size",))
    for item in items[:MOST_PATHS]:
        shown.add_row(item.what, size(item.bytes), escape(str(item.path.relative_to(runs_dir))))
    console.print(shown)
    if len(items) > MOST_PATHS:
        console.print(f"and {len(items) - MOST_PATHS} more: --json lists them")
    console.print()
    if not yes:
        console.print(f"{size(_bytes(items))} can be freed; nothing is removed yet: --yes removes it")
    elif kept := len(items) - len(gone):
        console.print(
            f"removed: {size(_bytes(gone))}; {kept} left alone, their runs are being trained or have been meanwhile"
        )
    else:
        console.print(f"removed: {size(_bytes(gone))}")


def _bytes(items: Sequence[Prunable]) -> int:
    return sum(item.bytes for item in items)
