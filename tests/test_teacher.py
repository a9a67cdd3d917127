"""A student and its teacher: planned, trained first, reused; who the student learns from is in its identity."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from harness import reporting
from harness.errors import InputError
from harness.events import Ended, Observer
from harness.options import AblateOptions, RunOptions
from harness.runner import run
from harness.spec.ablation import load_study
from harness.spec.documents import load_experiment
from harness.spec.identity import awaits_teacher, run_id
from harness.stop import Stop
from harness.study.ablate import ablate
from harness.study.executor import Job
from harness.study.plan import make_plan
from harness.teacher import load_network, resolve, resolve_study, to_train
from harness.tracking.store import Store
from harness.training import checkpoint
from harness.training.device import resolve as resolve_hardware
from tests.conftest import Harness

ROOT = Path(__file__).parents[1]
TEACHER = """\
name: teacher
base: tiny.yaml
model: {width: 8}
guard: {max_parameters: null}
"""
STUDENT = """\
name: student
base: tiny.yaml
loss: {distill: {teacher: teacher.yaml, temperature: 2.0, weight: 0.5}}
"""


@pytest.fixture
def school(folder: Path) -> Path:
    (folder / "teacher.yaml").write_text(TEACHER)
    (folder / "student.yaml").write_text(STUDENT)
    return folder


def options(**changes: object) -> RunOptions:
    return replace(RunOptions(wandb="disabled", threads=1), **changes)  # type: ignore[arg-type]


def test_the_teacher_is_trained_first_and_reused(school: Path, harness: Harness) -> None:
    first = harness("run", "student.yaml", "--json")
    assert first.code == 0, first.err
    assert "trained first" in first.err
    store = Store(Path("runs"))
    records = {record.name: record for record in store.records()}
    assert set(records) == {"teacher", "student"}
    distill = records["student"].spec["loss"]["distill"]
    assert distill["teacher_digest"] == records["teacher"].weights["final"]
    assert records["teacher"].spec["guard"]["max_parameters"] is None  # the guard was off: the record says so
    trained = (school / "runs").stat().st_mtime_ns, store.find(records["teacher"].run_id)
    second = harness("run", "student.yaml", "--seed", "1", "--json")
    assert second.code == 0, second.err
    assert "trained first" not in second.err
    assert len(store.records()) == 3
    assert store.find(records["teacher"].run_id) == trained[1]
    assert json.loads(second.out)["spec"]["loss"]["distill"]["teacher_digest"] == distill["teacher_digest"]


def test_the_digest_is_that_of_the_weights(school: Path) -> None:
    record = run(load_experiment(Path("teacher.yaml")), options=options())
    folder = Store(Path("runs")).find(record.run_id)
    assert folder is not None
    for which in ("final", "best"):
        weights = checkpoint.read(getattr(folder, which))["weights"]
        assert checkpoint.weights_digest(weights) == record.weights[which]
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    changed["classifier.bias"][0] += 1e-6
    assert checkpoint.weights_digest(changed) != record.weights["best"]


def test_identity_takes_the_weights_not_the_path(school: Path) -> None:
    """By file, by id, by folder and by checkpoint: the same weights, the same student; other weights, another one."""
    store = Store(Path("runs"))
    student = load_experiment(Path("student.yaml"))
    assert awaits_teacher(resolve(student, store))
    teacher = run(load_experiment(Path("teacher.yaml")), options=options())
    place = store.find(teacher.run_id)
    assert place is not None
    shutil.copy(place.final, "copied.pt")
    shutil.copytree(place.path, "elsewhere")
    ids = set()
    for name in ("teacher.yaml", teacher.run_id, teacher.run_id[:6], str(place.path), "elsewhere", "copied.pt"):
        named = load_experiment(Path("student.yaml"), [f"loss.distill.teacher={name!r}"])
        ids.add(run_id(resolve(named, store), 0))
    assert len(ids) == 1
    other = run(load_experiment(Path("teacher.yaml")), seed=1, options=options())
    named = load_experiment(Path("student.yaml"), [f"loss.distill.teacher={other.run_id!r}"])
    assert run_id(resolve(named, store), 0) not in ids
    assert to_train(student, store) is None


def test_a_student_learns_what_its_teacher_says(school: Path) -> None:
    """The first step's loss, from the formula, with the teacher's network as it stands in its checkpoint."""
    from harness.training.data import load_split
    from harness.training.loop import Training
    from tests.training.build import Recorder

    store = Store(Path("runs"))
    run(load_experiment(Path("teacher.yaml")), options=options())
    plain = ["augment.cutmix=null", "train.epochs=1", "train.batch_size=1438"]  # one step, nothing mixed
    spec = resolve(load_experiment(Path("student.yaml"), plain), store)
    hardware = resolve_hardware("cpu", "fp32")
    teacher = load_network(spec, store, hardware)
    assert teacher is not None
    assert not teacher.training
    kept = checkpoint.read(store.entries()[0][0].final)["weights"]
    assert all(torch.equal(tensor, kept[name]) for name, tensor in teacher.state_dict().items())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    training = Training(spec, 0, load_split(spec, Path("data")), hardware, teacher)
    images: list[torch.Tensor] = []
    hook = training.model.register_forward_pre_hook(lambda _, inputs: images.append(inputs[0].clone()))
    before = Training(spec, 0, training.split, hardware, teacher).model.train()
    listener = Recorder()
    training.fit(listener)
    hook.remove()
    from harness.training.augment import draw_epoch

    labels = training.split.train.labels[draw_epoch(spec, 0, 1, 1438, hardware.device).order]
    with torch.no_grad():
        logits, soft = before(images[0]), teacher(images[0])
        hard = -logits.log_softmax(1)[torch.arange(1438), labels].mean()
        p, q = F.softmax(soft / 2, 1), F.softmax(logits / 2, 1)
        expected = 0.5 * hard + 0.5 * 4 * (p * (p.log() - q.log())).sum(1).mean()
    assert listener.rows[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_the_student_is_another_for_its_teacher(school: Path) -> None:
    """Same seed, with and without: other weights; and without is what it was before anyone had a teacher."""
    taught = run(load_experiment(Path("student.yaml")), options=options())
    alone = run(load_experiment(Path("tiny.yaml")), options=options())
    assert taught.weights["final"] != alone.weights["final"]
    assert run_id(load_experiment(Path("tiny.yaml")), 0) == alone.run_id


def test_a_teacher_can_be_interrupted_and_goes_on(school: Path, harness: Harness) -> None:
    stopped = harness("run", "student.yaml", "--time-limit", "0")
    assert stopped.code == 75, stopped.err
    assert [record.name for record in Store(Path("runs")).records()] == ["teacher"]
    assert harness("run", "student.yaml").code == 0


class Ending:
    """An executor whose runs end at once, all in the same way."""

    slots = 1

    def __init__(self, status: str, message: str):
        self.status, self.message = status, message

    def conditions(self, precision: str) -> tuple[str, str]:
        return "cpu", "fp32"

    def execute(
        self, jobs: Sequence[Job], observer: Observer, stop: Stop, *, fail_fast: bool = False
    ) -> dict[str, str]:
        for job in jobs:
            observer(Ended(job.run_id, self.status, self.message))
        return {job.run_id: self.status for job in jobs}


@pytest.mark.parametrize(
    ("status", "message"),
    [("interrupted", "the disk is full"), ("refused", "made under another torch"), ("killed", "signal SIGKILL")],
)
def test_why_a_teacher_could_not_be_trained(
    school: Path, harness: Harness, monkeypatch: pytest.MonkeyPatch, status: str, message: str
) -> None:
    """Nobody stopped it: so it is a failure, exit 1, and its last word is told."""
    monkeypatch.setattr("harness.study.ablate.executor_for", lambda options: Ending(status, message))
    (school / "study.yaml").write_text(
        "name: study\nbase: tiny.yaml\narms: {taught: {loss.distill: {teacher: teacher.yaml}}}\n"
    )
    result = harness("ablate", "study.yaml")
    told = f"the teacher, teacher (seed 0), ended as {status}, and no arm can learn from it: {message}"
    assert (result.code, told in result.err) == (1, True), result.err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: folder.final.unlink(), "are not there"),
        (lambda folder: folder.final.write_bytes(folder.final.read_bytes()[:1000]), "can't be read"),
    ],
)
def test_weights_that_are_gone_or_damaged(school: Path, harness: Harness, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    teacher = run(load_experiment(Path("teacher.yaml")), options=options())
    folder = Store(Path("runs")).find(teacher.run_id)
    assert folder is not None
    damage(folder)
    result = harness("run", "student.yaml")
    assert result.code == 2
    assert message in result.err
    assert [record.name for record in Store(Path("runs")).records()] == ["teacher"]


def test_other_weights_than_the_ones_written_down(school: Path, harness: Harness) -> None:
    run(load_experiment(Path("teacher.yaml")), options=options())
    result = harness("run", "student.yaml", "-o", f"loss.distill.teacher_digest={'ab' * 32}")
    assert result.code == 2
    assert "are not those the spec names" in result.err
    distill = f"{{teacher: teacher.yaml, teacher_digest: {'ab' * 32}}}"
    (school / "study.yaml").write_text(f"name: study\nbase: tiny.yaml\narms: {{taught: {{loss.distill: {distill}}}}}\n")
    result = harness("ablate", "study.yaml")  # before anything is trained
    assert (result.code, len(Store(Path("runs")).records())) == (2, 1)


def test_a_digest_written_down_before_the_teacher_is_trained(school: Path, harness: Harness) -> None:
    """The teacher is trained first all the same, and held against it."""
    digest = run(load_experiment(Path("teacher.yaml")), options=options()).weights["final"]
    pinned = ("run", "student.yaml", "--runs-dir", "elsewhere", "--threads", "1", "-o")
    assert harness(*pinned, f"loss.distill.teacher_digest={digest}").code == 0
    assert len(Store(Path("elsewhere")).records()) == 2
    assert harness(*pinned, f"loss.distill.teacher_digest={'cd' * 32}").code == 2


def test_a_run_that_can_not_teach(school: Path, harness: Harness) -> None:
    result = harness("run", "student.yaml", "-o", "loss.distill.teacher=abc123")
    assert (result.code, "there is no run 'abc123'" in result.err) == (2, True)
    (school / "nothing.pt").write_bytes(b"nothing")
    result = harness("run", "student.yaml", "-o", "loss.distill.teacher=nothing.pt")
    assert (result.code, "can't be read" in result.err) == (2, True)
    assert harness("run", "teacher.yaml", "--time-limit", "0").code == 75
    begun = Store(Path("runs")).records()[0].run_id
    result = harness("run", "student.yaml", "-o", f"loss.distill.teacher={begun}")
    assert (result.code, "has not finished" in result.err) == (2, True)


def test_a_run_of_other_classes_can_not_teach(school: Path) -> None:
    teacher = run(load_experiment(Path("teacher.yaml")), options=options())
    folder = Store(Path("runs")).find(teacher.run_id)
    assert folder is not None
    student = load_experiment(Path("student.yaml"), [f"loss.distill.teacher={teacher.run_id!r}"])
    content = checkpoint.read(folder.final)
    content["spec"]["data"]["dataset"] = "cifar100"
    Path("foreign.pt").write_bytes(checkpoint.serialise(content))
    foreign = load_experiment(Path("student.yaml"), ["loss.distill.teacher=foreign.pt"])
    with pytest.raises(InputError, match="knows 100 classes"):
        resolve(foreign, Store(Path("runs")))
    assert resolve(student, Store(Path("runs"))).loss.distill


@pytest.mark.slow
def test_the_shipped_study_on_digits(folder: Path, harness: Harness) -> None:
    """ablations/distillation.yaml as it is, its base and its teacher on digits: students with and without a teacher."""
    (folder / "ablations").mkdir()
    (folder / "experiments").mkdir()
    shutil.copy(ROOT / "ablations" / "distillation.yaml", folder / "ablations")
    tiny = (folder / "tiny.yaml").read_text()
    (folder / "experiments" / "baseline.yaml").write_text(tiny.replace("name: tiny", "name: baseline"))
    (folder / "experiments" / "teacher.yaml").write_text(TEACHER.replace("tiny.yaml", "baseline.yaml"))
    given = ("ablations/distillation.yaml", "-o", "train.epochs=3", "--seeds", "1")

    planned = json.loads(harness("plan", *given, "--json").out)
    assert [(arm["name"], [run["run_id"] is None for run in arm["runs"]]) for arm in planned["arms"]] == [
        ("baseline", [False]),
        ("distilled", [True]),
        ("distilled_half", [True]),
        ("distilled_t1", [True]),
    ]
    assert [(t["name"], t["runs"][0]["state"]) for t in planned["teachers"]] == [("teacher", "to_do")]
    shown = harness("plan", *given)
    assert "teacher" in shown.out

    done = harness("ablate", *given)
    assert done.code == 0, done.err
    records = Store(Path("runs")).records()
    assert len(records) == 1 + 4
    assert [record.seed for record in records if record.name == "teacher"] == [0]
    assert {r.spec["loss"]["distill"]["teacher_digest"] for r in records if r.spec["loss"]["distill"]} == {
        next(record.weights["final"] for record in records if record.name == "teacher")
    }
    assert len({record.weights["final"] for record in records}) == 5
    again = harness("ablate", *given)
    assert (again.code, "nothing to train" in again.out) == (0, True)

    # the evidence holds the teacher's record, and gives the same report without any weights
    study = resolve_study(load_study(Path(given[0]), ["train.epochs=3"], 1), Store(Path("runs")))
    reporting.evidence(study, Store(Path("runs")), Path("evidence"))
    assert not list(Path("evidence").rglob("*.pt"))
    plan = make_plan(load_study(Path(given[0]), ["train.epochs=3"], 1), Store(Path("evidence")))
    assert plan.count("done") == 4
    options = ("--override", "train.epochs=3", "--seeds", "1", "--runs-dir", "evidence", "--check")
    checked = harness("report", given[0], *options)
    assert checked.code == 0, checked.err


def test_a_teacher_that_fails_ends_no_arm_but_its_own(folder: Path, harness: Harness) -> None:
    (folder / "teacher.yaml").write_text(TEACHER + "optim: {optimizer: {lr: 1.0e+30}, clip: null}\n")
    (folder / "study.yaml").write_text(
        "name: study\nbase: tiny.yaml\nseeds: [0, 1]\narms: {taught: {loss.distill: {teacher: teacher.yaml}}}\n"
    )
    fast = harness("ablate", "study.yaml", "--fail-fast", "--threads", "1")
    assert (fast.code, "is diverged: no arm can learn from it" in fast.err) == (1, True)
    assert [record.name for record in Store(Path("runs")).records()] == ["teacher"]
    started = Store(Path("runs")).records()[0].provenance["started"]
    result = harness("ablate", "study.yaml", "--threads", "1")
    assert result.code == 1
    told = "the teacher, teacher (seed 0), is diverged: no arm can learn from it; --retry-failed trains it again"
    assert f"2 of its runs are not done: {told}" in result.err
    assert told in result.out
    records = Store(Path("runs")).records()
    assert [(record.name, record.status) for record in records] == [
        ("teacher", "diverged"),
        ("tiny", "completed"),
        ("tiny", "completed"),
    ]
    assert records[0].provenance["started"] == started  # not trained again unasked
    assert "taught" in Path("reports/study.md").read_text()
    assert "failed" in harness("plan", "study.yaml").out
    again = harness("ablate", "study.yaml", "--retry-failed", "--threads", "1")
    assert (again.code, told in again.err) == (1, True)
    assert len(Store(Path("runs")).records()[0].provenance["continued"]) == 1  # once, and no more


def test_a_teacher_that_is_an_arm_too_and_fails_is_trained_once_in_a_command(folder: Path) -> None:
    (folder / "study.yaml").write_text(
        "name: study\nbase: tiny.yaml\nseeds: [0]\narms: {again: {loss.distill: {teacher: tiny.yaml}}}\n"
    )
    tiny = (folder / "tiny.yaml").read_text().replace("{lr: 0.1, momentum: 0.9}", "{lr: 1.0e+30}")
    (folder / "tiny.yaml").write_text(tiny)
    for trained_before in (0, 1):
        outcome = ablate(load_study(folder / "study.yaml"), AblateOptions(options(), retry_failed=True))
        assert [(run.arm.name, run.state) for run in outcome.failures] == [("tiny", "failed")]
        [record] = Store(Path("runs")).records()
        assert len(record.provenance.get("continued", [])) == trained_before


@pytest.mark.slow
def test_a_teacher_that_is_an_arm_too_is_kept_by_fresh(folder: Path, harness: Harness) -> None:
    """A network that learns from its own like: the base is trained once, as the teacher."""
    (folder / "study.yaml").write_text(
        "name: study\nbase: tiny.yaml\nseeds: 2\narms: {again: {loss.distill: {teacher: tiny.yaml}}}\n"
    )
    assert harness("ablate", "study.yaml", "--threads", "1").code == 0
    teacher = next(r for r in Store(Path("runs")).records() if r.name == "tiny" and r.seed == 0)
    result = harness("ablate", "study.yaml", "--threads", "1", "--fresh")
    assert result.code == 0, result.err
    assert "is kept" in result.out
    kept = next(r for r in Store(Path("runs")).records() if r.name == "tiny" and r.seed == 0)
    assert kept.provenance["started"] == teacher.provenance["started"]
    assert len(Store(Path("runs")).records()) == 4
    assert len(list(Path("runs/aside").iterdir())) == 3


def test_an_arm_of_other_hardware_is_refused_before_a_teacher_is_trained(school: Path, harness: Harness) -> None:
    assert harness("run", "tiny.yaml").code == 0
    folder, record = Store(Path("runs")).entries()[0]
    folder.write_record(record.model_copy(update={"provenance": record.provenance | {"device_type": "cuda"}}))
    (school / "study.yaml").write_text(
        "name: study\nbase: tiny.yaml\narms: {taught: {loss.distill: {teacher: teacher.yaml}}}\n"
    )
    result = harness("ablate", "study.yaml")
    assert (result.code, "--any-device" in result.err, result.out) == (2, True, "")
    assert len(Store(Path("runs")).records()) == 1


def test_a_teacher_begun_on_other_hardware(school: Path, harness: Harness) -> None:
    assert harness("run", "teacher.yaml", "--time-limit", "0").code == 75
    folder = Store(Path("runs")).entries()[0][0]
    record = folder.read_record()
    record.provenance["device_type"] = "cuda"
    folder.write_record(record)
    (school / "study.yaml").write_text(
        "name: study\nbase: tiny.yaml\narms: {taught: {loss.distill: {teacher: teacher.yaml}}}\n"
    )
    result = harness("ablate", "study.yaml")
    assert (result.code, "--any-device" in result.err) == (2, True)
    assert harness("run", "teacher.yaml", "--any-device").code == 0
    store = Store(Path("runs"))
    trained = make_plan(load_study(school / "study.yaml"), store, hardware=lambda precision: ("mps", "fp32"))
    assert not trained.teachers[0].run.is_refused  # whatever trained it, it may teach


@pytest.mark.slow
def test_the_report_names_the_teacher_and_no_place(school: Path, harness: Harness) -> None:
    """The same bytes from wherever it is called, and the teacher with its size."""
    (school / "study.yaml").write_text(
        "name: study\nbase: tiny.yaml\nseeds: 2\narms: {taught: {loss.distill: {teacher: teacher.yaml}}}\n"
    )
    assert harness("ablate", str(school / "study.yaml")).code == 0
    text = Path("reports/study.md").read_text()
    assert str(school) not in text
    assert 'loss.distill={"teacher": "teacher.yaml"}' in text
    told = " ".join(text.split())
    teacher = next(record for record in Store(Path("runs")).records() if record.name == "teacher")
    assert f"Teacher: `teacher` (seed 0, {teacher.trainable_parameters:,} parameters" in told
    assert harness("report", "study.yaml", "--check").code == 0


def test_the_expected_time_counts_the_teacher(school: Path) -> None:
    (school / "study.yaml").write_text(
        "name: study\nbase: tiny.yaml\narms: {taught: {loss.distill: {teacher: teacher.yaml}}}\n"
    )
    run(load_experiment(Path("tiny.yaml")), options=options())
    plan = make_plan(load_study(Path("study.yaml")), Store(Path("runs")))
    base, taught = plan.arms
    teacher = plan.teachers[0]
    done = plan.runs[0].record
    assert done is not None
    left = 3 * teacher.cost.macs * 3 + (3 * taught.cost.macs + teacher.cost.macs) * 3
    assert plan.expected_seconds() == pytest.approx(done.timings["total"] / (3 * base.cost.macs * 3) * left)


def test_a_teacher_that_is_an_arm_too_is_counted_once(folder: Path) -> None:
    """In the expected time and in the room on the disk; where it has begun, what is left of it."""
    (folder / "study.yaml").write_text(
        "name: study\nbase: tiny.yaml\nseeds: [0, 1]\narms: {again: {loss.distill: {teacher: tiny.yaml}}}\n"
    )
    done = run(load_experiment(Path("tiny.yaml")), 1, options())
    store = Store(Path("runs"))
    plan = make_plan(load_study(Path("study.yaml")), store)
    one = done.timings["total"]
    taught = one * (3 + 1) / 3
    assert plan.expected_seconds() == pytest.approx(one + 2 * taught)
    assert plan.wall_seconds(2) == pytest.approx(one + taught)
    teacher, _, student, _ = plan.runs
    room = plan.space([student], 1)
    assert plan.space([teacher, student], 1) == room

    interrupted = done.model_copy(update={"run_id": teacher.run_id, "seed": 0, "status": "interrupted"})
    left = store.folder("tiny", interrupted.run_id)
    left.create()
    left.write_record(interrupted.model_copy(update={"epochs_done": 1}))
    left.last.write_bytes(b"a state")
    begun = make_plan(load_study(Path("study.yaml")), store)
    assert begun.expected_seconds() == pytest.approx(one * 2 / 3 + 2 * taught)
    assert begun.space([begun.runs[2]], 1) == room - len(b"a state")


def test_the_expected_time_counts_a_teachers_own_teacher(school: Path) -> None:
    (school / "teacher.yaml").write_text(TEACHER + "loss: {distill: {teacher: tiny.yaml}}\n")
    (school / "study.yaml").write_text("name: study\nbase: student.yaml\n")
    run(load_experiment(Path("tiny.yaml")), options=options())
    plan = make_plan(load_study(Path("study.yaml")), Store(Path("runs")))
    tiny, teacher = plan.teachers
    assert teacher.work == (3 * teacher.cost.macs + tiny.cost.macs) * teacher.spec.train_images * 3


def test_two_teachers_that_differ_in_their_seed_are_two(school: Path) -> None:
    (school / "other.yaml").write_text("name: other\nbase: teacher.yaml\nseed: 1\n")
    (school / "study.yaml").write_text(
        "name: study\nbase: tiny.yaml\nseeds: [0]\narms:\n"
        "  first: {loss.distill: {teacher: teacher.yaml}}\n  second: {loss.distill: {teacher: other.yaml}}\n"
    )
    outcome = ablate(load_study(Path("study.yaml")), AblateOptions(options(device="cpu")))
    assert [(teacher.spec.name, teacher.run.state) for teacher in outcome.plan.teachers] == [
        ("teacher", "done"),
        ("other", "done"),
    ]
    assert outcome.plan.count("done") == 3
    assert len({run.run_id for run in outcome.plan.runs}) == 3


def test_arms_whose_teachers_are_one_under_two_names_are_one(school: Path, harness: Harness) -> None:
    """Before it is trained and afterwards; by its file, another file of the same experiment, and its run's id."""
    (school / "same.yaml").write_text("name: same\nbase: teacher.yaml\n")
    arms = "arms:\n  first: {loss.distill: {teacher: teacher.yaml}}\n  second: {loss.distill: {teacher: same.yaml}}\n"
    (school / "study.yaml").write_text(f"name: study\nbase: tiny.yaml\nseeds: [0, 1]\n{arms}")
    store, remark = Store(Path("runs")), "second is equal to first: one arm, called first"
    before = make_plan(load_study(Path("study.yaml")), store)
    assert ([arm.arm.name for arm in before.arms], before.study.remarks) == (["tiny", "first"], (remark,))
    assert remark in harness("ablate", "study.yaml", "--threads", "1", "--wandb", "disabled").out
    assert remark in Path("reports/study.md").read_text()
    assert len(store.records()) == 5
    teacher = next(record for record in store.records() if record.name in ("teacher", "same"))
    third = f"  third: {{loss.distill: {{teacher: {teacher.run_id!r}}}}}\n"
    (school / "study.yaml").write_text(f"name: study\nbase: tiny.yaml\nseeds: [0, 1]\n{arms}{third}")
    after = make_plan(load_study(Path("study.yaml")), store)
    assert ([arm.arm.name for arm in after.arms], after.count("done")) == (["tiny", "first"], 4)
    assert after.study.remarks == (remark, "third is equal to first: one arm, called first")
    assert resolve_study(after.study, store) == after.study
    assert len(after.study.arms[1].placements) == 3


