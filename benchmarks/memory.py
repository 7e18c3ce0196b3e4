"""The peak memory of a training step, ours and the plain loop's, each in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import torch

from bench.listing import aligned
from benchmarks import turns, workloads
from benchmarks.loops import LOOPS

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def peak_bytes(side: str, method: str, arch: str, precision: str, n: int, size: int) -> int:
    """Return the most memory of one step, of tensors on CUDA; on a CPU by how much it grows.

    Resident memory is read where Linux has it (VmHWM): getrusage begins with the largest of the
    process that started this one.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    spec = workloads.made_spec(method, arch, precision, n, size)
    step = (workloads.engine_step if side == "ours" else workloads.plain_step)(spec, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device)
    CLEAR.write_text(RESET_PEAK)
    before = _largest_resident()
    step()
    return _largest_resident() - before


def _largest_resident() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    if found is None:
        raise click.ClickException("peak memory on a CPU needs Linux, which reports VmHWM")
    return int(found[1]) * 1024


@click.command()
@click.option("--methods", callback=turns.names, default="madry,trades", show_default=True)
@click.option("--arch", callback=turns.names, default="cnn,resnet-18", show_default=True)
@click.option("--precision", default="fp32", show_default=True, help="Of our step: fp32 or bf16.")
@click.option("--batch-size", type=int, help="Images of a step.  [cnn 128, others 32]")
@click.option("--image-size", default=32, show_default=True, help="Pixels a side.")
@click.option("--side", type=click.Choice(["ours", "plain loop"]), help="Print its bytes only.")
def main(
    methods: tuple[str, ...],
    arch: tuple[str, ...],
    precision: str,
    batch_size: int | None,
    image_size: int,
    side: str | None,
) -> None:
    """Measure the peak memory of a training step, in a process per method, network and side."""
    rows = [("method", "arch", "images", "ours, MiB", "plain loop, MiB")]
    for method in methods:
        for name in arch:
            n = batch_size or workloads.batch_size(name)
            if side is not None:
                click.echo(peak_bytes(side, method, name, precision, n, image_size))
                continue
            command = [sys.executable, "-m", "benchmarks.memory", "--methods", method]
            command += ["--arch", name, "--precision", precision, "--batch-size", str(n)]
            command += ["--image-size", str(image_size), "--side"]
            sides = ("ours", *(["plain loop"] if method in LOOPS else []))
            done = [
                subprocess.run([*command, of], check=True, text=True, stdout=subprocess.PIPE)
                for of in sides
            ]
            ours, theirs, *_ = [f"{int(p.stdout) / 2**20:.0f}" for p in done] + ["-"]
            rows.append((method, name, str(n), ours, theirs))
    if side is None:
        click.echo(aligned(rows))


if __name__ == "__main__":
    main()
