"""Where the time of a training step goes, by kind of operation: ours and the plain loop's.

torch.profiler says how long each operation ran itself, without those that it called; on CUDA, how
long its kernels did. The rest of the step is Python between operations, or a GPU that waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from torch.profiler import ProfilerActivity, profile

from bench.machine import describe_machine, has_fast_bf16
from bench.spec import PRECISIONS
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


def profiles(
    method: str, arch: str, precisions: Sequence[str], n: int, size: int, device: Any, rounds: int
) -> list[dict[str, Any]]:
    """Return the plain loop's profile, if it has one, and ours in each precision, in turns."""
    specs = [workloads.made_spec(method, arch, p, n, size) for p in ("fp32", *precisions)]
    sides = [("ours", spec, workloads.engine_step(spec, device)) for spec in specs[1:]]
    if method in LOOPS:
        sides.insert(0, ("plain loop", specs[0], workloads.plain_step(specs[0], device)))
    alone = turns.in_turns([step for _, _, step in sides], rounds)
    parts: list[list[dict[str, float]]] = [[] for _ in sides]
    for _ in range(rounds):
        for place, (_, _, step) in enumerate(sides):
            parts[place].append(profiled(step, device))
    return [
        {
            "method": method,
            "arch": spec.arch,
            "side": side,
            "precision": spec.precision,
            "n_images": n,
            "image_size": size,
            "n_rounds": rounds,
            "seconds": median(alone[place]),
            # the parts of one round belong together: the median one, by its total
            "parts": sorted(parts[place], key=lambda p: sum(p.values()))[(rounds - 1) // 2],
            "note": None,
        }
        for place, (side, spec, _) in enumerate(sides)
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
@click.option("--methods", callback=turns.names, default="madry", show_default=True)
@click.option("--precision", callback=turns.names, help="[fp32; also bf16 if the device has it]")
@click.option("--batch-size", type=int, help="Images of a step.  [cnn 128, others 32]")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write FILE.json, with a .png and a .svg."
)
def main(
    arch: tuple[str, ...],
    rounds: int,
    image_size: int,
    device: str,
    methods: tuple[str, ...],
    precision: tuple[str, ...],
    batch_size: int | None,
    out: Path | None,
) -> None:
    """Say where the time of a training step goes: a table, and with --out a figure.

    \b
    python -m benchmarks.profile --methods madry --arch cnn,resnet-18 --rounds 3
    python -m benchmarks.profile --out results/speed/profile.json
    """
    where = turns.begin(device, out)
    chosen = precision or (PRECISIONS if has_fast_bf16(where) else PRECISIONS[:1])
    steps = []
    for method in methods:
        for name in arch:
            n = batch_size or workloads.batch_size(name)
            steps += profiles(method, name, chosen, n, image_size, where, rounds)
    click.echo(profile_tables(steps))
    if out is not None:
        about = {"machine": describe_machine(where), "command": turns.command_line()}
        write_json(out, {**about, "steps": steps})
        draw(steps, out)


if __name__ == "__main__":
    main()
