"""The report as text and files: what stands in it, that names do no harm, that the same records give the same bytes."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from harness.errors import InputError
from harness.reporting import build, build_runs, check, figures, not_compared, render, to_json, words, write
from harness.reporting.contents import document_of
from harness.reporting.figures.canvas import apart, short, told_apart
from harness.reporting.inline import to_plain
from harness.reporting.model import StudyReport
from harness.reporting.output import RENDERERS
from harness.spec.ablation import Reference, Study
from harness.tracking.store import Store
from tests.reporting.synthetic import HOSTILE, fill, make_record, make_study

# --- markdown ---


def test_the_first_paragraph_answers(report: StudyReport) -> None:
    text = render(report, "md")
    answer = " ".join(text.split("## Result")[0].split())
    assert "> Which part of the recipe earns its place?" in answer
    assert "At 10 epochs on CIFAR-10, `small` (the base) reaches 70.96 % test accuracy after the last epoch" in answer
    assert "Worse than the base: `no_crop_flip` (\N{MINUS SIGN}4.46 points, " in answer
    assert "Better than the base: `no_cutmix` (+2.47 points, +1.83 to +3.12)" in answer
    assert "an arm must differ by 0.84 points to be found four times in five" in answer
    assert "the base stands 22.61 points below it" in answer


def test_the_table_has_the_numbers_of_the_model(report: StudyReport) -> None:
    text = render(report, "md")
    row = next(line for line in text.splitlines() if line.startswith("| `no_crop_flip`"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    arm = next(arm for arm in report.arms if arm.name == "no_crop_flip")
    assert arm.difference is not None
    assert cells == [
        "`no_crop_flip`", "3", words.accuracy(arm.last),
        words.with_half(words.points(arm.difference.mean), arm.difference.interval), "<0.001", "hurts",
        words.points(arm.reference_difference),
    ]  # fmt: skip
    assert "† Welch with Holm, which does not assume equal spreads, would say: `no_clip`: inconclusive." in text


def test_paper_says_what_was_selected_on_the_test_set(report: StudyReport) -> None:
    text = " ".join(render(report, "md").split())
    assert "**It is selected on the test set**" in text
    assert "The test set was read 42 times over 21 recorded runs." in text
    assert "harness ablate ablations/small.yaml" in text


def test_holdout_says_that_the_test_set_was_left_alone(store: Store) -> None:
    study = make_study({}, base={"data.protocol": "holdout"})
    fill(store, study, {"small": [0.70, 0.71, 0.72]})
    text = " ".join(render(build(study, store), "md").split())
    assert "71.00 % validation accuracy after the last epoch" in text
    assert "The test set was read 0 times over 3 recorded runs." in text
    assert "selected on the test set**" not in text
    assert "that is not like with like" in text


def test_troubles_are_told(troubled_report: StudyReport) -> None:
    text = render(troubled_report, "md")
    flat = " ".join(text.split())
    assert "Of 21 planned runs 9 do not count: 4 diverged, 3 missing, 1 running and 1 stopped early" in flat
    assert "`no_crop_flip`: the arm has no full-length run: 3 diverged." in flat
    assert "‡ `no_cutmix`: git commit ffffffffff (usual: 0123456789)." in flat
    assert "| 2 of 3 |" in text
    assert "stopped early at epoch 4 of 10" in text
    assert r"loss is nan \| in x.py on … at step 3" in text
    assert "completed ‡ precision, device" in text
    assert "Git commit: 0123456789 (15 runs), ffffffffff (3 runs)." in flat


def test_an_arm_without_an_interval_is_not_called_inconclusive(troubled_report: StudyReport) -> None:
    """More seeds make "inconclusive" conclusive; an arm whose runs all diverged they do not."""
    text = render(troubled_report, "md")
    result = text.split("## Result")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in result.splitlines() if "|" in line]
    shown = {row[0].split("`")[1]: row[5] for row in rows[2:9]}
    assert shown == {
        "small": "", "no_se": "inconclusive", "no_cutmix": "helps", "no_lookahead": "inconclusive",
        "no_clip": words.NONE, "no_crop_flip": "3 diverged", "constant_lr": "3 missing",
    }  # fmt: skip
    answer = " ".join(text.split("## Result")[0].split())
    unclear, _, unjudged = answer.split("Inconclusive: ")[1].partition("No verdict: ")
    assert "`no_se`" in unclear
    assert "`no_crop_flip`" not in unclear
    assert unjudged.startswith(
        "`no_clip` (the arm has n = 1: no interval), `no_crop_flip` (the arm has no full-length run: 3 diverged) and "
    )


def test_welch_says_nothing_of_runs_that_are_all_equal(store: Store) -> None:
    """The verdict's spread is pooled over all arms; Welch has that of these two alone, and they have none."""
    study = make_study({"no_se": {"model.se": False}, "no_flip": {"augment.flip": False}})
    fill(store, study, {"small": [0.70] * 3, "no_se": [0.75] * 3, "no_flip": [0.70, 0.71, 0.72]})
    text = render(build(study, store), "md")
    assert "would say: `no_se`: nothing, for its runs are all equal and so are the base's." in " ".join(text.split())
    sensitivity = text.split("## Sensitivity")[1].splitlines()
    (row,) = [line for line in sensitivity if line.startswith("| `no_se`") and "±" not in line][:1]
    assert row.split("|")[-2].strip() == words.NONE


