"""The index of the studies as Markdown: questions, verdicts, accuracies beside published ones, claims.

Every number of ours is computed from `reports/evidence/`; the published ones name their source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from harness.matching import load_study
from harness.reporting import build, words
from harness.reporting.model import Arm, StudyReport
from harness.reporting.statistics import Verdict
from harness.spec.ablation import Study
from harness.teacher import resolve_study
from harness.tracking.store import Store
from harness.training.guard import parameters_of

ROOT = Path(__file__).parent.parent.parent
REPORTS = ROOT / "reports"
VERDICTS: tuple[Verdict, ...] = ("helps", "hurts", "no relevant difference", "inconclusive")
TRIALS = ("quickstart",)
"""Studies whose data set is there to try the commands; no result of the product's question."""


@dataclass(frozen=True)
class Reached:
    """An accuracy in percent and how it was reached."""

    network: str
    parameters: str
    accuracy: float
    how: str
    source: str
    spread: str = ""
    """Over its runs, as its source gives it."""
    ours: bool = False

    @property
    def cells(self) -> list[str]:
        shown = f"{self.accuracy:.2f}" if self.ours else str(self.accuracy)
        cells = [self.network, self.parameters, shown + self.spread, self.how, self.source]
        return [f"**{cell}**" if self.ours and place in (0, 2) else cell for place, cell in enumerate(cells)]


HYSTS, KAKAO = "hysts/pytorch_image_classification", "kakaobrain/fast-autoaugment"
PREACT = "pre-activation ResNet-20 x4"
PUBLISHED = (
    Reached("the reference, as published", "4.70M", 93.67, "200 epochs, selected on test, 1 run", "the paper"),
    Reached("the reference, its authors' log", "4.70M", 94.79, "200 epochs, last, 1 run", "their notebook"),
    Reached("Efficient_ResNets (the same network)", "4.70M", 96.04, "200 epochs, best on test", "arXiv 2306.12100"),
    Reached("airbench95", "4.60M", 95.01, "15 epochs, flips at test time, n = 200", "KellerJordan/cifar10-airbench"),
    Reached("DenseNet-BC-100 (k = 12)", "0.8M", 95.49, "its paper", HYSTS),
    Reached(PREACT, "4.32M", 95.09, "last epoch, 1 run", HYSTS),
    Reached(f"{PREACT}, Cutout", "4.32M", 96.29, "last epoch, 1 run", HYSTS),
    Reached(f"{PREACT}, RICAP", "4.32M", 96.55, "last epoch, 1 run", HYSTS),
    Reached(f"{PREACT}, RICAP", "4.32M", 96.89, "400 epochs, last, 1 run", HYSTS),
    Reached("WRN-40-2", "2.24M", 94.7, "its paper", KAKAO),
    Reached("WRN-40-2, Cutout", "2.24M", 95.9, "its paper", KAKAO),
    Reached("WRN-40-2, AutoAugment", "2.24M", 96.3, "its paper", KAKAO),
    Reached("Shake-Shake 26 2x32d, Cutout", "2.9M", 97.0, "1800 epochs", KAKAO),
    Reached("Shake-Shake 26 2x32d, AutoAugment", "2.9M", 97.5, "1800 epochs", KAKAO),
    Reached("DARTS v2", "3.3M", 97.24, "600 epochs, Cutout, auxiliary head, 10 runs", "quark0/darts", " ± 0.09"),
)
"""CIFAR-10 under 5M parameters without extra data."""

INTRO = """\
# The studies and what they found

Made by `python -m tests.results` from the records under `evidence/`; a test holds it to them, and CI runs
`harness report --check` on every report beside it. Budgets, seeds and margins stood in the ablation files
before a study ran, and null results are listed like the others."""

