"""The document as LaTeX: an article that compiles as it is, its tables booktabs, to be taken over into a paper."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import InputError
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
from harness.reporting.inline import latex_escaped, to_latex

LEFT_OUT = ("% pictures", "% /pictures")
"""Around what `check` does not compare."""
NOT_IN_FILE_NAMES = frozenset(r"%#\{}~^$")
"""What a name can't have that `\\includegraphics` is to read."""
# pdfTeX knows Latin letters; LuaLaTeX and XeLaTeX know what their font knows.
PREAMBLE = r"""
\documentclass[10pt]{article}
\usepackage{iftex}
\ifPDFTeX
  \usepackage[utf8]{inputenc}
  \usepackage[T1]{fontenc}
  \newcommand{\letter}[1]{\textbf{?}}
\else
  \usepackage{fontspec}
  \newcommand{\letter}[1]{#1}
\fi
\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}
\usepackage{textcomp}
\usepackage[margin=18mm]{geometry}
\usepackage{array,booktabs,longtable,graphicx}
\setlength{\parindent}{0pt}
\setlength{\parskip}{5pt}
\setlength{\tabcolsep}{4pt}
\emergencystretch=3em
\begin{document}
""".strip()


def to_latex_document(document: Document) -> str:
    """Ends with a newline; figures are the files beside it.

    Raises:
        InputError: LaTeX could not read the names of its figures' files.
    """
    if document.figures and (unreadable := NOT_IN_FILE_NAMES.intersection(document.name)):
        what = f"LaTeX reads no figures from files with {' '.join(sorted(unreadable))} in their names"
        raise InputError(what, where=document.name, fix="-o with another name")
    title = rf"\section*{{{latex_escaped(document.title)}}}"
    blocks = [line for block in document.blocks for line in ("", *_block(block, document))]
    return "\n".join([PREAMBLE, "", title, *blocks, "", r"\end{document}"]) + "\n"


def _block(block: Block, document: Document) -> list[str]:
    match block:
        case Heading(text):
            return [rf"\subsection*{{{to_latex(text)}}}"]
        case Paragraph(text):
            return [to_latex(text)]
        case Quote(text):
            return [r"\begin{quote}", to_latex(text), r"\end{quote}"]
        case Items(items):
            return [r"\begin{itemize}", *(rf"\item {_apart(to_latex(item))}" for item in items), r"\end{itemize}"]
        case Commands(lines):
            return _commands(lines)
        case Table():
            return [line for part in block.parts() for line in _table(part)]
        case Figure(kind, caption):
            image = rf"\includegraphics[width=\linewidth]{{{figure_path(document, kind)}}}"
            shown = [r"\begin{center}", image, rf"\\ \small {to_latex(caption)}", r"\end{center}"]
            return [LEFT_OUT[0], *shown, LEFT_OUT[1]] if kind == PICTURES else shown


def _commands(lines: Sequence[str]) -> list[str]:
    """As they are; escaped where they have letters that the font may lack, or the words that would end them."""
    if all(line.isascii() and r"\end{verbatim}" not in line for line in lines):
        return [r"\begin{verbatim}", *lines, r"\end{verbatim}"]
    parts = [part for line in lines for part in line.split("\n")]
    *escaped, last = (_apart(latex_escaped(part).replace(" ", r"\ ")) for part in parts)
    return [r"\begin{quote}\ttfamily\raggedright", *(rf"{line} \\" for line in escaped), last, r"\end{quote}"]


def _apart(latex: str) -> str:
    r"""Text to stand after `\\` or `\item`, which would take a bracket or a star at its beginning for their own."""
    return "{}" + latex if latex.lstrip().startswith(("[", "*")) else latex


def _table(table: Table) -> list[str]:
    heads = [to_latex(column.head) for column in table.columns]
    rows = [[to_latex(cell.text) for cell in row] for row in table.rows]
    return [
        rf"{{\footnotesize\begin{{longtable}}[l]{{@{{}}{_columns(table)}@{{}}}}",
        r"\toprule",
        " & ".join(heads) + r" \\",
        r"\midrule \endhead",
        *(_apart(" & ".join(row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{longtable}}",
    ]


def _columns(table: Table) -> str:
    """Text that may wrap shares what the other columns leave of the line, half of it about."""
    wrapping = sum(column.wraps for column in table.columns)
    paragraph = rf">{{\raggedright\arraybackslash}}p{{{0.45 / max(wrapping, 1):.2f}\linewidth}}"
    return "".join(paragraph if column.wraps else "r" if column.right else "l" for column in table.columns)
