from __future__ import annotations

from pathlib import Path

import pytest

from harness.reporting import build
from harness.reporting.model import StudyReport
from harness.spec.ablation import Study
from harness.tracking.store import Store
from tests.reporting import synthetic


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


@pytest.fixture(scope="session")
def seven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Store]:
    """A full study of seven arms x three seeds; not to be changed."""
    study, store = synthetic.make_study(), Store(tmp_path_factory.mktemp("seven") / "runs")
    synthetic.fill(store, study, synthetic.seven_arms(study))
    return study, store


@pytest.fixture(scope="session")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Store]:
    """Everything that goes wrong, once: failed, diverged, early-stopped, running and missing runs, other conditions."""
    study, store = synthetic.make_study(), Store(tmp_path_factory.mktemp("troubled") / "runs")
    accuracies = synthetic.seven_arms(study)
    arms = {arm.name: arm for arm in study.arms}

    def put(arm: str, seed: int, accuracy: float | None = None, **changes: object) -> None:
        number = accuracies[arm][seed] if accuracy is None else accuracy
        record = synthetic.make_record(study, arms[arm], seed, number, **changes)
        synthetic.add(store, record, synthetic.make_rows(arms[arm], seed, number, record.epochs_done))

    for seed in study.seeds:
        put("small", seed)
        put("no_cutmix", seed, provenance={"git_commit": "f" * 40})
    put("no_se", 0)
    put("no_se", 1, provenance={"precision": "bf16", "device_type": "cuda", "device_name": "NVIDIA H200"})
    put("no_se", 2, numerics=99)
    put("no_lookahead", 0)
    put("no_lookahead", 1)
    put("no_lookahead", 2, 0.1, status="stopped_early", epochs_done=4)
    put("no_clip", 0)
    message = "loss is nan | in /home/someone/x.py on box7\nat step 3"
    failure = {"type": "RunFailed", "message": message, "traceback": "File /home/someone/x.py"}
    failed = {"status": "diverged", "epochs_done": 2, "results": synthetic.Results(), "error": failure}
    put("no_clip", 1, **failed)
    put("no_clip", 2, status="running", epochs_done=5, results=synthetic.Results())
    for seed in study.seeds:
        put("no_crop_flip", seed, **failed)
    return study, store


@pytest.fixture(scope="session")
def report(seven: tuple[Study, Store]) -> StudyReport:
    return build(*seven)


@pytest.fixture(scope="session")
def troubled_report(troubled: tuple[Study, Store]) -> StudyReport:
    return build(*troubled)