def test_it_reads_in_a_terminal(report: StudyReport, troubled_report: StudyReport) -> None:
    for text in (render(report, "md"), render(troubled_report, "md")):
        # What differs between arms and the devices' names take the room they take.
        prose = [line for line in text.splitlines() if not line.startswith(("| `no_crop_flip` |", "!["))]
        wide = [line for line in prose if len(line) > 100 and "model." not in line]
        assert len([line for line in wide if not line.startswith("|")]) == 0
        tables = [line for line in text.split("## Runs")[0].splitlines() if line.startswith("| `small`")]
        assert all(len(line) <= 105 for line in tables)
        for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            assert len({len(line) for line in block.splitlines()}) == 1


def test_names_do_no_harm(store: Store) -> None:
    reference = Reference(label=HOSTILE, accuracy=0.9)
    study = make_study({"no_se": {"model.se": False}}, question=HOSTILE, reference=reference)
    renamed = Study(
        study.name, study.question,
        tuple(type(arm)(HOSTILE if arm.overrides else arm.name, arm.overrides, arm.spec) for arm in study.arms),
        study.seeds, study.margin, study.reference, study.path,
    )  # fmt: skip
    for arm in renamed.arms:
        for seed in renamed.seeds:
            changes: dict[str, Any] = {"provenance": {"device_name": HOSTILE}}
            fill_one(store, study, arm, seed, changes)
    # The markdown parser that rich brings: no markup comes of the names, and they come through whole.
    tokens = MarkdownIt("commonmark").enable("table").parse(render(build(renamed, store), "md"))
    inline = [child for token in tokens for child in token.children or ()]
    assert not {child.type for child in inline} & {"html_inline", "link_open"}
    assert not [token for token in tokens if token.type == "html_block"]
    name = " ".join(HOSTILE.split())
    assert sum(child.type == "code_inline" and child.content == name for child in inline) >= 7
    texts = ["".join(child.content for child in token.children or () if child.type == "text") for token in tokens]
    assert sum(name in text.replace("\n", " ") for text in texts) >= 6 + 2  # the devices of six runs, question, label
    rows = [token.type for token in tokens if token.type in ("tr_open", "th_open", "td_open")]
    assert rows.count("tr_open") >= 5 * 3
    json.loads(render(build(renamed, store), "json"))
    shown = [figure.kind for figure in document_of(build(renamed, store)).figures]
    assert shown == ["differences"]
    for kind in shown:
        assert figures.png(build(renamed, store), kind)


