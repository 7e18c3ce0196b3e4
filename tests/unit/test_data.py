"""Data: what is loaded, how it is cut, what is refused, and the batches made from it."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision import datasets
from torchvision.transforms.functional import to_tensor

from bench.data import SOURCES, Dataset, Source, Split, cut, list_datasets, load_dataset
from bench.data import npz as npz_module
from bench.data.dataset import StoredSplit, permutation
from bench.data.device import DeviceSplit, augment, batches, epoch_order
from bench.errors import BenchError, ConfigError, DataError

Arrays = dict[str, NDArray[Any]]


def make_split(n: int, classes: int = 4, size: int = 4, channels: int = 3, seed: int = 0) -> Split:
    """Random images; labels run 0, 1, ..., so that every class is there."""
    shape = (n, size, size, channels)
    x = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Split(x, np.arange(n, dtype=np.int64) % classes)


def make_source(n_train: int = 60, n_test: int = 12, classes: int = 4) -> Source:
    return Source(
        name="made",
        origin="dataset 'made'",
        train=make_split(n_train, classes),
        test=make_split(n_test, classes, seed=1),
        scale=1 / 255,
        pad=1,
        flip=True,
    )


def pixels(split: StoredSplit) -> NDArray[Any]:
    assert isinstance(split, Split)
    return split.x


def rows(split: StoredSplit) -> set[bytes]:
    return {image.tobytes() for image in pixels(split)}


def test_sha256_sees_pixels_labels_and_shape_and_is_computed_once() -> None:
    split = make_split(8)
    other_label = Split(split.x, (split.y + 1) % 4)
    other_shape = Split(split.x.reshape(8, 2, 8, 3), split.y)
    pixel = split.x.copy()
    pixel[7, 3, 3, 2] ^= 1
    hashes = {s.sha256 for s in (split, other_label, other_shape, Split(pixel, split.y))}
    assert len(hashes) == 4
    assert Split(split.x.copy(), split.y.copy()).sha256 == split.sha256
    before = split.sha256
    split.x[0] ^= 255
    assert split.sha256 is before


def test_cut_is_disjoint_complete_and_ordered() -> None:
    source = make_source(60)
    data = cut(source)
    assert (len(data.train), len(data.val), len(data.test)) == (54, 6, 12)
    assert rows(data.train).isdisjoint(rows(data.val))
    assert rows(data.train) | rows(data.val) == rows(source.train)
    where = {image.tobytes(): i for i, image in enumerate(pixels(source.train))}
    for split in (data.train, data.val):
        places = [where[image.tobytes()] for image in pixels(split)]
        assert places == sorted(places)
        assert np.array_equal(split.y, source.train.y[places])
    assert data.test is source.test


def test_cut_takes_the_first_images_and_keeps_no_view_of_the_rest() -> None:
    source = make_source(60)
    data = cut(source, train_size=20, test_size=5)
    assert rows(data.train) | rows(data.val) == {
        image.tobytes() for image in pixels(source.train)[:20]
    }
    assert (len(data.train), len(data.val)) == (18, 2)
    assert np.array_equal(pixels(data.test), pixels(source.test)[:5])
    assert np.array_equal(data.test.y, source.test.y[:5])
    assert not np.shares_memory(pixels(data.test), pixels(source.test))


@pytest.mark.parametrize(
    ("n", "expected"), [(5, 1), (19, 1), (64, 6), (9_999, 999), (12_000, 1000)]
)
def test_size_of_val(n: int, expected: int) -> None:
    x = np.zeros((n, 1, 1, 1), dtype=np.uint8)
    train = Split(x, np.arange(n, dtype=np.int64) % 2)
    source = Source(name="n", origin="n", train=train, test=train, scale=1 / 255, pad=0, flip=False)
    assert len(cut(source).val) == expected


def test_permutation_is_pinned() -> None:
    """Another order would be another val and another digits: records could not be compared."""
    assert permutation(10, 0).tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]
    assert sorted(permutation(1000, 3).tolist()) == list(range(1000))


def test_num_classes_is_of_the_source_and_a_small_subset_may_lack_classes() -> None:
    data = cut(make_source(60, classes=30), train_size=10)
    assert data.num_classes == 30
    assert data.train.y.max() < 10


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train_size": 61}, "train_size 61: dataset 'made' has 60 train images"),
        ({"test_size": 13}, "test_size 13: dataset 'made' has 12 test images"),
        ({"train_size": 0}, "train_size 0: dataset 'made' has 60 train images"),
        ({"test_size": -1}, "test_size -1: dataset 'made' has 12 test images"),
    ],
)
def test_impossible_sizes(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cut(make_source(), **sizes)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("train_size", [1, 2])
def test_training_images_of_one_class_are_refused(train_size: int) -> None:
    with pytest.raises(DataError, match=r"training needs 2 classes, so raise train_size"):
        cut(make_source(), train_size=train_size)


def test_digits() -> None:
    data = load_dataset("digits")
    assert (data.name, data.num_classes, data.in_channels, data.image_size) == ("digits", 10, 1, 8)
    assert (len(data.train), len(data.val), len(data.test)) == (1294, 143, 360)
    assert (data.pad, data.flip, data.scale) == (0, False, 1 / 16)
    assert data.class_names == tuple("0123456789")
    x = np.concatenate([pixels(data.train), pixels(data.val), pixels(data.test)])
    assert x.dtype == np.uint8
    assert (x.min(), x.max()) == (0, 16)
    for split in (data.train, data.val, data.test):
        assert set(split.y) == set(range(10))
    assert data.test.sha256 == "86f11ebafc5ea55290893a5155ae7b5c6a8a815ee47a7cd6aa82c29fd05ec1e3"
    assert data.val.sha256 == "d8494fbac1a5368bb1ce1cbf2e98525859ea26eaaa36f604236568e59446d91a"


def test_digits_are_the_bundled_ones() -> None:
    from sklearn.datasets import load_digits

    raw = load_digits()
    data = load_dataset("digits")
    expected = sorted((x.tobytes(), int(y)) for x, y in zip(raw.images, raw.target, strict=True))
    loaded = [
        (image[..., 0].astype(np.float64).tobytes(), int(label))
        for split in (data.train, data.val, data.test)
        for image, label in zip(pixels(split), split.y, strict=True)
    ]
    assert sorted(loaded) == expected


def test_list_datasets_names_every_source_in_one_line() -> None:
    listed = list_datasets()
    assert [name for name, _ in listed] == [
        *("digits", "cifar10", "cifar100", "npz:PATH", "folder:PATH", "restricted-imagenet"),
        "two-gaussians",
    ]
    assert all(text and "\n" not in text for _, text in listed)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar11", "unknown dataset 'cifar11'. Did you mean 'cifar10'? Known: "),
        ("npz", "unknown dataset 'npz'. Did you mean 'npz:PATH'? Known: "),
        ("digits:x", "unknown dataset 'digits:x'. "),
        ("npz:", "dataset 'npz:' names no file; write npz:PATH"),
        ("folder:", "dataset 'folder:' names no file; write folder:PATH"),
        ("folder:@64", "dataset 'folder:@64' names no file; write folder:PATH"),
        ("digits@64", "unknown dataset 'digits@64'. Did you mean 'digits'? Known: "),
        ("restricted-imagenet@x", "unknown dataset 'restricted-imagenet@x'. Did you mean "),
        ("restricted-imagenet:x", "unknown dataset 'restricted-imagenet:x'. Did you mean "),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_dataset(name)
    assert str(caught.value).startswith(message)


def test_loading_imports_no_torch(tmp_path: Path) -> None:
    path = save(tmp_path, good_arrays())
    code = f"""