CLAIMS = (
    (
        "94.57 % with the published recipe",
        "`harness report ablations/reproduction.yaml --runs-dir reports/evidence/reproduction --check`, or `harness "
        "ablate ablations/reproduction.yaml` to train it again",
        "[reproduction.md](reproduction.md)",
    ),
    (
        "the table on the README's first screen",
        "`harness report ablations/small_components.yaml --runs-dir reports/evidence/small_components --check`, "
        "or `harness ablate ablations/small_components.yaml --jobs 2` to train it again",
        "[small_components.md](small_components.md)",
    ),
    (
        "at 18 epochs the clip costs 20 points, Lookahead 8 and the crop 3",
        "`harness report ablations/small_longer.yaml --runs-dir reports/evidence/small_longer --check`, or `harness "
        "ablate ablations/small_longer.yaml --jobs 2` to train it again",
        "[small_longer.md](small_longer.md)",
    ),
    (
        "without the clip Lookahead costs 1.1 points at 18 epochs, CutMix 1.7, and of SE no difference is found",
        "`harness report ablations/small_unclipped.yaml --runs-dir reports/evidence/small_unclipped --check`, or "
        "`harness ablate ablations/small_unclipped.yaml --jobs 2` to train it again",
        "[small_unclipped.md](small_unclipped.md)",
    ),
    (
        "a search on held-out images brings the small network from 72.00 to 81.00 %",
        "`harness report ablations/small_best.yaml --runs-dir reports/evidence/small_best --check`, or `harness ablate "
        "ablations/small_search.yaml --jobs 2` and `harness ablate ablations/small_best.yaml --jobs 2` again",
        "[small_search.md](small_search.md), [small_best.md](small_best.md)",
    ),
    (
        "what the search found keeps its place at 18 epochs, for one to two points, where the network ends at 85.99 %",
        "`harness report ablations/small_best_longer.yaml --runs-dir reports/evidence/small_best_longer --check`, or "
        "`harness ablate ablations/small_best_longer.yaml --jobs 2` to train it again",
        "[small_best_longer.md](small_best_longer.md)",
    ),
    (
        "a teacher's advice brings the plain recipe four points, the tuned one none that three seeds can show",
        "`harness report ablations/small_distillation.yaml --runs-dir reports/evidence/small_distillation --check`, "
        "likewise `small_best_taught`, or `harness ablate` both with `--jobs 2` again",
        "[small_distillation.md](small_distillation.md), [small_best_taught.md](small_best_taught.md)",
    ),
    (
        "4,697,742 parameters, 798,690,304 multiply-accumulates, what fits under the budget",
        "`harness check experiments/baseline.yaml`",
        "the command's own table",
    ),
    (
        "speed: a step, the input pipeline, a study, start, tracking",
        "`make bench` (with CIFAR-10)",
        "[bench.md](bench.md)",
    ),
    (
        "speed on a GPU",
        "`python -m tests.benchmarks gpu packing` (with CIFAR-10)",
        "[bench_gpu.md](bench_gpu.md)",
    ),
    (
        "bf16 trains as well as plain fp32",
        "`python -m tests.benchmarks.parity`",
        "[bench.md](bench.md)",
    ),
    (
        "how often a verdict is wrong, and what `harness plan` foretells",
        "`make calibration`",
        "[calibration.md](calibration.md)",
    ),
    (
        "a run that was interrupted and goes on is the undisturbed one, bit for bit on a CPU; the other promises "
        "about faults",
        "`make test`, `make slow`",
        "[the table of promises](../tests/README.md)",
    ),
)


def markdown() -> str:
    """The whole document."""
    sections = [[INTRO], _studies(), _accuracies(), _claims()]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def evidenced() -> list[str]:
    """The studies whose records are committed, by name."""
    return sorted(folder.name for folder in (REPORTS / "evidence").iterdir() if folder.is_dir())


@cache
def report_of(name: str) -> StudyReport:
    """A committed study's report, from its evidence alone."""
    store = Store(REPORTS / "evidence" / name)
    report: StudyReport = build(resolve_study(load_study(ROOT / f"ablations/{name}.yaml"), store), store)
    return report


# --- the studies --------------------------------------------------------------------------------


def _studies() -> list[str]:
    done = evidenced()
    waiting = [file.stem for file in sorted((ROOT / "ablations").glob("*.yaml")) if file.stem not in (*done, *TRIALS)]
    heads = ["study", "question", "arms x seeds", "epochs", "parameters", "device", "training", "verdicts"]
    told = words.table(heads, [_row(report_of(name)) for name in done])
    lines = ["## Studies", "", *told, ""]
    lines += words.paragraph(
        "Differences are to the study's base, in points of test accuracy (of validation accuracy in a search, which "
        "leaves the test set unread) after the last epoch, ± the simultaneous 95 % interval (Dunnett, over the study's "
        "arms); a verdict holds for that network and budget only. "
        "Training: the runs' own seconds added up; on a CPU two at a time, on two cores with one thread each. † Welch "
        "with Holm, which does not assume equal spreads, says inconclusive or otherwise: see the report."
    )
    if waiting:
        heads = ["not run yet", "question", "arms x seeds", "epochs", "parameters"]
        lines += ["", *words.table(heads, [_planned(load_study(ROOT / f"ablations/{name}.yaml")) for name in waiting])]
        lines += ["", *words.paragraph("The networks of over a million parameters wait for a GPU.")]
    return lines


