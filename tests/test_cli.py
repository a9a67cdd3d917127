"""The command line: documents that scripts rely on, exit codes, and what bad input gets."""

from __future__ import annotations

import json
import os
import re
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from harness import RunOptions, doctor, load_ablation, load_experiment, report, run
from harness.tracking.claim import acquire
from harness.tracking.store import Store
from tests.conftest import TINY, Harness

ROOT = Path(__file__).parent.parent
BASELINE = str(ROOT / "experiments/baseline.yaml")


def test_check_gives_the_published_numbers(harness: Harness) -> None:
    result = harness("check", BASELINE, "--json")
    assert result.code == 0
    [arm] = json.loads(result.out)["arms"]
    assert arm == {
        "name": "baseline",
        "file": BASELINE,
        "trainable_parameters": 4_697_742,
        "max_parameters": 5_000_000,
        "macs": 798_690_304,
    }
    [arm] = json.loads(harness("check", BASELINE, "--json", "-o", "model.se=false").out)["arms"]
    assert arm["trainable_parameters"] == 4_697_162


def test_check_of_every_shipped_file(harness: Harness) -> None:
    files = sorted(map(str, [*ROOT.glob("experiments/*.yaml"), *ROOT.glob("ablations/*.yaml")]))
    result = harness("check", "--json", *files)
    assert result.code == 0, result.err
    assert len(json.loads(result.out)["arms"]) > len(files)


def test_check_of_several_files_says_which_arm_is_whose(harness: Harness) -> None:
    study = str(ROOT / "ablations/quickstart.yaml")
    lines = harness("check", study, BASELINE).out.splitlines()
    assert lines[0] == study
    assert lines.index(BASELINE) > lines.index("") > 2
    assert harness("check", BASELINE).out.startswith("name")
    arms = json.loads(harness("check", "--json", study, BASELINE).out)["arms"]
    assert [arm["file"] for arm in arms] == [*[study] * (len(arms) - 1), BASELINE]


def test_check_over_budget(harness: Harness) -> None:
    result = harness("check", BASELINE, "--json", "-o", "model.width=72")
    assert (result.code, result.out) == (2, "")
    for part in ("5,943,902", "5,000,000", "66", "4,995,554", "baseline.yaml"):
        assert part in result.err


@pytest.mark.parametrize("command", ["check", "plan", "ablate"])
def test_an_arm_over_its_budget_is_told_with_its_file(harness: Harness, command: str) -> None:
    study = str(ROOT / "ablations/se_vs_nose.yaml")
    result = harness(command, study, "-o", "model.width=72")
    assert (result.code, result.out) == (2, "")
    for arm, parameters in (("baseline", "5,943,902"), ("no_se", "5,943,250")):
        assert f"error: {study}: {arm}: {parameters} trainable parameters are" in result.err


def test_check_prints_the_schema(harness: Harness) -> None:
    assert "$defs" in json.loads(harness("check", "--schema").out)


def test_check_needs_a_file(harness: Harness) -> None:
    assert harness("check").code == 2


def test_run_then_runs_then_report(harness: Harness) -> None:
    ran = harness("run", "tiny.yaml", "--json")
    assert ran.code == 0
    record = json.loads(ran.out)
    assert record["status"] == "completed"
    assert "epoch 3/3" in ran.err
    listed = json.loads(harness("runs", "--json").out)["runs"]
    assert [run["run_id"] for run in listed] == [record["run_id"]]
    assert json.loads(harness("runs", record["run_id"][:6], "--json").out) == listed[0]
    assert record["run_id"] in harness("runs").out
    assert harness("runs", "--where", "status=failed", "--json").out.split() == ["{", '"runs":', "[]", "}"]
    assert harness("runs", "--where", "statsu=failed").code == 2
    mistyped = harness("runs", "--where", "status=complete", "--json")
    assert (mistyped.code, mistyped.out) == (2, "")
    assert "did you mean status=completed?" in mistyped.err
    assert harness("runs", "nosuchrun").code == 2
    again = harness("run", "tiny.yaml")
    assert again.code == 0
    assert "already done" in again.out
    assert harness("report", record["run_id"], "-o", "one.md").code == 0
    assert record["run_id"] in Path("one.md").read_text()
    assert harness("report", record["run_id"], "-o", "tiny.yaml/one.md").code == 2


