"""Data: what is loaded, how it is cut, what is refused, and the batches made from it."""

import hashlib
import pickle
import subprocess
import sys
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

from bench.data import SOURCES, Source, Split, cut, load_dataset
from bench.data import npz as npz_module
from bench.data.dataset import StoredSplit, permutation
from bench.data.loader import DeviceSplit, augment, batches, epoch_order
from bench.errors import ConfigError, DataError
from tests.harness import generator, raises_line

Arrays = dict[str, NDArray[Any]]


def make_split(n: int, classes: int = 4, size: int = 4, channels: int = 3, seed: int = 0) -> Split:
    """Random images; labels run 0, 1, ..., so that every class occurs."""
    shape = (n, size, size, channels)
    x = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Split(x, np.arange(n, dtype=np.int64) % classes)


def make_source(n_train: int = 60, n_test: int = 12, classes: int = 4) -> Source:
    train, test = make_split(n_train, classes), make_split(n_test, classes, seed=1)
    origin = "dataset 'made'"
    return Source(
        name="made", origin=origin, train=train, test=test, scale=1 / 255, pad=1, flip=True
    )


def pixels(split: StoredSplit) -> NDArray[Any]:
    assert isinstance(split, Split)
    return split.x


def rows(split: StoredSplit) -> list[bytes]:
    return [image.tobytes() for image in pixels(split)]


def test_sha256_sees_pixels_labels_and_shape() -> None:
    split = make_split(8)
    pixel = split.x.copy()
    pixel[7, 3, 3, 2] ^= 1
    changed = (
        Split(pixel, split.y),
        Split(split.x, (split.y + 1) % 4),
        Split(split.x.reshape(8, 2, 8, 3), split.y),
    )
    assert len({s.sha256 for s in (split, *changed)}) == 4
    assert Split(split.x.copy(), split.y.copy()).sha256 == split.sha256


@pytest.mark.parametrize("train_size", [None, 20])
def test_cut_is_disjoint_complete_and_ordered_and_takes_the_first_images(
    train_size: int | None,
) -> None:
    source = make_source(60)
    data = cut(source, train_size=train_size, test_size=5)
    n = train_size or 60
    assert (len(data.train), len(data.val), len(data.test)) == (n * 9 // 10, n // 10, 5)
    assert sorted(rows(data.train) + rows(data.val)) == sorted(rows(source.train)[:n])
    for split in (data.train, data.val):
        places = [rows(source.train).index(image) for image in rows(split)]
        assert places == sorted(places)
        assert np.array_equal(split.y, source.train.y[places])
    assert rows(data.test) == rows(source.test)[:5]
    assert np.array_equal(data.test.y, source.test.y[:5])
    assert not np.shares_memory(pixels(data.test), pixels(source.test))  # the rest is freed
    assert cut(make_source(60, classes=30), train_size=10).num_classes == 30


@pytest.mark.parametrize(
    ("n", "expected"), [(5, 1), (19, 1), (64, 6), (9_999, 999), (12_000, 1000)]
)
def test_size_of_val(n: int, expected: int) -> None:
    assert len(cut(make_source(n)).val) == expected


def test_permutation_is_pinned() -> None:
    """Another order would be another val and another digits: records could not be compared."""
    assert permutation(10, 0).tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]
    assert sorted(permutation(1000, 3).tolist()) == list(range(1000))


