"""Read and write weights: our own files, and checkpoints of public repositories."""

import io
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from bench.errors import CheckpointError, one_line, unknown_name
from bench.machine import on_cpu
from bench.storage import sha256, write_atomic

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which training scripts store the state dict next to an epoch or optimiser."""
AVERAGED = re.compile(r"(^|[_.])(ema|swa|avg|averaged?)([_.]|$)")
"""Matches keys of weights averaged over training, which papers report."""
NO_TENSORS = ("_extra_state", "_packed_params", "dtype")
"""Last segments of keys under which torch itself stores something other than a tensor."""

_TORCH_FILE = (b"PK\x03\x04", b"\x80")  # torch.save since 1.6, and before
_MAX_NESTING = 4  # a hostile pickle can hold itself
_N_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A state dict read from a file."""

    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """Return the tensors of a file, on the CPU, without their wrapper; runs no code.

    The format is recognised by content, not name: safetensors, or torch.save of tensors only.
    Raises CheckpointError for a file that is missing, damaged, or needs code to be read.
    """
    return open_weights(path).state


def open_weights(path: Path | str, key: str | None = None) -> Weights:
    """Like `read_weights`, with notes on the choice.

    key: which of several state dicts in the file; None prefers averaged weights.
    """
    content = _content(Path(path))
    held = dict(_state_dicts(content))
    if key is not None:
        if not held:
            raise CheckpointError(f"{path} holds one state dict without a key: leave :{key} out")
        if key not in held:
            raise unknown_name(f"key of {path}", key, held)
        return Weights(state=held[key])
    taken = _preferred(held)
    if taken is None:
        return Weights(state=_tensors(path, content))
    notes: tuple[str, ...] = ()
    if others := [name for name in held if name != taken]:
        kind = "averaged over the training" if _is_averaged(taken) else "taken"
        notes = (
            f"{path} holds {', '.join(held)}: {taken} was loaded ({kind}); "
            f"--weights {path}:{others[0]} takes the other",
        )
    return Weights(state=held[taken], notes=notes)


def _content(path: Path) -> Mapping[Any, Any]:
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if head[8:] == b"{":
            content: Any = safetensors.torch.load_file(path, device="cpu")
        elif head.startswith(_TORCH_FILE):
            content = _read_torch(path)
        else:
            raise _damaged(path, "neither of safetensors nor of torch.save")
    except SafetensorError as error:
        raise _damaged(path, error) from None
    except OSError as error:
        raise CheckpointError(f"cannot read weights {path}: {error.strerror or error}") from None
    return content if isinstance(content, Mapping) else {}


def save_weights(model: nn.Module, path: Path | str) -> None:
    write_atomic(Path(path), network_bytes(model))


def network_bytes(model: nn.Module) -> bytes:
    """Return the model's state dict as a safetensors file, which refuses shared memory."""
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in on_cpu(model.state_dict()).items()
    }
    return safetensors.torch.save(tensors)


def state_sha256(model: nn.Module) -> str:
    """Return the hex digest of the state dict: that of `network_bytes` if all tensors are dense.

    Raises CheckpointError if a parameter has no values yet.
    """
    state: dict[str, Any] = model.state_dict()
    for name, value in state.items():
        if is_lazy(value) or (isinstance(value, Tensor) and value.is_meta):
            raise CheckpointError(
                f"{name} of {type(model).__name__} has no values yet: call the network once on an "
                "image before it is returned, or give its weights with --weights"
            )
    if all(_is_dense(value) for value in state.values()):
        return sha256(network_bytes(model))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return sha256(buffer.getvalue())


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def _state_dicts(
    content: Mapping[Any, Any], path: str = "", depth: int = 0
) -> Iterator[tuple[str, dict[str, Any]]]:
    """State dicts below a mapping, except optimisers', by their keys joined with dots."""
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Mapping) or "optim" in key.lower():
            continue
        if value and all(_belongs(str(name), item) for name, item in value.items()):
            yield path + key, {str(name): item for name, item in value.items()}
        elif depth < _MAX_NESTING:
            yield from _state_dicts(value, f"{path}{key}.", depth + 1)


def _belongs(name: str, value: Any) -> bool:
    return isinstance(value, Tensor) or last(name) in NO_TENSORS


def _preferred(held: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The key of averaged weights, else a usual name, else the only key, else None.

    An "averaged" mapping with fewer tensors is not a whole network: a mean loss, for example.
    """
    usual = [key for name in WRAPPERS for key in held if last(key) == name]
    least = len(held[usual[0]]) if usual else 0
    averaged = [key for key in held if _is_averaged(key) and len(held[key]) >= least]
    return next(iter([*averaged, *usual, *(held if len(held) == 1 else [])]), None)


def is_lazy(value: Any) -> bool:
    return isinstance(value, UninitializedParameter | UninitializedBuffer)


def _is_averaged(key: str) -> bool:
    return AVERAGED.search(key.lower()) is not None


def last(name: str) -> str:
    return name.rpartition(".")[2]


def first_names(names: list[str]) -> str:
    shown = ", ".join(one_line(name, 80) for name in names[:_N_NAMED])
    return shown + (", ..." if len(names) > _N_NAMED else "")


def _read_torch(path: Path) -> Any:
    try:
        # torch warns about an unusual pickle before refusing it
        with (
            warnings.catch_warnings(action="ignore", category=UserWarning),
            path.open("rb") as file,  # torch.load judges a path by its suffix
        ):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needs = re.search(r"GLOBAL ([\w.]{1,80})", str(error))
        reason = f" (it asks for {needs[1]})" if needs else ""
        raise CheckpointError(
            f"{path} is refused: it holds more than tensors{reason}, and reading that could run "
            "code. If you trust its source, load it there and save model.state_dict() with "
            "safetensors.torch.save_file"
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise _damaged(path, error) from None


def _tensors(path: Path | str, content: Mapping[Any, Any]) -> dict[str, Tensor]:
    state = {str(name): value for name, value in content.items()}
    others = [name for name, value in state.items() if not _belongs(name, value)]
    if others or not state:
        fault = f"holds {first_names(others)}" if others else "holds no named tensors"
        raise CheckpointError(
            f"{path} {fault}: it is no state dict; save model.state_dict() alone, or name one of "
            "several with --weights FILE:KEY"
        )
    return state


def _damaged(path: Path, reason: object) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged, cut short or no file of weights ({one_line(str(reason), 80)}): "
        "fetch or write it again"
    )