import sys
from bench.data import load_dataset
load_dataset("two-gaussians")
print(load_dataset("npz:{path}").name, [m for m in ("torch", "sklearn", "PIL") if m in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "mine []\n"


def write_cifar(monkeypatch: pytest.MonkeyPatch, root: Path, *, fine: bool = False) -> Arrays:
    """A tiny folder in the layout of the official archive, and its checksums in torchvision."""
    dataset = datasets.CIFAR100 if fine else datasets.CIFAR10
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def write(filename: str, content: object) -> str:
        raw = pickle.dumps(content)
        (folder / filename).write_bytes(raw)
        return hashlib.md5(raw).hexdigest()

    made: Arrays = {}
    for part, files in (("train_list", dataset.train_list), ("test_list", dataset.test_list)):
        listed = []
        for filename, _ in files:
            flat = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
            labels = [i % 10 for i in range(20)]
            key = "fine_labels" if fine else "labels"
            listed.append([filename, write(filename, {"data": flat, key: labels})])
            made[filename] = flat
        monkeypatch.setattr(dataset, part, listed)
    meta = dict(dataset.meta)
    meta["md5"] = write(meta["filename"], {meta["key"]: [f"class {i}" for i in range(10)]})
    monkeypatch.setattr(dataset, "meta", meta)
    return made


def forbid_download(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fail)


def test_cifar10_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = write_cifar(monkeypatch, tmp_path)
    forbid_download(monkeypatch, AssertionError("a folder that is there needs no download"))
    data = load_dataset("cifar10", data_root=tmp_path)
    assert (data.name, data.num_classes, data.in_channels, data.image_size) == (
        "cifar10",
        10,
        3,
        32,
    )
    assert (len(data.train), len(data.val), len(data.test)) == (90, 10, 20)
    assert (data.pad, data.flip, data.scale) == (4, True, 1 / 255)
    assert data.class_names is not None
    assert data.class_names[3] == "class 3"
    # Each row of the file is all of red, then green, then blue, row by row.
    image = pixels(data.test)[5]
    assert image[2, 7, 1] == made["test_batch"][5, 1024 + 2 * 32 + 7]
    assert data.test.y.tolist() == [i % 10 for i in range(20)]


def test_cifar100_reads_the_fine_labels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_cifar(monkeypatch, tmp_path, fine=True)
    data = load_dataset("cifar100", data_root=str(tmp_path), download=False)
    assert (data.name, len(data.train), len(data.test)) == ("cifar100", 18, 20)


def test_cifar10_is_downloaded_when_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ready = tmp_path / "server"
    write_cifar(monkeypatch, ready)
    asked: list[str] = []

    def fetch(url: str, root: Path, **kwargs: object) -> None:
        asked.append(url)
        Path(root).mkdir()
        (ready / "cifar-10-batches-py").rename(Path(root) / "cifar-10-batches-py")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fetch)
    data = load_dataset("cifar10", data_root=tmp_path / "new")
    assert asked == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"]
    assert len(data.train) == 90


@pytest.mark.parametrize("download", [True, False])
def test_missing_cifar10_names_the_three_ways_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, download: bool
) -> None:
    forbid_download(monkeypatch, OSError("<urlopen error\n no route>"))
    message = one_line_error(lambda: load_dataset("cifar10", data_root=tmp_path, download=download))
    assert message.startswith(f"dataset 'cifar10': there is no folder {tmp_path}/cifar-10-batches")
    assert ("the download failed (<urlopen error no route>)" in message) == download
    assert ("downloading is off; allow the download" in message) == (not download)
    assert "--data-root FOLDER with cifar-10-batches-py" in message
    assert "--dataset npz:PATH" in message


