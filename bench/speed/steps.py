"""A method's training step, by the engine and by a plain loop, on the same images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.archs import resolve
from bench.archs.arch import Arch
from bench.data import Dataset, Split
from bench.folder import RunFolder
from bench.recipe import Recipe
from bench.registry import get_method
from bench.spec import TrainSpec
from bench.speed.counting import Counted
from bench.speed.layers import layers_of
from bench.speed.memory import peak_memory
from bench.speed.peak import BUDGET, floor_seconds, needed
from bench.speed.reference import Loop, loop_for, plain_optimiser
from bench.speed.roofline import matmul_peak
from bench.speed.rounds import in_rounds
from bench.speed.row import Row
from bench.speed.setting import CHANNELS, CLASSES, Setting
from bench.threat import REFERENCE_EPS
from bench.training.engine import Trainer, initial_model

LR = 0.01
N_EPOCHS = 100
"""Of the training whose middle the step is from: what some methods do depends on the epoch."""
PLAIN_LOOP = "plain loop"
COMPILED = "compiled"


def step_row(method: str, setting: Setting) -> Row:
    """Measure a step of `method`; without a plain loop for it, alone."""
    loop, note = loop_for(method)
    spec = _spec(method, setting)
    n = setting.sizes.batch_size
    ours, network, x, y = _ours(spec, setting)
    counted = Counted(ours, network, n)
    plain = None
    if loop is not None:
        reference, other = _plain(loop, spec, setting, x, y)
        plain = Counted(reference, other, n)

    budget = BUDGET / setting.n_rounds

    def convolutions_alone() -> float:
        return floor_seconds(
            *(network, x, counted.passes, setting.precision),
            updates=counted.updates,
            budget=budget,
        )

    def as_products() -> float:
        parts = needed(layers_of(network, x), counted.passes, counted.updates)
        n_flops = sum(times * layer.flops for layer, _, times in parts)
        return n_flops / matmul_peak(setting.device, setting.precision, budget)

    rounds = in_rounds(
        *(counted, plain, setting.n_rounds, setting.device),
        floors=(convolutions_alone, as_products) if setting.with_peak else (),
    )
    share_of_peak, share_of_matrix_peak = rounds.shares if setting.with_peak else (None, None)
    # a compiler in the same process would be counted too
    measures_memory = setting.with_memory and not setting.compiles
    memory = peak_memory(method, setting, plain=False) if measures_memory else None
    beside = peak_memory(method, setting, plain=True) if memory and plain else None
    seconds = rounds.reference_seconds
    return Row(
        what=f"step-{method}",
        arch=spec.arch,
        precision=setting.precision,
        ours_images_per_second=n / rounds.seconds,
        reference=PLAIN_LOOP if plain else None,
        reference_images_per_second=n / seconds if seconds else None,
        ratio=rounds.ratio,
        ratios=rounds.ratios,
        n_rounds=setting.n_rounds,
        share_of_peak=share_of_peak,
        share_of_matrix_peak=share_of_matrix_peak,
        image_size=setting.image_size,
        n_images=n,
        passes=counted.passes,
        reference_passes=plain.passes if plain else None,
        peak_bytes=memory.n_bytes if memory else None,
        reference_peak_bytes=beside.n_bytes if beside else None,
        memory=memory.kind if memory else None,
        note="; ".join(filter(None, (COMPILED if setting.compiles else "", note))) or None,
    )


def step_of(method: str, setting: Setting, *, plain: bool) -> Callable[[], object]:
    """One side's step, as it is measured."""
    spec = _spec(method, setting)
    ours, _, x, y = _ours(spec, setting)
    if not plain:
        return ours
    loop, note = loop_for(method)
    assert loop is not None, note
    return _plain(loop, spec, setting, x, y)[0]


def _ours(spec: TrainSpec, setting: Setting) -> tuple[Callable[[], object], Arch, Tensor, Tensor]:
    """The engine's step on all images of a made data set; its network, the images, the labels."""
    n = setting.sizes.batch_size
    made = made_dataset(n, setting.image_size)
    folder = RunFolder(Path("unwritten"), spec.run_id)  # only a whole training writes there
    trainer = Trainer(
        *(spec, get_method(spec.method), made, folder, setting.device),
        compiles=setting.compiles,
    )
    trainer.state.epoch = N_EPOCHS // 2
    index = torch.arange(n, device=setting.device)
    x = trainer.data.views(index, spec.seed, 0)
    return lambda: trainer.time_batch(n), trainer.network, x, trainer.data.labels(index)


def _plain(
    loop: Loop, spec: TrainSpec, setting: Setting, x: Tensor, y: Tensor
) -> tuple[Callable[[], object], Arch]:
    """The plain loop's step, from the same weights."""
    network = initial_model(spec).to(setting.device)
    optimiser = plain_optimiser(network, LR)
    return lambda: float(loop(network, optimiser, x, y)), network


def _spec(method: str, setting: Setting) -> TrainSpec:
    n = setting.sizes.batch_size
    return TrainSpec(
        method=method,
        params={},
        arch=resolve(setting.arch),
        num_classes=CLASSES,
        in_channels=CHANNELS,
        image_size=setting.image_size,
        dataset="made",
        data_sha256="",
        n_train=n,
        n_val=1,
        eps=REFERENCE_EPS,
        seed=0,
        precision=setting.precision,
        recipe=Recipe(epochs=N_EPOCHS, batch_size=n, lr=LR, pad=0, flip=False),
        recipe_name="made",
    )


def made_dataset(n: int, image_size: int) -> Dataset:
    """n random images and labels, the same every time."""
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (n, image_size, image_size, CHANNELS), dtype=np.uint8)
    y = np.arange(n, dtype=np.int64) % CLASSES
    split = Split(x, y)
    return Dataset(
        name="made",
        num_classes=CLASSES,
        train=split,
        val=Split(x[:1], y[:1]),
        test=Split(x[:1], y[:1]),
        scale=1 / 255,
        pad=0,
        flip=False,
    )
