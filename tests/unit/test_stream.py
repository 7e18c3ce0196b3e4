"""Images in files: what is listed, what a network is given, and that threads change nothing."""

from __future__ import annotations

import hashlib
import math
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, Pad, RandomResizedCrop, Resize
from torchvision.transforms.functional import resized_crop, to_tensor

from bench.data import Dataset, load_dataset, stream
from bench.data import files as files_module
from bench.data.files import FileSplit, list_files
from bench.data.folder import RANGES
from bench.data.loader import loader
from bench.data.stream import AHEAD, StreamedSplit, centre, crop, random_box
from bench.errors import BenchError, ConfigError, DataError
from tests.pictures import make_folder, make_imagenet, picture, synset


def listed(root: Path, size: int = 8) -> FileSplit:
    names = sorted(folder.name for folder in root.iterdir())
    return list_files(root, {name: i for i, name in enumerate(names)}, size, "made")


@pytest.fixture
def split(tmp_path: Path) -> FileSplit:
    return listed(make_folder(tmp_path / "data", {"train": 5}) / "train")


def files(dataset: Dataset, part: str) -> FileSplit:
    found = getattr(dataset, part)
    assert isinstance(found, FileSplit)
    return found


def refusal(load: Callable[[], object], kind: type[BenchError] = DataError) -> str:
    with pytest.raises(kind) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_files_are_listed_by_path_with_labels_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path
    for name in ("b/2.PNG", "b/10.png", "a/x/1.jpeg", "a/0.jpg", "a/._0.jpg", "a/.x/3.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"12345")
    (root / "a" / "notes.txt").touch()
    (root / "b" / "linked.png").symlink_to(root / "a" / "0.jpg")
    found = listed(root)
    assert found.paths == ("a/0.jpg", "a/x/1.jpeg", "b/10.png", "b/2.PNG", "b/linked.png")
    assert found.y.tolist() == [0, 0, 1, 1, 1]
    assert found.sizes.tolist() == [5] * 5
    assert found.shape == (8, 8, 3)


def test_the_fingerprint_sees_names_bytes_labels_order_and_size_but_not_the_place(
    split: FileSplit, tmp_path: Path
) -> None:
    hashes = {split.sha256, split.take(np.arange(14)).sha256}
    hashes.add(split.take(np.arange(15)[::-1]).sha256)
    hashes.add(listed(split.root, size=9).sha256)
    moved = split.root.rename(tmp_path / "elsewhere")
    os.utime(moved / "a" / "0.png", (0, 0))
    assert listed(moved).sha256 == split.sha256
    first = moved / "a" / "0.png"
    with first.open("ab") as file:
        file.write(b"x")
    hashes.add(listed(moved).sha256)
    first.rename(moved / "a" / "00.png")
    hashes.add(listed(moved).sha256)
    (moved / "a" / "00.png").rename(moved / "b" / "00.png")
    hashes.add(listed(moved).sha256)
    assert len(hashes) == 7


def test_the_fingerprint_is_of_the_way_in_which_files_become_pixels(
    split: FileSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hashlib.sha256(f"files {split.image_size}\n".encode())
    for path, size, label in zip(split.paths, split.sizes, split.y, strict=True):
        before.update(f"{path}\0{size}\0{label}\n".encode())
    hashes = {split.sha256, before.hexdigest()}  # the latter when every file was resized
    monkeypatch.setattr(files_module, "PIPELINE", 3)
    hashes.add(listed(split.root).sha256)
    assert len(hashes) == 3


MODES = ("RGB", "L", "P", "RGBA", "LA", "1", "CMYK")
SIZES = ((37, 23), (23, 37), (20, 20), (5, 90), (3, 2), (1, 1))


@pytest.mark.parametrize("size", [7, 16, 224])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_the_centre_is_torchvisions(shape: tuple[int, int], size: int, tmp_path: Path) -> None:
    picture(0, *shape).save(tmp_path / "a.png")
    expected = Compose([Resize(size * 256 // 224), CenterCrop(size)])(picture(0, *shape))
    found = centre(tmp_path / "a.png", size)
    assert found.dtype == np.uint8
    assert found.shape == (size, size, 3)
    assert np.array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_a_random_crop_is_torchvisions_for_its_box(shape: tuple[int, int], tmp_path: Path) -> None:
    picture(0, *shape).save(tmp_path / "a.png")
    for seed in range(10):
        left, top, right, bottom = random_box(*shape, random.Random(seed))
        expected = resized_crop(picture(0, *shape), top, left, bottom - top, right - left, [9, 9])
        assert np.array_equal(crop(tmp_path / "a.png", 9, seed), np.asarray(expected))


def test_random_boxes_have_torchvisions_areas_shapes_and_places() -> None:
    width, height = 500, 400
    stream = random.Random(0)
    boxes = np.array([random_box(width, height, stream) for _ in range(4000)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= width
    assert boxes[:, 3].max() <= height
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array(
            [
                RandomResizedCrop.get_params(
                    torch.empty(1, height, width), [0.08, 1.0], [3 / 4, 4 / 3]
                )
                for _ in range(4000)
            ]
        )  # top, left, height, width
    for ours, other in (
        (w * h, theirs[:, 2] * theirs[:, 3]),
        (np.log(w / h), np.log(theirs[:, 3] / theirs[:, 2])),
        (boxes[:, 0], theirs[:, 1]),
        (boxes[:, 1], theirs[:, 0]),
    ):
        levels = np.linspace(0.05, 0.95, 10)
        spread = other.std()
        assert np.abs(np.quantile(ours, levels) - np.quantile(other, levels)).max() < 0.1 * spread
        assert abs(ours.std() / spread - 1) < 0.05


@pytest.mark.parametrize("shape", [(100, 3), (3, 100), (1, 1)])
def test_where_no_box_fits_it_is_torchvisions_central_one(shape: tuple[int, int]) -> None:
    class Never(random.Random):
        def random(self) -> float:
            return math.nextafter(1, 0)  # the whole area, as wide as allowed

    width, height = shape
    with torch.random.fork_rng():
        # An area of 100 images never fits: torchvision falls back as well.
        top, left, h, w = RandomResizedCrop.get_params(
            torch.empty(1, height, width), [100.0, 100.0], [3 / 4, 4 / 3]
        )
    assert random_box(width, height, Never()) == (left, top, left + w, top + h)


@pytest.mark.parametrize("mode", MODES)
def test_every_8_bit_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    for side in (8, 10):
        image = picture(0, side, side, mode)
        image.save(path)
        found = centre(path, 8)
        rgb = image.convert("RGB")
        if side != 8:
            rgb = rgb.resize((9, 9), Image.Resampling.BILINEAR).crop((0, 0, 8, 8))
        assert np.array_equal(found, np.asarray(rgb))
        if mode in ("L", "LA", "1"):
            assert np.array_equal(found[..., 0], found[..., 2])


@pytest.mark.parametrize("size", [5, 16, 32])
def test_a_file_of_the_networks_size_is_taken_as_it_is(size: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    assert np.array_equal(centre(tmp_path / "a.png", size), noise)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(centre(tmp_path / "a.png", size), np.asarray(image.convert("RGB")))
    # one pixel less on either side, and it is torchvision's
    for shape in ((size - 1, size), (size, size + 1), (size + 1, size + 1)):
        picture(0, *shape).save(tmp_path / "b.png")
        theirs = Compose([Resize(size * 256 // 224), CenterCrop(size)])(picture(0, *shape))
        assert np.array_equal(centre(tmp_path / "b.png", size), np.asarray(theirs))


def test_a_training_view_of_the_networks_size_is_shifted_by_an_eighth_at_most(
    tmp_path: Path,
) -> None:
    noise = np.random.default_rng(0).integers(1, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    padded = np.asarray(Pad(2)(Image.fromarray(noise)))
    places = {
        padded[top : top + 16, left : left + 16].tobytes(): (top, left)
        for top in range(5)
        for left in range(5)
    }
    assert len(places) == 25
    seen = [places[crop(tmp_path / "a.png", 16, seed).tobytes()] for seed in range(1000)]
    counts = Counter(seen)
    assert len(counts) == 25
    assert min(counts.values()) > 15  # 40 expected; four standard deviations are 25
    assert max(counts.values()) < 65
    assert seen[:9] == [places[crop(tmp_path / "a.png", 16, seed).tobytes()] for seed in range(9)]
    # smaller than eight pixels there is nothing to pad by
    Image.fromarray(noise[:7, :7]).save(tmp_path / "b.png")
    assert np.array_equal(crop(tmp_path / "b.png", 7, 3), noise[:7, :7])


def test_files_of_several_sizes_are_each_brought_to_size_in_its_own_way(tmp_path: Path) -> None:
    for name, side in (("a/0.png", 16), ("a/1.png", 40), ("b/0.png", 16)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(side, side, side).save(tmp_path / name)
    streamed, index = StreamedSplit(listed(tmp_path, 16), "cpu"), torch.tensor([1, 0, 2])
    images = streamed.images(index)
    assert torch.equal(images[1], to_tensor(picture(16, 16, 16)))
    grown = Compose([Resize(18), CenterCrop(16)])(picture(40, 40, 40))
    assert torch.equal(images[0], to_tensor(grown))
    views = streamed.views(index, 1, 2)
    assert views.shape == (3, 3, 16, 16)
    assert torch.equal(views, StreamedSplit(listed(tmp_path, 16), "cpu", 1).views(index, 1, 2))


def images_by_hand(split: FileSplit, index: list[int]) -> Tensor:
    return torch.stack([to_tensor(centre(split.root / split.paths[i], 8).copy()) for i in index])


def test_images_are_the_centres_as_floats(split: FileSplit) -> None:
    streamed = loader(split, 1 / 255, "cpu")
    assert isinstance(streamed, StreamedSplit)
    index = torch.tensor([14, 0, 3, 0])
    x = streamed.images(index)
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    assert torch.equal(x, images_by_hand(split, index.tolist()))
    assert streamed.labels(index).tolist() == [2, 0, 0, 0]
    assert len(streamed) == len(streamed.y) == 15


def test_views_depend_on_seed_batch_and_image_alone(split: FileSplit) -> None:
    index = torch.tensor([4, 1, 9, 12])
    one, many = StreamedSplit(split, "cpu", 1), StreamedSplit(split, "cpu", 4)
    x = one.views(index, 5, 3)
    before = torch.get_rng_state()
    state = random.getstate()
    many.expect([torch.tensor([0, 1]), index, index.flip(0)], 2)
    other = torch.tensor([7, 3])  # not what was announced for batch 2, nor below for batch 4
    assert torch.equal(many.views(other, 5, 2), one.views(other, 5, 2))
    assert torch.equal(many.views(index, 5, 3), x)
    assert torch.equal(many.views(other, 5, 4), one.views(other, 5, 4))
    assert torch.equal(one.views(index.flip(0), 5, 3), x.flip(0))
    assert torch.equal(one.views(index[2:3], 5, 3), x[2:3])
    others = [one.views(index, 6, 3), one.views(index, 5, 4), many.views(index, 5, 4)]
    assert not torch.equal(others[0], x)
    assert not torch.equal(others[1], x)
    assert torch.equal(others[1], others[2])
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == state


def test_two_images_of_a_batch_are_cropped_differently(tmp_path: Path) -> None:
    for name in ("a/0.png", "a/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(0, 60, 50).save(tmp_path / name)
    streamed = StreamedSplit(listed(tmp_path), "cpu")
    x = streamed.views(torch.tensor([0, 1]), 0, 0)
    assert not torch.equal(x[0], x[1])
    assert torch.equal(*streamed.images(torch.tensor([0, 1])))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files as they are cropped."""
    names: list[str] = []

    def counted(path: Path, size: int, seed: int) -> Any:
        names.append(f"{path.parent.name}/{path.stem}")
        return crop(path, size, seed)

    monkeypatch.setattr(stream, "crop", counted)
    return names


def test_the_next_batches_are_decoded_ahead_and_each_image_once(
    split: FileSplit, decoded: list[str]
) -> None:
    streamed = StreamedSplit(split, "cpu", 2)
    parts = torch.arange(15).split(3)  # type: ignore[no-untyped-call]
    streamed.expect(parts, 10)
    assert decoded == []
    streamed.views(parts[0], 0, 10)
    streamed._pool.shutdown(wait=True)
    assert len(decoded) == 3 * (1 + AHEAD)
    streamed = StreamedSplit(split, "cpu", 2)
    decoded.clear()
    streamed.expect(parts, 10)
    whole = [streamed.views(part, 0, number) for number, part in enumerate(parts, 10)]
    assert sorted(Counter(decoded).values()) == [1] * 15
    unannounced = StreamedSplit(split, "cpu", 2)
    again = [unannounced.views(part, 0, number) for number, part in enumerate(parts, 10)]
    assert torch.equal(torch.cat(whole), torch.cat(again))


def test_a_new_epoch_forgets_what_was_announced(split: FileSplit, decoded: list[str]) -> None:
    streamed = StreamedSplit(split, "cpu", 2)
    old = torch.tensor([0, 1]), torch.tensor([2, 3])
    streamed.expect(old, 0)
    streamed.views(old[0], 0, 0)
    new = torch.tensor([2, 3])
    streamed.expect([new], 1)
    assert torch.equal(streamed.views(new, 7, 1), StreamedSplit(split, "cpu").views(old[1], 7, 1))
    assert not streamed._ahead


def save_deep(path: Path) -> None:
    Image.fromarray(np.full((9, 9), 40000, dtype=np.uint16)).save(path)


def save_cut(path: Path) -> None:
    picture(0, 64, 64).save(path)
    path.write_bytes(path.read_bytes()[:200])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("<html>not found</html>"), "cannot identify image file"),
    "cut": (save_cut, "truncated"),
    "16 bits": (save_deep, "pixels of mode I;16"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("how", ["images", "views", "ahead"])
def test_a_broken_file_is_one_line_that_names_it(case: str, how: str, split: FileSplit) -> None:
    write, words = BROKEN[case]
    path = split.root / "b" / "3.png"
    write(path)
    streamed, index = StreamedSplit(split, "cpu"), torch.tensor([8, 2])
    if how == "ahead":
        first = torch.tensor([0])
        streamed.expect([first, index], 0)
        streamed.views(first, 0, 0)
    message = refusal(
        lambda: streamed.images(index) if how == "images" else streamed.views(index, 0, 1)
    )
    assert message.startswith(f"image file {path} cannot be decoded (")
    assert words in message
    assert message.endswith("; replace it by an 8-bit grey or colour image, or remove it")


def test_a_vanished_file_is_named(split: FileSplit) -> None:
    (split.root / "a" / "0.png").unlink()
    message = refusal(lambda: StreamedSplit(split, "cpu").images(torch.tensor([0])))
    assert f"image file {split.root}/a/0.png cannot be decoded ([Errno 2] No such file" in message


def test_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "flowers", {"train": 20, "test": 4, "val": 2})
    monkeypatch.chdir(tmp_path)
    data = load_dataset("folder:flowers")
    assert (data.name, data.num_classes, data.in_channels, data.image_size) == (
        "flowers",
        3,
        3,
        224,
    )
    assert (data.pad, data.flip, data.mean, data.class_names) == (0, True, None, ("a", "b", "c"))
    assert (len(data.train), len(data.val), len(data.test)) == (54, 6, 12)
    paths = [*files(data, "train").paths, *files(data, "val").paths]
    assert sorted(paths) == sorted(f"{c}/{i}.png" for c in "abc" for i in range(20))
    for part in ("train", "val", "test"):
        found = files(data, part)
        assert found.root == Path("flowers") / ("test" if part == "test" else "train")
        assert found.y.tolist() == ["abc".index(path[0]) for path in found.paths]
    small = load_dataset("folder:flowers@16", train_size=12, test_size=6)
    assert (small.name, small.image_size) == ("flowers-16", 16)
    assert set(small.train.y) == set(small.test.y) == {0, 1, 2}  # no class comes first
    assert files(small, "test").paths == files(data, "test").paths[:6]
    assert load_dataset(f"folder:{tmp_path}/flowers").train.sha256 == data.train.sha256
    assert load_dataset("folder:flowers@224").name == "flowers"


def test_val_stands_in_for_test_and_names_of_others_are_not_taken(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "cifar10", {"train": 4, "val": 2})
    data = load_dataset(f"folder:{root}@8")
    assert data.name == "folder-cifar10-8"
    assert files(data, "test").root == root / "val"
    assert files(data, "val").root == root / "train"


def without(*names: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        for name in names:
            for path in sorted((root / name).rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            (root / name).rmdir()

    return change


def emptied(name: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        for path in (root / name).iterdir():
            path.unlink()

    return change


def flat(root: Path) -> None:
    for path in list((root / "test").rglob("*.png")):
        path.rename(root / "test" / f"{path.parent.name}{path.name}")
    for folder in [path for path in (root / "test").iterdir() if path.is_dir()]:
        folder.rmdir()


BAD_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (without("train", "test"), "there is no folder train/ in it; put a folder of"),
    "no train": (without("train"), "there is no folder train/ in it; put a folder of images per"),
    "no test": (without("test"), "there is no folder test/ or val/ in it; put a folder of images"),
    "empty train": (
        without("train/a", "train/b", "train/c"),
        "{root}/train holds nothing; sort the images into one folder per class",
    ),
    "one class": (
        without("train/a", "train/b"),
        "{root}/train holds one class folder (c); training needs 2",
    ),
    "class not in test": (
        without("test/b"),
        "class folder 'b' is in {root}/train but not in {root}/test; both must hold the same",
    ),
    "class not in train": (
        without("train/c"),
        "class folder 'c' is in {root}/test but not in {root}/train; both must hold the same",
    ),
    "flat test": (flat, "{root}/test holds 6 files and no folder; sort the images into one"),
    "empty class": (
        emptied("train/b"),
        "class folder {root}/train/b holds no image (.jpg .jpeg .png",
    ),
    "empty test class": (emptied("test/a"), "class folder {root}/test/a holds no image (.jpg"),
    "empty file": (
        lambda root: (root / "train" / "a" / "1.png").write_bytes(b""),
        "image file {root}/train/a/1.png is empty; replace it or remove it",
    ),
    "dead link": (
        lambda root: (root / "test" / "c" / "9.png").symlink_to("nowhere.png"),
        "{root}/test/c/9.png cannot be read (No such file or directory); check the folder",
    ),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_bad_folder_is_one_line_that_names_it(case: str, tmp_path: Path) -> None:
    change, words = BAD_FOLDERS[case]
    root = make_folder(tmp_path / "made", {"train": 3, "test": 2})
    assert load_dataset(f"folder:{root}").num_classes == 3
    change(root)
    message = refusal(lambda: load_dataset(f"folder:{root}"))
    assert message.startswith(f"folder data '{root}': ")
    assert words.format(root=root) in message


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([str(k) for k in range(12)], "folder '2' is class 4, not 2; "),
        ([str(k) for k in range(1, 11)], "folder '2' is class 2, not 1; "),
        (["7", "8", "100"], "folder '7' is class 1, not 0; "),
        ([f"{k:02}" for k in range(12)], None),
        ([str(k) for k in range(10)], None),
        (["0", "1", "3"], "folder '3' is class 2; for a model"),
        ([f"{k:02}" for k in range(1, 13)], "folder '01' is class 0; for a model"),
        (["1", "2", "10", "other"], None),
        (["c1", "c10", "c2"], None),
    ],
    ids=str,
)
def test_class_folders_that_are_numbers_keep_the_order_of_imagefolder_and_say_so(
    names: list[str], words: str | None, tmp_path: Path
) -> None:
    make_folder(tmp_path / "n", {"train": 2, "test": 1}, names)
    data = load_dataset(f"folder:{tmp_path / 'n'}@8")
    theirs = ImageFolder(tmp_path / "n" / "test").class_to_idx
    paths = files(data, "test").paths
    ours = {path.split("/")[0]: y for path, y in zip(paths, data.test.y.tolist(), strict=True)}
    assert ours == theirs
    if words is None:
        assert data.warnings == ()
    else:
        (warning,) = data.warnings
        assert words in warning
        advice = "leading zeros ('0" if ", not" in words else "from 0 and without gaps"
        assert advice in warning


def test_a_missing_folder_and_impossible_sizes(tmp_path: Path) -> None:
    message = refusal(lambda: load_dataset("folder:nowhere@32"))
    assert message == (
        "folder data 'nowhere': there is no such folder; check the path, which is relative to the "
        "working directory"
    )
    root = make_folder(tmp_path / "made", {"train": 3, "test": 2})
    for size in (0, 1025, 10**30):
        message = refusal(lambda size=size: load_dataset(f"folder:{root}@{size}"), ConfigError)  # type: ignore[misc]
        assert f"image size {size} is out of range: 1 to 1024 pixels a side" in message


def test_restricted_imagenet_has_the_published_ranges() -> None:
    counts = {name: last - first + 1 for name, (first, last) in RANGES.items()}
    assert list(counts.items()) == [
        *(("dog", 118), ("cat", 5), ("frog", 3), ("turtle", 5), ("bird", 21)),
        *(("primate", 18), ("fish", 9), ("crab", 4), ("insect", 20)),
    ]
    used = [i for first, last in RANGES.values() for i in range(first, last + 1)]
    assert len(used) == len(set(used)) == 203


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_imagenet(tmp_path_factory.mktemp("imagenet"), 2, 1)


def test_restricted_imagenet_takes_its_synsets_by_sorted_place(imagenet: Path) -> None:
    data = load_dataset("restricted-imagenet", data_root=imagenet)
    assert (data.name, data.num_classes, data.image_size) == ("restricted-imagenet", 9, 224)
    assert data.class_names == tuple(RANGES)
    assert data.mean == (0.4717, 0.4499, 0.3837)
    assert data.std == (0.2600, 0.2516, 0.2575)
    assert (len(data.train) + len(data.val), len(data.test)) == (406, 203)
    label = dict(
        zip((p.split("/")[0] for p in files(data, "test").paths), data.test.y, strict=True)
    )
    assert [label[synset(i)] for i in (151, 268, 281, 32, 33, 100, 382, 389, 118, 319)] == [
        *(0, 0, 1, 2, 3, 4, 5, 6, 7, 8)
    ]
    assert synset(150) not in label
    assert synset(269) not in label
    assert np.bincount(data.test.y).tolist() == [118, 5, 3, 5, 21, 18, 9, 4, 20]
    assert (
        load_dataset("restricted-imagenet@32", data_root=imagenet).name == "restricted-imagenet-32"
    )


def test_imagenet_is_evaluated_on_without_its_training_images(tmp_path: Path) -> None:
    root = make_imagenet(tmp_path / "imagenet", 0, 1)
    whole = load_dataset("restricted-imagenet", data_root=root, trains=False)
    assert (len(whole.train), len(whole.test), whole.num_classes) == (0, 203, 9)
    for synset_folder in (root / "train").iterdir():
        synset_folder.rmdir()
    (root / "train").rmdir()
    alone = load_dataset("restricted-imagenet", data_root=root, trains=False)
    assert (alone.test.sha256, alone.num_classes) == (whole.test.sha256, 9)
    assert alone.class_names == tuple(RANGES)
    assert f"there is no folder {root / 'train'}" in load_restricted(root)


def load_restricted(root: Path | None) -> str:
    return refusal(lambda: load_dataset("restricted-imagenet", data_root=root))


def test_a_missing_imagenet_says_where_it_is_to_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "train").mkdir(parents=True)
    for root, missing in ((tmp_path, tmp_path / "train"), (None, "data/val")):
        message = load_restricted(root)
        assert message.startswith(f"dataset 'restricted-imagenet': there is no folder {missing}; ")
        for way in ("ILSVRC2012_img_train.tar", "image-net.org", "Kaggle", "--data-root FOLDER"):
            assert way in message


def test_folders_that_are_not_imagenets_are_refused(imagenet: Path) -> None:
    train, val = imagenet / "train", imagenet / "val"
    renamed = train / "tench"
    (train / synset(0)).rename(renamed)
    message = load_restricted(imagenet)
    assert f"{train} holds 1000 folders, such as 'tench', and must hold ImageNet's 1000" in message
    renamed.rename(train / synset(0))
    (train / synset(999)).rmdir()
    assert f"{train} holds 999 folders, all named like synsets, and must" in load_restricted(
        imagenet
    )
    (train / synset(999)).mkdir()
    aside = val.rename(imagenet / "aside")
    val.mkdir()
    (val / "ILSVRC2012_val_00000001.JPEG").touch()
    assert f"{val} holds 1 files and no folder; sort the images" in load_restricted(imagenet)
    (val / "ILSVRC2012_val_00000001.JPEG").unlink()
    (val / synset(151)).mkdir()
    expected = f"{val} lacks 202 of the 203 synset folders that are used, such as {synset(30)};"
    assert expected in load_restricted(imagenet)
    (val / synset(151)).rmdir()
    val.rmdir()
    aside.rename(val)
    assert len(load_dataset("restricted-imagenet", data_root=imagenet).test) == 203
