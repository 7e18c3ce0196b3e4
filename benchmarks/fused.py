"""Measure FusedConv alone: whole training steps and evaluations with it and without it.

`python -m benchmarks.fused [--out FILE] [NAME ...]`. Both sides fold BatchNorm, keep channels last
and, in bf16, round the same layers; without FusedConv, ReLUs run in place behind plain
convolutions. Both take turns in one process, so a busy machine slows both; a ratio is the seconds
without FusedConv over those with it, and its median over the rounds counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import click
import torch
from torch import nn

import bench.cli  # noqa: F401  sets how OpenMP threads wait, as in the product
from bench.archs import resolve
from bench.archs.arch import Arch
from bench.archs.fast import Merges
from bench.attacks import Cascade, get_attack
from bench.data import load_dataset
from bench.evaluation import evaluate
from bench.folder import RunFolder
from bench.machine import describe_machine, tune_process
from bench.recipe import Recipe
from bench.registry import get_method
from bench.spec import TrainSpec
from bench.speed.autoattack import _alone, shortened
from bench.speed.rounds import in_rounds
from bench.speed.setting import settings
from bench.speed.steps import N_EPOCHS, step_of
from bench.speed.subject import make_subject
from bench.threat import REFERENCE_EPS
from bench.training.engine import Trainer

CPU = torch.device("cpu")
Work = Callable[[], object]


@contextmanager
def plain_convolutions() -> Iterator[None]:
    """Copies that are made meanwhile have ReLUs in place behind plain convolutions."""
    fuse = Merges.fuse

    def in_place(self: Merges, network: Arch, *, rounds: bool) -> None:
        for name in (*self.relus.values(), *self.in_place):
            module = network.get_submodule(name)
            assert isinstance(module, nn.ReLU)
            module.inplace = True

    Merges.fuse = in_place  # type: ignore[method-assign]
    try:
        yield
    finally:
        Merges.fuse = fuse  # type: ignore[method-assign]


def step(method: str, arch: str, precision: str) -> Work:
    """A step on 32 images of 32x32 pixels, or on 128 for `cnn`."""
    return step_of(method, settings([arch], [precision], CPU, rounds=1)[0], plain=False)


def digits_step(method: str, precision: str) -> Work:
    """A step of `cnn` on 128 digits."""
    data = load_dataset("digits")
    spec = TrainSpec(
        method=method,
        params={},
        arch="cnn",
        num_classes=10,
        in_channels=data.in_channels,
        image_size=data.image_size,
        dataset="digits",
        data_sha256="",
        n_train=len(data.train),
        n_val=len(data.val),
        eps=REFERENCE_EPS,
        seed=0,
        precision=precision,
        recipe=Recipe(epochs=N_EPOCHS, batch_size=128, lr=0.01, pad=0, flip=False),
        recipe_name="made",
    )
    trainer = Trainer(spec, get_method(method), data, RunFolder(Path("unwritten"), "a"), CPU)
    return lambda: trainer.time_batch(128)


def evaluation(attack: str, arch: str) -> Work:
    """An attack on a network that is partly robust: 1,024 images for `cnn`, else 16."""
    subject = make_subject(settings([arch], ["fp32"], CPU, rounds=1)[0])
    s = replace(subject)
    return lambda: evaluate(s.network, s.x, s.y, s.threat, attacks=(attack,))


def few_images(arch: str) -> Work:
    """AutoAttack's search on 4 images, or on 64 for `cnn`; 10% of its iterations but for `cnn`."""
    setting = settings([arch], ["fp32"], CPU, rounds=1)[0]
    n, effort = setting.sizes.n_autoattack, setting.sizes.effort
    made = make_subject(setting)
    attack = get_attack("autoattack-fast")
    assert isinstance(attack, Cascade)
    subject = replace(made, x=made.x[:n], y=made.y[:n])
    return _alone(subject, "autoattack-fast", shortened(attack, effort))


def cases() -> dict[str, tuple[Callable[[], Work], int]]:
    """By name: what makes the work, and rounds."""
    found: dict[str, tuple[Callable[[], Work], int]] = {}
    for precision in ("fp32", "bf16"):
        for method in ("madry", "trades"):
            found[f"step-{method} cnn-digits {precision}"] = (
                lambda m=method, p=precision: digits_step(m, p),
                60,
            )
        for method, arch, n in (
            ("madry", "cnn", 15),
            ("madry", "resnet-18", 7),
            ("trades", "preact-resnet-18", 7),
        ):
            found[f"step-{method} {arch} {precision}"] = (
                lambda m=method, a=arch, p=precision: step(m, a, p),
                n,
            )
    for attack in ("pgd-20", "pgd-20-fast"):
        for arch, n in (("cnn", 9), ("resnet-18", 9), ("preact-resnet-18", 9)):
            found[f"{attack} {arch}"] = (lambda t=attack, a=arch: evaluation(t, a), n)
    for arch, n in (("cnn", 3), ("resnet-18", 7), ("preact-resnet-18", 7)):
        found[f"autoattack-fast {arch}"] = (lambda a=arch: few_images(a), n)
    return found


@click.command()
@click.argument("names", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path), help="write the record to this file")
def main(names: tuple[str, ...], out: Path | None) -> None:
    """Measure FusedConv alone."""
    tune_process()
    rows = []
    for name, (make, n_rounds) in cases().items():
        if names and not any(part in name for part in names):
            continue
        ours = make()
        plain = make()
        with plain_convolutions():
            plain()  # a step's copy is made at its first call

        def without(work: Work = plain) -> None:
            with plain_convolutions():
                work()

        rounds = in_rounds(ours, without, n_rounds, CPU)
        ratios = sorted(rounds.ratios)
        rows.append(
            {
                "what": name,
                "seconds": rounds.seconds,
                "seconds_without": rounds.reference_seconds,
                "ratio": median(ratios),
                "ratios": list(rounds.ratios),
                "n_rounds": n_rounds,
            }
        )
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        print(
            f"{name:40} {rounds.seconds:8.3f} s, without {rounds.reference_seconds:8.3f} s, "
            f"times faster {median(ratios):.3f} ({low:.3f} to {high:.3f}, the middle half)",
            flush=True,
        )
        if out:
            record = {"machine": describe_machine(CPU), "rows": rows}
            out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
