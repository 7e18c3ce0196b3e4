"""Random numbers of the CPU on another device, so that both compute from the same ones."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _DrawnOnCpu(TorchFunctionMode):
    """Draws of a generator of another device are those of a CPU generator with its seed."""

    def __init__(self) -> None:
        super().__init__()
        self.twins: dict[torch.Generator, torch.Generator] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        generator = kwargs.get("generator")
        if generator is None or generator.device.type == "cpu":
            return func(*args, **kwargs)
        if generator not in self.twins:
            self.twins[generator] = torch.Generator().manual_seed(generator.initial_seed())
        kwargs["generator"] = self.twins[generator]
        if "device" in kwargs:
            kwargs["device"] = "cpu"
        given = [value.cpu() if isinstance(value, Tensor) else value for value in args]
        drawn = func(*given, **kwargs)  # fills memory in the order of its strides, which are equal
        return args[0].copy_(drawn) if func.__name__.endswith("_") else drawn.to(generator.device)


def drawn_on_cpu(device: torch.device) -> AbstractContextManager[object]:
    return nullcontext() if device.type == "cpu" else _DrawnOnCpu()
