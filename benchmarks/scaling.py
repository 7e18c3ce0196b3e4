"""How the time of a training step grows: with batch, attack steps, image side, depth and width.

The time of the calls alone is that of the same step on two images of one pixel: the same layers
with next to nothing to compute. (On one image, BatchNorm has no variance.)
"""

from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from bench.archs import ARCHS
from bench.archs.arch import ArchSpec
from bench.archs.resnet import WideResNet
from bench.estimate import made_spec
from bench.machine import describe_machine
from bench.registry import get_method
from bench.storage import write_json
from benchmarks import layers, turns, workloads
from benchmarks.pages import scaling_tables

AXES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "batch size (images)": ("n", (1, 2, 4, 8, 16, 32, 64, 128), {}),
    "attack steps": ("steps", (1, 2, 5, 10, 20, 40), {}),
    "image side (pixels)": ("side", (4, 8, 16, 32, 64), {}),
    "depth of WRN-depth-1 (layers)": ("depth", (10, 16, 28, 40), {"arch": "wrn", "n": 8}),
    "width of WRN-10-width": ("width", (1, 2, 4, 8), {"arch": "wrn", "n": 4}),
}
"""What varies, over which values, and what differs from DEFAULT."""
DEFAULT = {"arch": "cnn", "n": 16, "side": 32, "steps": 10, "depth": 10, "width": 1}
WORDS = {
    "arch": "{}",
    "n": "batch {}",
    "side": "images of {0}x{0} pixels",
    "steps": "{} attack steps",
}


def made_step(point: dict[str, Any], device: torch.device, precision: str) -> workloads.Step:
    """Return a step of Madry AT on made images, and on a WRN of any depth and width."""
    name = "cnn"
    if point["arch"] == "wrn":
        name = f"wrn-{point['depth']}-{point['width']}-scaling"

        def wide(spec: ArchSpec) -> WideResNet:
            return WideResNet(spec, depth=point["depth"], widen=point["width"])

        ARCHS.setdefault(name, (wide, ""))
    n, side = point["n"], point["side"]
    spec = made_spec("madry", "cnn", n, image_size=side, precision=precision)
    return workloads.engine_step(replace(spec, arch=name), device, steps=point["steps"])


def curve(
    name: str, device: torch.device, precision: str, rounds: int, most: int | None
) -> dict[str, Any]:
    """Measure one axis; all points take turns."""
    key, values, changed = AXES[name]
    values = values[:most]
    points = [{**DEFAULT, **changed, key: value} for value in values]
    full = [made_step(point, device, precision) for point in points]
    empty = [made_step({**point, "n": 2, "side": 1}, device, precision) for point in points]
    medians = [median(found) for found in turns.in_turns([*full, *empty], rounds)]
    fixed = [
        word.format({**DEFAULT, **changed}[name])
        for name, word in WORDS.items()
        if name != key and not (name == "arch" and changed)
    ]
    n = len(values)
    return {
        "name": name,
        "fixed": ", ".join(fixed),
        "points": [
            {
                "value": values[i],
                "flops": layers.step_flops(full[i]),
                "seconds": medians[i],
                "empty_seconds": medians[n + i],
            }
            for i in range(n)
        ],
    }


def draw(record: dict[str, Any], out: Path) -> None:
    """Write a panel for each axis, both scales logarithmic, to `out`.png and `out`.svg."""
    from matplotlib.figure import Figure

    curves = record["curves"]
    figure = Figure(figsize=(9, 5), layout="constrained")
    panels = figure.subplots(2, 3).flat
    for axes, found in zip(panels, curves, strict=False):
        points = found["points"]
        x = [point["value"] for point in points]
        last = points[-1]
        linear = [last["seconds"] * point["flops"] / last["flops"] for point in points]
        axes.loglog(x, linear, ":", color="#777777", label="linear in FLOP")
        axes.loglog(x, [p["seconds"] for p in points], "o-", color="#0072b2", label="measured")
        calls = [p["empty_seconds"] for p in points]
        axes.loglog(x, calls, "s--", color="#d55e00", label="calls alone")
        axes.set(xlabel=found["name"], ylabel="seconds of a step")
    last_panel = list(figure.axes)[-1]
    last_panel.axis("off")
    handles, names = figure.axes[0].get_legend_handles_labels()
    last_panel.legend(handles, names, loc="center", frameon=False)
    for suffix in (".png", ".svg"):
        figure.savefig(out.with_suffix(suffix), dpi=150)


@click.command()
@turns.options
@click.option("--precision", default="fp32", show_default=True, help="fp32 or bf16.")
@click.option("--most", type=int, help="Only the first N points of an axis.  [all]")
@turns.out_option("Write FILE.json, with a .png and a .svg.")
def main(device: str, precision: str, rounds: int, most: int | None, out: Path | None) -> None:
    """Measure how a training step scales: minutes on two cores.

    \b
    python -m benchmarks.scaling --out results/speed/scaling.json   then `make docs`
    """
    where = turns.begin(device, out)
    record = {
        "machine": describe_machine(where),
        "method": get_method("madry").title,
        "precision": precision,
        "curves": [curve(name, where, precision, rounds, most) for name in AXES],
    }
    click.echo(scaling_tables(record))
    if out is not None:
        write_json(out, record)
        draw(record, out)


if __name__ == "__main__":
    main()
