"""`harness predict`: the labels are the network's, whatever form the images come in, and nothing in them is run."""

from __future__ import annotations

import csv
import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import InterpolationMode, center_crop, resize

from harness import runner
from harness.errors import InputError
from harness.options import RunOptions
from harness.predict import read_images
from harness.spec.documents import experiment_from_dict, load_experiment
from harness.tracking.record import Record
from harness.tracking.store import RunFolder, Store
from harness.training import checkpoint
from harness.training.data import load_split
from harness.training.model import build_model
from tests.conftest import TINY, Harness
from tests.data_files import Array, Trap, class_folders, picture, save

CIFAR = (3, 32, 32)
BILINEAR = InterpolationMode.BILINEAR


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of tiny.yaml on digits, of a few epochs more, so that it has learnt to tell them apart."""
    root = tmp_path_factory.mktemp("trained")
    (root / "tiny.yaml").write_text(TINY)
    record = runner.run(
        load_experiment(root / "tiny.yaml", ["model.width=8", "train.epochs=8", "augment.cutmix=null"]),
        options=RunOptions(runs_dir=root / "runs", wandb="disabled", device="cpu"),
    )
    found = Store(root / "runs").find(record.run_id)
    assert found
    return found


@pytest.fixture
def run(trained: RunFolder, folder: Path) -> RunFolder:
    """A copy of the trained run in the working folder's runs."""
    return RunFolder(Path(shutil.copytree(trained.path, folder / "runs" / trained.path.name)))


@pytest.fixture(scope="module")
def digits(trained: RunFolder) -> Array:
    """The run's own test images, uint8 [359, 8, 8, 1]."""
    pixels: Array = load_split(spec_of(trained), Path("nowhere")).test.pixels.numpy()
    return pixels


def spec_of(run: RunFolder) -> Any:
    return experiment_from_dict(run.read_record().spec)


def logits_of(run: RunFolder, pixels: Array, bf16: bool = False) -> torch.Tensor:
    """What the final weights say of images uint8 [N, H, W, C], written out."""
    spec = spec_of(run)
    network = build_model(spec, "cpu").eval()
    network.load_state_dict(checkpoint.read(run.final)["weights"])
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.dataset.mean, spec.dataset.std))
    images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32)) / 255
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return network((images - mean) / std).float()


def rows(text: str) -> dict[str, str]:
    """ID -> label, in order."""
    header, *lines = csv.reader(io.StringIO(text))
    assert header == ["ID", "Labels"]
    return dict(lines)


def labels_of(run: RunFolder) -> list[str]:
    """As the run itself predicted its test images."""
    return [str(label) for label in run.read_predictions()["predicted"]]


# --- the labels are the run's ------------------------------------------------------------------


def test_an_array_gets_the_labels_that_the_run_gave(harness: Harness, run: RunFolder, digits: Array) -> None:
    np.save("images.npy", digits)
    result = harness("predict", run.run_id[:6], "images.npy", "-o", "deep/out.csv")
    assert result.code == 0, result.err
    assert result.out == "wrote deep/out.csv: 359 images\n"
    labels = rows(Path("deep/out.csv").read_text())
    assert list(labels) == [str(index) for index in range(359)]
    assert list(labels.values()) == labels_of(run)
    assert len(set(labels.values())) > 5


def test_a_folder_of_files_gets_the_same_labels(harness: Harness, run: RunFolder, digits: Array) -> None:
    for index, pixels in enumerate(digits[:150, ..., 0]):
        save(Path(f"images/{'even' if index % 2 == 0 else 'odd/deep'}/{index:03}.png"), pixels)
    Path("images/odd/notes.txt").write_text("")
    Path("images/.hidden.png").write_text("")
    result = harness("predict", str(run.path), "images")
    assert result.code == 0, result.err
    even = {f"even/{index:03}.png": label for index, label in enumerate(labels_of(run)[:150]) if index % 2 == 0}
    odd = {f"odd/deep/{index:03}.png": label for index, label in enumerate(labels_of(run)[:150]) if index % 2}
    assert list(rows(result.out).items()) == [*even.items(), *odd.items()]


def test_one_image(harness: Harness, run: RunFolder, digits: Array) -> None:
    save(Path("some/where.png"), digits[11, ..., 0])
    assert rows(harness("predict", "tiny", "some/where.png").out) == {"where.png": labels_of(run)[11]}


