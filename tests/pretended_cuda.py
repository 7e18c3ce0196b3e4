"""A pretended CUDA device: real numbers on the CPU, with CUDA's rules around them.

Every tensor is an ordinary CPU tensor, and its storage has a tag: "cuda:0", or none. A function
mode answers `.device`, `.to` and `device=` by the tags. A dispatch mode sees every ATen operation,
also those of a backward pass. It

- raises where CUDA would: tensors of both devices in one operation, a generator of the other
  device, `.numpy()` of a tensor on the device, an operation without a CUDA kernel (where torch is a
  CUDA build);
- counts where the host would wait for the device: `.item()`, `nonzero`, boolean indices, copies;
- counts the operations that would launch a kernel.

CUDA graphs are tapes (`tests.pretended_graphs`). It sees no wrong result of a kernel, no dtype that
a kernel lacks, no memory limit and no stream.
0-dim CPU tensors pass everywhere; CUDA refuses some. It relies on internals of torch: `fault` tells
whether they are as they were.
"""

from __future__ import annotations

import copy
import io
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests import pretended_graphs

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
OWN = tuple(str(Path(__file__).parents[1] / part) for part in ("bench", "methods", "tests"))
"""Where a wait is the project's; an environment may lie in the same folder."""
READS = {"_local_scalar_dense": "item", "equal": "equal", "is_nonzero": "bool"}
DYNAMIC = ("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount")
"""Operations whose output's size depends on values."""
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
COPIES = ("copy_", "_to_copy")
FREE = (
    *("detach", "alias", "empty", "empty_like", "empty_strided", "new_empty", "set_", "view"),
    *("lift_fresh", "_local_scalar_dense", "_unsafe_view", "new_empty_strided", "_reshape_alias"),
)
"""Operations that launch no kernel, besides views."""
CHECKED_ON_CPU = ("one_hot", "quantile", "nanquantile")
"""Functions that look at values on a CPU only."""
MADE = ("tensor", "as_tensor", "asarray", "new_tensor")
"""Functions that copy Python's numbers to the device."""
KERNELS = (
    *("CUDA", "CompositeExplicitAutograd", "CompositeImplicitAutograd", "BackendSelect"),
    *("CompositeExplicitAutogradNonFunctional", "ADInplaceOrView"),
)

_plain = torch._C.DisableTorchFunction
_load: Callable[..., Any] = torch.load
_autocast = torch.autocast
_parse_to: Callable[..., Any] = torch._C._nn._parse_to


@dataclass
class Log:
    """What the device has seen since `clear`."""

    waits: Counter[str] = field(default_factory=Counter)
    """What made the host wait, and at which line of the project or of AutoAttack's package."""
    launches: int = 0
    rng_state: Tensor = field(default_factory=lambda: torch.zeros(16, dtype=torch.uint8))
    """Of the device's default generator."""
    tapes: list[pretended_graphs.Tape] = field(default_factory=list)
    """CUDA graphs, in the order in which they were recorded."""
    silent: int = 0

    def clear(self) -> None:
        self.waits.clear()
        self.launches = 0

    @property
    def n_waits(self) -> int:
        return self.waits.total()

    def wait(self, what: str) -> None:
        if not self.silent:
            self.waits[f"{what} {_place()}"] += 1

    @contextmanager
    def silence(self) -> Iterator[None]:
        self.silent += 1
        try:
            yield
        finally:
            self.silent -= 1


def _place() -> str:
    frame = sys._getframe(1)
    while frame is not None and frame.f_back is not None:
        name = frame.f_code.co_filename
        if name != __file__ and ("pyautoattack" in name or name.startswith(OWN)):
            return f"at {'/'.join(Path(name).parts[-2:])}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside the project"


def where(tensor: Tensor) -> torch.device:
    with _plain():
        try:
            device: torch.device = getattr(tensor.untyped_storage(), "_pretended", CPU)
        except (RuntimeError, NotImplementedError):  # it has no storage
            device = CPU
    return device


