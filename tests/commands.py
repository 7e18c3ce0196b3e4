"""Commands in process: what they print, refuse and leave on disk."""

from pathlib import Path

import torch
from click.testing import CliRunner, Result
from torch import nn

from bench.cli import main
from bench.storage import read_archive, write_archive

FACTORY = """
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""

METHOD = """
from dataclasses import dataclass
from torch import Tensor
from bench.api import Batch, Method, TrainState, losses, register


@register("NAME")
@dataclass(frozen=True, kw_only=True)
class Mine(Method):
    scale: float = 2.0

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        return batch.x

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        FAULT
        return self.scale * losses.cross_entropy(state.model(x_adv), batch.y).mean()
"""
NAN = "return state.model(x_adv).sum() * float('nan')"
"""A fault: the loss is not finite."""


def method(name: str = "mine", fault: str = "pass") -> str:
    """The text of a method's file."""
    return METHOD.replace("NAME", name).replace("FAULT", fault)


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def done(*arguments: object) -> Result:
    """The result of a command that must succeed."""
    result = bench(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(result: Result, *words: str) -> None:
    """The command failed with one error line that holds these words."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    (line,) = [line for line in lines if line.startswith("error: ")] or lines
    for word in words:
        assert word in line, line


def files(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Content and time of every file but locks."""
    found = (p for p in folder.rglob("*") if p.is_file() and not p.name.endswith("lock"))
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in found}


def forget(run: Path, start: str) -> None:
    """Remove the evaluations and measures whose id starts so from a run's folder."""
    for path in run.glob("[em]*/*.npz"):
        entries, _ = read_archive(path)
        kept = {name: entry for name, entry in entries.items() if not name.startswith(start)}
        write_archive(path, kept)


def linear_model(folder: Path, n_weights: int = 0) -> list[str]:
    """Options for an external model of digits; its weights are written to 0.pt, 1.pt, ..."""
    (folder / "mine.py").write_text(FACTORY)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for number in range(n_weights):
            network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
            torch.save(network.state_dict(), folder / f"{number}.pt")
    return ["--model", f"{folder}/mine.py:make"]
