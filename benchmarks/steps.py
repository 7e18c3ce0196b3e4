"""A training step of each method next to a plain loop of the same update (benchmarks/loops.py)."""

from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from bench.records.spec import TrainSpec
from bench.training.cost import Cost
from benchmarks import layers, turns, workloads
from benchmarks.loops import LOOPS


def step_row(
    spec: TrainSpec,
    device: torch.device,
    *,
    rounds: int,
    peak: bool = True,
) -> dict[str, Any]:
    """Measure both sides in turns; only ours for a method without a plain loop.

    share_of_peak: the time that the step's convolutions and linear layers take alone, each at its
    fastest, over the step's; share_of_matrix_peak: the time that as many multiplications take in
    one large matrix product. Both are measured after the rounds.
    """
    n = spec.n_train
    sides = [workloads.engine_step(spec, device)]
    if spec.method in LOOPS:
        sides.append(workloads.plain_step(spec, device))
    passes = [*(_passes(side, n) for side in sides), None]
    ours, theirs, *_ = [*turns.in_turns(sides, rounds), []]
    shares: dict[str, float | None] = {"share_of_peak": None, "share_of_matrix_peak": None}
    if peak:
        calls = layers.calls_of(sides[0])
        least = sum(k * layers.least_seconds(call, device) for call, k in calls.items())
        flops = sum(k * layers.flops_of(call) for call, k in calls.items())
        as_product = flops / layers.matmul_peak(device, spec.precision)
        own = median(ours)
        shares = {"share_of_peak": least / own, "share_of_matrix_peak": as_product / own}
    return {
        **turns.compared(f"step-{spec.method}", ours, theirs, n),
        **shares,
        "arch": spec.arch,
        "precision": spec.precision,
        "image_size": spec.image_size,
        "reference": "plain loop" if theirs else None,
        "passes": passes[0],
        "reference_passes": passes[1],
        "robust_share": None,
        "n_apart": None,
        "note": None if theirs else "no plain loop is written for it",
    }


def _passes(step: workloads.Step, n: int) -> dict[str, float]:
    """Passes per image of one step, which also warms up."""
    cost = Cost()
    cost.watch(step.network, step.network.first_layer)
    with cost.counting():
        step()
    kinds = ("forward", "backward", "first_layer")
    return {kind: getattr(cost, kind) / n for kind in kinds}


@click.command()
@turns.options
@turns.step_options
@click.option("--peak/--no-peak", default=True, help="Also the shares of the peaks.")
@turns.out_option("Also write the rows as JSON.")
def main(device: str, rounds: int, out: Path | None, peak: bool, **work: Any) -> None:
    """Time a training step of each method next to a plain loop of the same update.

    Both do the same work on the same images and take turns in one process. Ratios are medians over
    the rounds; only they mean something on another machine.

    \b
    python -m benchmarks.steps --methods trades,mart,madry --arch cnn --rounds 7
    python -m benchmarks.steps --methods madry --out results/speed/steps-mine.json
    """
    where = turns.begin(device, out)
    rows = []
    for spec in workloads.specs(where, **work):
        rows.append(step_row(spec, where, rounds=rounds, peak=peak))
        turns.keep(out, rows, where)
    turns.show(rows, where)


if __name__ == "__main__":
    main()
