"""The document as one HTML file that needs no other and no network: figures inline, tables that sort, both schemes."""

from __future__ import annotations

import html
from collections.abc import Mapping
from importlib import resources
from itertools import chain, count

from harness.reporting.document import (
    Block,
    Cell,
    Column,
    Commands,
    Document,
    Figure,
    Heading,
    Items,
    Paragraph,
    Quote,
    Table,
)
from harness.reporting.figures import PICTURES
from harness.reporting.inline import to_html, to_plain

LEFT_OUT = ("<!-- pictures -->", "<!-- /pictures -->")
"""Around what `check` does not compare."""


def to_html_page(document: Document, images: Mapping[str, str]) -> str:
    """`images` has each figure's element (an inline SVG, or a picture) by its kind."""
    style, script = (_asset(name) for name in ("page.css", "page.js"))
    title = html.escape(" ".join(document.title.split()))
    head = f'{generator()}\n<link rel="icon" href="data:,">\n<title>{title}</title>\n<style>\n{style}</style>'
    taken: set[str] = set()
    body = "\n".join(line for block in document.blocks for line in _block(block, images, taken))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # The page says itself that nothing is loaded; an empty icon keeps browsers from asking for one.
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        f"script-src 'unsafe-inline'; img-src data:\">\n"
        f"{head}\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def generator() -> str:
    """The line that says what has drawn the figures: other versions draw other bytes."""
    from harness.reporting.figures import drawn_with

    return f'<meta name="generator" content="{html.escape(drawn_with())}">'


def _asset(name: str) -> str:
    return resources.files("harness.reporting").joinpath("assets", name).read_text(encoding="utf-8")


def _block(block: Block, images: Mapping[str, str], taken: set[str]) -> list[str]:
    """`taken` has the ids of the blocks before; a table's own is added."""
    match block:
        case Heading(text):
            return [f"<h2>{to_html(text)}</h2>"]
        case Paragraph(text):
            return [f"<p>{to_html(text)}</p>"]
        case Quote(text):
            return [f"<blockquote><p>{to_html(text)}</p></blockquote>"]
        case Items(items):
            return ["<ul>", *(f"<li>{to_html(item)}</li>" for item in items), "</ul>"]
        case Commands(lines):
            return [f"<pre><code>{html.escape(chr(10).join(lines))}</code></pre>"]
        case Table():
            return _table(block, _free(block.name.replace(" ", "-"), taken))
        case Figure(kind, caption):
            label = html.escape(to_plain(caption))
            shown = [
                f'<figure role="img" aria-label="{label}">', images[kind],
                f"<figcaption>{to_html(caption)}</figcaption>", "</figure>",
            ]  # fmt: skip
            return [LEFT_OUT[0], *shown, LEFT_OUT[1]] if kind == PICTURES else shown


def _free(name: str, taken: set[str]) -> str:
    """`name`, or the first of name-2, name-3 ... that is not taken; from now on it is."""
    numbered = (f"{name}-{number}" for number in count(2))
    found = next(one for one in chain([name], numbered) if one not in taken)
    taken.add(found)
    return found


def _table(table: Table, name: str) -> list[str]:
    heads = "".join(f"<th{_class(column)}>{to_html(column.head)}</th>" for column in table.columns)
    rows = [
        "<tr>" + "".join(map(_cell, table.columns, row)) + "</tr>"
        for row in table.rows
    ]  # fmt: skip
    opening = f'<div class="table"><table id="{html.escape(name)}">'
    return [opening, f"<thead><tr>{heads}</tr></thead>", "<tbody>", *rows, "</tbody>", "</table></div>"]


def _cell(column: Column, cell: Cell) -> str:
    # Text sorts as it is shown; a number by its value, not by its digits.
    number = cell.value if isinstance(cell.value, int | float) else None
    value = "" if number is None else f' data-value="{number!r}"'
    return f"<td{_class(column)}{value}>{to_html(cell.text)}</td>"


def _class(column: Column) -> str:
    return ' class="number"' if column.right else ' class="wraps"' if column.wraps else ""
