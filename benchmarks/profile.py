"""The time of a training step by kind of operation: ours and the plain loop's.

torch.profiler measures the own time of each operation, without those that it calls; on CUDA, the
time of its kernels. The rest of the step is Python between operations, or an idle GPU.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from torch.profiler import ProfilerActivity, profile

from bench.machine import describe_machine
from bench.records.spec import TrainSpec
from bench.storage import write_json
from benchmarks import turns, workloads
from benchmarks.loops import LOOPS
from benchmarks.pages import profile_tables

BETWEEN = "between"
KINDS = {
    "convolutions, forward": "#0072b2",
    "convolutions, backward": "#56b4e9",
    "BatchNorm": "#e69f00",
    "ReLU": "#009e73",
    "pooling": "#f0e442",
    "linear layers": "#000000",
    "optimiser": "#cc79a7",
    "copies and casts": "#d55e00",
    "other operations": "#999999",
    BETWEEN: "#ffffff",
}
"""In the order in which they are shown, each with its gradient -> colour."""
PARTS = (
    ("batch_norm", "BatchNorm"),
    ("relu", "ReLU"),
    ("threshold", "ReLU"),
    ("pool", "pooling"),
    ("addmm", "linear layers"),
    ("::mm", "linear layers"),
    ("linear", "linear layers"),
)
MOVES = ("aten::copy_", "aten::_to_copy", "aten::to", "aten::clone", "aten::contiguous")


def profiled(step: turns.Work, device: torch.device) -> dict[str, float]:
    """Return the seconds by kind of one step under the profiler; together they are its time."""
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_cuda
    with profile(activities=activities) as profiler:
        elapsed = turns.seconds(step)
    parts = dict.fromkeys(KINDS, 0.0)
    events: Any = profiler.events()
    for event in events or ():
        if event.device_type.name == "CPU":  # a kernel's time is in its operation's too
            own = event.self_device_time_total if on_cuda else event.self_cpu_time_total
            parts[kind_of(event)] += own / 1e6
    parts[BETWEEN] = max(0.0, elapsed - sum(parts.values()))
    return parts


def kind_of(event: Any) -> str:
    """Return the kind of an operation, by its own name or that of the one that called it."""
    names = [event.name]
    while event.cpu_parent is not None:
        event = event.cpu_parent
        names.append(event.name)
    if any(name.startswith("Optimizer.") for name in names):
        return "optimiser"
    for name in names:
        if "convolution" in name or name == "aten::conv2d":
            back = any("Backward" in other for other in names)
            return "convolutions, backward" if back else "convolutions, forward"
        for part, kind in PARTS:
            if part in name:
                return kind
    return "copies and casts" if any(name in MOVES for name in names) else "other operations"


def profiles(specs: Sequence[TrainSpec], device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Profile one method's plain loop, if it has one, and our step in each precision, in turns."""
    sides = [("ours", spec, workloads.engine_step(spec, device)) for spec in specs]
    if specs[0].method in LOOPS:
        plain = replace(specs[0], precision="fp32")
        sides.insert(0, ("plain loop", plain, workloads.plain_step(plain, device)))
    unprofiled = turns.in_turns([step for _, _, step in sides], rounds)
    parts = [[profiled(step, device) for _, _, step in sides] for _ in range(rounds)]
    return [
        {
            "method": spec.method,
            "arch": spec.arch,
            "side": side,
            "precision": spec.precision,
            "n_images": spec.n_train,
            "image_size": spec.image_size,
            "n_rounds": rounds,
            "seconds": median(seconds),
            # the parts of one round belong together: the median one, by its total
            "parts": sorted(own, key=lambda p: sum(p.values()))[(rounds - 1) // 2],
            "note": None,
        }
        for (side, spec, _), seconds, own in zip(
            sides, unprofiled, zip(*parts, strict=True), strict=True
        )
    ]


def draw(steps: Sequence[dict[str, Any]], out: Path) -> None:
    """Write a bar for each step to `out`.png and `out`.svg."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.6 + 0.4 * len(steps)), layout="constrained")
    axes = figure.subplots()
    labels = [f"{s['method']}, {s['arch']}, {s['side']}, {s['precision']}" for s in steps]
    left = [0.0] * len(steps)
    for kind, colour in KINDS.items():
        shares = [s["parts"][kind] / sum(s["parts"].values()) for s in steps]
        axes.barh(labels, shares, left=left, label=kind, color=colour, edgecolor="#333333")
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("share of a step's time, under the profiler")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    for suffix in (".png", ".svg"):
        figure.savefig(out.with_suffix(suffix), dpi=150)


@click.command()
@turns.options
@turns.step_options
@turns.out_option("Write FILE.json, with a .png and a .svg.")
def main(device: str, rounds: int, out: Path | None, **work: Any) -> None:
    """Show where the time of a training step goes: a table, and with --out a figure.

    \b
    python -m benchmarks.profile --methods madry --arch cnn,resnet-18 --rounds 3
    python -m benchmarks.profile --methods madry --out results/speed/profile.json
    """
    where = turns.begin(device, out)
    steps = []
    specs = workloads.specs(where, **work)
    for _, group in groupby(specs, lambda spec: (spec.method, spec.arch)):
        steps += profiles(list(group), where, rounds)
    click.echo(profile_tables(steps))
    if out is not None:
        about = {"machine": describe_machine(where), "command": turns.command_line()}
        write_json(out, {**about, "steps": steps})
        draw(steps, out)


if __name__ == "__main__":
    main()