def put(value: Any, device: torch.device) -> None:
    """Tag the tensors of a nested value."""
    with _plain():
        for tensor in _tensors(value):
            tensor.untyped_storage()._pretended = device  # type: ignore[attr-defined]


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _device(device: Any) -> torch.device:
    found = torch.device(device if device is not None else "cpu")
    return CUDA if found.type == "cuda" else found


@cache
def _has_kernel(name: str) -> bool:
    if torch.version.cuda is None:
        return True
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in KERNELS)


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, log: Log, functions: _Functions) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.log, self.functions = log, functions

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with _plain():
            return self._run(func, args, dict(kwargs or {}))

    def _run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        name = func.name().partition("::")[2].partition(".")[0]
        asked = _device(kwargs.get("device"))
        if asked == CUDA:
            kwargs["device"] = CPU
        inputs = _tensors((args, kwargs))
        on_device = any(where(tensor) == CUDA for tensor in inputs)
        target = CUDA if asked == CUDA or on_device else CPU
        if not inputs and target == CPU:  # of a composite function, which asked a tensor
            target = self.functions.device
        if on_device:
            self._check(func, name, args, inputs)
        if target == CUDA:
            self.log.launches += not (func.is_view or name in FREE)
        known = {tensor.untyped_storage()._cdata for tensor in inputs if _has_storage(tensor)}
        out = func(*args, **kwargs)
        for tensor in _tensors(out):
            if _has_storage(tensor) and tensor.untyped_storage()._cdata not in known:
                put(tensor, target)
        return out

    def _check(self, func: Any, name: str, args: Any, inputs: list[Tensor]) -> None:
        if not _has_kernel(func.name()):
            raise NotImplementedError(f"{func.name()} has no CUDA kernel")
        if name in READS or name in DYNAMIC:
            self.log.wait(READS.get(name, name))
        elif name in INDEXING:
            self._check_index(name, args)
        elif name not in COPIES and any(where(t) == CPU and t.ndim > 0 for t in inputs):
            devices = [f"{tuple(tensor.shape)} {where(tensor)}" for tensor in inputs]
            raise RuntimeError(f"{name}: tensors on cuda:0 and cpu: {', '.join(devices)}")

    def _check_index(self, name: str, args: Any) -> None:
        here = where(args[0])
        for index in (index for index in args[1] if index is not None):
            if here == CPU and where(index) == CUDA:
                raise RuntimeError(f"{name}: an index on cuda:0 of a tensor on the CPU")
            if here != where(index):
                self.log.wait("index from the CPU")
            elif index.dtype in (torch.bool, torch.uint8):
                self.log.wait("boolean index")
        values = args[2] if len(args) > 2 else None
        if isinstance(values, Tensor) and values.ndim > 0 and where(values) != here:
            raise RuntimeError(f"{name}: values on {where(values)}, written to {here}")


def _has_storage(tensor: Tensor) -> bool:
    try:
        tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):
        return False
    return True


_ANSWERS: dict[Any, Callable[[torch.device], Any]] = {
    torch.Tensor.device.__get__: lambda device: device,
    torch.Tensor.is_cuda.__get__: lambda device: device == CUDA,  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: lambda device: device == CPU,  # type: ignore[attr-defined]
    torch.Tensor.get_device: lambda device: 0 if device == CUDA else -1,
}


