"""A training step of each method next to a plain loop of the same update (benchmarks/loops.py)."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from bench.errors import unknown_name
from bench.machine import has_fast_bf16
from bench.registry import get_method, list_methods
from bench.spec import PRECISIONS
from bench.training.cost import Cost
from benchmarks import layers, turns, workloads
from benchmarks.loops import LOOPS


def step_row(
    method: str,
    arch: str,
    precision: str,
    device: torch.device,
    *,
    rounds: int,
    n: int,
    image_size: int,
    compiles: bool = False,
    peak: bool = True,
) -> dict[str, Any]:
    """Measure both sides in turns; a method without a plain loop stands alone.

    share_of_peak: the time that the step's convolutions and linear layers take alone, each at its
    fastest, over the step's; share_of_matrix_peak: the time that as many multiplications take in
    one large matrix product. Both are measured after the rounds.
    """
    spec = workloads.made_spec(method, arch, precision, n, image_size)
    sides = [workloads.engine_step(spec, device, compiles=compiles)]
    if method in LOOPS:
        sides.append(workloads.plain_step(spec, device))
    passes = [_passes(side, n) for side in sides]
    found = turns.in_turns(sides, rounds)
    row = turns.compared(f"step-{method}", found[0], found[1] if len(found) > 1 else [], n)
    shares: dict[str, float] = {}
    if peak:
        calls = layers.calls_of(sides[0])
        least = sum(k * layers.least_seconds(call, device) for call, k in calls.items())
        flops = sum(k * layers.flops_of(call) for call, k in calls.items())
        as_product = flops / layers.matmul_peak(device, precision)
        own = median(found[0])
        shares = {"share_of_peak": least / own, "share_of_matrix_peak": as_product / own}
    notes = ["compiled"] * compiles + ["no plain loop is written for it"] * (len(sides) == 1)
    return {
        **row,
        "share_of_peak": None,
        "share_of_matrix_peak": None,
        **shares,
        "arch": spec.arch,
        "precision": precision,
        "image_size": image_size,
        "reference": "plain loop" if len(sides) > 1 else None,
        "passes": passes[0],
        "reference_passes": passes[1] if len(passes) > 1 else None,
        "robust_share": None,
        "n_apart": None,
        "note": "; ".join(notes) or None,
    }


def _passes(step: workloads.Step, n: int) -> dict[str, float]:
    """Passes per image of one step, which warms up too."""
    cost = Cost()
    cost.watch(step.network, step.network.first_layer)
    with cost.counting():
        step()
    return {
        "forward": cost.forward / n,
        "backward": cost.backward / n,
        "first_layer": cost.first_layer / n,
    }


@click.command()
@turns.options
@click.option("--methods", callback=turns.names, help="trades,madry.  [those with a plain loop]")
@click.option("--precision", callback=turns.names, help="[fp32; also bf16 if the device has it]")
@click.option("--batch-size", type=int, help="Images of a step.  [cnn 128, others 32]")
@click.option("--peak/--no-peak", default=True, help="Also the shares of the peaks.")
@click.option("--compile", "compiles", is_flag=True, help="Compile what our steps attack.")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the rows as JSON.")
def main(
    arch: tuple[str, ...],
    rounds: int,
    image_size: int,
    device: str,
    methods: tuple[str, ...],
    precision: tuple[str, ...],
    batch_size: int | None,
    peak: bool,
    compiles: bool,
    out: Path | None,
) -> None:
    """Time a training step of each method next to a plain loop of the same update.

    Both do the same work on the same images and take turns in one process. Ratios are medians over
    the rounds; only they mean something on another machine.

    \b
    python -m benchmarks.steps --methods trades,mart,madry --arch cnn --rounds 7
    python -m benchmarks.steps --methods madry --out results/speed/steps-mine.json
    """
    for method in methods:
        if method not in list_methods():
            raise click.UsageError(str(unknown_name("method", method, list_methods())))
    where = turns.begin(device, out)
    suitable = PRECISIONS if has_fast_bf16(where) else PRECISIONS[:1]
    rows = []
    for method in methods or LOOPS:
        get_method(method)
        for name in arch:
            for chosen in precision or suitable:
                n = batch_size or workloads.batch_size(name)
                sizes = {"rounds": rounds, "n": n, "image_size": image_size}
                rows.append(
                    step_row(method, name, chosen, where, **sizes, compiles=compiles, peak=peak)
                )
                turns.keep(out, rows, where)
    turns.show(rows, where)


if __name__ == "__main__":
    main()