def test_of_a_damaged_teacher_the_remedy_is_told_and_helps(school: Path, harness: Harness) -> None:
    teacher = run(load_experiment(Path("teacher.yaml")), options=options())
    folder = Store(Path("runs")).find(teacher.run_id)
    assert folder is not None
    folder.record_path.write_text("{")
    study = "name: study\nbase: tiny.yaml\narms: {taught: {loss.distill: {teacher: teacher.yaml}}}\n"
    (school / "study.yaml").write_text(study)
    for command in (("plan", "study.yaml"), ("run", "student.yaml")):
        result = harness(*command)
        assert (result.code, "teacher.yaml --fresh` puts it aside" in " ".join(result.err.split())) == (2, True)
    assert harness("run", str(Path("teacher.yaml").resolve()), "--fresh").code == 0
    assert harness("plan", "study.yaml").code == 0


def test_of_students_that_are_done_no_teacher_is_trained_again(school: Path, harness: Harness) -> None:
    """Their ids are known, since the digest of its weights is written down."""
    teacher = run(load_experiment(Path("teacher.yaml")), options=options())
    distill = f"{{teacher: teacher.yaml, teacher_digest: {teacher.weights['final']}}}"
    (school / "study.yaml").write_text(
        f"name: study\nbase: tiny.yaml\nseeds: [0]\narms: {{taught: {{loss.distill: {distill}}}}}\n"
    )
    assert harness("ablate", "study.yaml", "--threads", "1").code == 0
    store = Store(Path("runs"))
    kept = [record.run_id for record in store.records() if record.run_id != teacher.run_id]
    store.set_aside(teacher.run_id)
    again = harness("ablate", "study.yaml", "--threads", "1")
    assert (again.code, "nothing to train" in again.out) == (0, True)
    taught = make_plan(load_study(Path("study.yaml")), store)
    assert (taught.teachers[0].run.state, taught.expected_seconds(), taught.space([], 1)) == ("to_do", 0, 0)
    assert "parameters): needed no more" in " ".join(harness("plan", "study.yaml").out.split())
    pinned = "run", "student.yaml", "--threads", "1", "-o", f"loss.distill={distill}"
    assert harness(*pinned).code == 0
    assert [record.run_id for record in store.records()] != kept  # another student, which needs its teacher
    store.set_aside(teacher.run_id)
    assert harness(*pinned).code == 0
    assert teacher.run_id not in {record.run_id for record in store.records()}
    more = harness("ablate", "study.yaml", "--seeds", "2", "--threads", "1")
    assert more.code == 0
    assert teacher.run_id in {record.run_id for record in store.records()}