@pytest.mark.parametrize("victim", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("damage", ["changed", "deleted"])
def test_damaged_cifar10_is_named_and_not_overwritten(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, victim: str, damage: str
) -> None:
    write_cifar(monkeypatch, tmp_path)
    forbid_download(monkeypatch, AssertionError("never over a folder of the user's"))
    path = tmp_path / "cifar-10-batches-py" / victim
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    message = one_line_error(lambda: load_dataset("cifar10", data_root=tmp_path))
    fault = "is missing" if damage == "deleted" else "has the wrong checksum"
    assert f"{path.parent} is damaged: {victim} {fault}; delete that folder" in message


def test_unreadable_cifar10(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_cifar(monkeypatch, tmp_path)

    def refuse(*args: object) -> bool:
        raise PermissionError(13, "Permission denied", "data_batch_1")

    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", refuse)
    message = one_line_error(lambda: load_dataset("cifar10", data_root=tmp_path))
    assert "cannot be read ([Errno 13] Permission denied: 'data_batch_1'); correct its" in message


def one_line_error(load: Callable[[], Dataset], kind: type[BenchError] = DataError) -> str:
    with pytest.raises(kind) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message
    assert ";" in message  # what is wrong; what to do
    return message


def good_arrays(n: int = 30, size: int = 8, channels: int = 3) -> Arrays:
    train, test = make_split(n, size=size, channels=channels), make_split(10, size=size, seed=2)
    return {
        "x_train": train.x,
        "y_train": train.y,
        "x_test": test.x[..., :channels].copy(),
        "y_test": test.y,
    }


def save(folder: Path, arrays: Arrays, name: str = "mine") -> Path:
    path = folder / f"{name}.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_npz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = good_arrays()
    save(tmp_path, arrays)
    monkeypatch.chdir(tmp_path)
    data = load_dataset("npz:mine.npz")
    assert (data.name, data.num_classes, data.in_channels, data.image_size) == ("mine", 4, 3, 8)
    assert (data.pad, data.flip, data.scale) == (1, True, 1 / 255)
    assert (len(data.train), len(data.val)) == (27, 3)
    assert np.array_equal(pixels(data.test), arrays["x_test"])
    assert np.array_equal(data.test.y, arrays["y_test"])


def test_npz_takes_grey_images_other_integers_and_any_memory_order(tmp_path: Path) -> None:
    plain = good_arrays(channels=1)
    other = {
        "x_train": np.asfortranarray(plain["x_train"][..., 0]),
        "y_train": plain["y_train"].astype(np.uint8),
        "x_test": plain["x_test"][..., 0].astype(">i4"),
        "y_test": plain["y_test"].astype(np.int16),
    }
    a = load_dataset(f"npz:{save(tmp_path, plain, 'a')}")
    b = load_dataset(f"npz:{save(tmp_path, other, 'b')}")
    for split in ("train", "val", "test"):
        assert getattr(a, split).sha256 == getattr(b, split).sha256
    assert (b.in_channels, b.pad, b.flip) == (1, 0, False)


def changed(**arrays: NDArray[Any]) -> Callable[[Arrays], Arrays]:
    return lambda good: good | arrays


def relabelled(name: str, label: int, dtype: str = "int64") -> Callable[[Arrays], Arrays]:
    def change(good: Arrays) -> Arrays:
        y = good[name].astype(dtype)
        y[3] = label
        return good | {name: y}

    return change


ZEROS = np.zeros((30, 8, 8, 3), dtype=np.uint8)
BAD: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "missing": (
        lambda good: {"x_train": good["x_train"], "y_test": good["y_test"]},
        "lacks y_train, x_test; it holds x_train, y_test; add them",
    ),
    "nothing": (lambda good: {}, "lacks x_train, y_train, x_test, y_test; it holds nothing;"),
    "objects": (
        changed(x_test=np.array([{}], dtype=object)),
        "is damaged, or not an .npz file (Object arrays cannot be loaded",
    ),
    "floats": (
        changed(x_train=ZEROS / 255.0),
        "x_train is float64, but values must be uint8 0..255; for pixels in [0, 1] write",
    ),
    "bools": (changed(x_test=ZEROS[:10] > 0), "x_test is bool, but values must be uint8 0..255"),
    "negative pixels": (
        changed(x_train=ZEROS.astype(np.int8) - 1),
        "x_train is int8 with values -1..-1, but values must be uint8 0..255",
    ),
    "bright pixels": (
        changed(x_train=ZEROS.astype(np.int32) + 256),
        "x_train is int32 with values 256..256, but values must be uint8 0..255",
    ),
    "flat": (changed(x_train=ZEROS.reshape(30, -1)), "x_train has shape (30, 192); images must"),
    "5-d": (changed(x_train=ZEROS[None]), "x_train has shape (1, 30, 8, 8, 3); images must"),
    "two channels": (changed(x_train=ZEROS[..., :2]), "so 2 channels, not 1 or 3; use grey or RGB"),
    "channels first": (
        changed(x_train=ZEROS.transpose(0, 3, 1, 2)),
        "so 8 channels, not 1 or 3; put the channels last, x.transpose(0, 2, 3, 1)",
    ),
    "no images": (
        changed(x_test=ZEROS[:0]),
        "x_test has shape (0, 8, 8, 3), which holds no pixels",
    ),
    "not square": (changed(x_train=ZEROS[:, :6]), "x_train holds 6x8x3 images; crop or resize"),
    "sizes differ": (
        changed(x_test=ZEROS[:10, :6, :6]),
        "x_train holds 8x8x3 images but x_test 6x6x3; bring both to one size",
    ),
    "channels differ": (changed(x_test=ZEROS[:10, ..., 0]), "8x8x3 images but x_test 8x8x1;"),
    "float labels": (
        changed(y_train=np.zeros(30)),
        "y_train is float64, but labels must be integers 0..K-1;",
    ),
    "bool labels": (changed(y_train=np.arange(30) > 9), "y_train is bool, but labels must be int"),
    "too few labels": (
        changed(y_train=np.arange(29) % 4),
        "y_train holds 29 labels for 30 images; give one an image",
    ),
    "one-hot labels": (
        changed(y_test=np.eye(10, dtype=np.int64)),
        "y_test has shape (10, 10); labels must be (10,), one number an image",
    ),
    "column of labels": (changed(y_test=np.zeros((10, 1), dtype=np.int64)), "y_test has shape"),
    "scalar label": (changed(y_test=np.array(1)), "y_test has shape (); labels must be (10,)"),
    "negative label": (relabelled("y_test", -1), "y_test holds label -1, which is out of range;"),
    "overflowing label": (
        relabelled("y_train", 2**64 - 1, "uint64"),
        "y_train holds label 18446744073709551615, which is out of range;",
    ),
    "test label beyond train": (
        relabelled("y_test", 4),
        "empty classes: the largest label is 4, but 1 of the classes 0..4 have no training image "
        "(the first is 4);",
    ),
    "stray label": (
        relabelled("y_train", 10**9),
        "but 999999996 of the classes 0..1000000000 have no training image (the first is 4);",
    ),
    "gap in the labels": (
        changed(y_train=np.arange(30) % 4 + (np.arange(30) % 4 > 1)),
        "but 1 of the classes 0..4 have no training image (the first is 2);",
    ),
    "one class": (
        changed(y_train=np.zeros(30, dtype=np.int64), y_test=np.zeros(10, dtype=np.int64)),
        "of 1 class(es) after the cut for validation; training needs 2 classes",
    ),
    "name of two": (changed(name=np.array(["a", "b"])), "the array 'name' must be one string"),
    "name no text": (changed(name=np.array(7)), "the array 'name' must be one string"),
    "name breaks tables": (changed(name=np.array("a | b")), "the array 'name' must be one string"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_npz_is_one_line_that_names_the_file(tmp_path: Path, case: str) -> None:
    change, expected = BAD[case]
    path = save(tmp_path, change(good_arrays()))
    message = one_line_error(lambda: load_dataset(f"npz:{path}"))
    assert message.startswith(f"npz data '{path}': ")
    assert expected in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is damaged, or not an .npz file (File is not a zip file); copy it again"),
        (b"<html>not found</html>", "File is not a zip file"),
        (b"cut", "File is not a zip file"),
    ],
    ids=["empty", "html", "cut short"],
)
def test_npz_that_is_no_archive(tmp_path: Path, content: bytes, expected: str) -> None:
    path = save(tmp_path, good_arrays())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3] if content == b"cut" else content)
    message = one_line_error(lambda: load_dataset(f"npz:{path}"))
    assert message.startswith(f"npz data '{path}': ")
    assert expected in message


