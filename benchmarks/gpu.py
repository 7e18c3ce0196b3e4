"""Training steps and PGD-20 on a GPU: from CUDA graphs and without, next to a plain fp32 loop."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import click
import torch
from torch import Tensor

from bench.archs import build, resolve
from bench.archs.graphs import SWITCH
from bench.attacks import FastPGD
from bench.attacks.attack import Search
from bench.attacks.networks import BatchedModel
from bench.errors import BenchError
from bench.estimate import made_spec
from bench.machine import describe_machine, free_memory, machine_text, tf32_operations
from bench.records.spec import PRECISIONS
from bench.seeding import generator_for
from bench.storage import write_json
from bench.threat import Threat
from benchmarks import layers, loops, turns, workloads
from benchmarks.pages import NOT_MEASURED, gpu_table

ARCHS = "resnet-18,vgg-16,wrn-34-10"
SIDES = ("graphs", "eager", "plain loop")
WARM_UP = 3
"""Calls before the measured ones: by then graphs are recorded."""


def training_step(
    arch: str, precision: str, side: str, n: int, size: int, where: Any
) -> turns.Work:
    spec = made_spec("madry", arch, n, image_size=size, precision=precision)
    if side == "plain loop":
        return workloads.plain_step(spec, where)
    return workloads.engine_step(spec, where)


def pgd_20(arch: str, search: str, side: str, n: int, size: int, where: Any) -> turns.Work:
    """Return 20 steps on n images from which no image leaves."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(arch, num_classes=workloads.CLASSES, image_size=size).to(where).eval()
    draw = generator_for(0, "gpu", device=where)
    x = torch.rand(n, workloads.CHANNELS, size, size, device=where, generator=draw)
    y = torch.randint(workloads.CLASSES, (n,), device=where, generator=draw)
    if side == "plain loop":
        return lambda: float(plain_pgd(network, x, y).sum())
    chosen: Search = "bf16" if search == "bf16" else "fp32"
    attack = FastPGD(steps=20, relative_step=1 / 5, search=chosen)
    model = BatchedModel(network, n)
    return lambda: float(attack(model, x, y, Threat(), generator=draw).sum())


def plain_pgd(network: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x_adv = (x + torch.empty_like(x).uniform_(-loops.EPS, loops.EPS)).clamp(0, 1)
    for _ in range(20):
        x_adv.requires_grad_()
        loss = torch.nn.functional.cross_entropy(network(x_adv), y)
        (gradient,) = torch.autograd.grad(loss, x_adv)
        x_adv = x_adv.detach() + loops.EPS / 5 * gradient.sign()
        x_adv = torch.min(torch.max(x_adv, x - loops.EPS), x + loops.EPS).clamp(0, 1)
    return x_adv


WORK: dict[str, Callable[..., turns.Work]] = {"step-madry": training_step, "pgd-20": pgd_20}


def rows(
    archs: Sequence[str], where: torch.device, n: int, size: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """Yield a row for each network, work, precision and side; one that fails says why."""
    real = where.type == "cuda" and torch._C._cuda_getDeviceCount() > 0
    peak = layers.matmul_peak(where, "bf16") if real else None
    for arch in archs:
        for what in WORK:
            flops: float | None = None
            for precision in PRECISIONS:
                for side in (SIDES[1], SIDES[0], *SIDES[2:][: precision == "fp32"]):
                    row: dict[str, Any] = {"what": what, "arch": resolve(arch), "side": side}
                    row |= {"precision": precision, "n_images": n, "image_size": size}
                    try:
                        if side == "graphs" and not real:
                            raise BenchError(NOT_MEASURED)
                        with with_graphs(side == "graphs"):
                            work = WORK[what](arch, precision, side, n, size, where)
                            work()  # makes its copies
                        flops = flops or (layers.step_flops(work) if real else None)
                        row |= _measured(work, where, seconds, real)
                        if flops and peak and side != "plain loop":
                            row["share_of_matrix_peak"] = flops / row["seconds"] / peak
                        row["images_per_second"] = n / row["seconds"]
                    except Exception as error:  # the next rows may work
                        kind = "" if isinstance(error, BenchError) else f"{type(error).__name__}: "
                        row["error"] = kind + (str(error).splitlines() or [""])[0]
                    free_memory(where)
                    yield row


@contextmanager
def with_graphs(on: bool) -> Iterator[None]:
    """Inside, copies are made that run from graphs, or that never do."""
    with mock.patch.dict(os.environ, {SWITCH: str(int(on))}):
        yield


def _measured(work: turns.Work, where: torch.device, seconds: float, real: bool) -> dict[str, Any]:
    if real:
        torch.cuda.reset_peak_memory_stats(where)
    for _ in range(WARM_UP):
        work()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while not found or time.perf_counter() < end:
        found.append(turns.seconds(work))
    memory = torch.cuda.max_memory_allocated(where) if real else None
    return {"seconds": median(found), "n_rounds": len(found), "peak_bytes": memory}


@click.command()
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1.")
@click.option("--arch", default=ARCHS, show_default=True, callback=turns.names)
@click.option("--batch-size", default=128, show_default=True, help="Images of a step or attack.")
@click.option("--image-size", default=32, show_default=True, help="Pixels a side.")
@click.option("--seconds", default=5.0, show_default=True, help="Measured time of a row.")
@turns.out_option("Also write the rows as JSON, after each of them.")
def main(
    device: str,
    arch: tuple[str, ...],
    batch_size: int,
    image_size: int,
    seconds: float,
    out: Path | None,
) -> None:
    """Measure training steps and PGD-20: about five minutes on a GPU, without data or internet.

    Images per second, the share of what a large bf16 matrix product reaches, and peak memory; each
    from CUDA graphs, without, and by a plain fp32 loop in torch's default arithmetic.

    \b
    python -m benchmarks.gpu --out results/speed/gpu.json
    """
    where = turns.begin(device, out)
    done: list[dict[str, Any]] = []
    try:
        for row in rows(arch, where, batch_size, image_size, seconds):
            done.append(row)
            if "error" in row and row["error"] != NOT_MEASURED:
                about = f"{row['what']} {row['arch']} {row['precision']} {row['side']}"
                click.echo(f"{about}: {row['error']}", err=True)
            if out is not None:
                about_all = {"machine": describe_machine(where), "command": turns.command_line()}
                write_json(out, {**about_all, "tf32": tf32_operations(where), "rows": done})
    finally:
        click.echo(gpu_table(done))
        click.echo(f"On {machine_text(describe_machine(where))}.")


if __name__ == "__main__":
    main()
