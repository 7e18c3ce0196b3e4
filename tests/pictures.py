"""Small image files in the layouts of torchvision's ImageFolder and of ImageNet."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from bench.data.folder import RANGES


def picture(seed: int, width: int = 12, height: int = 10, mode: str = "RGB") -> Image.Image:
    """Random soft blobs, so that JPEG keeps most of them."""
    values = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def make_folder(root: Path, n: Mapping[str, int], classes: Iterable[str] = "abc") -> Path:
    """`n["train"]` pictures a class in root/train/CLASS, and so on; class k is of brightness k."""
    for part, count in n.items():
        for label, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                seed = 1000 * label + number + 500 * (part != "train")
                dark = np.asarray(picture(seed)) // 4 + np.uint8(80 * label % 192)
                Image.fromarray(dark).save(folder / f"{number}.png")
    return root


def synset(number: int) -> str:
    """A folder name whose place among the sorted 1000 is `number`."""
    return f"n{1440764 + 13 * number:08d}"


def make_imagenet(root: Path, n_train: int, n_val: int) -> Path:
    """ImageNet's layout: 1000 folders in train/ and in val/, pictures in the 203 that count."""
    used = {i for first, last in RANGES.values() for i in range(first, last + 1)}
    for part, count in (("train", n_train), ("val", n_val)):
        for number in range(1000):
            folder = root / part / synset(number)
            folder.mkdir(parents=True)
            for copy in range(count if number in used else 0):
                name = f"{synset(number)}_{copy}.JPEG"
                picture(number + 1000 * copy, 40, 34).save(folder / name, "JPEG")
    return root
