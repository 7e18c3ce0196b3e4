"""The most memory that one training step takes, measured in a fresh process.

On CUDA: the most that tensors held, weights and images included. On a CPU: by how much the
resident memory of the process grew above what it held with network and images made; the step's
gradients, momentum and activations are in it, and the workspaces that the libraries keep.

`python -m bench.speed.memory` reads what to do as JSON from its standard input and prints bytes.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.errors import BenchError
from bench.speed.setting import Fitting, Setting, Sizes

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""What CLEAR takes to forget the largest resident size so far."""
KINDS = {
    "cuda": "most memory of tensors in one step, weights included, in a process of its own",
    "cpu": "growth of resident memory in one step, in a process of its own",
}


@dataclass(frozen=True)
class Peak:
    """The most memory of one step, and what was counted."""

    n_bytes: int
    kind: str


def peak_memory(method: str, setting: Setting, *, plain: bool) -> Peak | None:
    """That of one side's step; None on a device that is neither CPU nor CUDA."""
    kind = KINDS.get(setting.device.type)
    if kind is None:
        return None
    asked = {"method": method, "plain": plain, "threads": torch.get_num_threads()}
    asked["setting"] = asdict(setting) | {"device": str(setting.device)}
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BenchError(f"the process that measures the memory of {method} failed: {reason}")
    return Peak(int(done.stdout.split()[-1]), kind)


def _measure(asked: dict[str, Any]) -> int:
    from bench.speed.steps import step_of

    torch.set_num_threads(asked["threads"])
    setting = _setting(asked["setting"])
    step = step_of(asked["method"], setting, plain=asked["plain"])
    if setting.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(setting.device)
        step()
        return torch.cuda.max_memory_allocated(setting.device)
    with suppress(OSError):
        CLEAR.write_text(RESET_PEAK)
    before = _largest_resident()
    step()
    return _largest_resident() - before


def _setting(values: dict[str, Any]) -> Setting:
    """What `asdict` made, and JSON."""
    sizes = values["sizes"]
    made = Sizes(**(sizes | {"fitting": Fitting(**sizes["fitting"])}))
    return Setting(**(values | {"sizes": made, "device": torch.device(values["device"])}))


def _largest_resident() -> int:
    """Bytes; the kernel's own figure where there is one.

    That of getrusage begins with the largest of the process that this one was started by.
    """
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
        if found:
            return int(found[1]) * 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


if __name__ == "__main__":
    print(_measure(json.load(sys.stdin)))
