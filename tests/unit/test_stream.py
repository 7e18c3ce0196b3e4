"""Images in files: what is listed, what a network is given, and that threads change nothing."""

import math
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, Pad, RandomResizedCrop, Resize
from torchvision.transforms.functional import resized_crop, to_tensor

from bench.data import Dataset, load_dataset, stream
from bench.data import dataset as dataset_module
from bench.data.dataset import FileSplit
from bench.data.folder import RANGES, list_files
from bench.data.loader import loader
from bench.data.stream import AHEAD, StreamedSplit, centre, crop, random_box
from bench.errors import ConfigError, DataError
from tests.harness import raises_line
from tests.pictures import make_folder, make_imagenet, picture, synset


def listed(root: Path, size: int = 8) -> FileSplit:
    names = sorted(folder.name for folder in root.iterdir())
    return list_files(root, {name: i for i, name in enumerate(names)}, size)


@pytest.fixture
def split(tmp_path: Path) -> FileSplit:
    return listed(make_folder(tmp_path / "data", {"train": 5}) / "train")


def files(dataset: Dataset, part: str) -> FileSplit:
    found = getattr(dataset, part)
    assert isinstance(found, FileSplit)
    return found


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
    first.write_bytes(first.read_bytes() + b"x")
    hashes.add(listed(moved).sha256)
    for name in ("a/00.png", "b/00.png"):
        first = first.rename(moved / name)
        hashes.add(listed(moved).sha256)
    assert len(hashes) == 7


