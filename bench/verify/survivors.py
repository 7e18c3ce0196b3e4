"""An attack's outcome on a few digits and a network that is kept as a file.

Our own attacks are run in float64, where every processor finds the same images. AutoAttack's code
computes in float32 whatever it is given, and takes decisions by losses that are equal but for
rounding: equal on one processor, and a few images apart on two. So do attacks that search on a bf16
copy, which is made of float32 alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from bench.attacks import Attack, attack_params, get_attack
from bench.data import load_dataset
from bench.data.loader import loader
from bench.evaluation import attack_chunk
from bench.losses import margin
from bench.storage import sha256_file
from bench.verify.arithmetic import FLOAT32, FLOAT64, arithmetic
from bench.verify.fact import Fact, first_moved, settings_moved
from bench.verify.network import THREAT, load_network, network_file

N_IMAGES = 32
N_COSTLY = 16
"""Images for an attack of more than COSTLY passes, such as AutoAttack."""
COSTLY = 2000
ELSEWHERE = 2
"""Images that may fare otherwise under AutoAttack with other software or another processor."""


@dataclass(frozen=True, kw_only=True)
class AttackOutcome(Fact):
    """What is pinned of an attack."""

    kind = "attack"
    survivors: str
    """A digit an image: 1 where the network is right without and under the attack."""
    margins: Sequence[float]
    """Of the attacked images, max_{j != y} Z_j - Z_y: what the attack reached on each."""

    @property
    def numbers(self) -> Sequence[float]:
        """The margins."""
        return self.margins

    def moved(self, was: Self, *, elsewhere: bool) -> str:
        """What is not as it was; in float32 and elsewhere, ELSEWHERE images may differ."""
        settings = settings_moved(self.asked, was.asked)
        changed = [
            str(image)
            for image, (new, old) in enumerate(zip(self.survivors, was.survivors, strict=False))
            if new != old
        ]
        single = self.asked["precision"] == "fp32"
        rounded = elsewhere and single
        margins = self.margins, was.margins, FLOAT32 if single else FLOAT64
        numbers = [] if rounded else first_moved("margin of image", *margins)
        counts = self.survivors.count("1"), was.survivors.count("1")
        if len(changed) > (ELSEWHERE if rounded else 0):
            numbers = [
                f"{counts[0]} of {len(self.survivors)} images survive and {counts[1]} did "
                f"(other: {', '.join(changed)})"
            ]
        if not settings and not numbers:
            return ""
        cause = "its definition" if settings else "its steps, loss, seeds or the evaluator"
        return f"{'; '.join([*settings, *numbers])}: {cause} changed"


def outcome(name: str, folder: Path) -> AttackOutcome:
    """Run the attack `name`, as an evaluation does, on the networks in `folder`."""
    attack = get_attack(name)
    n = N_COSTLY if sum(attack.passes) > COSTLY else N_IMAGES
    single = attack.is_autoattack or attack.search == "bf16"
    precision = "fp32" if single else "fp64"
    dtype = torch.float32 if precision == "fp32" else torch.float64
    with arithmetic(dtype):
        survivors, margins = _attacked(name, attack, folder, n, dtype)
    asked = {
        **attack_params(name),
        "images": n,
        "precision": precision,
        "network_sha256": sha256_file(network_file(folder, "model"))[:10],
    }
    return AttackOutcome(
        asked=json.loads(json.dumps(asked)),
        survivors="".join(str(int(survived)) for survived in survivors),
        margins=margins.tolist(),
    )


def _attacked(
    name: str, attack: Attack, folder: Path, n: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(n,) survivors and (n,) margins on the first n test images."""
    digits = load_dataset("digits", test_size=n)
    split = loader(digits.test, digits.scale, "cpu")
    index = torch.arange(n)
    x, y = split.images(index).to(dtype), split.labels(index)
    model = load_network(folder, "model").to(dtype)
    source = [load_network(folder, "surrogate").to(dtype)] if attack.sources else []
    found = attack_chunk(model, x, y, index, THREAT, name, surrogate=source, keep_images=True)
    assert found.x_adv is not None
    with torch.no_grad():
        return found.survived, margin(model(found.x_adv), y)