def test_npy_and_pickle_are_not_opened(tmp_path: Path) -> None:
    npy, pickled = tmp_path / "a.npy", tmp_path / "b.npz"
    np.save(npy, ZEROS)
    pickled.write_bytes(pickle.dumps({"x_train": 1}))
    for path in (npy, pickled):
        message = one_line_error(lambda path=path: load_dataset(f"npz:{path}"))  # type: ignore[misc]
        assert "File is not a zip file" in message


def test_missing_npz_and_folder(tmp_path: Path) -> None:
    message = one_line_error(lambda: load_dataset("npz:nowhere/mine.npz"))
    assert message.startswith(
        "npz data 'nowhere/mine.npz': cannot be read (No such file or directory); check the path"
    )
    assert "Is a directory" in one_line_error(lambda: load_dataset(f"npz:{tmp_path}"))


def test_a_flipped_byte_is_an_error_or_harmless(tmp_path: Path) -> None:
    """Every place of a small file in turn: one line, or the very same data."""
    path = save(tmp_path, good_arrays(n=6, size=2))
    whole = path.read_bytes()
    expected = load_dataset(f"npz:{path}").train.sha256
    messages = []
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            assert load_dataset(f"npz:{path}").train.sha256 == expected
        except DataError as error:
            messages.append(str(error))
    assert len(messages) > len(whole) / 6
    assert all(message.startswith(f"npz data '{path}': ") for message in messages)
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize(
    ("stem", "stated", "known", "label"),
    [
        ("mine", None, None, "mine"),
        ("my data (1)", None, None, "my-data-1-"),
        ("mine", "other", None, "other"),
        ("mine", "other", "jpeg", "other"),
        ("mine", None, "jpeg", "jpeg"),
        ("cifar10", None, "jpeg", "jpeg"),
        ("mine", "cifar10", "jpeg", "jpeg"),
        ("cifar10", None, None, "npz-cifar10"),
        ("CIFAR-10", None, None, "npz-CIFAR-10"),
        ("mine", "CIFAR_10", None, "mine"),
        ("digits", "cifar100", None, "npz-digits"),
        ("cifar10-small", None, None, "cifar10-small"),
    ],
)
def test_label_of_an_npz(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stem: str,
    stated: str | None,
    known: str | None,
    label: str,
) -> None:
    arrays = good_arrays()
    if known is not None:
        content = Split(arrays["x_test"], arrays["y_test"]).sha256
        monkeypatch.setitem(npz_module.KNOWN, content, known)
    if stated is not None:
        arrays["name"] = np.array(stated)
    path = save(tmp_path, arrays, stem)
    # The content is known by all of the test images, however few are asked for.
    assert load_dataset(f"npz:{path}", test_size=3).name == label


