"""CUDA graphs without a GPU: a tape of the recorded operations, replayed on the same tensors.

Like a graph, a replay reads and writes the memory of the recording, whatever it holds by then; what
was recorded has no values before the first replay; and nothing may be read back while recording.
Unlike a graph, it notices tensors that moved or changed their form since.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from tests.pretended_cuda import Log

READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero")


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _place(t: Tensor) -> tuple[Any, ...]:
    return t.data_ptr(), t.shape, t.stride(), t.dtype


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """In place of torch.cuda.CUDAGraph."""

    def __init__(self, log: Log) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.log = log
        self.calls: list[tuple[Any, ...]] = []
        self.n_replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.name().partition(".")[0] in READS:
            raise RuntimeError("operation not permitted when stream is capturing")
        given = _tensors((args, kwargs))
        out = func(*args, **kwargs)
        storages = {t.untyped_storage().data_ptr() for t in given}
        new = [t for t in _tensors(out) if t.untyped_storage().data_ptr() not in storages]
        if new or func._schema.is_mutable:
            places = [(t, _place(t)) for t in given]
            self.calls.append((func, args, kwargs, new, places))
        return out

    @torch.no_grad()
    def end(self) -> None:
        for *_, new, _ in self.calls:
            for t in new:
                if t.is_floating_point():
                    with _unsafe_preserve_version_counter(t):
                        t.fill_(torch.nan)

    @torch.no_grad()
    def replay(self) -> None:
        self.n_replays += 1
        launches = self.log.launches
        with self.log.silence():
            self._launch()
        self.log.launches = launches + 1

    def _launch(self) -> None:
        for func, args, kwargs, new, places in self.calls:
            for tensor, place in places:
                assert _place(tensor) == place, f"{func.name()}: a tensor of the graph changed"
            found = _tensors(func(*args, **kwargs)) if new else [func(*args, **kwargs)]
            for old, now in zip(new, found, strict=bool(new)):
                assert (old.shape, old.dtype) == (now.shape, now.dtype)
                old.detach().copy_(now.detach())


def changes(log: Log) -> dict[str, Any]:
    """Return what takes the place of graphs and streams in torch.cuda."""

    def made() -> Tape:
        log.tapes.append(Tape(log))
        return log.tapes[-1]

    current = [1]  # the number of the current device: another one, unless told otherwise

    @contextmanager
    def on(device: torch.device) -> Iterator[None]:
        before, current[0] = current[0], device.index
        try:
            yield
        finally:
            current[0] = before

    @contextmanager
    def recording(tape: Tape, pool: Any = None, stream: Any = None) -> Iterator[None]:
        assert current[0] == 0, "kernels of the device are not recorded"
        assert stream is not None, "torch's own is of the device that recorded first"
        assert stream.device_index == 0
        with tape:
            yield
        tape.end()

    def stream(device: torch.device | None = None) -> Any:
        return mock.Mock(device_index=current[0] if device is None else device.index)

    return {
        "CUDAGraph": made,
        "device": on,
        "graph": recording,
        "graph_pool_handle": lambda: object(),
        "set_device": lambda device: None,
        "Stream": stream,
        "stream": lambda of: nullcontext(),
        "current_stream": stream,
        "mem_get_info": lambda device=None: (60 * 2**30, 80 * 2**30),
    }
