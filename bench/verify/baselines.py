"""The short runs that are pinned, and how two of them differ.

Method: the losses of a short training by the engine, in float64. Three classes of digits are learnt
in a few steps, so thresholds on losses are passed; ten epochs of two batches let radii reach their
cap, warm-ups end and the rate drop. An attack takes the sign of a gradient, 200,000 of them in a
training; processors round them 1e-15 apart, so a flipped sign has odds of one to millions, since no
gradient here is zero by symmetry. Between flips the images do not depend on the weights: rounding
is not amplified.

Attack: survivors and margins on a network that is kept as a file. Our attacks run in float64, where
every processor finds the same images. AutoAttack computes in float32 and breaks near-ties
differently on different processors, so a few images may differ. The same holds for attacks on a
bf16 copy, which only a float32 network has.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.attacks import attack_params, get_attack
from bench.data import load_dataset
from bench.data.dataset import StoredSplit
from bench.data.loader import Loader, loader
from bench.evaluation import attack_chunk
from bench.experiments.plan import make_plan
from bench.experiments.study import Study
from bench.losses import margin
from bench.method import Batch, TrainState
from bench.progress import Reporter
from bench.ranks import ALONE, Ranks
from bench.records.run_folder import RunFolder
from bench.storage import sha256_file
from bench.training.engine import Trainer
from bench.verify.draws import drawn_on_cpu
from bench.verify.networks import THREAT, load_network, network_file, one_thread, traced_arch

CPU = torch.device("cpu")
FLOAT64 = {"rel_tol": 1e-9, "abs_tol": 1e-12}
"""Processors sum in another order: at most 1e-13 apart after 20 steps, as measured. The absolute
tolerance is for numbers near 0, such as the margin of an image on the boundary."""
FLOAT32 = {"rel_tol": 1e-3, "abs_tol": 1e-5}
"""Two processors of one name are 1e-5 apart, as measured."""
MOST_NAMED = 3
"""Changed settings that a line names."""
N_IMAGES = 32
N_COSTLY, COSTLY = 16, 2000
"""Images for an attack of more passes than COSTLY, such as AutoAttack."""
ELSEWHERE = 2
"""Images that may differ under AutoAttack with other software or on another processor."""
CLASSES = (0, 1, 4)
N_TRAIN = 30
"""Batches of 16 and 14 in an epoch."""
N_VAL = 3
STUDY = Study(
    suite="verify",
    title="A short training of each method",
    methods=(),
    arch="",
    dataset="digits",
    eps=0.1,
    seeds=(0,),
    recipe="common",
    attacks=(),
    training={"epochs": 10, "batch_size": 16, "pad": 1, "flip": True},
)
"""The common recipe, but short, and with the augmentation that digits do without."""
Outcome = Mapping[str, Any]
"""`asked`, every setting of the run as plain JSON values, and

