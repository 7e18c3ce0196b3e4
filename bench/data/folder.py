"""Image files in class folders: a user's own, and Restricted ImageNet.

The layout is torchvision's ImageFolder: ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg (or
ROOT/val/CLASS/*.jpg). All checks use names and sizes, before any image is opened.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from bench.data.dataset import FileSplit, LoadOptions, Source, permutation
from bench.errors import ConfigError, DataError

IMAGE_SIZE = 224
MAX_IMAGE_SIZE = 1024
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
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


def load_folder(options: LoadOptions) -> Source:
    """Return the images below the path `options.argument`, relative to the working directory.

    Classes are the sorted names of the folders in train/; the test images are in test/ or else
    val/. The validation split is always cut from train/, since selection may not see test images.
    If training images are not required, classes are the sorted folders of both. Raises DataError
    for unusable data.
    """
    trains = options.trains
    root = Path(options.argument).expanduser()
    train, test = root / "train", root / ("test" if (root / "test").is_dir() else "val")
    for exists, fault in (
        (
            root.is_dir(),
            "there is no such folder; check the path, which is relative to the working directory",
        ),
        (
            train.is_dir() or not trains,
            "there is no folder train/ in it; put a folder of images per class into it; "
            "training images are missing, and only bench evaluate works without them",
        ),
        (
            test.is_dir(),
            "there is no folder test/ or val/ in it; put a folder of images per class into train/ "
            "and into test/ or val/",
        ),
    ):
        if not exists:
            raise DataError(fault)
    train_classes = _class_folders(train, may_lack=not trains)
    test_classes = _class_folders(test)
    if trains and len(train_classes) < 2:
        raise DataError(f"{train} holds one class folder ({train_classes[0]}); training needs 2")
    classes = tuple(sorted({*train_classes, *test_classes}))
    warnings = list(_numbered(classes))
    if train_classes and (one_sided := sorted(set(train_classes) ^ set(test_classes))):
        here, there = (train, test) if one_sided[0] in train_classes else (test, train)
        differ = f"class folder '{one_sided[0]}' is in {here} but not in {there}"
        if trains:
            raise DataError(f"{differ}; both must hold the same classes")
        warnings.append(f"{differ}; classes are numbered by the sorted names of both")
    labels = {name: label for label, name in enumerate(classes)}
    return _source(
        options.label(root.resolve().name, "folder"),
        (train, {name: labels[name] for name in train_classes}),
        (test, {name: labels[name] for name in test_classes}),
        options,
        class_names=classes,
        warnings=tuple(warnings),
    )


def load_restricted_imagenet(options: LoadOptions) -> Source:
    """Return nine classes of animals from the ImageNet folder `data_root`, with train/ and val/.

    If training images are not required, val/ is enough. Class sizes are very unequal (118 of the
    203 synsets are dogs), so read `balanced_accuracy` next to accuracy. The network normalises by
    the mean and standard deviation of these images, like in MadryLab/robustness. Raises DataError
    if the folder is missing or is not ImageNet's.
    """
    root = options.data_root.expanduser()
    train, val = root / "train", root / "val"
    for folder in (train, val) if options.trains else (val,):
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}; {GET_IMAGENET}")
    numbering = train if train.is_dir() else val
    synsets = _class_folders(numbering)
    if len(synsets) != N_SYNSETS or not all(SYNSET.fullmatch(name) for name in synsets):
        odd = next((name for name in synsets if not SYNSET.fullmatch(name)), None)
        fault = f"such as '{odd}'" if odd else "all named like synsets"
        raise DataError(
            f"{numbering} holds {len(synsets)} folders, {fault}, and must hold ImageNet's "
            f"{N_SYNSETS} synset folders (n01440764 ... n15075141), whose sorted order numbers the "
            "classes; empty ones will do for classes that are not used"
        )
    labels = {
        synsets[number]: label
        for label, (first, last) in enumerate(RANGES.values())
        for number in range(first, last + 1)
    }
    if missing := sorted(set(labels) - set(_class_folders(val))):
        raise DataError(
            f"{val} lacks {len(missing)} of the {len(labels)} synset folders that are "
            f"used, such as {missing[0]}; copy them there"
        )
    return _source(
        "restricted-imagenet",
        (train, labels if train.is_dir() else {}),
        (val, labels),
        options,
        class_names=tuple(RANGES),
        mean=(0.4717, 0.4499, 0.3837),
        std=(0.2600, 0.2516, 0.2575),
    )


ClassFolders: TypeAlias = "tuple[Path, Mapping[str, int]]"


def _source(
    name: str,
    train: ClassFolders,
    test: ClassFolders,
    options: LoadOptions,
    **others: Any,
) -> Source:
    size = IMAGE_SIZE if options.image_size is None else options.image_size
    if not 1 <= size <= MAX_IMAGE_SIZE:
        raise ConfigError(f"image size {size} is out of range: 1 to {MAX_IMAGE_SIZE} pixels a side")
    listed = [list_files(*part, size, gaps=not options.trains) for part in (train, test)]
    if not len(listed[1]):
        raise DataError(f"{test[0]} holds no image; put images into its class folders")
    # shuffled, so that the first n images cover all classes
    shuffled = [split.take(permutation(len(split), ORDER_SEED)) for split in listed]
    return Source(
        name=name if size == IMAGE_SIZE else f"{name}-{size}",
        train=shuffled[0],
        test=shuffled[1],
        scale=1 / 255,
        pad=0,  # the random crop of bench.data.stream takes its place
        flip=True,
        **others,
    )


def _class_folders(folder: Path, *, may_lack: bool = False) -> tuple[str, ...]:
    if may_lack and not folder.is_dir():
        return ()
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
        names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read ({error.strerror}); correct its permissions"
        ) from None
    if not names and not may_lack:
        held = f"{len(entries)} files and no folder" if entries else "nothing"
        raise DataError(f"{folder} holds {held}; sort the images into one folder per class")
    return tuple(names)


def _numbered(classes: Sequence[str]) -> Iterator[str]:
    """Yield a warning if folders are named by numbers that are not their class numbers."""
    if not all(name.isascii() and name.isdigit() for name in classes):
        return
    differing = [name for name in classes if int(name) != classes.index(name)]
    if differing:
        first = min(differing, key=int)
        yield (
            f"class folders are numbered in the order of their names as text "
            f"({', '.join(classes[:5])}, ...), as torchvision's ImageFolder does: folder '{first}' "
            f"is class {classes.index(first)}; for a model whose classes have the numbers of the "
            "folders, number them from 0, without gaps and with leading zeros "
            f"('{first.zfill(max(map(len, classes)))}')"
        )


def list_files(
    root: Path, labels: Mapping[str, int], image_size: int, *, gaps: bool = False
) -> FileSplit:
    """Return the images of the class folders `labels` (folder below `root` -> label), by path.

    Searches sub-folders, skips hidden and other files. gaps: whether a class folder may be empty.
    Raises DataError for an empty folder or file.
    """
    listed: list[tuple[str, int, int]] = []
    for name, label in labels.items():
        images = list(_images(root / name))
        if empty := next((path for path, size in images if size == 0), None):
            raise DataError(f"image file {empty} is empty; replace it or remove it")
        if not images and not gaps:
            raise DataError(
                f"class folder {root / name} holds no image ({' '.join(SUFFIXES)}); "
                "put images in it, or remove the class"
            )
        listed += [(path.relative_to(root).as_posix(), size, label) for path, size in images]
    listed.sort()
    sizes, y = (np.array([row[column] for row in listed], dtype=np.int64) for column in (1, 2))
    paths = tuple(path for path, _, _ in listed)
    return FileSplit(root=root, paths=paths, sizes=sizes, y=y, image_size=image_size)


def _images(folder: Path) -> Iterator[tuple[Path, int]]:
    def refuse(error: OSError) -> None:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}); check the folder, its links and "
            "its permissions"
        ) from None

    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = (name for name in folders if not name.startswith("."))
        for name in files:
            # "._a.jpg" is what macOS leaves beside a copied a.jpg, and no image.
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                path = Path(parent, name)
                try:
                    yield path, path.stat().st_size
                except OSError as error:
                    refuse(error)
