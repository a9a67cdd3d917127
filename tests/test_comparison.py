"""`harness diff`: what differs between two runs or experiment files, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.comparison import compare, difference_of, side, to_json
from harness.spec.difference import Difference
from harness.spec.experiment import ExperimentSpec
from harness.tracking.record import Record
from harness.tracking.store import Store
from tests.conftest import TINY, Harness
from tests.reporting.synthetic import add, make_record, make_study


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


def put(store: Store, arm: int, seed: int, accuracy: float | None, /, **changes: Any) -> Record:
    study = make_study({"no_se": {"model.se": False, "guard.max_parameters": None}})
    record = make_record(study, study.arms[arm], seed, accuracy, **changes)
    add(store, record)
    return record


def fields(found: tuple[Difference, ...]) -> dict[str, tuple[Any, Any]]:
    return {item.field: (item.here, item.there) for item in found}


def uncounted(spec: ExperimentSpec) -> Any:
    raise AssertionError("what a run costs is in its record")


def test_two_runs(store: Store) -> None:
    a = put(store, 0, 0, 0.91)
    b = put(store, 1, 1, 0.92, provenance={"device_type": "cuda", "packages": {"torch": "2.15.0", "numpy": "2.3.0"}})
    found = compare(side(a.run_id, store, uncounted), side(b.run_id, store, uncounted))
    assert fields(found.spec) == {"model.se": ({"placement": "stem", "reduction": 16}, None), "seed": (0, 1)}
    assert fields(found.inert) == {"guard.max_parameters": (5_000_000, None)}
    assert fields(found.cost) == {"trainable_parameters": (80_000, 79_960)}
    assert fields(found.conditions) == {"device_type": ("cpu", "cuda"), "packages.torch": ("2.9.0", "2.15.0")}
    results = fields(found.results)
    assert results["final.test_accuracy"] == (0.91, 0.92)
    assert "final.epoch" not in results  # equal
    assert results["timings.total"] == (104.25, 105.25)
    document = to_json(found)
    [accuracy] = [item for item in document["results"] if item["field"] == "final.test_accuracy"]
    assert accuracy["difference"] == pytest.approx(0.01)
    assert (document["a"]["run_id"], document["b"]["seed"]) == (a.run_id, 1)
    json.dumps(document, allow_nan=False)


def test_a_run_that_failed_has_no_results(store: Store) -> None:
    a = put(store, 0, 0, 0.91)
    b = put(store, 0, 1, None, status="diverged", epochs_done=4, error={"message": "val_loss is nan"})
    results = fields(compare(side(a.run_id, store, uncounted), side(b.run_id, store, uncounted)).results)
    assert results["status"] == ("completed", "diverged")
    assert results["final.test_accuracy"] == (0.91, None)
    assert results["error"] == (None, "val_loss is nan")


def test_the_same_run_twice(store: Store) -> None:
    a = put(store, 0, 0, 0.91)
    found = compare(side(a.run_id, store, uncounted), side(str(store.root / f"small-{a.run_id}"), store, uncounted))
    assert found.is_empty
    assert all(not found for found in (found.spec, found.inert, found.cost, found.conditions, found.results))


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [(1, 3, 2), (0.25, 0.5, 0.25), (1, 0.5, -0.5), (True, False, None), (None, 1, None), ("a", "b", None)],
)
def test_only_numbers_have_a_difference(here: Any, there: Any, expected: Any) -> None:
    assert difference_of(Difference("x", here, there)) == expected


def test_an_experiment_file_against_a_run_of_it(harness: Harness, folder: Path) -> None:
    run_id = json.loads(harness("run", "tiny.yaml", "--device", "cpu", "--json").out)["run_id"]
    same = harness("diff", "tiny.yaml", run_id)
    assert (same.code, same.err) == (0, "")
    assert "nothing that a result may depend on differs" in same.out
    (folder / "wide.yaml").write_text(TINY.replace("width: 4", "width: 5").replace("lookahead: {k: 2, alpha: 0.5}", ""))
    result = harness("diff", "tiny.yaml", "wide.yaml")
    rows = {line.split()[0]: line.split()[1:] for line in result.out.splitlines() if line.strip()}
    assert rows["model.width"] == ["4", "5", "+1"]
    assert rows["optim.lookahead"] == ["{k:", "2,", "alpha:", "0.5}", "off"]
    assert {"trainable_parameters", "macs"} <= rows.keys()
    assert "results" not in rows
    document = json.loads(harness("diff", "tiny.yaml", "wide.yaml", "--json").out)
    assert document["spec"][0] == {"field": "model.width", "a": 4, "b": 5, "difference": 1}
    assert document["a"]["run_id"] is None


def test_what_a_mapping_holds_is_shown_as_it_is_by_itself(harness: Harness, folder: Path) -> None:
    """Words without quotes, nothing cut off: two schedules may differ in their last setting."""
    (folder / "cycle.yaml").write_text("base: tiny.yaml\noptim: {schedule: {kind: one_cycle, anneal: linear}}\n")
    shown = " ".join(harness("diff", "tiny.yaml", "cycle.yaml").out.split())
    assert "kind: one_cycle" in shown
    assert "anneal: linear}" in shown
    assert "'" not in shown


def test_a_table_of_two_runs_is_80_columns_wide(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    store = Store(Path("runs"))
    a, b = put(store, 0, 0, 0.91), put(store, 1, 0, 0.925, weights={"final": "f" * 64})
    result = harness("diff", a.run_id, b.run_id)
    assert max(map(len, result.out.splitlines())) <= 80
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in result.out.splitlines() if line.strip()}
    assert rows["final.test_accuracy"] == "91.00 % 92.50 % +1.50"
    assert rows["weights.final"] == "– ffffffffffff"
    assert result.out.splitlines()[0] == f"A  run {a.run_id} (small seed 0), completed"


@pytest.mark.parametrize(
    "arguments", [("tiny.yaml", "nosuchrun"), ("tiny.yaml", "nosuch.yaml"), ("study.yaml", "tiny.yaml")]
)
def test_mistakes(harness: Harness, arguments: tuple[str, str]) -> None:
    result = harness("diff", *arguments)
    assert (result.code, result.out) == (2, "")
    assert "Traceback" not in result.err
