"""The speed of each layer of a training step next to the machine's peak: a table and a roofline.

Every convolution and matrix product of one step is recorded with its shapes and timed alone, in the
faster of the layouts NCHW and channels last. The peak is that of one large matrix product, the
bandwidth that of one large copy. A layer is repeated on the same tensors, which a cache may hold,
unlike in a step.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from bench.listing import aligned
from bench.machine import describe_machine, machine_text
from benchmarks import turns, workloads
from benchmarks.pages import percent, significant

aten = torch.ops.aten
NAMES = {
    aten.convolution.default: "convolution",
    aten.convolution_backward.default: "convolution, backward",
    aten.mm.default: "matrix product",
    aten.addmm.default: "linear",
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Call = tuple[Any, Any]
"""An operation and its arguments, with (shape, dtype) in place of each tensor."""


class Multiplications(TorchDispatchMode):
    """Counts the calls that multiply, by their operation and shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Call] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in NAMES:
            self.calls[func, _frozen(tree_map(_shape, args))] += 1
        return func(*args, **(kwargs or {}))


def calls_of(step: turns.Work) -> Counter[Call]:
    """Run `step` and return the calls that multiply in it."""
    mode = Multiplications()
    with mode:
        step()
    return mode.calls


def least_seconds(call: Call, device: torch.device, budget: float = 0.2) -> float:
    """Return the shortest time of the call over the layouts; `budget` seconds for each."""
    func, _ = call
    layouts = (torch.contiguous_format, torch.channels_last)
    with torch.no_grad():
        return min(
            shortest(partial(func, *args), budget)
            for args in (_arguments(call, device, layout) for layout in layouts)
        )


def flops_of(call: Call) -> int:
    """Return additions and multiplications of the call; nothing is computed."""
    func, _ = call
    with FlopCounterMode(display=False) as counter:
        func(*_arguments(call, torch.device("meta"), torch.contiguous_format))
    return int(counter.get_total_flops())


def step_flops(step: turns.Work) -> int:
    """Run `step` and return its additions and multiplications.

    Not by a FlopCounterMode around it: its hooks on modules fail under torch.autograd.grad.
    """
    return sum(n * flops_of(call) for call, n in calls_of(step).items())


def matmul_peak(device: torch.device, precision: str, budget: float = 0.2) -> float:
    """Return FLOP/s of one large matrix product."""
    n = 8192 if device.type == "cuda" else 2048
    a = torch.ones(n, n, device=device, dtype=DTYPES[precision])
    return 2 * n**3 / shortest(lambda: a @ a, budget)


def bandwidth(device: torch.device, budget: float = 0.2) -> float:
    """Return bytes per second, read and written, of one large copy."""
    source = torch.ones(2**28, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * source.numel() / shortest(lambda: target.copy_(source), budget)


def shortest(work: Callable[[], object], budget: float) -> float:
    """Return the seconds of the fastest block of calls."""
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return min(timer.blocked_autorange(min_run_time=budget).times)


def _shape(value: Any) -> Any:
    return (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else value


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def _arguments(call: Call, device: torch.device, layout: torch.memory_format) -> list[Any]:
    def made(value: Any) -> Any:
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], torch.dtype):
            x = torch.rand(value[0], device=device, dtype=value[1])
            return x.contiguous(memory_format=layout) if x.ndim == 4 else x
        return list(value) if isinstance(value, tuple) else value

    return [made(value) for value in call[1]]


def _n_bytes(call: Call) -> int:
    """Bytes of the tensors of one call, each once; its output is about as large as its input."""
    tensors = _arguments(call, torch.device("meta"), torch.contiguous_format)
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


@click.command()
@turns.options
@turns.step_options
@click.option("--figure", type=click.Path(path_type=Path), help="Write the roofline: FILE.png.")
def main(device: str, rounds: int, figure: Path | None, **work: Any) -> None:
    """Time each layer of a training step alone, next to what the machine reaches.

    \b
    python -m benchmarks.layers --methods madry --arch cnn --figure roofline.png
    """
    where = turns.begin(device, figure)
    copied = bandwidth(where)
    rows: list[tuple[str, ...]] = [
        ("arch", "operation", "shapes", "calls", "FLOP/byte", "GFLOP/s", "of peak")
    ]
    points, peaks = [], dict[str, float]()
    for spec in workloads.specs(where, **work):
        peak = peaks.setdefault(spec.precision, matmul_peak(where, spec.precision))
        for call, n in calls_of(workloads.engine_step(spec, where)).items():
            speed = flops_of(call) / least_seconds(call, where, 0.04 * rounds)
            points.append((spec.arch, flops_of(call) / _n_bytes(call), speed))
            shapes = [str(a[0]) for a in call[1] if isinstance(a, tuple) and len(a) == 2][:2]
            numbers = significant(points[-1][1]), significant(speed / 1e9), percent(speed / peak)
            rows.append((spec.arch, NAMES[call[0]], " x ".join(shapes), str(n), *numbers))
    reached = (f"a large matrix product in {p} {v / 1e9:,.0f} GFLOP/s" for p, v in peaks.items())
    copy = f"a large copy {copied / 1e9:.3g} GB/s"
    click.echo(aligned(rows))
    click.echo(f"{machine_text(describe_machine(where))}: {', '.join([*reached, copy])}")
    if figure is not None:
        _draw(points, max(peaks.values()), copied, figure)


def _draw(points: list[tuple[str, float, float]], peak: float, copied: float, out: Path) -> None:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(5, 4), layout="constrained")
    axes = drawn.subplots()
    for arch in dict.fromkeys(name for name, _, _ in points):
        own = [(x, y / 1e9) for name, x, y in points if name == arch]
        axes.loglog(*zip(*own, strict=True), "o", label=arch)
    xs = [x for _, x, _ in points]
    roof = [min(xs), peak / copied, max(*xs, peak / copied)]
    axes.loglog(roof, [min(peak, x * copied) / 1e9 for x in roof], "k-", label="the machine")
    axes.set(xlabel="FLOP per byte", ylabel="GFLOP/s")
    axes.legend()
    drawn.savefig(out, dpi=150)


if __name__ == "__main__":
    main()
