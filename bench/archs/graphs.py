"""CUDA graphs: a forward or backward pass as one launch.

The host needs longer to launch the kernels of a small network than a GPU to run them. A graph
records the kernels of a pass once and launches them together, on the same memory each time. So a
graph is of one number of rows; here batches are filled up to a multiple of UNIT.

Shapes: B batch, C H W image, K classes.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bench.machine import tf32_operations

T = TypeVar("T")
UNIT = 32
"""Rows of a graph are a multiple of it."""
CALLS_BEFORE = 25
"""Calls with one number of rows before its graph is recorded: the steps of a training have then
taken the memory that they need, and sizes that a search passes through once are not recorded."""
MOST_GRAPHS = 16
"""Sizes recorded for one network."""
SPARE = 0.2
"""Share of the GPU's memory that must be free to record a graph, which keeps its memory."""
SWITCH = "ATBENCH_GRAPHS"
"""Environment variable that turns graphs off if it is 0."""
_SAID = set[str]()


def pad_batch(x: Tensor, n_rows: int) -> Tensor:
    """Return x (n, ...) padded to at least n_rows rows by repeating the last; empty stays empty."""
    lacking = n_rows - len(x)
    if lacking <= 0 or len(x) == 0:
        return x
    return torch.cat([x, x[-1:].expand(lacking, *x.shape[1:])])


def capture(work: Callable[[], T], pool: Any, stream: Any) -> tuple[Callable[[], None], T]:
    """Record the kernels that `work` launches; it must have run before, and reads nothing back.

    pool, stream: the same for all graphs that share memory. Returns a function that launches the
    kernels again, and the result, whose memory they write.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        result = work()
    return graph.replay, result


class Graphs:
    """Call a function, images (B, C, H, W) to logits (B, K), through graphs where they exist.

    Weights are read where they are: they may change in place. A size is recorded at its
    CALLS_BEFOREth call; if that fails, one line is logged and the function runs from then on.
    """

    def __init__(self) -> None:
        self._turn = [0]  # counts passes: a later one overwrites what a backward pass needs
        self._is_on = os.environ.get(SWITCH) != "0"
        self._calls = Counter[Any]()
        self._recorded = dict[Any, _Recorded]()
        self._place: tuple[Any, Any] | None = None

    def __call__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K), by the same function in each call.

        Later calls do not overwrite the result. The function is not kept: a network that kept its
        graphs, and they it, would free its memory late.
        """
        if not (self._is_on and x.is_cuda and len(x)):
            return function(x)
        n = -(-len(x) // UNIT) * UNIT
        key = (n, *x.shape[1:], x.dtype, *tf32_operations(x.device))
        recorded = self._recorded.get(key)
        if recorded is None:
            self._calls[key] += 1
            if self._calls[key] % CALLS_BEFORE or not self._has_room(x.device):
                return function(x)
            recorded = self._record(function, key, pad_batch(x, n))
            if recorded is None:
                return function(x)
        logits: Tensor = _Replay.apply(pad_batch(x, n), recorded)
        return logits[: len(x)]

    def _has_room(self, device: torch.device) -> bool:
        free, total = torch.cuda.mem_get_info(device)
        return len(self._recorded) < MOST_GRAPHS and free > SPARE * total

    def _record(
        self, function: Callable[[Tensor], Tensor], key: Any, x: Tensor
    ) -> "_Recorded | None":
        cuda: Any = torch.cuda
        try:
            # kernels of another device than the current one would not be recorded; a recording that
            # fails leaves its stream current
            with cuda.device(x.device), cuda.stream(cuda.current_stream(x.device)):
                self._place = self._place or (cuda.graph_pool_handle(), cuda.Stream())
                recorded = _Recorded(function, x.detach(), *self._place, self._turn)
            self._recorded[key] = recorded
            return recorded
        except Exception as error:  # a network may do anything that a graph cannot hold
            self._is_on = False
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if reason not in _SAID:
            _SAID.add(reason)
            logging.getLogger(__name__).warning(
                "CUDA graphs are not used (%s): slower, with the same result; %s=0 never tries",
                *(reason, SWITCH),
            )
        return None


class _Recorded:
    """The passes of one number of rows, forward and back to the images."""

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        x: Tensor,
        pool: Any,
        stream: Any,
        turn: list[int],
    ) -> None:
        self.turn = turn
        self.x = x.clone(memory_format=torch.channels_last).requires_grad_()
        self.into = torch.empty(0)
        with torch.enable_grad():
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # what is chosen or allocated at first calls
                for _ in range(3):
                    logits = function(self.x)
                    torch.autograd.grad(logits.sum(), self.x)
            torch.cuda.current_stream().wait_stream(stream)
            self._forward, self.logits = capture(lambda: function(self.x), pool, stream)
            self.into = torch.zeros_like(self.logits)
            self._backward, (self.gradient,) = capture(
                lambda: torch.autograd.grad(self.logits, self.x, self.into), pool, stream
            )
        self.logits = self.logits.detach()

    @torch.no_grad()
    def forward(self, x: Tensor) -> int:
        """Write the logits of x; return the turn until which `backward` may follow."""
        self.x.copy_(x)
        self._forward()
        self.turn[0] += 1
        return self.turn[0]

    def backward(self, gradient: Tensor) -> None:
        self.into.copy_(gradient)
        self._backward()
        self.turn[0] += 1  # which overwrote activations


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, recorded: _Recorded) -> Tensor:
        ctx.save_for_backward(x)
        ctx.recorded, ctx.turn = recorded, recorded.forward(x)
        return recorded.logits.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        recorded: _Recorded = ctx.recorded
        (x,) = ctx.saved_tensors
        if recorded.turn[0] != ctx.turn:  # another pass was made since
            recorded.forward(x)
        recorded.backward(gradient)
        return recorded.gradient.clone(), None
