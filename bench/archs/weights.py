"""Weights in and out: our own files, and the checkpoints that public repositories share."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from bench.errors import CheckpointError
from bench.storage import write_atomic

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which training scripts put the state dict beside an epoch or an optimiser."""
PREFIXES = ("module.", "model.", "attacker.", "_orig_mod.")
"""Added to every key by DataParallel, wrappers that normalise or attack, and torch.compile."""
ATTACKER = "attacker."
"""Begins the keys of a network's second copy in files of the package `robustness`."""
DEAD_KEYS = "sub_block1."
"""Of a group that TRADES' WideResNet builds and saves but never calls."""

_TORCH_FILE = (b"PK\x03\x04", b"\x80")  # torch.save since 1.6, and before
_MAX_NESTING = 4  # a hostile pickle can hold itself
_N_NAMED = 3


def load_state(
    model: nn.Module, state: Mapping[str, Any], *, constants: Collection[str] = ()
) -> None:
    """Copy `state`, a state dict or a wrapper around one, into `model`, in place.

    Prefixes that every key shares are dropped on both sides, and so are TRADES' dead `sub_block1`
    and the second copy that the package `robustness` keeps in its attacker. `constants`: names of
    the model that a file may leave out; they stay as they are. Every other key must be there,
    with the model's shape, and no more: else CheckpointError, and the model is as it was.
    """
    given, own = _bare(_unwrap(state)), model.state_dict()
    if not any(ATTACKER in name for name in own):
        given = _without_copy(given)
    absent = {name for name in constants if name not in given}
    own = {name: tensor for name, tensor in own.items() if name not in absent}
    own_prefix = _shared_prefix(own)
    wanted = {name[len(own_prefix) :]: tensor for name, tensor in own.items()}
    if not any(name.startswith(DEAD_KEYS) for name in wanted):
        given = {name: value for name, value in given.items() if not name.startswith(DEAD_KEYS)}
    _require_fit(model, wanted, given)
    model.load_state_dict(
        {own_prefix + name: value for name, value in given.items()}, strict=not absent
    )


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """The tensors in a file, on the CPU, out of their wrapper if there is one; runs no code.

    `.safetensors` by safetensors; anything else as a file of torch.save that holds tensors alone.
    Raises CheckpointError for a file that is missing, damaged, or would need code to be read.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path, device="cpu")
        with path.open("rb") as file:
            head = file.read(4)
    except SafetensorError as error:
        raise _damaged(path, error) from None
    except OSError as error:
        raise CheckpointError(f"cannot read weights {path}: {error.strerror or error}") from None
    if not head.startswith(_TORCH_FILE):
        raise _damaged(path)
    return _tensors(path, _read_torch(path))


def save_weights(model: nn.Module, path: Path | str) -> None:
    """Write the model's state dict as safetensors, whole or not at all.

    Raises RecordError where the disk is full or the folder cannot be written.
    """
    write_atomic(Path(path), network_bytes(model))


def network_bytes(model: nn.Module) -> bytes:
    """The model's state dict as the content of a safetensors file, which refuses shared memory."""
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    return safetensors.torch.save(tensors)


def _unwrap(state: Mapping[Any, Any]) -> dict[str, Any]:
    for _ in range(_MAX_NESTING):
        inner = next((state[k] for k in WRAPPERS if isinstance(state.get(k), Mapping)), None)
        if inner is None:
            break
        state = inner
    return {str(name): value for name, value in state.items()}


def _bare(state: Mapping[str, Any]) -> dict[str, Any]:
    """Without the prefixes that every tensor shares; what has no such prefix keeps its name."""
    prefix = _shared_prefix(name for name, value in state.items() if isinstance(value, Tensor))
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _without_copy(state: dict[str, Any]) -> dict[str, Any]:
    """One network where the file has it twice, once in an attacker."""
    rest = {name: value for name, value in state.items() if not name.startswith(ATTACKER)}
    return _bare(rest) if rest and len(rest) < len(state) else state


def _shared_prefix(names: Iterable[str]) -> str:
    """The longest run of known prefixes with which every name begins."""
    names = list(names)
    shared = ""
    while names:
        step = next((p for p in PREFIXES if all(n.startswith(shared + p) for n in names)), None)
        if step is None:
            break
        shared += step
    return shared


def _require_fit(model: nn.Module, wanted: Mapping[str, Tensor], given: Mapping[str, Any]) -> None:
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    misfits = [
        f"{name} (file {_shape(given[name])}, model {_shape(tensor)})"
        for name, tensor in wanted.items()
        if name in given and _shape(given[name]) != _shape(tensor)
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", misfits))
    faults = [f"{len(names)} {kind}: {_first(names)}" for kind, names in kinds if names]
    if not faults:
        return
    advice = "check the arch, the number of classes and of channels"
    if {*missing, *unexpected} == {"mean", "std"} and not misfits:
        advice = (
            "the file has no normalisation: build without, load, then call set_normalisation"
            if missing
            else "the file has a normalisation: build with mean and std"
        )
    raise CheckpointError(
        f"the weights do not fit {type(model).__name__}: {'; '.join(faults)}; {advice}"
    )


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _first(names: list[str]) -> str:
    shown = ", ".join(_one_line(name) for name in names[:_N_NAMED])
    return shown + (", ..." if len(names) > _N_NAMED else "")


def _read_torch(path: Path) -> Any:
    try:
        # Of an unusual pickle torch warns before it refuses; the error below says it.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            return torch.load(path, map_location="cpu", weights_only=True)
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


def _tensors(path: Path, content: Any) -> dict[str, Tensor]:
    """The state dict in what torch.load returned; a value that is not a tensor is an error."""
    state = _unwrap(content) if isinstance(content, Mapping) else {}
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        found = f"holds {_first(others)}" if others else "holds no named tensors"
        raise CheckpointError(f"{path} {found}: it is no state dict; save model.state_dict() alone")
    return state


def _damaged(path: Path, reason: object = "not a file of torch.save") -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged, cut short or no file of weights ({_one_line(reason)}): "
        "fetch or write it again"
    )


def _one_line(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= 80 else line[:77] + "..."