def test_the_known_content_is_the_jpeg_copy_alone() -> None:
    assert list(npz_module.KNOWN.values()) == ["cifar10-q75"]
    assert all(len(digest) == 64 for digest in npz_module.KNOWN)
    assert not set(npz_module.KNOWN.values()) & set(SOURCES)


@pytest.mark.parametrize("channels", [1, 3])
def test_device_split(channels: int) -> None:
    split = make_split(9, channels=channels)
    on_device = DeviceSplit.of(split, 1 / 255, "cpu")
    assert len(on_device) == 9
    assert on_device.x.dtype == torch.uint8
    assert on_device.x.is_contiguous()
    index = torch.tensor([7, 0, 7])
    images = on_device.images(index)
    assert images.dtype == torch.float32
    assert torch.equal(images, torch.stack([to_tensor(split.x[i]) for i in index.tolist()]))
    assert on_device.labels(index).tolist() == split.y[[7, 0, 7]].tolist()
    split.x[:], split.y[:] = 0, -1
    assert torch.equal(on_device.images(index), images)
    assert on_device.labels(index).min() >= 0


@pytest.mark.parametrize("top", [255, 16])
def test_every_pixel_value_is_exact_and_in_the_box(top: int) -> None:
    x = np.arange(top + 1, dtype=np.uint8).reshape(-1, 1, 1, 1)
    split = DeviceSplit.of(Split(x, np.zeros(top + 1, dtype=np.int64)), 1 / top, "cpu")
    expected = np.arange(top + 1, dtype=np.float32) / np.float32(top)
    assert split.images(torch.arange(top + 1)).flatten().numpy().tolist() == expected.tolist()


