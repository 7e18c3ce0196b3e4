"""The peak memory of a training step, ours and the plain loop's, each in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import torch

from bench.listing import aligned
from bench.machine import choose_device
from bench.records.spec import TrainSpec
from benchmarks import turns, workloads
from benchmarks.loops import LOOPS

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def peak_bytes(side: str, spec: TrainSpec) -> int:
    """Return the peak memory of one step: on CUDA, of tensors; on a CPU, the growth of the process.

    Resident memory is read from Linux (VmHWM): getrusage starts with the peak of the parent
    process.
    """
    device = choose_device("auto")
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
@turns.step_options
@click.option("--side", type=click.Choice(["ours", "plain loop"]), help="Print its bytes only.")
def main(side: str | None, **work: Any) -> None:
    """Measure the peak memory of a training step, in a process per method, network and side.

    \b
    python -m benchmarks.memory --methods madry,trades --arch cnn
    """
    rows = [("method", "arch", "precision", "images", "ours, MiB", "plain loop, MiB")]
    for spec in workloads.specs(choose_device("auto"), **work):
        if side is not None:
            click.echo(peak_bytes(side, spec))
            continue
        options = {"methods": spec.method, "arch": spec.arch, "precision": spec.precision,
                 "batch-size": spec.n_train, "image-size": spec.image_size}  # fmt: skip
        command = [sys.executable, "-m", "benchmarks.memory"]
        command += [f"--{name}={value}" for name, value in options.items()]
        sides = ("ours", *(["plain loop"] if spec.method in LOOPS else []))
        done = [
            subprocess.run(
                [*command, f"--side={of}"], check=True, text=True, stdout=subprocess.PIPE
            )
            for of in sides
        ]
        ours, theirs, *_ = [f"{int(p.stdout) / 2**20:.0f}" for p in done] + ["-"]
        rows.append((spec.method, spec.arch, spec.precision, str(spec.n_train), ours, theirs))
    if side is None:
        click.echo(aligned(rows))


if __name__ == "__main__":
    main()
