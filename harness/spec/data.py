"""`data:` of an experiment file: which images, and which of them are used for what."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from harness.spec.base import ConflictError, PositiveInt, Spec, Text
from harness.spec.datasets import DATASETS, Dataset

Protocol = Literal["paper", "holdout", "full"]

HOLDOUT_SHARE = 0.1
"""Of each class's training images, what protocol holdout keeps for validation."""


class FolderContent(Spec):
    """What a folder of images holds, as far as a run depends on it. Filled in by reading the folder."""

    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Channels, height, width."""
    class_names: Annotated[tuple[str, ...], Field(min_length=2, max_length=10_000)]
    """The folders' names, sorted: class 0 first."""
    train_images: PositiveInt
    """Training images, all classes together."""
    held_out: PositiveInt | None = None
    """Those of them that protocol holdout keeps for validation; null in records of before it was counted."""
    test_images: PositiveInt
    """Test images."""
    digest: str
    """SHA-256 over every file's name and bytes."""


class Folder(Spec):
    """The user's own images: `path/<class>/*.png`, or `path/train/<class>/...` and `path/test/<class>/...`.

    Without train and test folders a fixed stratified fifth, chosen by hash, is the test set.
    """

    path: Text
    """The folder, relative to the file that names it; not part of the run's identity, which takes what it holds."""
    size: Annotated[int, Field(gt=0, le=1024)] | None = None
    """Pixels: images are scaled so that their shorter side has this many, and the middle is cut out.
    Null: all of them must be of one size already."""
    content: FolderContent | None = None
    """What was found there: filled in when the file is read, so that a record tells it. Not to be written."""


class Data(Spec):
    """Which images, and which of them are used for what."""

    dataset: Literal["cifar10", "cifar100", "digits", "folder"]
    """`cifar10`, `cifar100`: 50,000 + 10,000 colour images 32 x 32; `digits`: scikit-learn's 1,797 scanned digits
    8 x 8; `folder`: your own images, under `data.folder`."""
    protocol: Protocol = "paper"
    """`paper`: train on all training images, validate on the test set (so what is selected is selected on it);
    `holdout`: a fixed stratified tenth of the training images is the validation set, the test set is not read
    until `harness run --test`; `full`: all training images, no validation, the test set read once at the end."""
    folder: Folder | None = None
    """Where your own images lie. Null for the named data sets."""

    @property
    def facts(self) -> Dataset:
        """What is known of the data set without reading it: image shape, classes, sizes, digest."""
        if self.folder is None or self.folder.content is None:
            return DATASETS[self.dataset]
        content = self.folder.content
        channels = content.image_shape[0]
        return Dataset(
            title="own images",
            image_shape=content.image_shape,
            class_names=content.class_names,
            train_images=content.train_images,
            held_out=content.held_out or round(HOLDOUT_SHARE * content.train_images),
            test_images=content.test_images,
            mean=(0.5,) * channels,
            std=(0.25,) * channels,
            digest=content.digest,
        )

    @property
    def images_of_an_epoch(self) -> int:
        """All training images but those that protocol holdout keeps for validation."""
        return self.facts.train_images - (self.facts.held_out if self.protocol == "holdout" else 0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dataset == "folder" and self.folder is None:
            raise ConflictError(("folder", "is missing: dataset folder needs `folder: {path: ...}`"))
        if self.dataset == "folder" and self.folder and self.folder.content is None:
            raise ConflictError(("folder.content", "is missing: `load_experiment` fills it in from the images"))
        if self.dataset != "folder" and self.folder is not None:
            raise ConflictError(("folder", f"has no meaning for data set {self.dataset}: write `dataset: folder`"))
        return self
