"""The files that are shipped say what they are meant to say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.matching import load_study
from harness.spec.documents import kind_of, load_experiment
from harness.spec.identity import spec_digest

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))
ABLATIONS = sorted((ROOT / "ablations").glob("*.yaml"))


def test_there_are_some() -> None:
    assert {path.stem for path in EXPERIMENTS} >= {"baseline", "quickstart", "small", "teacher", "distilled"}
    assert {path.stem for path in ABLATIONS} >= {
        *("quickstart", "small", "se_vs_nose", "components", "rationale", "schedulers", "augmentation"),
        *("depth_width", "distillation", "lookahead", "search", "best_5m"),
    }


@pytest.mark.parametrize("path", [*EXPERIMENTS, *ABLATIONS], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_each_begins_with_command_time_and_result(path: Path) -> None:
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    command = "run" if path.parent.name == "experiments" else "ablate"
    assert f"harness {command} {path.parent.name}/{path.name}" in header
    assert "Time to expect:" in header
    assert "Result to expect:" in header
    assert path.read_text().startswith("#")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_each_experiment_is_valid_and_named_after_its_file(path: Path) -> None:
    assert kind_of(path) == "experiment"
    assert load_experiment(path).name == path.stem


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_each_ablation_is_valid(path: Path) -> None:
    assert kind_of(path) == "ablation"
    assert len(load_study(path).arms) >= 1 + (path.stem not in ("reproduction", "best_5m"))  # the base alone


@pytest.mark.parametrize("path", [*EXPERIMENTS, *ABLATIONS], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_each_passes_the_guard(path: Path) -> None:
    """All under the budget; teachers alone are let go without one."""
    from harness.training.guard import check_budget

    specs = [load_experiment(path)] if path in EXPERIMENTS else [arm.spec for arm in load_study(path).arms]
    limits = {spec.guard.max_parameters for spec in specs}
    assert limits == ({None} if path.stem.startswith("teacher") else {5_000_000})
    check_budget(specs)


def test_the_counts_in_the_comments_are_right() -> None:
    """Each arm of depth_width with its width and parameters behind it, and the header's of teacher and rationale."""
    import re

    from harness.training.guard import cost

    text = (ROOT / "ablations/depth_width.yaml").read_text()
    told = {
        int(count.replace(",", "")): int(width) for width, count in re.findall(r"# width (\d+): ([\d,]+)$", text, re.M)
    }
    arms = load_study(ROOT / "ablations/depth_width.yaml").arms[1:]
    assert told == {cost(arm.spec).trainable_parameters: arm.spec.model.width for arm in arms}
    teacher = cost(load_experiment(ROOT / "experiments/teacher.yaml")).trainable_parameters
    assert f"{teacher:,} trainable parameters" in (ROOT / "experiments/teacher.yaml").read_text()
    equal = next(arm for arm in load_study(ROOT / "ablations/rationale.yaml").arms if arm.name == "equal_widths")
    assert f"{cost(equal.spec).trainable_parameters:,} parameters" in (ROOT / "ablations/rationale.yaml").read_text()


def test_depth_width_has_the_runs_that_it_had_with_its_widths_by_hand() -> None:
    """Solved for, they are the same experiments, so that what was trained stays trained."""
    by_hand = {
        "first_group_5x5": ["model.kernel_size=[5, 3, 3]", "model.width=61"],
        "preactivation": ["model.block=preactivation"],
        "depths2_2_2": ["model.depths=[2, 2, 2]", "model.width=83"],
        "depths3_3_3": ["model.depths=[3, 3, 3]", "model.width=67"],
        "depths6_6_4": ["model.depths=[6, 6, 4]", "model.width=54"],
        "depths8_8_3": ["model.depths=[8, 8, 3]", "model.width=56"],
        "depths9_9_9": ["model.depths=[9, 9, 9]", "model.width=38"],
    }
    shared = ["train.epochs=30", "train.early_stopping=null"]
    arms = load_study(ROOT / "ablations/depth_width.yaml").arms[1:]
    assert {arm.name: spec_digest(arm.spec) for arm in arms} == {
        name: spec_digest(load_experiment(ROOT / "experiments/baseline.yaml", [*shared, *overrides]))
        for name, overrides in by_hand.items()
    }


def test_the_readme_s_example_of_the_grammar_is_a_study(tmp_path: Path) -> None:
    """With the arms that its comments name."""
    example = (ROOT / "README.md").read_text().split("```yaml\nname: everything\n")[1].split("```")[0]
    text = f"name: everything\n{example}".replace("../experiments", str(ROOT / "experiments"))
    (tmp_path / "everything.yaml").write_text(text)
    study = load_study(tmp_path / "everything.yaml")
    named = ["baseline", "adamw", "no_se", "no_cutmix", "with_cutout", "plus_ema", "plus_smoothing"]
    generated = ["depths2_2_2-dropout0", "depths2_2_2", "kernel_size5", "no_flip"]
    assert [arm.name for arm in study.arms] == [*named, *generated]


def test_components_leaves_each_part_out_once() -> None:
    study = load_study(ROOT / "ablations/components.yaml")
    parts = ("se", "dropout", "lookahead", "cutmix", "clip", "cosine", "crop", "flip")
    names = ["baseline", "clip_norm_1", "clip_value_0.1", *(f"no_{part}" for part in parts)]
    assert [arm.name for arm in study.arms] == names
    assert {arm.spec.train.epochs for arm in study.arms} == {30}
    no_cosine = next(arm for arm in study.arms if arm.name == "no_cosine")
    assert (no_cosine.spec.optim.schedule.kind, no_cosine.spec.optim.optimizer.lr) == ("constant", 0.1)


def test_the_baseline_is_the_published_recipe() -> None:
    spec = load_experiment(ROOT / "experiments/baseline.yaml")
    assert spec.model.widths == (64, 128, 256)
    assert spec.model.depths == (4, 4, 3)
    assert spec.model.se is not None
    assert (spec.model.se.placement, spec.model.se.reduction) == ("stem", 16)
    optimizer = spec.optim.optimizer
    assert optimizer.kind == "sgd"
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay, optimizer.nesterov) == (0.1, 0.9, 5e-4, False)
    assert spec.optim.lookahead is not None
    assert (spec.optim.lookahead.k, spec.optim.lookahead.alpha) == (5, 0.5)
    assert spec.optim.clip is not None
    assert (spec.optim.clip.kind, spec.optim.clip.value) == ("norm", 0.1)
    assert (spec.train.epochs, spec.train.batch_size, spec.optim.schedule.kind) == (200, 128, "cosine")
    assert spec.train.early_stopping is not None
    assert spec.train.early_stopping.patience == 80
    assert spec.guard.max_parameters == 5_000_000


def test_small_leaves_each_part_out_once() -> None:
    study = load_study(ROOT / "ablations/small.yaml")
    assert [arm.name for arm in study.arms] == [
        "small",
        "no_se",
        "no_cutmix",
        "no_lookahead",
        "no_clip",
        "no_crop",
        "no_flip",
    ]
    assert study.seeds == (0, 1, 2)
    assert study.base.spec.train.early_stopping is None
    assert study.reference is not None
    assert (study.reference.accuracy, study.reference.parameters) == (0.9367, 4_697_742)


def test_importing_the_specs_imports_neither_torch_nor_yaml() -> None:
    code = (
        "import sys, harness.spec.ablation, harness.spec.documents, harness.spec.identity, harness.spec.schema;"
        "heavy = {'torch', 'numpy', 'pandas', 'wandb', 'ruamel.yaml'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
