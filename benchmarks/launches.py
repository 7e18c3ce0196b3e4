"""Kernels that a training step or a part of AutoAttack launches on a GPU, and how often the host
waits for it: counted without one, on the tests' pretended device."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from bench.attacks import FastAutoAttackPart
from bench.attacks.attack import Noise
from bench.attacks.networks import BatchedModel
from bench.estimate import made_spec
from bench.machine import describe_machine
from bench.storage import write_json
from benchmarks import turns, workloads
from benchmarks.attacks import shorten
from benchmarks.gpu import WARM_UP, with_graphs
from benchmarks.pages import launches_table
from tests.pretended_cuda import CUDA, Log, pretended

EFFORT, IMAGES = 0.02, 32
"""Share of AutoAttack's iterations, and images of a part; two of a step."""
PARTS = ("apgd-t", "fab-t", "square")


@dataclass(frozen=True, kw_only=True)
class Part(FastAutoAttackPart):
    """A part on the fp32 copy with few iterations, by our loop or by the package's."""

    ours: bool

    def _attack(self, *args: Any) -> Any:
        attack = shorten(super()._attack(*args), EFFORT)
        if not self.ours and self.part == "square":
            del attack.attack_single_run
        return attack

    def _perturb(self, attack: Any, model: Any, x: Any, y: Any) -> Any:
        if self.ours:
            return super()._perturb(attack, model, x, y)
        return attack.perturb(x.clone(), y.clone())


def counted(work: Callable[[], object], log: Log) -> dict[str, int]:
    log.clear()
    work()
    return {"launches": log.launches, "waits": log.n_waits}


def rows(methods: tuple[str, ...], arch: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    found = workloads.partly_robust("cnn", IMAGES, 16, torch.device("cpu"))
    with pretended() as log:
        for name in arch:
            for method in methods:
                for side in ("graphs", "eager"):
                    spec = made_spec(method, name, 2, image_size=16)
                    with with_graphs(side == "graphs"):
                        step = workloads.engine_step(spec, CUDA)
                        for _ in range(WARM_UP):
                            step()
                    row = {"what": f"step-{method}", "arch": name, "side": side}
                    yield row | counted(step, log)
        network = copy.deepcopy(found.network).to(CUDA)
        x, y = found.x.to(CUDA), found.y.to(CUDA)
        for part in PARTS:
            for ours in (True, False):
                attack = Part(part=part, search="fp32", ours=ours)
                noise = Noise(torch.Generator(CUDA).manual_seed(0))
                model = BatchedModel(network, IMAGES)
                work = partial(attack.craft, model, x, y, found.threat, noise)
                with with_graphs(False):
                    counts = counted(work, log)
                side = "ours" if ours else "package"
                yield {"what": f"{part} ({EFFORT:.0%})", "arch": "cnn", "side": side} | counts


@click.command()
@click.option("--methods", default="madry,trades", show_default=True, callback=turns.names)
@click.option("--arch", default="cnn,resnet-18", show_default=True, callback=turns.names)
@turns.out_option("Also write the rows as JSON.")
def main(methods: tuple[str, ...], arch: tuple[str, ...], out: Path | None) -> None:
    """Count launches and host waits, without a GPU; a read of the loss is one wait of a step.

    \b
    python -m benchmarks.launches --out results/speed/launches.json
    """
    turns.begin("cpu", out)
    found = list(rows(methods, arch))
    if out is not None:
        about = {"machine": describe_machine(torch.device("cpu")), "command": turns.command_line()}
        write_json(out, {**about, "rows": found})
    click.echo(launches_table(found))


if __name__ == "__main__":
    main()