def _row(report: StudyReport) -> list[str]:
    return [
        f"[{report.name}]({report.name}.md)",
        words.escape(report.question or ""),
        f"{len(report.arms)} x {len(report.seeds)}",
        str(report.epochs),
        words.count(report.base.parameters),
        _device(report.arms),
        words.duration(sum(run.seconds or 0 for run in report.runs)),
        "; ".join(f"{verdict}: {', '.join(arms)}" for verdict in VERDICTS if (arms := _having(report, verdict))),
    ]


def _device(arms: Sequence[Arm]) -> str:
    """Hardware, precision and torch, of the runs that count."""
    told = set()
    for run in (run for arm in arms for run in arm.counted):
        made = run.provenance
        kind = "CPU" if made["device_type"] == "cpu" else "GPU"
        torch = made["packages"]["torch"].split("+")[0]
        told.add(f"{kind} ({made['device_name']}), {made['precision']}, torch {torch}")
    return "; ".join(sorted(told))


def _having(report: StudyReport, verdict: Verdict) -> list[str]:
    """The arms of one verdict, largest difference first."""
    arms = [arm for arm in report.arms[1:] if arm.difference and arm.difference.verdict == verdict]
    arms.sort(key=lambda arm: -abs(arm.difference.mean or 0) if arm.difference else 0)
    return [_arm(arm) for arm in arms]


def _arm(arm: Arm) -> str:
    difference = arm.difference
    if difference is None or difference.mean is None:
        return words.code(arm.name)
    mark = " †" if difference.welch_differs else ""
    return f"{words.code(arm.name)} {words.with_half(words.points(difference.mean), difference.interval)}{mark}"


def _planned(study: Study) -> list[str]:
    base = study.arms[0].spec
    arms, seeds = len(study.arms), len(study.seeds)
    parameters = words.count(parameters_of(base, base.model))
    return [
        words.code(study.name),
        words.escape(study.question or ""),
        f"{arms} x {seeds}",
        str(base.train.epochs),
        parameters,
    ]


# --- accuracies ---------------------------------------------------------------------------------


def _accuracies() -> list[str]:
    tested = [report_of(name) for name in evidenced() if report_of(name).metric == "test_accuracy"]
    ours = _each_once([reached for report in tested for reached in _ours(report)])
    rows = sorted((*PUBLISHED, *ours), key=lambda reached: -reached.accuracy)
    heads = ["network", "parameters", "accuracy %", "how", "source"]
    lines = ["## Accuracies under 5M parameters on CIFAR-10", ""]
    lines += words.paragraph(
        "Ours in bold, each study's base and the best of its arms (chosen after the test images were seen, which "
        "flatters it); mean ± 95 % t-interval after the last epoch, without test-time augmentation."
    )
    lines += ["", *words.table(heads, [row.cells for row in rows], " rr  "), ""]
    lines += words.paragraph(_missing())
    return lines


def _ours(report: StudyReport) -> list[Reached]:
    """The base, and the best arm where that is another."""
    best = max(report.arms, key=lambda arm: arm.last.mean or 0.0)
    return [_reached(report, arm) for arm in ([report.base] if best is report.base else [report.base, best])]


def _each_once(found: Sequence[Reached]) -> list[Reached]:
    """The same runs in several studies, a base that they share, are one row with all their reports."""
    rows: dict[Reached, list[str]] = {}
    for one in found:
        rows.setdefault(replace(one, source=""), []).append(one.source)
    return [replace(row, source=", ".join(sources)) for row, sources in rows.items()]


def _reached(report: StudyReport, arm: Arm) -> Reached:
    how = f"{words.plural(arm.epochs, 'epoch')}, last, n = {arm.last.n}, {_device([arm])}"
    accuracy = 100 * (arm.last.mean or 0.0)
    spread = words.with_half("", arm.last.interval)
    source = f"[{report.name}]({report.name}.md)"
    return Reached(words.code(arm.name), words.count(arm.parameters), accuracy, how, source, spread, ours=True)


def _missing() -> str:
    """What the table cannot hold yet."""
    awaited = {
        "components": "which part of the published network earns its place (`harness ablate "
        "ablations/components.yaml`)",
        "best_5m": "the best network under 5M (`harness run experiments/best_5m.yaml`)",
    }
    there = {*evidenced(), *(report_of(name).base.name for name in evidenced())}
    missing = " and ".join(told for name, told in awaited.items() if name not in there)
    smallest = min(report_of(name).base.parameters or 0 for name in evidenced())
    return (f"Not there yet, since it takes a GPU: {missing}. " if missing else "") + (
        f"The rows of a network of {words.count(smallest)} parameters at a few epochs say nothing about 93.67 %."
    )


# --- claims -------------------------------------------------------------------------------------


def _claims() -> list[str]:
    rows = [list(claim) for claim in CLAIMS]
    return ["## Claims of the README", "", *words.table(["claim", "command", "report"], rows)]