- of a method: `losses` of every step and `weights`, the Euclidean length of the evaluated weights;
- of an attack: `survivors`, a digit per image (1: correct without and under the attack), and
  `margins` of the attacked images, max_{j != y} Z_j - Z_y."""


def difference(now: Outcome, was: Outcome, *, elsewhere: bool) -> str:
    """Return what changed from `was` to `now` and its likely cause; empty if nothing did.

    elsewhere: whether `was` was measured with other software or on another processor, where
    ELSEWHERE images may differ in float32.
    """
    settings = _changed_settings(now["asked"], was["asked"])
    if "losses" in now:
        numbers = _first_changed("loss at step", now["losses"], was["losses"], FLOAT64)
        length = [now["weights"]], [was["weights"]]
        numbers = numbers or _first_changed("length of the final weights", *length, FLOAT64)
        causes = "its loss, attack, state or seeds", "its defaults or its recipe"
    else:
        numbers = _changed_images(now, was, elsewhere)
        causes = "its steps, loss, seeds or the evaluator", "its definition"
    if not settings and not numbers:
        return ""
    return f"{'; '.join([*settings, *numbers])}: {causes[bool(settings)]} changed"


def _changed_images(now: Outcome, was: Outcome, elsewhere: bool) -> list[str]:
    single = now["asked"]["precision"] == "fp32"
    rounded = elsewhere and single
    pairs = zip(now["survivors"], was["survivors"], strict=False)
    changed = [str(image) for image, (new, old) in enumerate(pairs) if new != old]
    if len(changed) > (ELSEWHERE if rounded else 0):
        return [
            f"{now['survivors'].count('1')} of {len(now['survivors'])} images survive and "
            f"{was['survivors'].count('1')} did (other: {', '.join(changed)})"
        ]
    tolerance = FLOAT32 if single else FLOAT64
    margins = now["margins"], was["margins"]
    return [] if rounded else _first_changed("margin of image", *margins, tolerance)


def _changed_settings(now: Mapping[str, Any], was: Mapping[str, Any]) -> list[str]:
    """`beta is 5.0 and was 6.0`, for each setting that changed."""
    new, old = dict(_flat(now)), dict(_flat(was))
    moved = [
        f"{key} is {new.get(key, 'gone')} and was {old.get(key, 'not there')}"
        for key in {**new, **old}
        if key not in new or key not in old or new[key] != old[key]
    ]
    more = len(moved) - MOST_NAMED
    return moved[:MOST_NAMED] + ([f"{more} more settings"] if more > 0 else [])


def _first_changed(
    what: str, now: Sequence[float], was: Sequence[float], tolerance: Mapping[str, float]
) -> list[str]:
    if len(now) != len(was):
        return [f"there are {len(now)} of {what} and were {len(was)}"]
    return [
        f"{what} {place} is {new:.12g} and was {old:.12g}"
        for place, (new, old) in enumerate(zip(now, was, strict=True))
        if not math.isclose(new, old, **tolerance)
    ][:1]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as one level: `recipe.lr`, `parts.0.part`."""
    if isinstance(value, Mapping | list):
        for key, below in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _flat(below, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def run_attack(name: str, folder: Path, device: torch.device = CPU) -> Outcome:
    """Run the attack `name`, as an evaluation does, on the networks in `folder`."""
    attack = get_attack(name)
    n = N_COSTLY if sum(attack.passes) > COSTLY else N_IMAGES
    single = attack.is_autoattack or attack.search == "bf16"
    dtype = torch.float32 if single else torch.float64
    with one_thread(dtype), drawn_on_cpu(device):
        digits = load_dataset("digits", test_size=n)
        split, index = loader(digits.test, digits.scale, device), torch.arange(n)
        x, y = split.images(there := index.to(device)).to(dtype), split.labels(there)
        model = load_network(folder, "model").to(device, dtype)
        other = load_network(folder, "surrogate").to(device, dtype)
        source = [other] if attack.sources else []
        result = attack_chunk(model, x, y, index, THREAT, name, surrogate=source, keep_images=True)
        assert result.x_adv is not None
        with torch.no_grad():
            margins = margin(model(result.x_adv.to(device)), y)
    asked = {
        **attack_params(name),
        "images": n,
        "precision": "fp32" if single else "fp64",
        "network_sha256": sha256_file(network_file(folder, "model"))[:10],
    }
    survivors = "".join(str(int(survived)) for survived in result.survived)
    return {
        "asked": json.loads(json.dumps(asked)),
        "survivors": survivors,
        "margins": margins.tolist(),
    }


def run_method(name: str, device: torch.device = CPU, ranks: Ranks = ALONE) -> Outcome:
    """Train the method `name` and note its losses; with ranks, together with the others.

    Raises NonFiniteLoss, and ConfigError for what the method cannot take.
    """
    losses: list[float] = []
    with (
        one_thread(torch.float64),
        drawn_on_cpu(device),
        traced_arch() as arch,
        TemporaryDirectory() as folder,
    ):
        plan = make_plan(replace(STUDY, arch=arch, methods=(name,)))
        spec, method, dataset = plan.runs[0].train_spec, plan.runs[0].method, plan.dataset
        assert method is not None
        step = method.train_step

        def noted(state: TrainState, batch: Batch) -> Mapping[str, Tensor]:
            metrics = step(state, batch)
            losses.append(float(ranks.mean(metrics["loss"])))
            return metrics

        object.__setattr__(method, "train_step", noted)  # methods are frozen
        train, val = _first(dataset.train, N_TRAIN), _first(dataset.val, N_VAL)
        few, run = replace(dataset, train=train, val=val), RunFolder(Path(folder), spec.run_id)
        trainer = Trainer(spec, method, few, run, device, ranks=ranks)
        trainer.data, trainer.val = _Doubled(trainer.data), _Doubled(trainer.val)
        trainer.run(Reporter(quiet=True))
        values = method.eval_model(trainer.state).state_dict().values()
        squares = [float(v.square().sum()) for v in values if v.is_floating_point()]
    asked = {**spec.params, "recipe": spec.recipe.identity(), "eps": spec.eps}
    return {
        "asked": json.loads(json.dumps(asked)),
        "losses": losses,
        "weights": sum(squares) ** 0.5,
    }


def _first(split: StoredSplit, n: int) -> StoredSplit:
    """The first n images of the three classes."""
    return split.take(np.flatnonzero(np.isin(split.y, CLASSES))[:n])


class _Doubled(Loader):
    """A loader whose images are float64: sixteenths, so nothing is rounded."""

    def __init__(self, inner: Loader) -> None:
        self.inner, self.y = inner, inner.y

    def images(self, index: Tensor) -> Tensor:
        return self.inner.images(index).double()

    def views(self, index: Tensor, run_seed: int, batch_number: int) -> Tensor:
        return self.inner.views(index, run_seed, batch_number).double()
