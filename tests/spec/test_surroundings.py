"""What an experiment names outside of its file: teachers and folders, found relative to who names them, and checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from harness.spec.ablation import load_study
from harness.spec.documents import experiment_from_dict, load_experiment
from harness.spec.identity import run_id, spec_digest
from tests.spec.conftest import Writer, problem_at, problems_of

TEACHER = "base: plain.yaml\nmodel: {width: 32}\nguard: {max_parameters: null}\n"
STUDENT = "base: plain.yaml\nloss: {distill: {teacher: teacher.yaml}}\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder is the one that holds `experiments/`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- where files are looked for ---


def test_a_teacher_is_relative_to_the_file_that_names_it(write: Writer, here: Path) -> None:
    write("experiments/plain.yaml", (here / "plain.yaml").read_text())
    write("experiments/teacher.yaml", TEACHER)
    write("experiments/student.yaml", STUDENT)
    write("more/student.yaml", "base: ../experiments/student.yaml\n")
    for path in ("experiments/student.yaml", "more/student.yaml"):  # a base's path is the base's
        spec = load_experiment(Path(path))
        assert spec.loss.distill is not None
        assert spec.loss.distill.teacher == "experiments/teacher.yaml"


def test_an_arms_teacher_is_relative_to_the_ablation_file(write: Writer, here: Path) -> None:
    write("experiments/plain.yaml", (here / "plain.yaml").read_text())
    write("experiments/teacher.yaml", TEACHER)
    text = """\
        name: study
        base: ../experiments/plain.yaml
        arms:
          whole: {loss.distill: {teacher: ../experiments/teacher.yaml}}
          leaf: {loss.distill.teacher: ../experiments/teacher.yaml, loss.distill.weight: 0.5}
          section: {loss: {distill: {teacher: ../experiments/teacher.yaml, weight: 0.4}}}
    """
    study = load_study(write("ablations/study.yaml", text).relative_to(here))
    assert [arm.spec.loss.distill and arm.spec.loss.distill.teacher for arm in study.arms] == [
        None,
        *["experiments/teacher.yaml"] * 3,
    ]


def test_an_override_on_the_command_line_is_relative_to_the_working_folder(write: Writer, here: Path) -> None:
    write("experiments/plain.yaml", (here / "plain.yaml").read_text())
    write("teacher.yaml", TEACHER)
    spec = load_experiment(Path("experiments/plain.yaml"), ["loss.distill.teacher=teacher.yaml"])
    assert spec.loss.distill is not None
    assert spec.loss.distill.teacher == "teacher.yaml"


def test_a_run_id_stays_what_it_is(write: Writer, here: Path) -> None:
    spec = load_experiment(write("sub/student.yaml", "base: ../plain.yaml\nloss: {distill: {teacher: 12ab34}}\n"))
    assert spec.loss.distill is not None
    assert spec.loss.distill.teacher == "12ab34"


# --- a teacher ---


def test_a_teacher_that_is_not_there(write: Writer) -> None:
    student = write("student.yaml", STUDENT)
    problem = problem_at(problems_of(lambda: load_experiment(student)), "student.yaml:2: loss.distill.teacher")
    assert "there is no file" in problem.what


def test_a_mistake_in_the_teacher_is_told_where_it_is(write: Writer) -> None:
    write("teacher.yaml", TEACHER.replace("width: 32", "width: 0"))
    student = write("student.yaml", STUDENT)
    assert problem_at(problems_of(lambda: load_experiment(student)), "teacher.yaml:2: model.width")


def test_other_classes(write: Writer) -> None:
    write("teacher.yaml", TEACHER + "data: {dataset: cifar100}\n")
    problem = problem_at(problems_of(lambda: load_experiment(write("student.yaml", STUDENT))), "loss.distill.teacher")
    assert "teacher, knows 100 classes (CIFAR-100)" in problem.what
    assert "10 classes (scikit-learn digits)" in problem.what


def test_a_teacher_that_has_seen_the_held_out_images(write: Writer) -> None:
    write("teacher.yaml", TEACHER)
    student = write("student.yaml", STUDENT + "data: {protocol: holdout}\n")
    problem = problem_at(problems_of(lambda: load_experiment(student)), "loss.distill.teacher")
    assert "keeps for validation" in problem.what
    write("teacher.yaml", TEACHER + "data: {protocol: holdout}\n")
    assert load_experiment(student).data.protocol == "holdout"


def digits_as_files(root: Path) -> None:
    """A folder of the digits' classes and shape: other images than the named data set's."""
    for digit in range(10):
        for number in range(10):
            (root / str(digit)).mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), number).save(root / str(digit) / f"{number}.png")


def test_a_teacher_of_images_that_are_normalised_otherwise(write: Writer, here: Path) -> None:
    """It would see the student's, which are nothing like its own: 94 % of the digits became 47 %."""
    digits_as_files(here / "images")
    write("teacher.yaml", TEACHER + "data: {dataset: folder, folder: {path: images}}\ntrain: {batch_size: 4}\n")
    problem = problem_at(problems_of(lambda: load_experiment(write("student.yaml", STUDENT))), "loss.distill.teacher")
    assert "images, which are normalised otherwise" in problem.what
    assert problem.fix == "train the teacher on the images of scikit-learn digits."


