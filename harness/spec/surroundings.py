"""What an experiment names outside of its file: a folder of images, a teacher's file. Looked at when it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os.path import exists, isfile
from pathlib import Path
from typing import Any

from harness.errors import InputError, Problem
from harness.spec.data import FolderContent
from harness.spec.datasets import Dataset
from harness.spec.diagnostics import checked
from harness.spec.experiment import ExperimentSpec
from harness.spec.origin import Origin
from harness.spec.paths import TEACHER, resolved

EXPERIMENT_SUFFIXES = (".yaml", ".yml")

Contents = Callable[[str, int | None], FolderContent | None]
"""What a folder of images held, from its path and `size`, as far as that is known; for folders that are not there."""


class Surroundings:
    """Validates experiments together with what they name; each folder and each teacher is looked at once.

    Args:
        learners: the files whose teacher is being read: a teacher that is one of them learns from itself.
        contents: asked of a folder that is not there; None: it has to be there.
    """

    def __init__(self, *learners: Path, contents: Contents | None = None):
        self.learners = learners
        self.contents = contents
        self._contents: dict[tuple[str, int | None], FolderContent] = {}
        self._teachers: dict[str, ExperimentSpec] = {}

    def checked(
        self, tree: dict[str, Any], origin: Origin, extra_keys: tuple[str, ...] = ()
    ) -> tuple[ExperimentSpec | None, list[Problem]]:
        """`tree` as an experiment with its folder's content filled in, or None, and what is wrong with it."""
        try:
            tree = self._with_content(tree, origin)
        except InputError as error:
            _, mistakes = checked(ExperimentSpec, tree, origin, extra_keys)
            return None, [
                *error.problems,
                *(m for m in mistakes if not (m.where or "").endswith("data.folder.content")),
            ]
        spec, problems = checked(ExperimentSpec, tree, origin, extra_keys)
        return spec, [*problems, *(self._teacher_problems(spec, origin) if spec else ())]

    # --- a folder of images ---

    def _with_content(self, tree: dict[str, Any], origin: Origin) -> dict[str, Any]:
        """The tree with what its folder holds; unchanged where it names none, or not in the right form.

        Raises:
            InputError: the folder can't be used, or holds something else than the tree says.
        """
        data = tree.get("data")
        folder = data.get("folder") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(folder, dict) or data.get("dataset") != "folder":
            return tree
        path, size = folder.get("path"), folder.get("size")
        if (
            not isinstance(path, str)
            or not path
            or "\0" in path
            or not (size is None or (type(size) is int and size > 0))
        ):
            return tree
        if (path, size) not in self._contents:
            self._contents[path, size] = self._content(path, size)
        content = self._contents[path, size].model_dump(mode="json")
        if not _agrees(folder.get("content"), content):
            where = origin.where(("data", "folder", "content"))
            raise InputError(f"{path} holds other images than this says", where=where, fix="leave `content` out.")
        return tree | {"data": data | {"folder": folder | {"content": content}}}

    def _content(self, path: str, size: int | None) -> FolderContent:
        if self.contents and not exists(path) and (content := self.contents(path, size)):
            return content
        from harness.spec.folders import read_content  # needs Pillow

        return read_content(Path(path), size)

    # --- a teacher ---

    def _teacher_problems(self, spec: ExperimentSpec, origin: Origin) -> list[Problem]:
        distill = spec.loss.distill
        if distill is None or not distill.teacher.endswith(EXPERIMENT_SUFFIXES):
            return []  # a run or a checkpoint is looked for among the runs
        where = origin.where(tuple(TEACHER.split(".")))
        try:
            teacher = self._teacher(distill.teacher, where)
            check_teacher(spec, teacher, where)
        except InputError as error:
            return list(error.problems)
        return []

    def _teacher(self, path: str, where: str) -> ExperimentSpec:
        from harness.spec.documents import load_experiment

        if resolved(Path(path)) in map(resolved, self.learners):
            raise InputError("the teachers go in a circle", where=where, fix="a teacher is another experiment.")
        if not isfile(path):
            fix = "a teacher is an experiment file, a run or a checkpoint; a file is relative to the one that names it."
            raise InputError(f"there is no file {path}", where=where, fix=fix)
        if path not in self._teachers:
            self._teachers[path] = load_experiment(Path(path), learners=self.learners, contents=self.contents)
        return self._teachers[path]


def teachers_of(specs: Sequence[ExperimentSpec]) -> list[ExperimentSpec]:
    """The teachers that are experiment files, each file once, a teacher's own teacher before it."""
    from harness.spec.documents import load_experiment

    found: dict[str, ExperimentSpec] = {}

    def look_at(spec: ExperimentSpec) -> None:
        distill = spec.loss.distill
        if distill and distill.teacher.endswith(EXPERIMENT_SUFFIXES) and distill.teacher not in found:
            teacher = load_experiment(Path(distill.teacher))
            look_at(teacher)
            found[distill.teacher] = teacher

    for spec in specs:
        look_at(spec)
    return list(found.values())


def _agrees(told: Any, content: dict[str, Any]) -> bool:
    """Whether what a file or a record says of a folder is so; an older record says less."""
    return told is None or (isinstance(told, dict) and all(told[key] in (None, content.get(key)) for key in told))


def check_teacher(student: ExperimentSpec, teacher: ExperimentSpec, where: str) -> None:
    """Whether `student` can learn from `teacher`, and may.

    Raises:
        InputError: they know different classes or images, or the teacher has seen what the student must not.
    """
    if mismatch := _mismatch(student, teacher):
        what, fix = mismatch
        raise InputError(f"the teacher, {teacher.name}, {what}", where=where, fix=fix)


def _mismatch(student: ExperimentSpec, teacher: ExperimentSpec) -> tuple[str, str] | None:
    """What keeps them apart, and what to do about it. Other images are none, but for those that hold others out."""
    ours, theirs = student.dataset, teacher.dataset
    if ours.class_names != theirs.class_names:
        what = f"knows {_classes(theirs)} and the student {_classes(ours)}"
        return what, "a teacher is trained on the same classes in the same order."
    if ours.image_shape != theirs.image_shape:
        what = f"takes images of shape {theirs.image_shape}, the student {ours.image_shape}"
        return what, "a teacher takes the same images."
    if (ours.mean, ours.std) != (theirs.mean, theirs.std):
        what = f"is trained on {_images(teacher)}, which are normalised otherwise than the student's"
        return what, f"train the teacher on {_images(student)}."
    if student.data.protocol != "holdout":
        return None
    if ours.digest != theirs.digest:
        what = f"is trained on {_images(teacher)}; those that protocol holdout keeps for validation may be among them"
        return what, f"train the teacher on {_images(student)} under `protocol: holdout` too."
    if teacher.data.protocol != "holdout":
        what = "is trained on the images that protocol holdout keeps for validation"
        return what, "train the teacher under `protocol: holdout` too."
    return None


def _classes(dataset: Dataset) -> str:
    return f"{dataset.classes} classes ({dataset.title})"


def _images(spec: ExperimentSpec) -> str:
    return f"the images of {spec.data.folder.path if spec.data.folder else spec.dataset.title}"
