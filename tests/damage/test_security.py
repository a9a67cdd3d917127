"""Files of strangers: nothing in them is run or leads elsewhere; and no key of ours gets into a file."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt

from harness.reporting import build, render
from harness.spec.ablation import Study
from harness.tracking.store import Store
from harness.training import checkpoint
from tests.conftest import TINY, Harness
from tests.damage.place import Place, call, furnish
from tests.data_files import Trap
from tests.reporting.synthetic import fill, make_study
from tests.study.commands import spawn

REPOSITORY = Path(__file__).parents[2]
SECRETS = {
    "variable": "0f1e2d3c4b5a69788796a5b4c3d2e1f001234567",
    "netrc": "aa11bb22cc33dd44ee55ff6600778899aabbccdd",
    "option": "1234123412341234123412341234123412341234",
    "login": "5678567856785678567856785678567856785678",
}


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return furnish(tmp_path_factory.mktemp("place"))


@pytest.fixture
def place(furnished: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.chdir(furnished.root)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    yield furnished
    furnished.mend()


def of(name: str) -> Path:
    return next(path for path in sorted(Path("runs").glob(f"{name}-*")))


# --- programs in files -------------------------------------------------------------------------


@pytest.mark.parametrize("reader", ["predict", "teacher", "going on"])
def test_a_program_in_a_checkpoint_is_not_run(place: Place, reader: str) -> None:
    victim, command, code = {
        "predict": (of("tiny") / "checkpoints/final.pt", ["predict", of("tiny").name, "images.npy"], 2),
        "teacher": (Path("teacher.pt"), ["run", "student.yaml"], 2),
        "going on": (of("half") / "checkpoints/last.pt", ["run", "half.yaml"], 0),
    }[reader]
    sprung = Path("sprung").absolute()
    victim.write_bytes(checkpoint.serialise({**checkpoint.read(victim), "more": Trap(sprung)}))
    result = call(*command)
    assert result.code == code, result.err
    assert "nothing in it was run" in result.err + result.out
    assert not sprung.exists()
    loaded = victim if victim.exists() else victim.with_name(f"{victim.name}.damaged")
    torch.load(io.BytesIO(loaded.read_bytes()), weights_only=False)
    assert sprung.exists()  # it does go off where nobody is careful


def test_a_program_in_predictions_is_not_run(place: Place) -> None:
    path = of("tiny") / "predictions.npz"
    sprung = Path("sprung").absolute()
    with np.load(path) as stored:
        arrays = {**stored, "labels": np.array([Trap(sprung)], dtype=object)}
    np.savez(path, allow_pickle=True, **arrays)
    for command in (["report", "study.yaml", "--format", "json"], ["report", "study.yaml", "--evidence", "out"]):
        result = call(*command)
        assert "damaged predictions" in result.err
        assert not sprung.exists()
    with np.load(path, allow_pickle=True) as stored:
        _ = stored["labels"]
    assert sprung.exists()


@pytest.mark.parametrize("victim", ["tiny.yaml", "grammar.yaml"])
def test_a_program_in_yaml_is_not_run(place: Place, victim: str) -> None:
    tag = "!!python/object/apply:os.system [touch sprung]"
    for text in (f"{tag}\n", f"notes: {tag}\n", f"? {tag}\n: 1\n", f"model: {{width: {tag}}}\n", f"- {tag}\n"):
        for content in (text, TINY + text):
            Path(victim).write_text(content)
            for command in ("check", "plan", "run", "report"):
                assert call(command, victim).code == 2
            assert call("check", "half.yaml", "--override", f"notes={tag}").code == 2
    assert not Path("sprung").exists()


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/b", "..", "a\0b", "a\\..\\b", "~", ".hidden", "x\n"])
def test_names_in_files_do_not_leave_the_runs_folder(harness: Harness, folder: Path, name: str) -> None:
    told = json.dumps(name)
    (folder / "tiny.yaml").write_text(TINY.replace("name: tiny", f"name: {told}"))
    assert harness("run", "tiny.yaml").code == 2
    (folder / "tiny.yaml").write_text(TINY)
    study = "name: study\nbase: tiny.yaml\narms: {a: {model.width: 8}}\n"
    for content in (study.replace("name: study", f"name: {told}"), study.replace("{a:", f"{{{told}:")):
        (folder / "study.yaml").write_text(content)
        for command in (["ablate", "study.yaml"], ["report", "study.yaml"], ["dashboard", "study.yaml"]):
            result = harness(*command)
            assert (result.code, "can't be a name" in result.err) == (2, True), result.err
    assert sorted(path.name for path in folder.rglob("*")) == ["study.yaml", "tiny.yaml"]


@pytest.mark.parametrize("field", ["run_id", "name"])
@pytest.mark.parametrize("value", ["../../evil", "/tmp/evil", "..", "a/../../b"])
def test_a_record_does_not_lead_out_of_the_runs_folder(place: Place, field: str, value: str) -> None:
    path = of("tiny") / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    before = place.digest(".")
    for command in (
        ["report", "study.yaml", "--evidence", "out/evidence"],
        ["report", "-o", "out/all.md"],
        ["runs", "--prune", "--yes"],
        ["plan", "study.yaml", "--explain"],
    ):
        result = call(*command)
        assert result.code == 0, result.err
        assert f"damaged record: {field}" in result.err or command[0] != "report"
    shutil.rmtree("out")
    assert place.digest(".") == before


def test_pruning_does_not_follow_links(place: Place) -> None:
    """A run set aside that is a link goes as a link."""
    Path("elsewhere").mkdir()
    Path("elsewhere/kept").write_text("")
    Path("runs/aside").mkdir()
    Path("runs/aside/linked").symlink_to(Path("elsewhere").absolute())
    assert call("runs", "--prune", "--yes").code == 0
    assert not Path("runs/aside/linked").is_symlink()
    assert Path("elsewhere/kept").exists()


# --- markup ------------------------------------------------------------------------------------

MARKUP = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    r"\input{/etc/passwd}",
    r"\end{verbatim}\input{/etc/passwd}",
    "```\n<b>",
    "\"'><svg onload=alert(1)>",
    "| a | b |\n|---|---|",
    "$\\write18{x}$",
    "<!-- x",
)


@pytest.mark.parametrize("text", MARKUP)
def test_texts_of_files_are_texts_in_every_form(tmp_path: Path, text: str) -> None:
    """Question, label, device, notes, message of an error, options of the command line."""
    store = Store(tmp_path / "runs")
    study = make_study({"no_se": {"model.se": False}}, question=text, base={"notes": text, "train.epochs": 2})
    assert study.reference is not None
    study = replace(
        study, reference=study.reference.model_copy(update={"label": text}), options=("--override", f"notes={text}")
    )
    fill(store, study, {"small": [0.7, 0.71]}, provenance={"device_name": text, "packages": {"torch": text}})
    fill(store, study, {"no_se": [0.7]}, status="crashed", error={"type": "x", "message": text, "traceback": text})
    _no_markup(study, store)


def _no_markup(study: Study, store: Store) -> None:
    report = build(study, store)
    page = render(report, "html")
    page = re.sub(r"<svg.*?</svg>|<style>.*?</style>|<script>\n.*?</script>", "", page, flags=re.DOTALL)
    for element in ("<script", "<img", "<svg", "onload=alert(1)>", "onerror=alert(1)>", 'href="javascript', "<!-- x"):
        assert element not in page
    tokens = MarkdownIt("commonmark").enable("table").parse(render(report, "md"))
    inline = [child for token in tokens for child in token.children or ()]
    assert not {child.type for child in inline} & {"html_inline", "link_open"}
    assert not [token for token in tokens if token.type == "html_block"]
    latex = render(report, "tex")
    outside = re.sub(r"\\begin\{verbatim\}.*?\\end\{verbatim\}", "", latex, flags=re.DOTALL)
    assert "\\input{" not in outside
    assert "\\write18" not in outside
    assert latex.count(r"\begin{verbatim}") == latex.count(r"\end{verbatim}")


# --- keys --------------------------------------------------------------------------------------

OWN_PROGRAM = """
import sys
from harness import load_experiment, run
from harness.options import RunOptions
run(load_experiment("tiny.yaml"), 7, RunOptions(wandb="offline", device="cpu"))
"""


COMMANDS = (
    ["ablate", "study.yaml", "--jobs", "2"],
    ["run", "tiny.yaml", "-o", "optim.optimizer.lr=1.0e+30"],  # it diverges
    ["report", "study.yaml", "--format", "md,html,csv,json,tex"],
    ["report", "study.yaml", "--evidence", "evidence"],
    ["dashboard", "study.yaml"],
    ["doctor"],
    ["runs", "--json"],
)


@pytest.mark.slow
def test_no_key_is_written_or_told(folder: Path) -> None:
    """W&B's, from the environment and ~/.netrc, and what is on the command line of a program that uses the harness."""
    home = folder / "home"
    home.mkdir()
    (home / ".netrc").write_text(f"machine api.wandb.ai login user password {SECRETS['netrc']}\n")
    (home / ".netrc").chmod(0o600)
    own = {"HOME": str(home), "WANDB_MODE": "offline", "PYTHONPATH": str(REPOSITORY)}
    keyed = {**own, "WANDB_API_KEY": SECRETS["variable"]}
    told = []
    looks = ["doctor"], ["run", "tiny.yaml", "--seed", "5", "--json"]  # by the key in ~/.netrc alone
    for variables, commands in ((own, looks), (keyed, COMMANDS)):
        for command in commands:
            with spawn(folder, *command, **variables) as process:
                told += process.communicate(timeout=180)
            assert "Traceback" not in told[-1] + ("" if "runs" in command else told[-2])
    (folder / "mine.py").write_text(OWN_PROGRAM)
    words = [
        "--api-key",
        SECRETS["option"],
        f"--token={SECRETS['option']}",
        f"https://user:{SECRETS['login']}@wandb.ai",
    ]
    done = subprocess.run(
        [sys.executable, "mine.py", *words, SECRETS["variable"]],
        cwd=folder, env={**os.environ, **keyed}, capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    told += [done.stdout, done.stderr]
    written = [path for path in folder.rglob("*") if path.is_file() and home not in path.parents]
    assert len([path for path in written if path.suffix == ".wandb"]) >= 6  # the mirrors are there
    held = [(str(path), path.read_bytes()) for path in written] + [("told", text.encode()) for text in told]
    leaks = [(name, where) for name, key in SECRETS.items() for where, content in held if key.encode() in content]
    assert not leaks
    records = [json.loads(path.read_text()) for path in written if path.name == "record.json"]
    [command] = [record["provenance"]["command"] for record in records if record["seed"] == 7]
    assert command[1:] == ["--api-key", "***", "--token=***", "https://***@wandb.ai", "***"]