def test_a_teacher_of_other_images_may_have_seen_those_that_are_held_out(write: Writer, here: Path) -> None:
    for name in ("these", "those"):
        digits_as_files(here / name)
    Image.new("L", (8, 8), 99).save(here / "those" / "0" / "more.png")
    data = "data: {{dataset: folder, protocol: {protocol}, folder: {{path: {path}}}}}\ntrain: {{batch_size: 4}}\n"
    write("teacher.yaml", TEACHER + data.format(protocol="holdout", path="those"))
    student = write("student.yaml", STUDENT + data.format(protocol="holdout", path="these"))
    problem = problem_at(problems_of(lambda: load_experiment(student)), "loss.distill.teacher")
    assert "those; those that protocol holdout keeps for validation may be among them" in problem.what
    write("student.yaml", STUDENT + data.format(protocol="full", path="these"))
    assert load_experiment(student).loss.distill  # more images to learn from are no mistake
    write("teacher.yaml", TEACHER + data.format(protocol="holdout", path="these"))
    write("student.yaml", STUDENT + data.format(protocol="holdout", path="these"))
    assert load_experiment(student).loss.distill


def test_teachers_in_a_circle(write: Writer) -> None:
    write("teacher.yaml", TEACHER + "loss: {distill: {teacher: student.yaml}}\n")
    problems = problems_of(lambda: load_experiment(write("student.yaml", STUDENT)))
    assert "circle" in problem_at(problems, "teacher.yaml:4: loss.distill.teacher").what
    alone = write("alone.yaml", STUDENT.replace("teacher.yaml", "alone.yaml"))
    assert "circle" in problem_at(problems_of(lambda: load_experiment(alone)), "loss.distill.teacher").what


def test_a_teacher_may_have_a_teacher(write: Writer) -> None:
    write("grand.yaml", TEACHER)
    write("teacher.yaml", TEACHER.replace("32", "24") + "loss: {distill: {teacher: grand.yaml}}\n")
    assert load_experiment(write("student.yaml", STUDENT)).loss.distill


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("{teacher: teacher.yaml, temperature: 0}", "loss.distill.temperature", "above 0"),
        ("{teacher: teacher.yaml, weight: 1.5}", "loss.distill.weight", "at most 1"),
        ("{temperature: 2.0}", "loss.distill.teacher", "is missing"),
        ("{teacher: teacher.yaml, teacher_digest: abc}", "loss.distill.teacher_digest", "abc"),
        ("true", "loss.distill.teacher", "is missing"),
    ],
)
def test_bad_distillation(write: Writer, text: str, where: str, what: str) -> None:
    write("teacher.yaml", TEACHER)
    student = write("student.yaml", f"base: plain.yaml\nloss: {{distill: {text}}}\n")
    assert what in problem_at(problems_of(lambda: load_experiment(student)), where).what


