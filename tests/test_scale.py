"""Each thing is done once, however many arms, seeds and runs there are; how long it takes is no test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import reporting
from harness.spec import identity, yaml_tree
from harness.spec.ablation import Study, load_study
from harness.study.plan import make_plan
from harness.tracking.claim import acquire
from harness.tracking.journal import Journal
from harness.tracking.store import RunFolder, Store
from tests.conftest import TINY, Harness
from tests.reporting.synthetic import fill, make_study

Counted = Callable[[Any, str], Counter[str]]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """`counted(owner, "name")` counts the calls of that function by their first argument, from now on."""

    def count(owner: Any, name: str) -> Counter[str]:
        calls: Counter[str] = Counter()
        original = getattr(owner, name)

        def counting(first: Any, *arguments: Any, **options: Any) -> Any:
            calls[str(getattr(first, "path", first))] += 1
            return original(first, *arguments, **options)

        monkeypatch.setattr(owner, name, counting)
        return calls

    return count


def wide_study(folder: Path, learning: str = "") -> Study:
    """Twelve arms over three networks, three seeds; each arm learns from `learning` where that is given."""
    (folder / "tiny.yaml").write_text(TINY)
    taught = f", loss.distill.teacher: {learning}, loss.distill.temperature: {{rate}}.0" if learning else ""
    arms = [
        f"  w{width}_lr{rate}: {{model.width: {width}, optim.optimizer.lr: 0.{rate}{taught.format(rate=rate)}}}"
        for width in (5, 6, 7)
        for rate in (2, 3, 4, 5)
    ]
    (folder / "wide.yaml").write_text("\n".join(["name: wide", "base: tiny.yaml", "seeds: 3", "arms:", *arms]) + "\n")
    return load_study(folder / "wide.yaml")


def test_a_plan_counts_each_network_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.training import guard

    networks: list[Any] = []

    class Counting(guard.ResNet):
        def __init__(self, model: Any, *sizes: int):
            networks.append(model)
            super().__init__(model, *sizes)

    guard._count.cache_clear()
    monkeypatch.setattr(guard, "ResNet", Counting)
    plan = make_plan(wide_study(folder), Store(folder / "runs"))
    assert len(plan.arms) == 13
    assert sorted(network.width for network in networks) == [4, 5, 6, 7]


def test_a_plan_digests_each_arm_once_and_lists_the_runs_once(folder: Path, counted: Counted) -> None:
    study = wide_study(folder)
    digests, scans = counted(identity, "spec_digest"), counted(Store, "_folders")
    claims = counted(RunFolder, "is_claimed")
    plan = make_plan(study, Store(folder / "runs"))
    assert len(plan.runs) == 39
    assert digests.total() == 13
    assert scans.total() == 1
    assert claims.total() == 0  # nobody has a claim


def test_a_plan_looks_only_at_claims_that_are_there(folder: Path, counted: Counted) -> None:
    study, store = wide_study(folder), Store(folder / "runs")
    running = make_plan(study, store).runs[4]
    assert running.folder
    claims = counted(RunFolder, "is_claimed")
    with acquire(running.folder.claim_path):
        plan = make_plan(study, store)
    assert [run.run_id for run in plan.runs if run.state == "running"] == [running.run_id]
    assert claims.total() == 1


def test_a_teacher_of_all_arms_is_read_a_bounded_number_of_times(folder: Path, counted: Counted) -> None:
    (folder / "teacher.yaml").write_text(TINY.replace("name: tiny", "name: teacher").replace("width: 4", "width: 8"))
    study = wide_study(folder, "teacher.yaml")
    reads = counted(yaml_tree, "_read_text")
    plan = make_plan(study, Store(folder / "runs"))
    assert [teacher.spec.name for teacher in plan.teachers] == ["teacher"]
    assert [arm.teacher_macs > 0 for arm in plan.arms] == [False] + 12 * [True]
    assert reads == {str(folder / "teacher.yaml"): 3}  # its digest, its cost, what it learns from


def test_check_reads_each_file_once(harness: Harness, folder: Path, counted: Counted) -> None:
    wide_study(folder)
    reads = counted(yaml_tree, "_read_text")
    assert harness("check", "wide.yaml", "--json").code == 0
    assert reads == {"wide.yaml": 1, "tiny.yaml": 1}


def test_a_report_reads_each_record_and_each_journal_once(tmp_path: Path, counted: Counted) -> None:
    study, store = make_study(), Store(tmp_path / "runs")
    fill(store, study, {arm.name: [0.91, 0.92, 0.93] for arm in study.arms})
    records = counted(RunFolder, "read_record")
    journals = counted(Journal, "rows")
    reporting.build(study, store)
    assert len(records) == len(journals) == 21
    assert set(records.values()) == set(journals.values()) == {1}


def test_a_report_of_named_runs_reads_the_store_once(harness: Harness, folder: Path, counted: Counted) -> None:
    study, store = make_study(), Store(folder / "runs")
    fill(store, study, {"small": [0.91, 0.92, 0.93]})
    names = [record.run_id for record in store.records()]
    scans = counted(Store, "_folders")
    assert harness("report", *names).code == 0
    assert scans.total() == 1
    assert all(name in (folder / "reports/runs.md").read_text() for name in names)
