"""The document as Markdown: reads in a terminal (padded tables, wrapped lines) and on a code host."""

from __future__ import annotations

from urllib.parse import quote

from harness.reporting import words
from harness.reporting.document import (
    Block,
    Commands,
    Document,
    Figure,
    Heading,
    Items,
    Paragraph,
    Quote,
    Table,
    figure_path,
)
from harness.reporting.figures import PICTURES

LEFT_OUT = ("<!-- pictures -->", "<!-- /pictures -->")
"""Around what `check` does not compare."""


def to_markdown(document: Document) -> str:
    """Ends with a newline; figures are files beside it."""
    parts = [[f"# {words.escape(document.title)}"], *(_block(block, document) for block in document.blocks)]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _block(block: Block, document: Document) -> list[str]:
    match block:
        case Heading(text):
            return [f"## {text}"]
        case Paragraph(text):
            return words.paragraph(text)
        case Quote(text):
            return [f"> {line}" for line in words.paragraph(text)]
        case Items(items):
            return [line for item in items for line in _item(item)]
        case Commands(lines):
            return ["```sh", *lines, "```"]
        case Table():
            return "\n\n".join("\n".join(_table(part)) for part in block.parts()).split("\n")
        case Figure(kind, caption):
            line = f"![{caption}]({quote(figure_path(document, kind))})"
            return [LEFT_OUT[0], line, LEFT_OUT[1]] if kind == PICTURES else [line]


def _item(text: str) -> list[str]:
    first, *rest = words.paragraph(text, 94)
    return [f"- {first}", *(f"  {line}" for line in rest)]


def _table(table: Table) -> list[str]:
    sides = "".join("r" if column.right else " " for column in table.columns)
    cells = [[cell.text for cell in row] for row in table.rows]
    return words.table([column.head for column in table.columns], cells, sides)