def test_the_fingerprint_is_of_the_way_in_which_files_become_pixels(
    split: FileSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = split.sha256
    monkeypatch.setattr(dataset_module, "PIPELINE", 3)
    assert listed(split.root).sha256 != before


SIZES = ((37, 23), (23, 37), (20, 20), (5, 90), (3, 2), (1, 1))


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_centres_and_random_crops_are_torchvisions(shape: tuple[int, int], tmp_path: Path) -> None:
    path, image = tmp_path / "a.png", picture(0, *shape)
    image.save(path)
    for size in (7, 16, 224):
        found = centre(path, size)
        assert found.dtype == np.uint8
        expected = Compose([Resize(size * 256 // 224), CenterCrop(size)])(image)
        assert np.array_equal(found, np.asarray(expected))
    for seed in range(10):
        left, top, right, bottom = random_box(*shape, random.Random(seed))
        expected = resized_crop(image, top, left, bottom - top, right - left, [9, 9])
        assert np.array_equal(crop(path, 9, seed), np.asarray(expected))


def theirs(width: int, height: int, area: tuple[float, float] = (0.08, 1.0)) -> tuple[int, ...]:
    """Top, left, height and width of one of torchvision's boxes."""
    image = torch.empty(1, height, width)
    found: tuple[int, ...] = RandomResizedCrop.get_params(image, list(area), [3 / 4, 4 / 3])
    return found


def test_random_boxes_have_torchvisions_areas_shapes_and_places() -> None:
    width, height = 500, 400
    draws = random.Random(0)
    boxes = np.array([random_box(width, height, draws) for _ in range(4000)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= width
    assert boxes[:, 3].max() <= height
    with torch.random.fork_rng():
        torch.manual_seed(0)
        top, left, high, wide = np.array([theirs(width, height) for _ in range(4000)]).T
    for ours, other in (
        (w * h, high * wide),
        (np.log(w / h), np.log(wide / high)),
        (boxes[:, 0], left),
        (boxes[:, 1], top),
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

    # An area of 100 images never fits: torchvision falls back as well.
    top, left, h, w = theirs(*shape, area=(100.0, 100.0))
    assert random_box(*shape, Never()) == (left, top, left + w, top + h)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_8_bit_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    for side in (8, 10):
        image = picture(0, side, side, mode)
        image.save(path)
        rgb = image.convert("RGB")
        if side != 8:
            rgb = rgb.resize((9, 9), Image.Resampling.BILINEAR).crop((0, 0, 8, 8))
        assert np.array_equal(centre(path, 8), np.asarray(rgb))


@pytest.mark.parametrize("size", [5, 16, 32])
def test_a_file_of_the_networks_size_is_not_resized(size: int, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    assert np.array_equal(centre(tmp_path / "a.png", size), noise)
    # one pixel less on either side, and it is torchvision's
    for shape in ((size - 1, size), (size, size + 1), (size + 1, size + 1)):
        picture(0, *shape).save(tmp_path / "b.png")
        expected = Compose([Resize(size * 256 // 224), CenterCrop(size)])(picture(0, *shape))
        assert np.array_equal(centre(tmp_path / "b.png", size), np.asarray(expected))


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
    seen = [places[crop(tmp_path / "a.png", 16, seed).tobytes()] for seed in range(1000)]
    counts = Counter(seen)
    assert len(counts) == len(places) == 25
    assert min(counts.values()) > 15  # 40 expected; four standard deviations are 25
    assert max(counts.values()) < 65
    assert seen[:9] == [places[crop(tmp_path / "a.png", 16, seed).tobytes()] for seed in range(9)]
    # smaller than eight pixels there is nothing to pad by
    Image.fromarray(noise[:7, :7]).save(tmp_path / "b.png")
    assert np.array_equal(crop(tmp_path / "b.png", 7, 3), noise[:7, :7])


def test_images_are_the_centres_as_floats(split: FileSplit) -> None:
    streamed = loader(split, 1 / 255, "cpu")
    assert isinstance(streamed, StreamedSplit)
    index = torch.tensor([14, 0, 3, 0])
    x = streamed.images(index)
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    paths = [split.root / split.paths[i] for i in index.tolist()]
    assert torch.equal(x, torch.stack([to_tensor(centre(path, 8).copy()) for path in paths]))
    assert streamed.labels(index).tolist() == [2, 0, 0, 0]
    assert len(streamed) == len(streamed.y) == 15


def test_views_depend_on_seed_batch_and_image_alone(split: FileSplit) -> None:
    index = torch.tensor([4, 1, 9, 12])
    one, many = StreamedSplit(split, "cpu", 1), StreamedSplit(split, "cpu", 4)
    x = one.views(index, 5, 3)
    state = torch.get_rng_state(), random.getstate()
    many.expect([torch.tensor([0, 1]), index, index.flip(0)], 2)
    other = torch.tensor([7, 3])  # not what was announced for batch 2, nor below for batch 4
    assert torch.equal(many.views(other, 5, 2), one.views(other, 5, 2))
    assert torch.equal(many.views(index, 5, 3), x)
    assert torch.equal(many.views(other, 5, 4), one.views(other, 5, 4))
    assert torch.equal(one.views(index.flip(0), 5, 3), x.flip(0))
    assert torch.equal(one.views(index[2:3], 5, 3), x[2:3])
    assert not torch.equal(one.views(index, 6, 3), x)
    assert not torch.equal(one.views(index, 5, 4), x)
    assert torch.equal(one.views(index, 5, 4), many.views(index, 5, 4))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]


def test_two_images_of_a_batch_are_cropped_differently(tmp_path: Path) -> None:
    for name in ("a/0.png", "a/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(0, 60, 50).save(tmp_path / name)
    streamed = StreamedSplit(listed(tmp_path), "cpu")
    x = streamed.views(torch.tensor([0, 1]), 0, 0)
    assert not torch.equal(x[0], x[1])
    assert torch.equal(*streamed.images(torch.tensor([0, 1])))


def test_the_next_batches_are_decoded_ahead_and_each_image_once(
    split: FileSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: Counter[Path] = Counter()

    def counted(path: Path, size: int, seed: int) -> Any:
        decoded[path] += 1
        return crop(path, size, seed)

    monkeypatch.setattr(stream, "crop", counted)
    streamed = StreamedSplit(split, "cpu", 2)
    parts = torch.arange(15).split(3)  # type: ignore[no-untyped-call]
    streamed.expect(parts, 10)
    assert not decoded
    streamed.views(parts[0], 0, 10)
    streamed._pool.shutdown(wait=True)
    assert decoded.total() == 3 * (1 + AHEAD)
    streamed = StreamedSplit(split, "cpu", 2)
    decoded.clear()
    streamed.expect(parts, 10)
    whole = [streamed.views(part, 0, number) for number, part in enumerate(parts, 10)]
    assert sorted(decoded.values()) == [1] * 15
    unannounced = StreamedSplit(split, "cpu", 2)
    again = [unannounced.views(part, 0, number) for number, part in enumerate(parts, 10)]
    assert torch.equal(torch.cat(whole), torch.cat(again))


def test_a_new_epoch_forgets_what_was_announced(split: FileSplit) -> None:
    streamed = StreamedSplit(split, "cpu", 2)
    first, second = torch.tensor([0, 1]), torch.tensor([2, 3])
    streamed.expect((first, second), 0)
    streamed.views(first, 0, 0)
    streamed.expect([second], 1)
    expected = StreamedSplit(split, "cpu").views(second, 7, 1)
    assert torch.equal(streamed.views(second, 7, 1), expected)
    assert not streamed._ahead


def save_deep(path: Path) -> None:
    Image.fromarray(np.full((9, 9), 40000, dtype=np.uint16)).save(path)


def save_cut(path: Path) -> None:
    picture(0, 64, 64).save(path)
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: path.write_text("<html>not found</html>"), "cannot identify image file"),
        (save_cut, "truncated"),
        (save_deep, "pixels of mode I;16"),
        (Path.unlink, "[Errno 2] No such file"),
    ],
)
@pytest.mark.parametrize("how", ["images", "views", "ahead"])
def test_a_broken_file_is_one_line_that_names_it(
    write: Callable[[Path], object], words: str, how: str, split: FileSplit
) -> None:
    path = split.root / "b" / "3.png"
    write(path)
    streamed, index = StreamedSplit(split, "cpu"), torch.tensor([8, 2])
    if how == "ahead":
        streamed.expect([index[1:], index], 0)
        streamed.views(index[1:], 0, 0)
    remedy = "; replace it by an 8-bit grey or colour image, or remove it"
    with raises_line(DataError, f"image file {path} cannot be decoded (", words, remedy):
        streamed.images(index) if how == "images" else streamed.views(index, 0, 1)


def test_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "flowers", {"train": 20, "test": 4, "val": 2})
    monkeypatch.chdir(tmp_path)
    data = load_dataset("folder:flowers")
    assert (data.name, data.num_classes) == ("flowers", 3)
    assert (data.in_channels, data.image_size) == (3, 224)
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
            shutil.rmtree(root / name)

    return change


def emptied(name: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        for path in (root / name).iterdir():
            path.unlink()

    return change


def flat(root: Path) -> None:
    for path in list((root / "test").rglob("*.png")):
        path.rename(root / "test" / f"{path.parent.name}{path.name}")
    without("test/a", "test/b", "test/c")(root)


SORT = "sort the images into one folder per class"
BOTH = "both must hold the same"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("train", "test"), "there is no folder train/ in it; put a folder of"),
        (without("test"), "there is no folder test/ or val/ in it; put a folder of images"),
        (without("train/a", "train/b", "train/c"), f"{{root}}/train holds nothing; {SORT}"),
        (without("train/a", "train/b"), "{root}/train holds one class folder (c); training needs"),
        (without("test/b"), f"'b' is in {{root}}/train but not in {{root}}/test; {BOTH}"),
        (without("train/c"), f"'c' is in {{root}}/test but not in {{root}}/train; {BOTH}"),
        (flat, f"{{root}}/test holds 6 files and no folder; {SORT}"),
        (emptied("train/b"), "class folder {root}/train/b holds no image (.jpg .jpeg .png"),
        (emptied("test/a"), "class folder {root}/test/a holds no image (.jpg"),
        (
            lambda root: (root / "train" / "a" / "1.png").write_bytes(b""),
            "image file {root}/train/a/1.png is empty; replace it or remove it",
        ),
        (
            lambda root: (root / "test" / "c" / "9.png").symlink_to("nowhere.png"),
            "{root}/test/c/9.png cannot be read (No such file or directory); check the folder",
        ),
    ],
)
def test_a_bad_folder_is_one_line_that_names_it(
    change: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    root = make_folder(tmp_path / "made", {"train": 3, "test": 2})
    assert load_dataset(f"folder:{root}").num_classes == 3
    change(root)
    with raises_line(DataError, f"folder data '{root}': ", words.format(root=root)):
        load_dataset(f"folder:{root}")


def test_a_missing_folder_and_impossible_sizes(tmp_path: Path) -> None:
    with raises_line(DataError, "folder data 'nowhere': there is no such folder; check the path"):
        load_dataset("folder:nowhere@32")
    root = make_folder(tmp_path / "made", {"train": 3, "test": 2})
    for size in (0, 1025, 10**30):
        with raises_line(ConfigError, f"image size {size} is out of range: 1 to 1024 pixels"):
            load_dataset(f"folder:{root}@{size}")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([str(k) for k in range(12)], "folder '2' is class 4"),
        (["7", "8", "100"], "folder '7' is class 1"),
        (["0", "1", "3"], "folder '3' is class 2"),
        ([f"{k:02}" for k in range(1, 13)], "folder '01' is class 0"),
        ([f"{k:02}" for k in range(12)], None),
        ([str(k) for k in range(10)], None),
        (["1", "2", "10", "other"], None),
        (["c1", "c10", "c2"], None),
    ],
    ids=str,
)
def test_class_folders_that_are_numbers_keep_the_order_of_imagefolder_with_a_warning(
    names: list[str], words: str | None, tmp_path: Path
) -> None:
    make_folder(tmp_path / "n", {"train": 2, "test": 1}, names)
    data = load_dataset(f"folder:{tmp_path / 'n'}@8")
    paths = files(data, "test").paths
    ours = {path.split("/")[0]: y for path, y in zip(paths, data.test.y.tolist(), strict=True)}
    assert ours == ImageFolder(tmp_path / "n" / "test").class_to_idx
    if words is None:
        assert data.warnings == ()
    else:
        (warning,) = data.warnings
        assert words in warning


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_imagenet(tmp_path_factory.mktemp("imagenet"), 2, 1)


def test_restricted_imagenet_takes_the_published_synsets_by_sorted_place(imagenet: Path) -> None:
    data = load_dataset("restricted-imagenet", data_root=imagenet)
    assert (data.name, data.num_classes, data.image_size) == ("restricted-imagenet", 9, 224)
    names = "dog cat frog turtle bird primate fish crab insect"
    assert data.class_names == tuple(names.split())
    assert data.mean == (0.4717, 0.4499, 0.3837)
    assert data.std == (0.2600, 0.2516, 0.2575)
    assert (len(data.train) + len(data.val), len(data.test)) == (406, 203)
    folders = [path.split("/")[0] for path in files(data, "test").paths]
    label = dict(zip(folders, data.test.y, strict=True))
    some = [label[synset(i)] for i in (151, 268, 281, 32, 33, 100, 382, 389, 118, 319)]
    assert some == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert not {synset(150), synset(269)} & label.keys()
    assert np.bincount(data.test.y).tolist() == [118, 5, 3, 5, 21, 18, 9, 4, 20]
    small = load_dataset("restricted-imagenet@32", data_root=imagenet)
    assert small.name == "restricted-imagenet-32"


def assert_no_imagenet(root: Path | None, *words: str) -> None:
    with raises_line(DataError, *words):
        load_dataset("restricted-imagenet", data_root=root)


@pytest.mark.slow
def test_imagenet_is_evaluated_on_without_its_training_images(tmp_path: Path) -> None:
    root = make_imagenet(tmp_path / "imagenet", 0, 1)
    whole = load_dataset("restricted-imagenet", data_root=root, trains=False)
    assert (len(whole.train), len(whole.test), whole.num_classes) == (0, 203, 9)
    shutil.rmtree(root / "train")
    alone = load_dataset("restricted-imagenet", data_root=root, trains=False)
    assert (alone.test.sha256, alone.num_classes) == (whole.test.sha256, 9)
    assert alone.class_names == tuple(RANGES)
    assert_no_imagenet(root, f"there is no folder {root / 'train'}")


@pytest.mark.slow
def test_what_is_not_imagenet_is_refused(
    imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "train").mkdir(parents=True)
    ways = ("ILSVRC2012_img_train.tar", "image-net.org", "Kaggle", "--data-root FOLDER")
    for root, missing in ((tmp_path, tmp_path / "train"), (None, Path("data/val"))):
        assert_no_imagenet(root, f"there is no folder {missing}; ", *ways)
    root = tmp_path / "copy"
    for part in ("train", "val"):
        for synset_folder in (imagenet / part).iterdir():
            (root / part / synset_folder.name).mkdir(parents=True)
    train, val = root / "train", root / "val"
    (train / synset(0)).rename(train / "tench")
    assert_no_imagenet(root, f"{train} holds 1000 folders, such as 'tench', and must hold")
    (train / "tench").rename(train / synset(0))
    (train / synset(999)).rmdir()
    assert_no_imagenet(root, f"{train} holds 999 folders, all named like synsets, and must")
    (train / synset(999)).mkdir()
    shutil.rmtree(val)
    val.mkdir()
    (val / "ILSVRC2012_val_00000001.JPEG").touch()
    assert_no_imagenet(root, f"{val} holds 1 files and no folder; sort the images")
    (val / synset(151)).mkdir()
    lacks = f"{val} lacks 202 of the 203 synset folders that are used, such as {synset(30)};"
    assert_no_imagenet(root, lacks)