class _Functions(TorchFunctionMode):
    def __init__(self, log: Log) -> None:
        super().__init__()
        self.log = log
        self.calls: list[torch.device] = []
        """Of the functions that run now, where their tensors are."""

    @property
    def device(self) -> torch.device:
        """Where a factory without tensors puts what it makes, inside the present call."""
        return self.calls[-1] if self.calls else CPU

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name, of = dict(kwargs or {}), getattr(func, "__name__", ""), torch.Tensor
        here = where(args[0]) if args and isinstance(args[0], Tensor) else CPU
        if func in _ANSWERS:
            return _ANSWERS[func](here)
        if func is of.to:
            return self._to(here, *args, **kwargs)
        if func in (of.cpu, of.cuda):
            return self._to(here, args[0], CPU if func is of.cpu else CUDA)
        if func is of.pin_memory:
            return self._pinned(args[0].clone())
        if func in (of.numpy, of.__array__) and here == CUDA:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if func is of.tolist and here == CUDA:
            self.log.wait("tolist")
            with self.log.silence():
                return func(*args, **kwargs)
        if name == "__deepcopy__":
            out = func(*args, **kwargs)
            put((args[0], out), here)  # copying a storage forgets the tag
            return out
        return self._call(func, name, args, kwargs)

    def _call(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        tensors, asked = _tensors((args, kwargs)), kwargs.get("device")
        device = CUDA if any(where(tensor) == CUDA for tensor in tensors) else CPU
        if asked is not None:
            device = _device(asked)
            kwargs["device"] = CPU if device == CUDA else asked
        pinned = kwargs.pop("pin_memory", False)
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != device.type:
            raise RuntimeError(f"{name} on {device} with a generator on {generator.device}")
        is_filled = (  # `x[mask] = number` is one masked_fill
            name == "__setitem__"
            and isinstance(args[1], Tensor)
            and not isinstance(args[2], Tensor)
        )
        self.calls.append(device)
        try:
            quiet = is_filled or name in CHECKED_ON_CPU
            with self.log.silence() if quiet else nullcontext():
                out = func(*args, **kwargs)
        finally:
            self.calls.pop()
        if (asked is not None and not tensors) or (name in MADE and device == CUDA):
            put(out, device)
        if name in MADE and device == CUDA and (name == "new_tensor" or not tensors):
            self.log.wait("numbers to the device")
        if name == "copy_" and isinstance(args[1], Tensor):
            self._copied(where(args[0]), args[1], kwargs.get("non_blocking", False))
        return self._pinned(out) if pinned else out

    def _pinned(self, tensor: Tensor) -> Tensor:
        with _plain():
            tensor.untyped_storage()._pinned = True  # type: ignore[attr-defined]
        return tensor

    def _copied(self, there: torch.device, source: Tensor, non_blocking: bool) -> None:
        here = where(source)
        with _plain():
            is_pinned = getattr(source.untyped_storage(), "_pinned", False)
        if here != there and not (non_blocking and (is_pinned or here == CUDA)):
            self.log.wait(f"copy to {there.type}")

    def _to(self, here: torch.device, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        other = args[0] if args else kwargs.pop("other", None)
        if isinstance(other, Tensor):
            args = (where(other), other.dtype, *args[1:])
        is_copy = kwargs.pop("copy", False)
        device, dtype, non_blocking, layout = _parse_to(*args, **kwargs)
        there = here if device is None else _device(device)
        changed: dict[str, Any] = {"dtype": dtype, "memory_format": layout}
        changed = {name: value for name, value in changed.items() if value is not None}
        if there == here and not changed and not is_copy:
            return tensor
        self.calls.append(there)
        try:
            out = tensor.to(copy=is_copy or there != here, **changed)
        finally:
            self.calls.pop()
        if there != here:
            self._copied(there, tensor, non_blocking)
            put(out, there)
        return out


class _PretendedGenerator(torch.Generator):
    there: torch.device

    def __new__(cls, device: Any = "cpu") -> _PretendedGenerator:
        generator: _PretendedGenerator = super().__new__(cls, device="cpu")  # type: ignore[call-arg]
        generator.there = _device(device)
        return generator

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.there


class _Properties:
    name, major, minor, total_memory = "Pretended GPU", 9, 0, 80 * 2**30


@contextmanager
def pretended() -> Iterator[Log]:
    """Inside, torch has one CUDA device."""
    log = Log()
    functions = _Functions(log)
    engine = torch.autograd._engine_run_backward  # type: ignore[attr-defined]
    group = torch._C._group_tensors_by_device_and_dtype

    def backward(*args: Any, **kwargs: Any) -> Any:
        functions.calls.append(CUDA if any(where(t) == CUDA for t in _tensors(args)) else CPU)
        try:
            with functions:  # backward functions of our own ask for devices too
                return engine(*args, **kwargs)
        finally:
            functions.calls.pop()

    def load(*args: Any, map_location: Any = None, **kwargs: Any) -> Any:
        found = _load(*args, map_location="cpu", **kwargs)
        put(found, _device(map_location))
        return found

    def grouped(lists: Any, with_indices: bool = False) -> Any:  # it reads the real device
        found = group(lists, with_indices)
        return {
            (where(next(t for t in values[0][0] if t is not None)), dtype): values
            for (_, dtype), values in found.items()
        }

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return _autocast("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    def seed(value: int) -> None:
        log.rng_state = torch.full_like(log.rng_state, value % 251)

    def set_rng_state(state: Tensor, device: Any = None) -> None:
        log.rng_state = state

    def synchronize(device: Any = None) -> None:
        log.wait("synchronize")

    changes: list[tuple[Any, str, Any]] = [
        (torch._C, "_group_tensors_by_device_and_dtype", grouped),
        (torch.autograd, "_engine_run_backward", backward),
        (torch, "Generator", _PretendedGenerator),
        (torch, "load", load),
        (torch, "autocast", autocast),
        (torch.cuda, "_lazy_init", lambda: None),
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "device_count", lambda: 1),
        (torch.cuda, "current_device", lambda: 0),
        (torch.cuda, "get_device_name", lambda device=None: _Properties.name),
        (torch.cuda, "get_device_capability", lambda device=None: (9, 0)),
        (torch.cuda, "get_device_properties", lambda device=None: _Properties),
        (torch.cuda, "synchronize", synchronize),
        (torch.accelerator, "synchronize", synchronize),
        (torch.cuda, "get_rng_state", lambda device=None: log.rng_state.clone()),
        (torch.cuda, "set_rng_state", set_rng_state),
        (torch.cuda, "manual_seed", seed),
        (torch.cuda, "manual_seed_all", seed),
        *((torch.cuda, name, value) for name, value in pretended_graphs.changes(log).items()),
        (torch.cuda, "reset_peak_memory_stats", lambda device=None: None),
        (torch.cuda, "max_memory_allocated", lambda device=None: 0),
    ]
    with ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(_Operations(log, functions))
        stack.enter_context(functions)
        yield log


@cache
def fault() -> str:
    """Return what of torch no longer is as this module expects it; empty if nothing."""
    try:
        with pretended() as log:
            _try(log)
    except Exception as error:
        return f"torch {torch.__version__}: {type(error).__name__}: {error}"
    return ""


def _try(log: Log) -> None:
    x = torch.rand(2, 3, 4, 4).to("cuda").requires_grad_()
    layer = torch.nn.Conv2d(3, 2, 3).to("cuda")
    sgd = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, fused=True)
    log.clear()
    torch.autograd.backward(layer(x).square().mean())
    torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    sgd.step()
    assert not log.waits, log.waits
    assert log.launches > 5, "operations are not seen"
    copied = copy.deepcopy(layer)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    loaded = torch.load(io.BytesIO(file.getvalue()), map_location="cuda")
    for tensor in (x.grad, layer.weight.grad, copied.weight, loaded["weight"], x + 1):
        assert tensor is not None
        assert tensor.is_cuda, "a device is not that of the tag"
    assert x.detach().cpu().device == CPU
    float(x.detach().sum())
    assert log.n_waits == 2, log.waits
    try:
        layer(torch.rand(2, 3, 4, 4))
    except RuntimeError:
        return
    raise AssertionError("devices are mixed unseen")