# --- a folder of images ---


def make_folder(root: Path, colour: int = 0) -> None:
    for name in ("cats", "dogs"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(10):
            Image.new("RGB", (8, 8), (colour, number, 3)).save(root / name / f"{number}.png")


FOLDER = """\
base: ../plain.yaml
data: {dataset: folder, folder: {path: ../images}}
train: {batch_size: 4}
"""


def test_a_folder_is_read_when_the_file_is(write: Writer, here: Path) -> None:
    make_folder(here / "images")
    path = write("experiments/mine.yaml", FOLDER).relative_to(here)
    spec = load_experiment(path)
    folder = spec.data.folder
    assert folder is not None
    assert folder.content is not None
    assert folder.path == "images"
    assert (spec.dataset.class_names, spec.dataset.image_shape) == (("cats", "dogs"), (3, 8, 8))
    assert spec.dataset.train_images + spec.dataset.test_images == 20
    # the identity is that of what the folder holds, not of where it is
    (here / "images").rename(here / "moved")
    moved = load_experiment(path, ["data.folder.path=moved"])
    assert run_id(moved, 0) == run_id(spec, 0)
    make_folder(here / "moved", colour=9)
    assert run_id(load_experiment(path, ["data.folder.path=moved"]), 0) != run_id(spec, 0)
    # a record of it stands for itself, with the folder gone
    assert experiment_from_dict(spec.model_dump(mode="json")) == spec


def test_a_record_that_tells_less_of_its_folder_is_read(write: Writer, here: Path) -> None:
    """Of before the held-out images were counted."""
    make_folder(here / "images")
    spec = load_experiment(write("experiments/mine.yaml", FOLDER.replace("folder, ", "folder, protocol: holdout, ")))
    tree = spec.model_dump(mode="json")
    assert spec.dataset.held_out == tree["data"]["folder"]["content"].pop("held_out") == 2
    old = experiment_from_dict(tree)
    assert (old.train_images, spec_digest(old)) == (14, spec_digest(spec))


def test_a_folder_that_is_not_there(write: Writer, here: Path) -> None:
    path = write("experiments/mine.yaml", FOLDER + "model: {depth: [1]}\n")
    problems = problems_of(lambda: load_experiment(path))
    assert any("images" in str(problem) for problem in problems)
    assert problem_at(problems, "model.depth")  # the file's other mistakes are told too
    assert len(problems) == 2


def test_written_content_must_be_what_is_there(write: Writer, here: Path) -> None:
    make_folder(here / "images")
    spec = load_experiment(write("experiments/mine.yaml", FOLDER))
    assert spec.data.folder
    assert spec.data.folder.content
    content = json.dumps(spec.data.folder.content.model_dump(mode="json"))  # JSON is YAML
    pinned = FOLDER.replace("path: ../images", f"path: ../images, content: {content}")
    assert load_experiment(write("experiments/pinned.yaml", pinned)).dataset == spec.dataset
    make_folder(here / "images", colour=1)
    problems = problems_of(lambda: load_experiment(write("experiments/pinned.yaml", pinned)))
    assert "other images" in problem_at(problems, "data.folder.content").what


def test_a_folder_needs_its_data_set_and_the_other_way_round(write: Writer, here: Path) -> None:
    make_folder(here / "images")
    missing = write("a.yaml", "base: plain.yaml\ndata: {dataset: folder}\n")
    assert "is missing" in problem_at(problems_of(lambda: load_experiment(missing)), "data.folder").what
    useless = write("b.yaml", "base: plain.yaml\ndata: {folder: {path: images}}\n")
    assert "no meaning" in problem_at(problems_of(lambda: load_experiment(useless)), "data.folder").what