def distinct_images(n: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    """(n, 2, 5, 7): no two pixels of an image are equal and none is 0; height is not width."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randperm(255, generator=generator)[:70] + 1 for _ in range(n)]
    return torch.stack(images).view(n, 2, 5, 7).to(dtype)


def augment_one_by_one(x: Tensor, pad: int, flip: bool, mode: str, seed: int) -> Tensor:
    """The same random numbers, one image at a time, by the library's padding."""
    generator = torch.Generator().manual_seed(seed)
    n, _, height, width = x.shape
    offsets = torch.zeros(2, n, 1, dtype=torch.int64)
    heads = torch.zeros(n, 1, dtype=torch.int64)
    if pad:
        offsets = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator)
    if flip:
        heads = torch.randint(0, 2, (n, 1), generator=generator)
    out = []
    for i in range(n):
        padded = F.pad(x[i : i + 1].float(), [pad] * 4, mode=mode)[0].to(x.dtype)
        top, left = int(offsets[0, i]), int(offsets[1, i])
        crop = padded[:, top : top + height, left : left + width]
        out.append(crop.flip(2) if heads[i] else crop)
    return torch.stack(out)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(
    ("pad", "flip", "mode"),
    [
        (2, True, "constant"),
        (2, True, "reflect"),
        (4, False, "reflect"),
        (3, False, "constant"),
        (9, True, "constant"),
        (0, True, "constant"),
        (0, True, "reflect"),
    ],
)
def test_augment_equals_a_loop_over_images(
    pad: int, flip: bool, mode: str, dtype: torch.dtype
) -> None:
    x = distinct_images(40, dtype)
    before = x.clone()
    generator = torch.Generator().manual_seed(3)
    out = augment(x, pad=pad, flip=flip, mode=mode, generator=generator)
    assert torch.equal(out, augment_one_by_one(x, pad, flip, mode, seed=3))
    assert out.dtype == dtype
    assert out.is_contiguous()
    assert torch.equal(x, before)


