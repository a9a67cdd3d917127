"""What is known of each data set before a byte of it is read: shapes, sizes and the content's digest.

The digest lets a run's identity, and so a whole study, be planned on a machine without the data;
`harness.training.data` refuses data whose digest differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256


@dataclass(frozen=True)
class Dataset:
    """Facts of a named data set.

    `image_shape` is (channels, height, width); `held_out` of the training images are protocol holdout's validation
    set, a tenth of each class; `mean` and `std` are per channel on the [0, 1] scale;
    `digest` is SHA-256 over train images, train labels, test images, test labels as uint8 in file order.
    """

    title: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    train_images: int
    held_out: int
    test_images: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str

    @property
    def classes(self) -> int:
        return len(self.class_names)


# SHA-256 over the official files' MD5s (train, test, meta), which are checked before the files are read: it stands
# for the content as surely as the other sets' digests do.
CIFAR100_DIGEST = sha256(
    b"16019d7e3df5f24257cddd939b257f8d f0ef6b0ae62326f3e7ffdfab6717acfc 7973b15100ade9c7d40fb424638fde48"
).hexdigest()

CIFAR100_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel "
    "can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur "
    "dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion "
    "lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree "
    "pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea "
    "seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank "
    "telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)

DATASETS: dict[str, Dataset] = {
    "cifar10": Dataset(
        title="CIFAR-10",
        image_shape=(3, 32, 32),
        class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        train_images=50_000,
        held_out=5_000,
        test_images=10_000,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),  # the published recipe's; the true ones are 0.2470, 0.2435, 0.2616
        digest="80387ddb9a0edf3fc4a964ee3770296169bb26a651050df20035579673099660",
    ),
    "cifar100": Dataset(
        title="CIFAR-100",
        image_shape=(3, 32, 32),
        class_names=tuple(CIFAR100_CLASSES.split()),
        train_images=50_000,
        held_out=5_000,
        test_images=10_000,
        mean=(0.5071, 0.4865, 0.4409),  # the true ones of the training images, as most recipes have them
        std=(0.2673, 0.2564, 0.2762),
        digest=CIFAR100_DIGEST,
    ),
    "digits": Dataset(
        title="scikit-learn digits",
        image_shape=(1, 8, 8),
        class_names=tuple("0123456789"),
        train_images=1_438,
        held_out=143,
        test_images=359,
        mean=(0.3052,),
        std=(0.3759,),
        digest="f42103eaa6650223e9f438b411d9ca5ec49290622b3082158a83f66c5fe62dd6",
    ),
}