def test_run_says_accuracy_and_place(harness: Harness) -> None:
    result = harness("run", "tiny.yaml")
    assert "epoch 1/3" in result.out
    assert "runs/tiny-" in result.out
    assert max(map(len, result.out.splitlines())) <= 100


def test_what_was_typed_comes_back_as_it_was_typed(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brackets and colons are no markup, and a line is not broken where it has to be found again."""
    monkeypatch.setenv("COLUMNS", "40")
    where = f"name=[/x] :x: {'long ' * 12}."
    assert harness("runs", "--where", where).out == f"no runs in runs with {where}\n"
    named = "runs[red]:x:"
    ran = harness("run", "tiny.yaml", "--runs-dir", named)
    assert ran.code == 0
    [folder] = Path(named).glob("tiny-*")
    assert f"; kept in {folder}\n" in ran.out
    for file in ("a[red]c:x:.md", "a[/b]c.md", f"{'long' * 12}.md"):
        assert harness("report", "-o", file, "--runs-dir", named).out == f"wrote {file}\n"
        checked = harness("report", "-o", file, "--runs-dir", named, "--check")
        assert checked.out == f"{file} is what the records in {named} give\n"
    ablated = harness("ablate", "study.yaml", "--runs-dir", named, "--output", "r[red]:x:.md")
    assert ablated.out.endswith("report: r[red]:x:.md\n")
    copied = harness("report", "study.yaml", "--runs-dir", named, "--evidence", "e[/x]:x:")
    assert copied.out == "wrote e[/x]:x:\n"
    assert harness("runs", "--prune", "--runs-dir", "none[/x]").out == "nothing to prune in none[/x]\n"


def test_seed_option(harness: Harness) -> None:
    assert json.loads(harness("run", "tiny.yaml", "--seed", "5", "--json").out)["seed"] == 5


def test_holdout_and_test_option(harness: Harness) -> None:
    arguments = ("run", "tiny.yaml", "-o", "data.protocol=holdout", "--json")
    assert json.loads(harness(*arguments).out)["results"]["final"]["test_accuracy"] is None
    read = json.loads(harness(*arguments, "--test").out)
    assert read["results"]["final"]["test_accuracy"] > 0
    assert read["test_reads"] == 1


def test_test_option_of_another_protocol_starts_nothing(harness: Harness) -> None:
    assert harness("run", "tiny.yaml", "--test").code == 2
    assert not Path("runs").exists()


def test_runs_tells_of_the_dead_and_the_damaged(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    store = Store(Path("runs"))
    for seed in ("0", "1"):
        harness("run", "tiny.yaml", "--seed", seed)
    [(first, record), (second, _)] = store.entries()
    first.write_record(record.model_copy(update={"status": "running"}))  # of a process that is gone
    second.record_path.write_text("{")
    result = harness("runs", "--json")
    assert [run["status"] for run in json.loads(result.out)["runs"]] == ["killed"]
    assert json.loads(harness("runs", "tiny", "--json").out)["status"] == "killed"
    assert str(second.record_path) in result.err
    assert harness("runs", "--where", "status=failed").out.count("killed") == 1
    with acquire(first.claim_path):
        assert "running  " in harness("runs").out
    first.claim_path.mkdir()
    (first.claim_path / "far~0123456789ab~1~77~00000000~5").touch()  # of another host, whose death nobody can see
    three_hours_ago = time.time() - 3 * 3600
    os.utime(first.claim_path, (three_hours_ago, three_hours_ago))
    assert "running? (no sign of life for 3 h)" in harness("runs").out
    assert [run["status"] for run in json.loads(harness("runs", "--json").out)["runs"]] == ["running"]
    planned = harness("plan", "study.yaml").out
    assert "1 running" in planned
    assert f"> tiny seed {record.seed} is running? (no sign of life for 3 h)" in planned
    assert json.loads(harness("plan", "study.yaml", "--json").out)["arms"][0]["runs"][record.seed]["state"] == "running"


def test_plan_ablate_report(harness: Harness) -> None:
    plan = json.loads(harness("plan", "study.yaml", "--json").out)
    assert plan["study"] == "study"
    assert {"detectable_difference", "smallest_sign_flip_p"} <= plan.keys()
    assert [arm["name"] for arm in plan["arms"]] == ["tiny", "no_cutmix"]
    assert plan["arms"][1]["overrides"] == {"augment.cutmix": None}
    assert {run["state"] for arm in plan["arms"] for run in arm["runs"]} == {"to_do"}
    assert not Path("runs").exists()
    done = harness("ablate", "study.yaml", "--jobs", "2")
    assert done.code == 0, done.err
    assert "no_cutmix" in done.out
    assert "reports/study.md" in done.out
    assert harness("report", "study.yaml", "--check").code == 0
    document = json.loads(harness("plan", "study.yaml", "--json").out)
    assert {run["state"] for arm in document["arms"] for run in arm["runs"]} == {"done"}
    again = harness("ablate", "study.yaml")
    assert "nothing to train" in again.out

    assert harness("report", "study.yaml", "--format", "json", "-o", "study.json").code == 0
    report: dict[str, Any] = json.loads(Path("study.json").read_text())
    assert report.keys() >= {"study", "metric", "reference", "arms"}
    assert report["arms"][0]["difference"] is None
    assert report["arms"][1]["difference"].keys() >= {"mean", "interval", "p", "verdict", "paired"}

    assert harness("report", "study.yaml", "-o", "page.html").code == 0
    assert Path("page.html").read_text().startswith("<!DOCTYPE html>")
    assert harness("report", "study.yaml", "-o", "page.html", "--check").code == 0
    Path("page.html").write_text("garbage")
    assert harness("report", "study.yaml", "-o", "page.html", "--check").code == 1

    assert harness("report", "study.yaml", "--evidence", "evidence").code == 0
    assert harness("report", "study.yaml", "--runs-dir", "evidence", "--check").code == 0
    for more in (["--check"], ["-o", "x.md"], ["--format", "md"]):  # these it would not heed
        assert harness("report", "study.yaml", "--evidence", "evidence", *more).code == 2

    predictions = next(Path("runs").glob("*/predictions.npz"))
    predictions.write_bytes(predictions.read_bytes()[:100])
    for command in ("report", "ablate"):
        assert f"left out: {predictions}" in harness(command, "study.yaml").err
    Path("reports/study.md").write_text("something else")
    assert harness("report", "study.yaml", "--check").code == 1


def test_version(harness: Harness) -> None:
    assert harness("--version").out == f"harness {version('budget-ablation-harness')}\n"


@pytest.mark.parametrize(("mode", "code"), [("dryrun", 0), ("maybe", 2)])
def test_the_words_that_wandb_had_for_its_modes_are_understood(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, mode: str, code: int
) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    result = harness("run", "tiny.yaml", "-o", "train.epochs=1", "--json")
    assert result.code == code
    if not code:
        assert json.loads(result.out)["wandb"]["state"] == "offline"


def test_from_python_folders_are_where_the_commands_have_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_RUNS_DIR", "elsewhere")
    monkeypatch.setenv("HARNESS_DATA_DIR", "data-of-all")
    options = RunOptions(wandb="disabled", device="cpu")
    assert options.data_dir == Path("data-of-all")
    run(load_experiment(folder / "tiny.yaml", ["train.epochs=1"]), options=options)
    assert [path.name for path in Path().glob("elsewhere/tiny-*")]
    built = report(load_ablation(folder / "study.yaml", ["train.epochs=1"]))
    assert built.base.last.n == 1


def test_a_report_has_the_format_that_its_file_is_called_by(harness: Harness) -> None:
    """From `ablate` and from Python as from `report`."""
    ablated = harness("ablate", "study.yaml", "-o", "train.epochs=1", "--output", "ablated.json")
    assert ablated.code == 0, ablated.err
    report(load_ablation(Path("study.yaml"), ["train.epochs=1"]), runs_dir="runs", output="notebook.json")
    harness("report", "study.yaml", "--override", "train.epochs=1", "-o", "reported.json")
    assert harness("report", "study.yaml", "--evidence", "tiny.yaml/evidence").code == 2
    assert harness("dashboard", "study.yaml", "--override", "train.epochs=1", "-o", "tiny.yaml/reports").code == 2
    texts = [Path(f"{name}.json").read_text() for name in ("ablated", "notebook", "reported")]
    assert texts[0] == texts[1] == texts[2]
    assert json.loads(texts[0])["study"] == "study"


def test_doctor(harness: Harness) -> None:
    found = json.loads(harness("doctor", "--json").out)
    assert found["devices"]["cpu"]
    assert "scikit-learn" in found["data"]["digits"]


KEY, OWN = 40 * "a", "https://own.example:8443"


@pytest.mark.parametrize(
    ("variables", "server", "key"),
    [
        ({}, "https://settings.example", "none"),
        pytest.param({"WANDB_BASE_URL": OWN}, OWN, "found", marks=pytest.mark.slow),
        pytest.param({"WANDB_API_KEY": KEY}, "https://settings.example", "found", marks=pytest.mark.slow),
        pytest.param({"WANDB_API_KEY": "short"}, "not known", "not known: .*40", marks=pytest.mark.slow),
    ],
)
def test_doctor_looks_for_the_key_of_the_server_that_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], server: str, key: str
) -> None:
    """As WANDB_BASE_URL, else wandb's settings name it; the user's file has one for another host too."""
    (tmp_path / "settings").write_text("[default]\nbase_url = https://settings.example\nmode = offline\n")
    hosts = "".join(f"machine {host}\n login user\n password {KEY}\n" for host in ("api.wandb.ai", "own.example:8443"))
    (tmp_path / "netrc").write_text(hosts)
    (tmp_path / "netrc").chmod(0o600)
    own = {"NETRC": str(tmp_path / "netrc"), "WANDB_CONFIG_DIR": str(tmp_path), "WANDB_MODE": "offline"}
    for name, value in (own | variables).items():
        monkeypatch.setenv(name, value)
    found = doctor._wandb()
    assert found["server"] == server
    assert re.match(key, found["key"])
    assert KEY not in str(found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["netrc", "settings"]


def test_debug_shows_the_traceback(harness: Harness) -> None:
    assert "Traceback" not in harness("run", "nosuch.yaml").err
    assert "Traceback" in harness("run", "nosuch.yaml", "--debug").err


BAD: dict[str, tuple[str | bytes, str]] = {
    "unknown key": (TINY + "colour: red\n", "colour"),
    "misspelt key": (TINY.replace("epochs", "epoch"), "epochs"),
    "wrong type": (TINY.replace("epochs: 3", "epochs: ten"), "train.epochs"),
    "negative width": (TINY.replace("width: 4", "width: -4"), "model.width"),
    "dropout 1.5": (TINY.replace("width: 4", "width: 4, dropout: 1.5"), "1.5"),
    "empty depths": (TINY.replace("[1, 1]", "[]"), "model.depths"),
    "duplicate key": (TINY + "name: tiny\n", "twice"),
    "tab": (TINY + "\tnotes: x\n", "tab"),
    "empty file": ("", "empty"),
    "list": ("- a\n- b\n", "list"),
    "no text": (b"\xff\xfe\x00\x01\x80", "UTF-8"),
    "base cycle": ("name: tiny\nbase: bad.yaml\n", "circle"),
    "missing base": ("name: tiny\nbase: tinny.yaml\n", "tiny.yaml"),
    "name with a path": (TINY.replace("name: tiny", "name: ../evil"), "../evil"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_get_one_clear_message(harness: Harness, folder: Path, kind: str) -> None:
    content, expected = BAD[kind]
    (folder / "bad.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    before = sorted(folder.rglob("*"))
    result = harness("run", "bad.yaml")
    assert result.code == 2
    assert expected in result.err
    assert "bad.yaml" in result.err
    assert result.err.count("error:") == 1 or kind == "misspelt key"
    assert "Traceback" not in result.err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("override", ["model.widht=3", "model.width", "nothing.at.all=1", "model.width=wide"])
def test_bad_overrides(harness: Harness, override: str) -> None:
    result = harness("run", "tiny.yaml", "-o", override)
    assert result.code == 2
    assert override.partition("=")[0] in result.err
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", ["n" * 300, f"{'n' * 300}.yaml", f"{'n' * 300}.pt"])
def test_a_name_that_is_too_long_for_a_file(harness: Harness, name: str) -> None:
    for arguments in (
        ("check", name),
        ("run", name),
        ("run", "tiny.yaml", "-o", f"loss.distill.teacher={name}"),
        ("run", "tiny.yaml", "-o", "data.dataset=folder", "-o", f"data.folder.path={name}"),
        ("ablate", name),
        ("runs", name),
        ("report", name),
        ("diff", name, "tiny.yaml"),
        ("predict", name, name),
        ("data", "fetch", name),
    ):
        result = harness(*arguments)
        assert result.code == 2, arguments
        assert "Traceback" not in result.err


def test_bad_options(harness: Harness) -> None:
    for arguments in (
        ("run", "tiny.yaml", "--time-limit", "soon"),
        ("run", "tiny.yaml", "--time-limit", "²"),
        ("run", "tiny.yaml", "--time-limit", "9" * 400),
        ("run", "tiny.yaml", "--time-limit", ""),  # of a shell's variable that is not set
        ("ablate", "study.yaml", "--time-limit", ""),
        ("run", "tiny.yaml", "--checkpoint-every", "nan"),
        ("run", "tiny.yaml", "--seed", str(2**63)),
        ("run", "tiny.yaml", "--seed", str(10**26)),
        ("run", "tiny.yaml", "--threads", str(10**26)),
        ("ablate", "study.yaml", "--jobs", str(10**26)),
        ("ablate", "study.yaml", "--seeds", str(10**26)),
        ("plan", "study.yaml", "--jobs", str(10**26)),
        ("plan", "study.yaml", "--seeds", str(10**26)),
        ("run", "tiny.yaml", "--device", "gpu"),
        ("run", "tiny.yaml", "--wandb", "maybe"),
        ("run",),
        ("rnu", "tiny.yaml"),
        ("report", "study.yaml", "--format", "docx"),
        ("report",),
        ("report", "study.yaml"),
        ("report", "study.yaml", "-o", "."),
        ("ablate", "study.yaml", "--output", "."),
        ("ablate", "study.yaml", "--output", "tiny.yaml/study.md"),
        ("ablate", "tiny.yaml"),
        ("ablate", "study.yaml", "--device", "gpu"),
        ("run", "study.yaml"),
    ):
        result = harness(*arguments)
        assert result.code == 2, arguments
        assert "Traceback" not in result.err
        assert not Path("runs").exists()


def test_a_damaged_data_file_is_named(harness: Harness, folder: Path) -> None:
    batches = folder / "data/cifar-10-batches-py"
    batches.mkdir(parents=True)
    (batches / "data_batch_1").write_bytes(b"not a batch")
    result = harness("run", "tiny.yaml", "-o", "data.dataset=cifar10")
    assert result.code == 2
    assert "data_batch_1: this CIFAR-10 file is damaged" in result.err
    assert "test_batch: this CIFAR-10 file is missing" in result.err


def test_data_that_cannot_be_fetched(harness: Harness, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    def no_network(self: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(CIFAR10, "download", no_network)
    result = harness("run", "tiny.yaml", "-o", "data.dataset=cifar10")
    assert result.code == 2
    for part in (
        "cifar-10-batches-py",
        "data_batch_1",
        "cifar-10-python.tar.gz",
        "HARNESS_DATA_DIR",
        str(folder / "data"),
    ):
        assert part in result.err
    assert not (folder / "runs").exists()


def test_a_runs_folder_that_cannot_be_written(harness: Harness, folder: Path) -> None:
    (folder / "file").write_text("")
    result = harness("run", "tiny.yaml", "--runs-dir", "file/runs")
    assert result.code == 2
    assert "runs folder" in result.err
