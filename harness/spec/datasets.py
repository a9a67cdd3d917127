"""What is known of each data set before a byte of it is read: shapes, sizes and the content's digest.

The digest lets a run's identity, and so a whole study, be planned on a machine without the data;
`harness.training.data` refuses data whose digest differs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dataset:
    """Facts of a named data set.

    `image_shape` is (channels, height, width); `mean` and `std` are per channel on the [0, 1] scale;
    `digest` is SHA-256 over train images, train labels, test images, test labels as uint8 in file order.
    """

    title: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    train_images: int
    test_images: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str

    @property
    def classes(self) -> int:
        return len(self.class_names)


DATASETS: dict[str, Dataset] = {
    "cifar10": Dataset(
        title="CIFAR-10",
        image_shape=(3, 32, 32),
        class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        train_images=50_000,
        test_images=10_000,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),  # the published recipe's; the true ones are 0.2470, 0.2435, 0.2616
        digest="80387ddb9a0edf3fc4a964ee3770296169bb26a651050df20035579673099660",
    ),
    "digits": Dataset(
        title="scikit-learn digits",
        image_shape=(1, 8, 8),
        class_names=tuple("0123456789"),
        train_images=1_438,
        test_images=359,
        mean=(0.3052,),
        std=(0.3759,),
        digest="f42103eaa6650223e9f438b411d9ca5ec49290622b3082158a83f66c5fe62dd6",
    ),
}
