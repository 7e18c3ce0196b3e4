"""Image files in class folders: a user's own, and Restricted ImageNet.

The layout is torchvision's ImageFolder: ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg (or
ROOT/val/CLASS/*.jpg). All checks use names and sizes, before any image is opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.data.dataset import Source, own_label, permutation
from bench.data.files import FileSplit, list_files
from bench.errors import ConfigError, DataError

IMAGE_SIZE = 224
"""Default pixels per side."""
MAX_IMAGE_SIZE = 1024
ORDER_SEED = 0
"""Never change it: another order has other first n images."""

RANGES: dict[str, tuple[int, int]] = {
    "dog": (151, 268),
    "cat": (281, 285),
    "frog": (30, 32),
    "turtle": (33, 37),
    "bird": (80, 100),
    "primate": (365, 382),
    "fish": (389, 397),
    "crab": (118, 121),
    "insect": (300, 319),
}
"""Class of Restricted ImageNet -> its first and last ImageNet class, both included.

The order is that of the labels 0..8; ImageNet's classes are numbered by sorted synset. Source:
MadryLab/robustness, robustness/tools/constants.py; Tsipras et al. 2019 (arXiv 1805.12152).
"""
N_SYNSETS = 1000
SYNSET = re.compile(r"n[0-9]{8}")
GET_IMAGENET = (
    "ImageNet may not be passed on, so nothing is downloaded: get ILSVRC2012_img_train.tar and "
    "ILSVRC2012_img_val.tar from https://image-net.org/download (an account is needed) or the "
    "same images from Kaggle's ImageNet Object Localization Challenge, unpack them into train/ "
    "and val/ with a folder per synset, and give the folder that holds both by --data-root FOLDER"
)


def load_folder(
    text: str, image_size: int | None, *, reserved: Sequence[str], trains: bool = True
) -> Source:
    """Return the images below path `text`, relative to the working directory.

    Classes are the sorted names of the folders in train/; the test images are in test/ or else
    val/. The validation split is always cut from train/, since selection may not see test images.
    reserved: names of other data sets, refused as its label. trains: whether training images are
    required; otherwise classes are the sorted folders of both. Raises DataError for unusable data.
    """
    where = f"folder data '{text}'"
    root = Path(text).expanduser()
    if not root.is_dir():
        raise DataError(
            f"{where}: there is no such folder; check the path, which is relative to the working "
            "directory"
        )
    test = root / ("test" if (root / "test").is_dir() else "val")
    if trains and not (root / "train").is_dir():
        raise DataError(
            f"{where}: there is no folder train/ in it; put a folder of images per class into it; "
            "training images are missing, and only bench evaluate works without them"
        )
    if not test.is_dir():
        raise DataError(
            f"{where}: there is no folder test/ or val/ in it; put a folder of images per class "
            "into train/ and into test/ or val/"
        )
    train_classes = _class_folders(root / "train", where, may_lack=not trains)
    test_classes = _class_folders(test, where)
    if trains and len(train_classes) < 2:
        raise DataError(
            f"{where}: {root / 'train'} holds one class folder ({train_classes[0]}); training "
            "needs 2"
        )
    differ = _differing(train_classes, test_classes, root / "train", test)
    if differ and trains:
        raise DataError(f"{where}: {differ}; both must hold the same classes")
    classes = tuple(sorted({*train_classes, *test_classes}))
    warnings = list(_numbered(classes))
    if differ and train_classes:
        warnings.append(f"{differ}; classes are numbered by the sorted names of both")
    labels = {name: label for label, name in enumerate(classes)}
    return _source(
        own_label(root.resolve().name, "folder", reserved),
        where,
        [
            (root / "train", {name: labels[name] for name in train_classes}),
            (test, {name: labels[name] for name in test_classes}),
        ],
        image_size,
        class_names=classes,
        trains=trains,
        warnings=tuple(warnings),
    )


def load_restricted_imagenet(root: Path, image_size: int | None, *, trains: bool = True) -> Source:
    """Return nine classes of animals from the ImageNet folder `root`, which holds train/ and val/.

    trains: whether training images are required; otherwise val/ is enough.

    Class sizes are very unequal (118 of the 203 synsets are dogs), so read `balanced_accuracy` next
    to accuracy. The network normalises by the mean and standard deviation of these images, like in
    MadryLab/robustness. Raises DataError if the folder is missing or is not ImageNet's.
    """
    where = "dataset 'restricted-imagenet'"
    root = root.expanduser()
    train, val = root / "train", root / "val"
    for folder in (train, val) if trains else (val,):
        if not folder.is_dir():
            raise DataError(f"{where}: there is no folder {folder}; {GET_IMAGENET}")
    numbering = train if train.is_dir() else val
    synsets = _class_folders(numbering, where)
    if len(synsets) != N_SYNSETS or not all(SYNSET.fullmatch(name) for name in synsets):
        odd = next((name for name in synsets if not SYNSET.fullmatch(name)), None)
        fault = f"such as '{odd}'" if odd else "all named like synsets"
        raise DataError(
            f"{where}: {numbering} holds {len(synsets)} folders, {fault}, and must hold ImageNet's "
            f"{N_SYNSETS} synset folders (n01440764 ... n15075141), whose sorted order numbers the "
            "classes; empty ones will do for classes that are not used"
        )
    labels = {
        synsets[number]: label
        for label, (first, last) in enumerate(RANGES.values())
        for number in range(first, last + 1)
    }
    if missing := sorted(set(labels) - set(_class_folders(val, where))):
        raise DataError(
            f"{where}: {val} lacks {len(missing)} of the {len(labels)} synset folders that are "
            f"used, such as {missing[0]}; copy them there"
        )
    return _source(
        "restricted-imagenet",
        where,
        [(train, labels if train.is_dir() else {}), (val, labels)],
        image_size,
        class_names=tuple(RANGES),
        trains=trains,
        mean=(0.4717, 0.4499, 0.3837),
        std=(0.2600, 0.2516, 0.2575),
    )


def _source(
    name: str,
    where: str,
    parts: Sequence[tuple[Path, Mapping[str, int]]],
    image_size: int | None,
    *,
    class_names: tuple[str, ...],
    trains: bool,
    warnings: tuple[str, ...] = (),
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Source:
    size = IMAGE_SIZE if image_size is None else image_size
    if not 1 <= size <= MAX_IMAGE_SIZE:
        raise ConfigError(
            f"{where}: image size {size} is out of range: 1 to {MAX_IMAGE_SIZE} pixels a side"
        )
    train, test = (
        _shuffled(list_files(root, labels, size, where, gaps=not trains)) for root, labels in parts
    )
    if not len(test):
        raise DataError(f"{where}: {test.root} holds no image; put images into its class folders")
    return Source(
        name=name if size == IMAGE_SIZE else f"{name}-{size}",
        origin=where,
        train=train,
        test=test,
        scale=1 / 255,
        pad=0,  # the random crop of bench.data.stream takes its place
        flip=True,
        class_names=class_names,
        warnings=warnings,
        mean=mean,
        std=std,
    )


def _shuffled(split: FileSplit) -> FileSplit:
    """Shuffle by a fixed seed, so that the first n images cover all classes."""
    return split.take(permutation(len(split), ORDER_SEED))


def _class_folders(folder: Path, where: str, *, may_lack: bool = False) -> tuple[str, ...]:
    if may_lack and not folder.is_dir():
        return ()
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
        names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        raise DataError(
            f"{where}: {folder} cannot be read ({error.strerror}); correct its permissions"
        ) from None
    if not names and not may_lack:
        held = f"{len(entries)} files and no folder" if entries else "nothing"
        raise DataError(
            f"{where}: {folder} holds {held}; sort the images into one folder per class"
        )
    return tuple(names)


def _differing(train: Sequence[str], test: Sequence[str], train_root: Path, test_root: Path) -> str:
    """A sentence on the first class folder that only one of both holds, or the empty string."""
    differing = sorted(set(train) ^ set(test))
    if not differing:
        return ""
    name = differing[0]
    here, there = (train_root, test_root) if name in train else (test_root, train_root)
    return f"class folder '{name}' is in {here} but not in {there}"


def _numbered(classes: Sequence[str]) -> Iterator[str]:
    """Yield a warning if folders are named by numbers that are not their class numbers."""
    if not all(name.isascii() and name.isdigit() for name in classes):
        return
    by_number = sorted(classes, key=int)
    how = (
        f"class folders are numbered in the order of their names as text "
        f"({', '.join(classes[:5])}, ...), as torchvision's ImageFolder does: folder "
    )
    for place, name in enumerate(by_number):
        if (label := classes.index(name)) != place:
            zeros = name.zfill(max(map(len, classes)))
            yield (
                f"{how}'{name}' is class {label}, not {place}; for a model whose classes are in "
                f"the order of the numbers, rename the folders with leading zeros ('{zeros}')"
            )
            return
    for place, name in enumerate(by_number):
        if int(name) != place:
            yield (
                f"{how}'{name}' is class {place}; for a model whose classes have the numbers of "
                "the folders, name them from 0 and without gaps"
            )
            return
