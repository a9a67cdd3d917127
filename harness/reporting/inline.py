"""Inline Markdown, as prose and cells of a document have it, in the other forms' own markup."""

from __future__ import annotations

import html
import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_MARKUP = re.compile(r"[\\`*_]")


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    # Nothing but code spans, emphasis and escapes: no link, no image, and above all no HTML comes through.
    return MarkdownIt("zero").enable(["escape", "backticks", "emphasis"])


def _tokens(text: str) -> list[Token]:
    return _parser().parseInline(text)[0].children or []


def to_html(text: str) -> str:
    return _parser().renderInline(text) if _MARKUP.search(text) else html.escape(text)


def to_plain(text: str) -> str:
    """Without any markup."""
    return "".join(token.content for token in _tokens(text)) if _MARKUP.search(text) else text


# --- LaTeX --------------------------------------------------------------------------------------

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
    "-": "{-}", "\N{EN DASH}": "--", "\N{MINUS SIGN}": "$-$", "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$", "\N{DAGGER}": r"\dag{}", "\N{DOUBLE DAGGER}": r"\ddag{}",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}", "\N{RIGHTWARDS ARROW}": r"$\rightarrow$",
}  # fmt: skip
_AROUND = {
    "code_inline": (r"\texttt{", "}"),
    "em_open": (r"\emph{", ""),
    "em_close": ("}", ""),
    "strong_open": (r"\textbf{", ""),
    "strong_close": ("}", ""),
}


def to_latex(text: str) -> str:
    parts = []
    for token in _tokens(text):
        before, after = _AROUND.get(token.type, ("", ""))
        parts.append(before + latex_escaped(token.content if token.type[-5:] not in ("_open", "close") else "") + after)
    return "".join(parts)


def latex_escaped(text: str) -> str:
    r"""Plain text for LaTeX; letters that the common fonts lack stand in `\letter`, which the document defines."""
    return "".join(_letter(letter) for letter in text)


def _letter(letter: str) -> str:
    if letter in _LATEX:
        return _LATEX[letter]
    if letter.isspace() or not letter.isprintable():
        return " "
    return letter if ord(letter) < 0x180 else rf"\letter{{{letter}}}"