def test_probabilities_and_names_as_a_document(harness: Harness, run: RunFolder, digits: Array) -> None:
    np.save("images.npy", digits[:20])
    result = harness("predict", "tiny", "images.npy", "--json", "-o", "out.csv")
    document = json.loads(result.out)
    assert list(document) == ["predictions"]
    expected = logits_of(run, digits[:20]).softmax(1).max(1)
    for index, prediction in enumerate(document["predictions"]):
        label = int(expected.indices[index])
        assert prediction.pop("probability") == pytest.approx(float(expected.values[index]), abs=1e-5)
        assert prediction == {"id": index, "label": label, "name": str(label)}
    assert list(rows(Path("out.csv").read_text()).values()) == labels_of(run)[:20]


def test_the_mirror_image_counts_when_it_is_asked(harness: Harness, run: RunFolder, digits: Array) -> None:
    np.save("images.npy", digits)
    mirrored = np.ascontiguousarray(digits[:, :, ::-1])
    both = (logits_of(run, digits) + logits_of(run, mirrored)) / 2
    assert (both.argmax(1) != logits_of(run, digits).argmax(1)).any()
    document = json.loads(harness("predict", "tiny", "images.npy", "--flip-tta", "--json").out)
    assert [prediction["label"] for prediction in document["predictions"]] == both.argmax(1).tolist()
    found = [prediction["probability"] for prediction in document["predictions"]]
    assert found == pytest.approx(both.softmax(1).amax(1).tolist(), abs=1e-5)


def test_precision_is_the_runs(harness: Harness, run: RunFolder, digits: Array) -> None:
    record = run.read_record()
    np.save("images.npy", digits[:50])
    for precision in ("fp32", "bf16"):
        run.write_record(record.model_copy(update={"provenance": record.provenance | {"precision": precision}}))
        document = json.loads(harness("predict", "tiny", "images.npy", "--json", "--device", "cpu").out)
        found = torch.tensor([prediction["probability"] for prediction in document["predictions"]])
        fp32, bf16 = (logits_of(run, digits[:50], bf16=bf16).softmax(1).amax(1) for bf16 in (False, True))
        expected, other = (bf16, fp32) if precision == "bf16" else (fp32, bf16)
        assert (found - expected).abs().max() < (found - other).abs().max() / 10


def test_the_best_weights(harness: Harness, run: RunFolder, digits: Array) -> None:
    content = checkpoint.read(run.best)
    content["weights"]["classifier.bias"][7] += 1000
    run.best.write_bytes(checkpoint.serialise(content))
    np.save("images.npy", digits[:30])
    assert set(rows(harness("predict", "tiny", "images.npy", "--weights", "best").out).values()) == {"7"}
    assert list(rows(harness("predict", "tiny", "images.npy").out).values()) == labels_of(run)[:30]


@pytest.mark.parametrize("size", [None, 6])
def test_own_images_by_name_and_size(harness: Harness, folder: Path, size: int | None) -> None:
    """A run on a folder: classes by their names; images of another size are scaled where the run's own were."""
    class_folders(folder / "pets/train", {"cat, tom": 5, "dog": 5}, height=8, width=9)
    class_folders(folder / "pets/test", {"cat, tom": 4, "dog": 3}, height=8, width=9)
    data = f"data: {{dataset: folder, folder: {{path: pets, size: {json.dumps(size)}}}}}"
    small = TINY.replace("data: {dataset: digits}", data).replace("batch_size: 256", "batch_size: 4")
    (folder / "pets.yaml").write_text(small.replace("name: tiny", "name: pets"))
    assert harness("run", "pets.yaml").code == 0
    [run] = [run for run, _ in Store(folder / "runs").entries()]
    labels = rows(harness("predict", "pets", "pets/test").out)
    assert list(labels.values()) == labels_of(run)
    assert list(labels) == [*(f"cat, tom/00{n}.png" for n in range(4)), *(f"dog/00{n}.png" for n in range(3))]
    names = rows(harness("predict", "pets", "pets/test", "--names").out)
    assert names == {id: ["cat, tom", "dog"][int(label)] for id, label in labels.items()}
    save(folder / "other.png", picture(1, 30, 20))
    assert harness("predict", "pets", "other.png").code == (2 if size is None else 0)


# --- the forms of images -----------------------------------------------------------------------


def read(path: Path, shape: tuple[int, int, int] = CIFAR, scale: bool = False) -> tuple[list[Any], Array]:
    named = read_images(path, shape, scale=scale)
    return list(named.ids), named.pixels


