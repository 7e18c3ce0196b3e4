"""What the data of a user's own are called in tables, and which names they may not take."""

from __future__ import annotations

import re
from collections.abc import Sequence


def plain(name: str) -> str:
    """`CIFAR-10` and `cifar_10` are `cifar10` to a reader, so they are to us."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def is_taken(name: str, reserved: Sequence[str]) -> bool:
    """Whether a reader would take `name` for one of the names `reserved`."""
    return plain(name) in {plain(other) for other in reserved}


def own_label(stem: str, kind: str, reserved: Sequence[str]) -> str:
    """`stem` as a label; a file called cifar10.npz is no proof of CIFAR-10's pixels."""
    label = re.sub(r"[^\w.-]+", "-", stem) or kind
    return f"{kind}-{label}" if is_taken(label, reserved) else label