def test_a_teacher_over_its_own_budget_stops_all(folder: Path, harness: Harness) -> None:
    (folder / "teacher.yaml").write_text(TEACHER.replace("null", "100"))
    (folder / "study.yaml").write_text(
        "name: study\nbase: tiny.yaml\narms: {taught: {loss.distill: {teacher: teacher.yaml}}}\n"
    )
    for command in ("check", "plan", "ablate"):
        result = harness(command, "study.yaml")
        assert result.code == 2
        assert "teacher teacher: " in result.err
        assert "over the limit of 100" in result.err
    assert not (folder / "runs").exists()


def test_check_looks_at_the_budget_of_a_teachers_own_teacher(school: Path, harness: Harness) -> None:
    (school / "teacher.yaml").write_text(TEACHER + "loss: {distill: {teacher: first.yaml}}\n")
    (school / "first.yaml").write_text("name: first\nbase: tiny.yaml\n")
    whole = harness("check", "student.yaml", "tiny.yaml", "--json")
    assert [arm["name"] for arm in json.loads(whole.out)["arms"]] == ["student", "tiny"]
    (school / "first.yaml").write_text("name: first\nbase: tiny.yaml\nguard: {max_parameters: 100}\n")
    refused = harness("check", "student.yaml")
    assert refused.code == 2
    assert "teacher first: " in refused.err