def saved(path: Path, array: Array) -> Path:
    np.save(path, array)
    return path


def test_arrays_of_each_kind(tmp_path: Path) -> None:
    colour = np.stack([picture(seed, 32, 32) for seed in range(3)])
    grey = colour[..., 0]
    path = tmp_path / "images.npy"
    assert np.array_equal(read(saved(path, colour))[1], colour)
    assert np.array_equal(read(saved(path, np.asfortranarray(colour)))[1], colour)
    for dtype in (np.float16, np.float32, np.float64):
        for error in (-0.3, 0.0, 0.3):
            found = read(saved(path, ((colour + error) / 255).clip(0, 1).astype(dtype)))[1]
            assert found.dtype == np.uint8
            assert np.array_equal(found, colour)
    assert np.array_equal(read(saved(path, grey))[1], np.stack([grey] * 3, axis=3))
    assert np.array_equal(read(saved(path, grey[..., None]), (1, 32, 32))[1], grey[..., None])
    luma = colour @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    found = read(saved(path, colour), (1, 32, 32))[1]
    assert found.shape == (3, 32, 32, 1)
    assert np.abs(found[..., 0] - luma).max() <= 0.51


def test_scaling_is_the_same_for_files_and_arrays(tmp_path: Path) -> None:
    images = [picture(seed, 40, 21) for seed in range(3)]
    for number, pixels in enumerate(images):
        save(tmp_path / f"files/{number}.png", pixels)
    array = saved(tmp_path / "images.npy", np.stack(images))
    for shape in (CIFAR, (1, 32, 32), (3, 16, 30)):
        from_files = read(tmp_path / "files", shape, scale=True)[1]
        assert from_files.shape == (3, *shape[1:], shape[0])
        assert np.array_equal(from_files, read(array, shape, scale=True)[1])


def test_the_size_may_be_brought_to_the_networks(harness: Harness, run: RunFolder, digits: Array) -> None:
    """As torchvision does it: the shorter side scaled, the middle cut out."""
    large = digits[:100].repeat(2, axis=1).repeat(3, axis=2)
    np.save("large.npy", large)
    assert harness("predict", "tiny", "large.npy").code == 2
    result = harness("predict", "tiny", "large.npy", "--resize")
    assert result.code == 0, result.err
    scaled = [center_crop(resize(Image.fromarray(image[..., 0]), 8, BILINEAR), 8) for image in large]
    expected = logits_of(run, np.stack(scaled)[..., None]).argmax(1)
    assert list(rows(result.out).values()) == [str(label) for label in expected.tolist()]


def batch(**content: Any) -> dict[bytes, Any]:
    return {key.encode(): value for key, value in content.items()}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("as_bytes", [True, False])
def test_pickled_batches_of_every_protocol(tmp_path: Path, protocol: int, as_bytes: bool) -> None:
    data = np.random.default_rng(0).integers(0, 256, (5, 3072), dtype=np.uint8)
    ids = np.arange(5) * 11
    content = batch(data=data, labels=[np.int64(3)] * 5, ids=ids) if as_bytes else {"data": data, "ids": ids}
    path = tmp_path / "test_batch"
    path.write_bytes(pickle.dumps(content, protocol))
    found, pixels = read(path)
    assert found == [0, 11, 22, 33, 44]
    assert all(type(id) is int for id in found)
    assert np.array_equal(pixels, data.reshape(5, 3, 32, 32).transpose(0, 2, 3, 1))