def fill_one(store: Store, study: Study, arm: Any, seed: int, changes: dict[str, Any]) -> None:
    record = make_record(study, arm, seed, 0.7 + 0.01 * seed + 0.1 * bool(arm.overrides), **changes)
    store.folder(record.name, record.run_id).write_record(record)


@pytest.mark.parametrize("arms", [{}, {"no_se": {"model.se": False}}])
@pytest.mark.parametrize("n", [0, 1, 2])
def test_small_studies_render_in_every_form(store: Store, tmp_path: Path, arms: dict[str, Any], n: int) -> None:
    study = make_study(arms, margin=None, reference=None, question=None)
    fill(store, study, {"small": [0.7, 0.71][:n], "no_se": [0.75, 0.75][:n]})
    report = build(study, store)
    texts = [path.read_text() for path in write(report, tmp_path / "x.md", ("md", "json")) if path.suffix != ".png"]
    assert "nan" not in "".join(texts).lower()
    assert "None" not in texts[0]
    assert ("no interval" in texts[0]) == (n == 1)
    assert ("no full-length run" in texts[0]) == (n == 0)


def test_plain_runs(seven: tuple[Study, Store]) -> None:
    text = render(build_runs(seven[1].records()), "md")
    assert text.startswith("# Runs\n\n## Study small\n")
    assert text.count("| completed |") == 21
    assert render(build_runs([]), "md") == "# Runs\n\nThere are no runs yet.\n"