def test_digits_are_the_bundled_ones() -> None:
    from sklearn.datasets import load_digits

    data = load_dataset("digits")
    splits = (data.train, data.val, data.test)
    assert (data.name, data.num_classes, data.in_channels, data.image_size) == ("digits", 10, 1, 8)
    assert [len(split) for split in splits] == [1294, 143, 360]
    assert (data.pad, data.flip, data.scale) == (0, False, 1 / 16)
    assert data.class_names == tuple("0123456789")
    assert all(set(split.y) == set(range(10)) for split in splits)
    assert data.test.sha256 == "86f11ebafc5ea55290893a5155ae7b5c6a8a815ee47a7cd6aa82c29fd05ec1e3"
    assert data.val.sha256 == "d8494fbac1a5368bb1ce1cbf2e98525859ea26eaaa36f604236568e59446d91a"
    raw = load_digits()
    expected = sorted((x.tobytes(), int(y)) for x, y in zip(raw.images, raw.target, strict=True))
    assert expected == sorted(
        (image[..., 0].astype(np.float64).tobytes(), int(label))
        for split in splits
        for image, label in zip(pixels(split), split.y, strict=True)
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar11", "unknown dataset 'cifar11'. Did you mean 'cifar10'? Known: "),
        ("npz", "unknown dataset 'npz'. Did you mean 'npz:PATH'? Known: "),
        ("digits:x", "unknown dataset 'digits:x'. "),
        ("npz:", "dataset 'npz:' names no file; write npz:PATH"),
        ("folder:@64", "dataset 'folder:@64' names no file; write folder:PATH"),
        ("digits@64", "unknown dataset 'digits@64'. Did you mean 'digits'? Known: "),
        ("restricted-imagenet@x", "unknown dataset 'restricted-imagenet@x'. Did you mean "),
        ("restricted-imagenet:x", "unknown dataset 'restricted-imagenet:x'. Did you mean "),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with raises_line(ConfigError, message):
        load_dataset(name)


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
            key, labels = "fine_labels" if fine else "labels", [i % 10 for i in range(20)]
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


def test_cifar_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = write_cifar(monkeypatch, tmp_path)
    forbid_download(monkeypatch, AssertionError("an existing folder needs no download"))
    data = load_dataset("cifar10", data_root=tmp_path)
    assert (data.name, data.num_classes) == ("cifar10", 10)
    assert (data.in_channels, data.image_size) == (3, 32)
    assert (len(data.train), len(data.val), len(data.test)) == (90, 10, 20)
    assert (data.pad, data.flip, data.scale) == (4, True, 1 / 255)
    assert data.class_names is not None
    assert data.class_names[3] == "class 3"
    # Each row of the file is all of red, then green, then blue, row by row.
    assert pixels(data.test)[5, 2, 7, 1] == made["test_batch"][5, 1024 + 2 * 32 + 7]
    assert data.test.y.tolist() == [i % 10 for i in range(20)]
    write_cifar(monkeypatch, tmp_path, fine=True)
    fine = load_dataset("cifar100", data_root=str(tmp_path), download=False)
    assert (fine.name, len(fine.train), len(fine.test)) == ("cifar100", 18, 20)


def test_cifar10_is_downloaded_when_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ready = tmp_path / "server"
    write_cifar(monkeypatch, ready)
    urls: list[str] = []

    def fetch(url: str, root: Path, **kwargs: object) -> None:
        urls.append(url)
        Path(root).mkdir()
        (ready / "cifar-10-batches-py").rename(Path(root) / "cifar-10-batches-py")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fetch)
    assert len(load_dataset("cifar10", data_root=tmp_path / "new").train) == 90
    assert urls == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"]


@pytest.mark.parametrize(
    ("download", "words"),
    [
        (True, "the download failed (<urlopen error no route>)"),
        (False, "downloading is off; allow the download"),
    ],
)
def test_missing_cifar10_names_the_ways_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, download: bool, words: str
) -> None:
    forbid_download(monkeypatch, OSError("<urlopen error\n no route>"))
    ways = ("--data-root FOLDER with cifar-10-batches-py", "--dataset npz:PATH")
    with raises_line(DataError, f"there is no folder {tmp_path}/cifar-10-batches", words, *ways):
        load_dataset("cifar10", data_root=tmp_path, download=download)


