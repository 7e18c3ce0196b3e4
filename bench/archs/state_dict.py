"""Load a state dict into a network, matching keys that differ by prefixes and wrappers."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from bench.archs.weights import NO_TENSORS, first_names, is_lazy, last
from bench.errors import CheckpointError

SEGMENTS = ("module", "_orig_mod")
"""Key segments that DataParallel and torch.compile add wherever they wrap a module."""
UNUSED = ("sub_block1.", "attacker.")
"""A group that TRADES' WideResNet never calls; the second copy in files of `robustness`."""
BOOKKEEPING = (
    *("n_averaged", "num_updates", "decay", "initted", "step"),  # of averaged weights
    *("total_ops", "total_params"),  # of the profiler thop
    "num_batches_tracked",  # of BatchNorm, which counts and computes nothing with it here
)
"""Last segments of keys that do not affect the output."""
STATISTICS = ("running_mean", "running_var", "weight_u", "weight_v")
"""Last segments of buffers that training changes; other buffers are constants."""


def load_state(
    model: nn.Module, state: Mapping[str, Any], *, constants: Collection[str] = ()
) -> tuple[str, ...]:
    """Copy the state dict `state` into `model`; return missing `constants`.

    First tries torch's strict loading. Otherwise keys are compared without the segments that
    DataParallel and torch.compile add anywhere, and without a prefix common to all keys of the file
    or the model. TRADES' dead `sub_block1`, the second copy in the attacker of the package
    `robustness`, and the bookkeeping of common tools are ignored. constants: names of the model
    that the file may lack; they keep their values. Every other key must match in name and shape;
    otherwise raises CheckpointError and leaves the model unchanged.
    """
    given = {str(name): value for name, value in state.items()}
    if _torch_loads(model, given):
        return ()
    own = model.state_dict()
    learned = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    optional = [name for name in own if name in constants or last(name) in BOOKKEEPING]
    optional = [name for name in optional if name not in learned]
    pairs = _matched(own, given, optional)
    if pairs is None:
        raise _misfit(model, own, given, optional)
    # strict=False for what may be left out: _matched asked for everything else
    model.load_state_dict({name: given[key] for name, key in pairs.items()}, strict=False)
    return tuple(name for name in constants if name not in pairs and last(name) not in BOOKKEEPING)


def constants_of(model: nn.Module) -> tuple[str, ...]:
    """Return names in the state dict that training does not change, such as a normalisation."""
    parameters, moving = dict(model.named_parameters()), (*STATISTICS, *NO_TENSORS)
    names = (name for name in model.state_dict() if name not in parameters)
    return tuple(name for name in names if last(name) not in moving)


def _torch_loads(model: nn.Module, given: Mapping[str, Any]) -> bool:
    """Load by torch's strict rules, or leave the model unchanged."""
    before = {
        name: value.clone() if isinstance(value, Tensor) else value
        for name, value in model.state_dict().items()
        if not is_lazy(value)
    }
    try:
        model.load_state_dict(dict(given), strict=True)
    except Exception:  # reported below, shorter, if nothing else fits
        model.load_state_dict(before, strict=False)
        return False
    return True


def _matched(
    own: Mapping[str, Any], given: Mapping[str, Any], may_lack: Collection[str]
) -> dict[str, str] | None:
    """Model name -> file key, or None if they do not fit; the shortest fitting prefixes win."""
    ours, theirs = _plain_names(own), _plain_names(given)
    required = [name for name, full in ours.items() if full not in may_lack]
    for outer in _prefixes(required, len(required)):
        for inner in _prefixes(theirs, len(required)):
            below = {name.removeprefix(outer): name for name in ours if name.startswith(outer)}
            pairs = {name: inner + rest for rest, name in below.items() if inner + rest in theirs}
            if not all(_fits(own[ours[n]], given[theirs[key]]) for n, key in pairs.items()):
                continue
            left = [key.removeprefix(inner) for key in theirs if key not in {*pairs.values()}]
            if all(name in pairs for name in required) and not any(_counts(k, ours) for k in left):
                return {ours[name]: theirs[key] for name, key in pairs.items()}
    return None


def _plain_names(names: Iterable[str]) -> dict[str, str]:
    """Names without SEGMENTS -> names; unchanged if two would collide."""
    full = list(names)
    plain = {".".join(p for p in name.split(".") if p not in SEGMENTS): name for name in full}
    return plain if len(plain) == len(full) else {name: name for name in full}


def _prefixes(names: Iterable[str], least: int) -> list[str]:
    """Prefixes shared by at least `least` names, the empty one included, shortest first."""
    counts = Counter(
        ".".join(parts[:n]) + "."
        for parts in (name.split(".") for name in names)
        for n in range(1, len(parts))
    )
    return ["", *sorted((p for p, n in counts.items() if n >= max(least, 1)), key=len)]


def _fits(own: Any, value: Any) -> bool:
    if not isinstance(own, Tensor) or not isinstance(value, Tensor):
        return type(own) is type(value)
    return is_lazy(own) or own.shape == value.shape


def _counts(key: str, ours: Collection[str]) -> bool:
    """Whether a key that the model lacks shows that the file belongs to another network."""
    for part in UNUSED:
        if key.startswith(part) and not any(part in name for name in ours):
            return False
    return last(key) not in BOOKKEEPING


def _misfit(
    model: nn.Module, own: Mapping[str, Any], given: Mapping[str, Any], may_lack: Collection[str]
) -> CheckpointError:
    theirs = _bare(given)
    required = {name: value for name, value in own.items() if name not in may_lack} or own
    wanted = {name: own[full] for name, full in _bare(required).items()}
    missing = [name for name in wanted if name not in theirs]
    others = [name for name, full in theirs.items() if name not in wanted and full not in own]
    unexpected = [name for name in others if _counts(name, wanted)]
    misfits = [
        f"{name} (file {_shape(given[theirs[name]])}, model {_shape(tensor)})"
        for name, tensor in wanted.items()
        if name in theirs and not _fits(tensor, given[theirs[name]])
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", misfits))
    faults = [f"{len(names)} {kind}: {first_names(names)}" for kind, names in kinds if names]
    advice = "check the arch, the number of classes and of channels"
    if {*missing, *unexpected} == {"mean", "std"} and not misfits:
        advice = (
            "the file has no normalisation: build without, load, then call set_normalisation"
            if missing
            else "the file has a normalisation: build with mean and std"
        )
    return CheckpointError(
        f"the weights do not fit {type(model).__name__}: {'; '.join(faults)}; {advice}"
    )


def _bare(state: Mapping[str, Any]) -> dict[str, str]:
    """Names without SEGMENTS and the longest prefix that all tensors share -> names."""
    plain = _plain_names(state)
    tensors = [name for name, full in plain.items() if isinstance(state[full], Tensor)]
    prefix = _prefixes(tensors, len(tensors))[-1]
    return {name.removeprefix(prefix): full for name, full in plain.items()}


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