def test_augment_takes_channels_last() -> None:
    x = distinct_images(6)
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    last = x.contiguous(memory_format=torch.channels_last)
    a, b = (
        augment(v, pad=2, flip=True, generator=g)
        for v, g in zip((x, last), generators, strict=True)
    )
    assert torch.equal(a, b)


def test_every_offset_and_both_sides_occur_equally_often() -> None:
    x = distinct_images(1).expand(5000, -1, -1, -1)
    out = augment(x, pad=2, flip=True, generator=torch.Generator().manual_seed(0))
    kinds, counts = torch.unique(out.flatten(1), dim=0, return_counts=True)
    assert len(kinds) == 5 * 5 * 2
    # 100 expected of each; five standard deviations are 50.
    assert counts.min() > 50
    assert counts.max() < 150


def test_augment_without_work_returns_its_input_and_draws_nothing() -> None:
    x = distinct_images(4)
    generator = torch.Generator().manual_seed(5)
    state = generator.get_state()
    assert augment(x, pad=0, flip=False, generator=generator) is x
    assert torch.equal(generator.get_state(), state)


def test_augment_depends_on_its_generator_alone() -> None:
    x = distinct_images(50)

    def run(seed: int, global_seed: int) -> Tensor:
        torch.manual_seed(global_seed)
        return augment(x, pad=2, flip=True, generator=torch.Generator().manual_seed(seed))

    with torch.random.fork_rng():
        assert torch.equal(run(1, 10), run(1, 11))
        assert not torch.equal(run(1, 10), run(2, 10))


def test_augment_never_waits_for_a_value() -> None:
    """Fake tensors have no values, so asking one for its value raises."""
    with FakeTensorMode():
        for mode in ("constant", "reflect"):
            x = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
            out = augment(x, pad=2, flip=True, mode=mode, generator=torch.Generator())
            assert out.shape == (4, 3, 8, 8)


@pytest.mark.parametrize(
    ("pad", "mode", "message"),
    [
        (-1, "constant", "pad -1: must be 0 or more pixels"),
        (5, "reflect", "pad 5: images of 5 pixels reflect at most 4"),
        (1, "reflekt", "unknown padding mode 'reflekt'. Did you mean 'reflect'?"),
    ],
)
def test_augment_refuses(pad: int, mode: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        augment(distinct_images(2), pad=pad, flip=True, mode=mode, generator=torch.Generator())
    assert str(caught.value).startswith(message)


def test_epoch_order() -> None:
    order = epoch_order(100, run_seed=7, epoch=3, device="cpu")
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(100))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        assert torch.equal(order, epoch_order(100, run_seed=7, epoch=3, device="cpu"))
    assert not torch.equal(order, epoch_order(100, run_seed=7, epoch=4, device="cpu"))
    assert not torch.equal(order, epoch_order(100, run_seed=8, epoch=3, device="cpu"))


def test_batches_keep_the_last_image() -> None:
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    parts = batches(order, 4)
    assert [len(part) for part in parts] == [4, 4, 1]
    assert torch.equal(torch.cat(parts), order)
    with pytest.raises(ConfigError, match="batch_size 0: must be at least 1"):
        batches(order, 0)