# --- words ---


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (words.points(0.0035), "+0.35"),
        (words.points(-0.012), "\N{MINUS SIGN}1.20"),
        (words.points(-0.00001), "0.00"),
        (words.points(None), "\N{EN DASH}"),
        (words.percent(0.9367), "93.67"),
        (words.percent(-0.00001), "0.00"),
        (words.percent_interval((-0.0785, 0.12)), "\N{MINUS SIGN}7.85 to 12.00"),
        (words.p_value(0.0004), "<0.001"),
        (words.p_value(0.0496), "0.0496"),
        (words.p_value(0.04996), "0.04996"),
        (words.p_value(0.049999), "0.049999"),
        (words.p_value(0.05004), "0.05004"),
        (words.p_value(0.050000004), "0.050000004"),
        (words.p_value(0.05), "0.050"),
        (words.p_value(0.123456), "0.123"),
        (words.duration(12.34), "12.3 s"),
        (words.duration(59.97), "1 min 00 s"),
        (words.duration(3599.6), "1 h 00 min"),
        (words.override("model.se", False), "model.se=false"),
        (words.override("model.depths", (4, 4, 3)), "model.depths=[4, 4, 3]"),
        (words.code("a`b"), "``a`b``"),
        (words.escape("no_se 1<2 *x* _y_"), r"no_se 1\<2 \*x\* \_y\_"),
        (words.listed(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_words(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize("text", ["SGD.__init__() got lr", "__main__", "_x_ __y__", "a__b", "no_se", "a_#b", "_"])
def test_an_underscore_is_no_markup_wherever_it_stands(text: str) -> None:
    (inline,) = MarkdownIt("commonmark").parseInline(words.escape(text))
    children = inline.children or []
    assert {child.type for child in children} <= {"text", "text_special"}
    assert "".join(child.content for child in children) == text
    assert to_plain(words.escape(text)) == text
    assert words.escape("no_se of SGD") == "no_se of SGD"


def test_tables_are_padded_and_set_to_their_side() -> None:
    rows = [["日本", "1", "x|y"], ["abcdef", "1,234", ""]]
    assert words.table(["name", "n", "note"], rows, " r") == [
        "| name   |     n | note |",
        "| ------ | ----: | ---- |",
        "| 日本   |     1 | x\\|y |",
        "| abcdef | 1,234 |      |",
    ]


def test_no_wrapped_line_becomes_a_list() -> None:
    text = " ".join(f"{number}. - # > + *" for number in range(200))
    assert not [line for line in words.paragraph(text)[1:] if re.match(r"(\d+[.)]|[-+*#>])(\s|$)", line)]
    assert " ".join(words.paragraph(text)) == text.replace("0.", "0\\.", 1)


@pytest.mark.parametrize("marker", ["1.", "12)", "-", "+", "*", "#", "###", ">", "---", "==="])
def test_a_first_word_begins_no_block_of_its_own(marker: str) -> None:
    text = f"{marker} Does it"
    tokens = MarkdownIt("commonmark").parse("\n".join(words.paragraph(text)))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert "".join(child.content for child in tokens[1].children or ()) == text


def test_a_number_with_a_dot_in_it_stays_as_it_is() -> None:
    assert words.paragraph("1.5 times, **2.** and 3.") == ["1.5 times, **2.** and 3."]


# --- JSON ---


def test_json_has_the_keys_that_scripts_rely_on(report: StudyReport) -> None:
    document = json.loads(render(report, "json"))
    assert {"study", "metric", "reference", "arms"} <= set(document)
    assert (document["study"], document["metric"]) == ("small", "test_accuracy")
    assert document["reference"]["accuracy"] == 0.9367
    base, arm = document["arms"][0], document["arms"][2]
    assert {"name", "n", "mean", "sd", "interval", "reference_difference", "difference"} <= set(base)
    assert base["difference"] is None
    assert {"mean", "interval", "p", "verdict", "paired"} <= set(arm["difference"])
    assert {"mean", "interval", "t_p", "sign_flip_p", "correlation"} <= set(arm["difference"]["paired"])
    assert arm["mean"] == report.arms[2].last.mean  # unrounded
    assert arm["interval"] == list(report.arms[2].last.interval or ())
    assert len(document["runs"]) == 21
    assert to_json(report) == document


def test_no_format_but_those_there_are(report: StudyReport) -> None:
    with pytest.raises(InputError, match="pdf"):
        render(report, "pdf")


# --- files ---


def test_same_records_same_bytes_wherever_they_lie(seven: tuple[Study, Store], tmp_path: Path) -> None:
    study, store = seven
    moved = tmp_path / "elsewhere" / "runs"
    moved.parent.mkdir()
    os.symlink(store.root, moved)
    first = write(build(study, store), tmp_path / "a" / "small.md", ("md", "json"))
    second = write(build(study, Store(moved)), tmp_path / "b" / "c" / "small.md", ("md", "json"))
    assert [path.relative_to(tmp_path / "a").as_posix() for path in first] == [
        "small.md", "small.json", *(f"figures/small-{kind}.png" for kind in ("differences", "curves"))
    ]  # fmt: skip
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    for link in re.findall(r"\]\((.*?\.png)\)", first[0].read_text()):
        assert (first[0].parent / link).exists()


def test_formats_go_to_their_suffixes(report: StudyReport, tmp_path: Path) -> None:
    assert write(report, tmp_path / "v1.2", ("json",)) == [tmp_path / "v1.2.json"]
    assert write(report, tmp_path / "out.md", ("json",)) == [tmp_path / "out.json"]


def test_check_finds_a_changed_number(report: StudyReport, tmp_path: Path) -> None:
    for path in write(report, tmp_path / "small.md", tuple(RENDERERS)):
        if path.suffix != ".png":
            assert check(report, path) is None
    path = tmp_path / "small.md"
    path.write_text(path.read_text().replace("70.96 ±", "79.96 ±"))
    diff = check(report, path)
    assert diff is not None
    assert re.search(r"^-.*79\.96 ±", diff, re.MULTILINE)
    assert re.search(r"^\+.*70\.96 ±", diff, re.MULTILINE)
    path.write_text(render(report, "md").rstrip("\n"))
    assert check(report, path)
    assert "+# small" in (check(report, tmp_path / "not-there.md") or "")


def test_check_compares_figures_and_leaves_pictures_out(report: StudyReport, tmp_path: Path) -> None:
    write(report, tmp_path / "small.md", ("md", "html"))
    figure = tmp_path / "figures" / "small-curves.png"
    image = figure.read_bytes()
    figure.write_bytes(image[:-20] + b"x" * 20)
    assert check(report, tmp_path / "small.md") == f"{figure} is not the figure that the records give"
    other = PngInfo()
    other.add_text("Software", "matplotlib 3.1.0")
    Image.new("RGB", (2, 2)).save(figure, pnginfo=other)
    assert check(report, tmp_path / "small.md") is None  # another version draws other bytes
    figure.unlink()
    assert check(report, tmp_path / "small.md")
    page = tmp_path / "small.html"
    text = page.read_text()
    page.write_text(text.replace("</svg>", "<g/></svg>", 1))
    assert check(report, page)
    page.write_text(text.replace("</svg>", "<g/></svg>", 1).replace(figures.drawn_with(), "matplotlib 3.1.0"))
    assert check(report, page) is None
    page.write_text(page.read_text().replace("70.96 ±", "79.96 ±"))
    assert check(report, page)


def test_check_takes_no_words_for_pictures(report: StudyReport, tmp_path: Path) -> None:
    """What stands between their lines is a picture's own line, or it differs."""
    path = tmp_path / "small.md"
    write(report, path)
    claim = "<!-- pictures -->\n**no_se is proven to be worse.**\n<!-- /pictures -->\n\n## Result"
    path.write_text(path.read_text().replace("## Result", claim, 1))
    assert "proven" in (check(report, path) or "")


def test_check_takes_line_endings_as_they_are(report: StudyReport, tmp_path: Path) -> None:
    path = tmp_path / "small.md"
    write(report, path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert check(report, path)


def test_what_no_matplotlib_has_drawn_is_compared(report: StudyReport, tmp_path: Path) -> None:
    write(report, tmp_path / "small.md", ("md", "html"))
    figure, page = tmp_path / "figures" / "small-curves.png", tmp_path / "small.html"
    other = PngInfo()
    other.add_text("Software", "GIMP 2.10")
    Image.new("RGB", (2, 2)).save(figure, pnginfo=other)
    assert check(report, tmp_path / "small.md") == f"{figure} is not the figure that the records give"
    text = page.read_text()
    head, body = text.split("</head>")
    for name in ("GIMP 2.10", "matplotlib"):
        page.write_text(text.replace("</svg>", "<g/></svg>", 1).replace(figures.drawn_with(), name))
        assert check(report, page)
    claim = '</h1><meta name="generator" content="matplotlib 3.1.0"><h2>no_se is harmful</h2>'
    page.write_text(f"{head}</head>{body.replace('</h1>', claim, 1)}")
    assert check(report, page)
    page.write_text(f"{head.replace(figures.drawn_with(), 'matplotlib 3.1.0')}</head>{body.replace('</h1>', claim, 1)}")
    assert check(report, page)


def test_what_was_not_compared_is_known(report: StudyReport, tmp_path: Path) -> None:
    write(report, tmp_path / "small.md", ("md", "html", "csv"))
    files = [tmp_path / f"small.{format}" for format in ("md", "html", "csv")]
    assert [not_compared(report, path) for path in files] == [[], [], []]
    figure, page = tmp_path / "figures" / "small-curves.png", files[1]
    other = PngInfo()
    other.add_text("Software", "matplotlib 3.1.0")
    Image.new("RGB", (2, 2)).save(figure, pnginfo=other)
    page.write_text(page.read_text().replace(figures.drawn_with(), "matplotlib 3.1.0"))
    assert [not_compared(report, path) for path in files] == [[figure], [page], []]


def test_two_reports_in_one_folder_have_their_own_figures(report: StudyReport, tmp_path: Path) -> None:
    first, second = (write(report, tmp_path / f"{name}.md") for name in ("small", "other"))
    assert not set(first) & set(second)
    assert "(figures/other-curves.png)" in (tmp_path / "other.md").read_text()
    assert check(report, tmp_path / "other.md") is None


@pytest.mark.parametrize("name", ["my report (2).md", "50% #1.md", "große Studie.md"])
def test_figures_are_found_whatever_the_report_is_called(report: StudyReport, tmp_path: Path, name: str) -> None:
    written = write(report, tmp_path / name)
    tokens = MarkdownIt("commonmark").parse(written[0].read_text(encoding="utf-8"))
    images = [child for token in tokens for child in token.children or () if child.type == "image"]
    assert {tmp_path / unquote(str(image.attrs["src"])) for image in images} == set(written[1:])
    assert check(report, tmp_path / name) is None


def test_figures_that_latex_could_not_read_are_told_and_nothing_is_written(report: StudyReport, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^50% #1: LaTeX reads no figures from files with # % in their names"):
        write(report, tmp_path / "50% #1.md", ["md", "tex"])
    assert not list(tmp_path.iterdir())
    assert write(report, tmp_path / "große Studie (2) & more_.tex")


def test_a_folder_is_no_report(report: StudyReport, tmp_path: Path) -> None:
    for folder in (Path("."), tmp_path):
        with pytest.raises(InputError, match="this is a folder"):
            write(report, folder)


def test_the_mean_of_several_further_runs_is_called_that(seven: tuple[Study, Store]) -> None:
    study, store = seven
    assert study.reference
    for runs, words_ in ((1, "a further run"), (4, "the mean of 4 further runs")):
        reference = study.reference.model_copy(update={"runs": runs})
        text = " ".join(render(build(replace(study, reference=reference), store), "md").split())
        assert f"outside what {words_} of the base would give" in text
        assert f"| {words_} |" in text
        assert f"95 % prediction interval of {words_} of the arm" in text


def test_power_is_told_of_the_runs_that_were_planned(troubled_report: StudyReport, report: StudyReport) -> None:
    """With fewer than these it is less than the sentence says."""
    assert "even with all 3 seeds and the spread" in " ".join(render(troubled_report, "md").split())
    assert "not equal: with 3 seeds and the spread" in " ".join(render(report, "md").split())


# --- figures ---


def test_figures_need_something_to_show(store: Store) -> None:
    study = make_study({"no_se": {"model.se": False}}, seeds=(0,))
    report = build(study, store)
    assert not any(kind.shows(report) for kind in figures.KINDS.values())
    assert ".png" not in render(report, "md")


@pytest.mark.parametrize(("parameters", "shown"), [(1_015_000, False), (1_025_000, True)])
def test_parameters_are_drawn_where_they_tell_arms_apart(store: Store, parameters: int, shown: bool) -> None:
    study = make_study({"no_se": {"model.se": False}})
    fill(store, study, {"small": [0.7, 0.71, 0.72]}, trainable_parameters=1_000_000)
    fill(store, study, {"no_se": [0.6, 0.61, 0.62]}, trainable_parameters=parameters)
    assert figures.KINDS["parameters"].shows(build(study, store)) == shown


@pytest.mark.parametrize(("accuracies", "beyond"), [([0.98, 1.0, 1.0], True), ([0.48, 0.5, 0.5], False)])
def test_no_axis_of_accuracies_goes_far_beyond_100(store: Store, accuracies: list[float], beyond: bool) -> None:
    study = make_study({"no_flip": {"augment.flip": False}})
    fill(store, study, {"small": accuracies})
    fill(store, study, {"no_flip": accuracies}, trainable_parameters=40_000)
    report = build(study, store)
    assert report.base.last.interval
    assert (report.base.last.interval[1] > 1) == beyond
    drawn = Figure()
    figures.KINDS["parameters"].draw(report, drawn)
    low, high = drawn.axes[0].get_ylim()
    if beyond:
        assert 100 < high < 100.3
    else:
        assert low < 100 * report.base.last.interval[0] < 100 * report.base.last.interval[1] < high


def test_figures_carry_no_date(report: StudyReport) -> None:
    for kind in ("curves", "differences", "parameters"):
        image = figures.png(report, kind)
        assert image.startswith(b"\x89PNG")
        assert image.count(b"tEXt") == image.count(b"tEXtSoftware\0matplotlib ") == 1
        assert b"tIME" not in image


def test_labels_are_moved_apart_and_stay_in_order() -> None:
    places = apart([0.5, 0.5, 0.51, 0.9, 1.0])
    assert places == sorted(places)
    assert min(high - low for low, high in itertools.pairwise(places)) >= 0.0679
    assert places[-1] <= 1.0
    assert apart([0.2]) == pytest.approx([0.2])
    assert apart([]) == []


def test_of_a_long_name_both_ends_remain() -> None:
    assert short("dropout0.08-label_smoothing0.1") == "dropout0.08-…moothing0.1"
    assert [len(short("x" * 40, limit)) for limit in (12, 13, 24, 32)] == [12, 13, 24, 32]
    assert short("x" * 24) == "x" * 24


def test_names_that_would_read_the_same_are_numbered() -> None:
    assert told_apart(["a", "b", "a"]) == {"a": "a", "b": "b"}
    assert told_apart([f"begins-alike-{i}-and-ends-alike" for i in range(2)], 11) == {
        "begins-alike-0-and-ends-alike": "begin…alike (1)",
        "begins-alike-1-and-ends-alike": "begin…alike (2)",
    }


@pytest.mark.parametrize("arms", ["dropout0.08-label_smoothing0.{}", "weight_decay_{}_with_everything_else_alike"])
def test_every_arm_of_a_figure_has_a_name_of_its_own(store: Store, arms: str) -> None:
    study = make_study({arms.format(i): {"model.dropout": 0.1 * i, "model.width": 16 + i} for i in (1, 2)})
    fill(store, study, {arm.name: [0.5 + 0.01 * i, 0.51 + 0.01 * i] for i, arm in enumerate(study.arms)})
    report = build(study, store)
    for kind in ("differences", "parameters", "curves"):
        names = re.findall(r">((?:dropout|weight)[^<]*)</text>", figures.svg(report, kind))
        assert len(set(names)) == 2


def test_many_arms_under_every_protocol(store: Store) -> None:
    arms = {f"lr{i}": {"optim.optimizer.lr": 0.01 * i} for i in range(1, 13) if i != 10}
    for protocol in ("full", "holdout"):
        study = make_study(arms, base={"data.protocol": protocol, "train.epochs": 1}, seeds=(0, 1))
        fill(store, study, {arm.name: [0.5 + 0.01 * i, 0.51 + 0.01 * i] for i, arm in enumerate(study.arms)})
        report = build(study, store)
        assert figures.png(report, "curves")
        assert figures.png(report, "differences")


# --- imports ---


def test_help_stays_fast_and_reports_need_no_torch(seven: tuple[Study, Store]) -> None:
    code = (
        "import sys, harness.reporting, harness.reporting.runs\n"
        "slow = {'scipy', 'pandas', 'matplotlib', 'numpy', 'torch', 'statsmodels'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)\n"
        "from pathlib import Path\n"
        "from harness.reporting import build, render\n"
        "from harness.tracking.store import Store\n"
        "from tests.reporting.synthetic import make_study\n"
        "render(build(make_study(), Store(Path(sys.argv[1]))), 'md')\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(seven[1].root)], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
