"""CSV, HTML and LaTeX: what stands in them, and that no name can break them."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.reporting import build, render, write
from harness.reporting.as_html import to_html_page
from harness.reporting.as_latex import to_latex_document
from harness.reporting.document import Block, Cell, Column, Commands, Document, Items, Table
from harness.reporting.inline import to_html, to_latex, to_plain
from harness.reporting.model import StudyReport
from harness.spec.ablation import Reference, Study
from harness.tracking.store import Store
from tests.reporting.synthetic import HOSTILE, fill, make_study


@pytest.fixture
def hostile(store: Store) -> StudyReport:
    """A study whose arm, question, reference and devices have names that every form could take for its own markup."""
    study = make_study(
        {"no_se": {"model.se": False}}, question=HOSTILE, reference=Reference(label=HOSTILE, accuracy=0.9)
    )
    fill(store, study, {"small": [0.70, 0.71], "no_se": [0.75, 0.77]}, provenance={"device_name": HOSTILE})
    arms = tuple(replace(arm, name=HOSTILE if arm.overrides else arm.name) for arm in study.arms)
    return build(replace(study, arms=arms), store)


# --- CSV ---


def rows_of(report: StudyReport) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(render(report, "csv"))))


def test_csv_has_every_number_unrounded_with_its_n(report: StudyReport) -> None:
    rows = {(row["table"], row["arm"], row["seed"], row["quantity"]): row for row in rows_of(report)}
    for arm in report.arms:
        row = rows["study", arm.name, "", "accuracy"]
        assert (float(row["value"]), int(row["n"])) == (arm.last.mean, arm.last.n)
        assert (float(row["low"]), float(row["high"])) == arm.last.interval
        if arm.difference and arm.paired and arm.difference.interval:
            row = rows["study", arm.name, "", "difference"]
            assert (float(row["value"]), float(row["low"]), int(row["n"])) == (
                arm.difference.mean, arm.difference.interval[0], arm.last.n
            )  # fmt: skip
            assert float(rows["study", arm.name, "", "p"]["value"]) == arm.difference.p
            assert float(rows["sensitivity", arm.name, "", "sign_flip_p"]["value"]) == arm.paired.sign_flip_p
    for run in report.runs:
        assert float(rows["runs", run.arm, str(run.seed), "accuracy"]["value"]) == run.last.accuracy
    # Whatever number a table shows, its row tells it; what has an n shows it.
    assert {row["table"] for row in rows.values()} == {"study", "published", "sensitivity", "checkpoints", "runs"}
    assert all(row["n"] for row in rows.values() if row["low"])


def test_csv_names_what_has_no_number(troubled_report: StudyReport) -> None:
    rows = rows_of(troubled_report)
    lost = {row["quantity"]: row["value"] for row in rows if (row["table"], row["arm"]) == ("study", "no_crop_flip")}
    assert lost["n"] == "0"
    assert "accuracy" not in lost
    assert sum(row["table"] == "not_counted" and row["quantity"] == "why" for row in rows) == 9


# --- HTML ---


class Page(HTMLParser):
    """What a browser would make of it: elements by name, attributes that would fetch something, text."""

    def __init__(self, text: str):
        super().__init__()
        self.opened: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "srcset") and not (value or "").startswith(("#", "data:")):
                self.fetched.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_one_file_with_the_same_tables_and_figures(report: StudyReport, tmp_path: Path) -> None:
    assert write(report, tmp_path / "small.html", ("html",)) == [tmp_path / "small.html"]
    text = (tmp_path / "small.html").read_text()
    page = Page(text)
    assert page.fetched == []
    assert "url(http" not in text
    assert "@import" not in text
    assert page.opened.count("svg") == page.opened.count("figure") == 2
    assert page.opened.count("script") == 1
    assert page.opened.count("tr") > 21 + 4 * 7
    assert "prefers-color-scheme: dark" in text
    # One table for the whole study, where Markdown has to break it in two.
    head = re.search(r'<table id="study">\s*<thead><tr>(.*?)</tr>', text, re.DOTALL)
    assert head
    assert re.findall(r"<th\b[^>]*>(.*?)</th>", head[1]) == [
        "arm", "n", "accuracy %", "difference", "p", "verdict", "to 93.67", "parameters", "headroom", "MACs",
        "what differs",
    ]  # fmt: skip
    assert f'data-value="{report.arms[0].last.mean!r}"' in text


def test_html_escapes_names(hostile: StudyReport) -> None:
    page = Page(render(hostile, "html"))
    assert page.opened.count("script") == 1  # the page's own
    assert not {"a", "em", "strong"} & set(page.opened) - {"em", "strong"}
    assert page.text.count("a|b*c*<script> `x` _y_ [z](q) 日本 $m$") >= 5


def test_figures_in_a_page_take_its_colours(report: StudyReport) -> None:
    text = render(report, "html")
    svg = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--ink, #111111)" in svg
    assert not re.search(r"(?<!, )#(111111|ffffff|0072b2)", svg)
    assert set(re.findall(r"var\((--\w+)", svg)) <= set(re.findall(r"(--\w+):", text))


def test_ids_of_a_page_are_unique_and_what_refers_to_them_finds_them(report: StudyReport) -> None:
    text = render(report, "html")
    ids = Page(text).ids
    assert {"study", "runs"} < set(ids)
    assert len(ids) == len(set(ids))
    referred = re.findall(r'(?:url\(|href=")#([^)"]+)', text)
    assert {name.split("-")[0] for name in referred} == {"differences", "curves"}
    assert set(referred) <= set(ids)


def test_an_arm_called_like_a_reference_keeps_its_name_in_a_figure(store: Store) -> None:
    study = make_study({"no_se": {"model.se": False}})
    fill(store, study, {"small": [0.70, 0.71]}, trainable_parameters=1_000_000)
    fill(store, study, {"no_se": [0.75, 0.77]}, trainable_parameters=2_000_000)
    arms = tuple(replace(arm, name='a id="b" url(#c)' if arm.overrides else arm.name) for arm in study.arms)
    drawn = re.findall(r"<svg.*?</svg>", render(build(replace(study, arms=arms), store), "html"), re.DOTALL)
    assert ['>a id="b" url(#c)</text>' in figure for figure in drawn] == [True] * 3


def test_tables_of_one_name_have_ids_of_their_own() -> None:
    ladder, grid = (Table(name, (Column("p", "p"),), ((Cell("1"),),)) for name in ("ladder", "grid a x b"))
    page = Page(to_html_page(Document("x", "x", (ladder, grid, ladder, ladder)), {}))
    assert page.ids == ["ladder", "grid-a-x-b", "ladder-2", "ladder-3"]


# --- LaTeX ---


@pytest.mark.parametrize(
    ("text", "latex", "html", "plain"),
    [
        ("`no_se`", r"\texttt{no\_se}", "<code>no_se</code>", "no_se"),
        (r"a\*b\* *c* **d**", r"a*b* \emph{c} \textbf{d}", "a*b* <em>c</em> <strong>d</strong>", "a*b* c d"),
        ("50 % ± 1 & #2", r"50 \% $\pm$ 1 \& \#2", "50 % ± 1 &amp; #2", "50 % ± 1 & #2"),
        (r"\<b> é 日", r"\textless{}b\textgreater{} é \letter{日}", "&lt;b&gt; é 日", "<b> é 日"),
        ("\N{MINUS SIGN}1--2", "$-$1{-}{-}2", "\N{MINUS SIGN}1--2", "\N{MINUS SIGN}1--2"),
    ],
)
def test_inline_markup(text: str, latex: str, html: str, plain: str) -> None:
    assert (to_latex(text), to_html(text), to_plain(text)) == (latex, html, plain)


def test_latex_has_booktabs_tables(report: StudyReport) -> None:
    text = render(report, "tex")
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 6
    assert r"\texttt{no\_crop\_flip} & 3 & " in text
    assert r"\includegraphics[width=\linewidth]{figures/small-curves.png}" in text
    body = text.split(r"\begin{document}")[1].split(r"\begin{verbatim}")[0]
    assert not re.search(r"(?<!\\)[%#](?! /?pictures)", body)


def latex_of(*blocks: Block) -> list[str]:
    text = to_latex_document(Document("x", "x", blocks))
    return text.split(r"\section*{x}")[1].split(r"\end{document}")[0].split("\n")


def test_latex_takes_no_cell_and_no_item_for_a_commands_argument() -> None:
    columns = (Column("row", "row"), Column("p", "p"))
    rows = tuple((Cell(first), Cell("[1]")) for first in ("a", "[2]", r"\*", "`[3]`"))
    lines = latex_of(Table("x", columns, rows), Items(("[4]", "b")))
    assert [line for line in lines if line.endswith(r"& [1] \\")] == [
        r"a & [1] \\", r"{}[2] & [1] \\", r"{}* & [1] \\", r"\texttt{[3]} & [1] \\",
    ]  # fmt: skip
    assert [line for line in lines if line.startswith(r"\item")] == [r"\item {}[4]", r"\item b"]


def test_latex_shows_commands_as_they_are_where_the_font_has_their_letters() -> None:
    assert latex_of(Commands(("a --b _c", "* d")))[2:-2] == [r"\begin{verbatim}", "a --b _c", "* d", r"\end{verbatim}"]
    for odd, shown in (("日", r"\letter{日}"), (r"\end{verbatim}", r"\textbackslash{}end\{verbatim\}")):
        assert latex_of(Commands((f"a --b='{odd}\nc'", "* d")))[2:-2] == [
            r"\begin{quote}\ttfamily\raggedright",
            rf"a\ {{-}}{{-}}b=\textquotesingle{{}}{shown} \\", r"c\textquotesingle{} \\", r"{}*\ d",
            r"\end{quote}",
        ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("which", ["report", "troubled_report", "hostile"])
def test_latex_compiles(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    engines = [engine for engine in ("pdflatex", "lualatex", "xelatex") if shutil.which(engine)]
    if not engines:
        pytest.skip("there is no TeX (pdflatex, lualatex or xelatex)")
    write(request.getfixturevalue(which), tmp_path / "x.tex", ("tex",))
    command = [engines[0], "-interaction=nonstopmode", "-halt-on-error", "x.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / "x.pdf").stat().st_size > 10_000


# --- tables ---


def test_a_wide_table_is_broken_after_its_main_columns() -> None:
    columns = (Column("arm", "arm"), Column("macs", "MACs", detail=True), Column("p", "p"))
    main, details = Table("x", columns, ((Cell("a"), Cell("1"), Cell("2")),)).parts()
    assert [[column.key for column in part.columns] for part in (main, details)] == [["arm", "p"], ["arm", "macs"]]
    assert [[cell.text for cell in part.rows[0]] for part in (main, details)] == [["a", "2"], ["a", "1"]]


def test_every_table_fits_its_columns(troubled: tuple[Study, Store]) -> None:
    from harness.reporting.contents import document_of

    for table in document_of(build(*troubled)).tables:
        assert all(len(row) == len(table.columns) for row in table.rows)