def test_pickles_of_an_older_numpy(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, (5, 3072), dtype=np.uint8)
    written = pickle.dumps(batch(data=np.asfortranarray(data)), 2)
    assert b"numpy._core.multiarray" in written
    (tmp_path / "old").write_bytes(written.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert np.array_equal(read(tmp_path / "old")[1].transpose(0, 3, 1, 2).reshape(5, 3072), data)


def test_ids_of_a_pickle_or_its_indices(tmp_path: Path) -> None:
    data = np.zeros((3, 3072), dtype=np.uint8)
    cases: list[tuple[dict[bytes, Any], list[Any]]] = [
        (batch(data=data), [0, 1, 2]),
        (batch(data=data, filenames=[b"a.png", b"b.png", b"c.png"]), [0, 1, 2]),
        (batch(data=data, ids=[b"x", "y", 7]), ["x", "y", 7]),
        (batch(data=data.reshape(3, 32, 32, 3), ids=(4, 5, 6)), [4, 5, 6]),
    ]
    for content, expected in cases:
        (tmp_path / "batch").write_bytes(pickle.dumps(content))
        assert read(tmp_path / "batch")[0] == expected
    (tmp_path / "batch").write_bytes(pickle.dumps(batch(data=data, ids=[1, 2])))
    with pytest.raises(InputError, match="no list of 3 ids"):
        read(tmp_path / "batch")


# --- what is refused ---------------------------------------------------------------------------


def eval_of(sprung: Path) -> bytes:
    return f"cbuiltins\neval\n(V__import__('os').mkdir('{sprung}')\ntR.".encode()


def system_of(sprung: Path) -> bytes:
    return f"cos\nsystem\n(S'touch {sprung}'\ntR.".encode()


def nested_in_a_batch(sprung: Path) -> bytes:
    return pickle.dumps(batch(data=np.zeros((1, 3072), np.uint8), extra=[Trap(sprung)]))


def in_an_array_of_objects(sprung: Path) -> bytes:
    return pickle.dumps(batch(data=np.array([[Trap(sprung)]], dtype=object)), 2)


def by_a_dotted_name(sprung: Path) -> bytes:
    """`ndarray.tofile`, reached through an allowed name: STACK_GLOBAL takes attributes of what it names."""
    return b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."


def by_a_codec(sprung: Path) -> bytes:
    """Bytes that are to be made by another codec than the one that Python writes."""
    return pickle.dumps(batch(data=np.zeros((1, 64), np.uint8).reshape(1, 8, 8)), 2).replace(b"latin1", b"utf-16")


def test_traps_do_spring_where_nobody_is_careful(tmp_path: Path) -> None:
    """So that the test below is one."""
    for number, make in enumerate((eval_of, system_of, nested_in_a_batch, in_an_array_of_objects)):
        sprung = tmp_path / f"sprung{number}"
        pickle.loads(make(sprung))
        assert sprung.exists(), make


@pytest.mark.parametrize(
    "make",
    [eval_of, system_of, nested_in_a_batch, in_an_array_of_objects, by_a_dotted_name, by_a_codec],
    ids=lambda make: make.__name__,
)
def test_nothing_in_a_pickle_is_run(
    harness: Harness, run: RunFolder, tmp_path: Path, make: Callable[[Path], bytes]
) -> None:
    sprung = tmp_path / "sprung"
    (tmp_path / "batch").write_bytes(make(sprung))
    result = harness("predict", "tiny", "batch")
    assert (result.code, result.out) == (2, "")
    assert "error: batch: this" in result.err
    assert "Traceback" not in result.err
    assert not sprung.exists()


def test_an_array_of_objects_is_not_loaded(harness: Harness, run: RunFolder, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    np.save("images.npy", np.array([Trap(sprung)], dtype=object), allow_pickle=True)
    result = harness("predict", "tiny", "images.npy")
    assert result.code == 2
    assert "images.npy: this array can't be read" in result.err
    assert not sprung.exists()


def test_each_bad_form_of_images_is_told(harness: Harness, run: RunFolder, digits: Array) -> None:
    def npy(array: Array) -> Callable[[Path], Any]:
        return lambda path: np.save(path, array)

    def packed(content: Any) -> Callable[[Path], Any]:
        return lambda path: path.write_bytes(pickle.dumps(content))

    def empty(path: Path) -> None:
        path.mkdir()
        (path / "notes.txt").write_text("")

    def mixed(path: Path) -> None:
        save(path / "good.png", digits[0, ..., 0])
        save(path / "large.png", picture(0, 9, 8))
        (path / "bad.jpg").write_bytes(b"not a picture")

    floats = digits.astype(np.float32)
    cases: list[tuple[str, Callable[[Path], Any], tuple[str, ...]]] = [
        ("nowhere", lambda path: None, ("there is no such file or folder", "CIFAR batch")),
        ("empty", empty, ("no images in this folder", ".png")),
        ("mixed", mixed, ("mixed/large.png: this image is 8 x 9, not 8 x 8", "--resize", "mixed/bad.jpg: this image")),
        ("bad.png", lambda path: path.write_bytes(b""), ("bad.png: this image can't be read",)),
        ("large.npy", npy(np.zeros((2, 9, 8, 1), np.uint8)), ("the images are 8 x 9, not 8 x 8", "--resize")),
        ("planes.npy", npy(np.zeros((2, 3, 8, 8), np.uint8)), ("shape is 2 x 3 x 8 x 8", "transpose(0, 2, 3, 1)")),
        ("flat.npy", npy(np.zeros((2, 64), np.uint8)), ("shape is 2 x 64", "[N, H, W, C]")),
        ("none.npy", npy(digits[:0]), ("shape is 0 x 8 x 8 x 1",)),
        ("number.npy", npy(np.array(3)), ("shape is a single number",)),
        ("whole.npy", npy(digits.astype(np.int64)), ("type is int64", "uint8, or floats from 0 to 1")),
        ("range.npy", npy(floats), ("values go from 0 to 255", "0 to 1")),
        ("nan.npy", npy(np.full_like(floats, np.nan)), ("values go from nan to nan",)),
        ("bad.npy", lambda path: path.write_bytes(b"not an array"), ("this array can't be read",)),
        ("list", packed([1, 2]), ("holds a list, not a dictionary",)),
        ("empty_batch", packed({}), ("has no array `data`", "[N, 3072]")),
        ("no_pickle", lambda path: path.write_bytes(b"hello"), ("this is no pickle", "one image (.bmp")),
        ("cut", lambda path: path.write_bytes(pickle.dumps(batch(data=digits))[:-500]), ("this is no pickle",)),
        ("labels.csv", lambda path: path.write_text("ID,Labels\n"), ("this is no pickle",)),
    ]
    for name, make, told in cases:
        make(Path(name))
        result = harness("predict", "tiny", name, "-o", "out.csv")
        assert (result.code, result.out) == (2, ""), name
        for part in (name, *told):
            assert part in result.err, (name, result.err)
        assert "Traceback" not in result.err
        assert not Path("out.csv").exists()


def test_runs_without_weights(harness: Harness, run: RunFolder, digits: Array) -> None:
    np.save("images.npy", digits[:5])
    record = run.read_record()

    def told(record: Record, *options: str) -> str:
        run.write_record(record)
        result = harness("predict", record.run_id, "images.npy", *options)
        assert (result.code, result.out) == (2, "")
        return result.err

    shutil.move(run.checkpoints, "aside")
    assert "no final weights here; a copy for evidence holds none" in told(record)
    assert f"runs/{run.path.name}/checkpoints/final.pt" in told(record)
    none = record.model_copy(update={"results": record.results.model_copy(update={"best": None})})
    assert "without a validation set none are selected" in told(none, "--weights", "best")
    assert "has not finished: it is interrupted" in told(record.model_copy(update={"status": "interrupted"}))
    shutil.move("aside", run.checkpoints)
    run.final.write_bytes(run.final.read_bytes()[:-100])
    assert "the weights can't be read" in told(record)


def test_a_run_that_is_not_there(harness: Harness, run: RunFolder) -> None:
    result = harness("predict", "nosuch", "images.npy")
    assert result.code == 2
    assert "there is no run 'nosuch'" in result.err
    assert harness("predict", "tiny", "images.npy", "--weights", "last").code == 2
    assert harness("predict", "tiny", "images.npy", "--device", "gpu").code == 2


def test_an_output_that_cannot_be_written(
    harness: Harness, run: RunFolder, digits: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save("images.npy", digits[:5])
    Path("file").write_text("")
    for output in ("file/out.csv", "runs"):  # told before anything is looked at
        result = harness("predict", "nosuch", "images.npy", "-o", output)
        assert (result.code, result.out) == (2, "")
        assert "-o" in result.err
        assert output.split("/")[0] in result.err

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    Path("out.csv").write_text("as it was")
    result = harness("predict", "tiny", "images.npy", "-o", "out.csv")
    assert result.code == 2
    assert "No space left on device" in result.err
    assert Path("out.csv").read_text() == "as it was"
    assert not list(Path().glob(".out.csv*"))


# --- the official files ------------------------------------------------------------------------


@pytest.mark.real_data
def test_the_official_test_batch_is_read_as_torchvision_reads_it(cifar10_dir: Path) -> None:
    from torchvision.datasets import CIFAR10

    ids, pixels = read(cifar10_dir / "cifar-10-batches-py/test_batch")
    assert ids == list(range(10_000))
    assert np.array_equal(pixels, CIFAR10(str(cifar10_dir), train=False).data)
