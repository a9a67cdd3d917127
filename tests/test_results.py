"""The committed results: the index is what the evidence gives, and the README repeats its report."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.reporting import words
from tests.results import document

ROOT = Path(__file__).parent.parent
REPORTS = ROOT / "reports"


def first_table(text: str) -> list[str]:
    """The lines of the first Markdown table in `text`."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| "))
    end = next(number for number in range(start, len(lines)) if not lines[number].startswith("|"))
    return lines[start:end]


def test_the_index_is_what_the_evidence_gives() -> None:
    assert (REPORTS / "README.md").read_text() == document.markdown(), "python -m tests.results"


@pytest.mark.parametrize("study", document.evidenced())
def test_each_study_with_evidence_has_its_report_and_full_arms(study: str) -> None:
    assert (REPORTS / f"{study}.md").exists()
    report = document.report_of(study)
    assert all(arm.last.n == len(report.seeds) for arm in report.arms)


def test_the_first_table_of_the_readme_is_its_reports() -> None:
    readme = (ROOT / "README.md").read_text()
    named = re.search(r"\[reports/(\w+)\.md\]", readme)
    assert named
    assert named[1] in document.evidenced()
    assert first_table(readme) == first_table((REPORTS / f"{named[1]}.md").read_text())


def test_the_reproduction_that_the_readme_tells_is_its_reports() -> None:
    base = document.report_of("reproduction").base
    assert base.last.mean
    assert base.best.mean
    told = f"{100 * base.last.mean:.2f} % test accuracy", f"{100 * base.best.mean:.2f} % at the"
    assert [words for words in told if words not in (ROOT / "README.md").read_text()] == []


def test_what_the_search_found_is_told_as_its_report_has_it() -> None:
    arms = {arm.name: arm for arm in document.report_of("small_best").arms}
    found, before = arms["small_best"].last, arms["none_of_them"].last
    assert found.mean
    assert before.mean
    told = f"**{100 * before.mean:.2f} % became {100 * found.mean:.2f} %** (n = {found.n} each)"
    assert told in (ROOT / "README.md").read_text()
    parts = [arm.difference for name, arm in arms.items() if name not in ("small_best", "none_of_them")]
    assert [part.verdict for part in parts if part] == ["hurts"] * 3


def test_what_is_left_of_it_at_18_epochs_is_told_as_its_report_has_it() -> None:
    report = document.report_of("small_best_longer")
    assert report.base.last.mean
    readme = " ".join((ROOT / "README.md").read_text().split())
    told = f"at 18 epochs, where the network ends at **{100 * report.base.last.mean:.2f} %** (n = {report.base.last.n})"
    assert told in readme
    parts = [arm.difference for arm in report.arms[1:]]
    assert [(part.verdict, part.welch_differs) for part in parts if part] == [("hurts", False)] * 3
    assert sorted(round(-100 * part.mean) for part in parts if part and part.mean) == [1, 1, 2]
    assert "for one to two points" in readme


def test_what_three_times_the_training_changes_is_told_as_its_report_has_it() -> None:
    arms = {arm.name: arm.difference for arm in document.report_of("small_longer").arms[1:]}
    points = {name: round(100 * found.mean) for name, found in arms.items() if found and found.mean}
    told = "at 18 epochs the clip costs {no_clip} points, Lookahead {no_lookahead} and the crop {no_crop}"
    assert told.format(**points) in " ".join((ROOT / "README.md").read_text().split())
    assert [found.verdict for found in arms.values() if found] == ["helps"] * 3


def test_what_is_left_without_the_clip_is_told_as_its_report_has_it() -> None:
    arms = {arm.name: arm.difference for arm in document.report_of("small_unclipped").arms[1:]}
    points = {name: 100 * found.mean for name, found in arms.items() if found and found.mean}
    told = "Lookahead costs {no_lookahead:.1f} points at 18 epochs, CutMix {no_cutmix:.1f}, and of SE no difference"
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert told.format(**points) in readme
    se = arms["no_se"]
    assert se
    assert f"no difference is found, {words.with_half(words.points(se.mean), se.interval)} without it" in readme
    verdicts = {name: (found.verdict, found.welch_differs) for name, found in arms.items() if found}
    assert verdicts == {
        "no_se": ("inconclusive", False),
        "no_lookahead": ("helps", True),
        "no_cutmix": ("helps", False),
    }


def test_each_link_of_the_index_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (REPORTS / "README.md").read_text())
    assert links
    assert [link for link in links if not (REPORTS / link).exists()] == []


def test_what_the_readme_says_of_a_teacher_is_in_the_reports() -> None:
    studies = ("small_distillation", "small_best_taught")
    plain, tuned = (document.report_of(name).arms[-1].difference for name in studies)
    assert plain
    assert plain.mean
    assert tuned
    assert round(100 * plain.mean) == 4
    assert (plain.verdict, tuned.verdict) == ("helps", "inconclusive")
    assert "advice brings the plain recipe four points" in " ".join((ROOT / "README.md").read_text().split())