@pytest.mark.parametrize("victim", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("fault", ["is missing", "has the wrong checksum"])
def test_damaged_cifar10_is_named_and_not_overwritten(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, victim: str, fault: str
) -> None:
    write_cifar(monkeypatch, tmp_path)
    forbid_download(monkeypatch, AssertionError("never over a folder of the user's"))
    path = tmp_path / "cifar-10-batches-py" / victim
    if fault == "is missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with raises_line(DataError, f"{path.parent} is damaged: {victim} {fault}; delete that folder"):
        load_dataset("cifar10", data_root=tmp_path)


def good_arrays(n: int = 30, size: int = 8, channels: int = 3) -> Arrays:
    train, test = make_split(n, size=size, channels=channels), make_split(10, size=size, seed=2)
    x_test = test.x[..., :channels].copy()
    return {"x_train": train.x, "y_train": train.y, "x_test": x_test, "y_test": test.y}


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


ZEROS = np.zeros((30, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(30) % 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y_train": None, "x_test": None}, "lacks y_train, x_test; it holds x_train, y_test; add"),
        ({"x_test": np.array([{}])}, "is damaged, or not an .npz file (Object arrays cannot"),
        ({"x_train": ZEROS / 255.0}, "x_train is float64, but values must be uint8 0..255; for"),
        ({"x_test": ZEROS[:10] > 0}, "x_test is bool, but values must be uint8 0..255"),
        ({"x_train": ZEROS.astype(np.int8) - 1}, "x_train is int8 with values -1..-1, but values"),
        ({"x_train": ZEROS.astype(int) + 256}, "x_train is int64 with values 256..256, but values"),
        ({"x_train": ZEROS.reshape(30, -1)}, "x_train has shape (30, 192); images must"),
        ({"x_train": ZEROS[None]}, "x_train has shape (1, 30, 8, 8, 3); images must"),
        ({"x_train": ZEROS[..., :2]}, "so 2 channels, not 1 or 3; use grey or RGB"),
        ({"x_train": ZEROS.transpose(0, 3, 1, 2)}, "so 8 channels, not 1 or 3; put the channels"),
        ({"x_test": ZEROS[:0]}, "x_test has shape (0, 8, 8, 3), which holds no pixels"),
        ({"x_train": ZEROS[:, :6]}, "x_train holds 6x8x3 images; crop or resize"),
        ({"x_test": ZEROS[:10, :6, :6]}, "x_train holds 8x8x3 images but x_test 6x6x3; bring both"),
        ({"x_test": ZEROS[:10, ..., 0]}, "8x8x3 images but x_test 8x8x1;"),
        ({"y_train": np.zeros(30)}, "y_train is float64, but labels must be integers 0..K-1;"),
        ({"y_train": LABELS > 1}, "y_train is bool, but labels must be int"),
        ({"y_train": LABELS[:29]}, "y_train holds 29 labels for 30 images"),
        ({"y_test": np.eye(10, dtype=int)}, "y_test has shape (10, 10); labels must be (10,)"),
        ({"y_test": np.array(1)}, "y_test has shape (); labels must be (10,)"),
        ({"y_test": LABELS[:10] - 1}, "y_test holds label -1, which is out of range;"),
        (
            {"y_train": np.uint64(2**64 - 1) - LABELS.astype(np.uint64)},
            "y_train holds label 18446744073709551615, which is out of range;",
        ),
        (
            {"y_test": np.arange(10) % 5},
            "empty classes: the largest label is 4, but 1 of the classes 0..4 have no training "
            "image (the first is 4);",
        ),
        (
            {"y_train": np.where(np.arange(30) == 3, 10**9, np.arange(30) % 3)},
            "but 999999997 of the classes 0..1000000000 have no training image (the first is 3);",
        ),
        (
            {"y_train": LABELS * 0, "y_test": LABELS[:10] * 0},
            "of 1 class(es) after the cut for validation; training needs 2 classes",
        ),
        ({"name": np.array(["a", "b"])}, "the array 'name' must be one string"),
        ({"name": np.array(7)}, "the array 'name' must be one string"),
        ({"name": np.array("a | b")}, "the array 'name' must be one string"),
    ],
)
def test_bad_npz_is_one_line_that_names_the_file(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    arrays = {k: v for k, v in (good_arrays() | changed).items() if v is not None}
    path = save(tmp_path, arrays)
    with raises_line(DataError, f"npz data '{path}': ", message, ";"):
        load_dataset(f"npz:{path}")


def test_what_is_no_npz_is_refused_and_no_pickle_opened(tmp_path: Path) -> None:
    path = save(tmp_path, good_arrays())
    npy = tmp_path / "a.npy"
    np.save(npy, ZEROS)
    whole = path.read_bytes()
    pickled = pickle.dumps({"x_train": 1})
    for content in (b"", b"<html>", whole[: len(whole) * 2 // 3], pickled, npy.read_bytes()):
        path.write_bytes(content)
        with raises_line(DataError, f"npz data '{path}': is damaged, or not an .npz file (File is"):
            load_dataset(f"npz:{path}")
    with raises_line(DataError, "npz data 'nowhere.npz': cannot be read (No such file", "the path"):
        load_dataset("npz:nowhere.npz")
    with raises_line(DataError, "Is a directory"):
        load_dataset(f"npz:{tmp_path}")


def test_a_flipped_byte_is_an_error_or_harmless(tmp_path: Path) -> None:
    """Every fifth place of a small file in turn: one line, or the very same data."""
    path = save(tmp_path, good_arrays(n=6, size=2))
    whole = path.read_bytes()
    expected = load_dataset(f"npz:{path}").train.sha256
    messages = []
    for place in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            assert load_dataset(f"npz:{path}").train.sha256 == expected
        except DataError as error:
            messages.append(str(error))
    assert len(messages) > len(whole) / 10
    assert all(m.startswith(f"npz data '{path}': ") and "\n" not in m for m in messages)


@pytest.mark.parametrize(
    ("stem", "stated", "known", "label"),
    [
        ("mine", None, None, "mine"),
        ("my data (1)", None, None, "my-data-1-"),
        ("mine", "other", "jpeg", "other"),
        ("cifar10", None, "jpeg", "jpeg"),
        ("mine", "cifar10", "jpeg", "jpeg"),
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
    # The content is known by all test images, however few are used.
    assert load_dataset(f"npz:{path}", test_size=3).name == label
    assert not set(npz_module.KNOWN.values()) & set(SOURCES)


@pytest.mark.parametrize("channels", [1, 3])
def test_device_split(channels: int) -> None:
    split = make_split(9, channels=channels)
    on_device = DeviceSplit(split, 1 / 255, "cpu")
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
    split = DeviceSplit(Split(x, np.zeros(top + 1, dtype=np.int64)), 1 / top, "cpu")
    expected = np.arange(top + 1, dtype=np.float32) / np.float32(top)
    assert split.images(torch.arange(top + 1)).flatten().numpy().tolist() == expected.tolist()


def distinct_images(n: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    """(n, 2, 5, 7): no two pixels of an image are equal and none is 0; height is not width."""
    g = generator()
    images = [torch.randperm(255, generator=g)[:70] + 1 for _ in range(n)]
    return torch.stack(images).view(n, 2, 5, 7).to(dtype)


def augment_one_by_one(x: Tensor, pad: int, flip: bool, mode: str, seed: int) -> Tensor:
    """The same random numbers, one image at a time, by the library's padding."""
    g, (n, _, height, width) = generator(seed), x.shape
    offsets, heads = torch.zeros(2, n, 1, dtype=torch.int64), torch.zeros(n, 1, dtype=torch.int64)
    if pad:
        offsets = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=g)
    if flip:
        heads = torch.randint(0, 2, (n, 1), generator=g)
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
        (0, True, "reflect"),
        (0, False, "constant"),
    ],
)
def test_augment_equals_a_loop_over_images_and_draws_from_its_generator_alone(
    pad: int, flip: bool, mode: str, dtype: torch.dtype
) -> None:
    x = distinct_images(40, dtype)
    before, state = x.clone(), torch.get_rng_state()
    expected = augment_one_by_one(x, pad, flip, mode, seed=3)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = x.contiguous(memory_format=layout)
        out = augment(given, pad=pad, flip=flip, mode=mode, generator=generator(3))
        assert torch.equal(out, expected)
        assert out.dtype == dtype
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)
    with FakeTensorMode():  # has no values: asking for one, as a wait for the device, raises
        fake = torch.zeros(4, 3, 12, 12, dtype=dtype)
        assert augment(fake, pad=pad, flip=flip, mode=mode, generator=generator()).shape[0] == 4


@pytest.mark.parametrize(
    ("pad", "mode", "message"),
    [
        (-1, "constant", "pad -1: must be 0 or more pixels"),
        (5, "reflect", "pad 5: images of 5 pixels reflect at most 4"),
        (1, "reflekt", "unknown padding mode 'reflekt'. Did you mean 'reflect'?"),
    ],
)
def test_augment_refuses(pad: int, mode: str, message: str) -> None:
    with raises_line(ConfigError, message):
        augment(distinct_images(2), pad=pad, flip=True, mode=mode, generator=generator())


def test_epoch_order_depends_on_seed_and_epoch_alone() -> None:
    order = epoch_order(100, run_seed=7, epoch=3, device="cpu")
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(100))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        assert torch.equal(order, epoch_order(100, run_seed=7, epoch=3, device="cpu"))
    assert not torch.equal(order, epoch_order(100, run_seed=7, epoch=4, device="cpu"))
    assert not torch.equal(order, epoch_order(100, run_seed=8, epoch=3, device="cpu"))


def test_batches_keep_the_last_image() -> None:
    order = torch.randperm(9, generator=generator())
    parts = batches(order, 4)
    assert [len(part) for part in parts] == [4, 4, 1]
    assert torch.equal(torch.cat(parts), order)
    with raises_line(ConfigError, "batch_size 0: must be at least 1"):
        batches(order, 0)
