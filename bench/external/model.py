"""Load the model that --model names, for images in [0, 1], with the identity of its record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.archs.arch import per_channel
from bench.archs.state_dict import load_state
from bench.archs.weights import last, open_weights, state_sha256
from bench.attacks.networks import MIN_ROWS, BatchedModel
from bench.data import Dataset
from bench.errors import CheckpointError, ConfigError
from bench.evaluation.inputs import wrapped_model
from bench.evaluation.model_checks import as_option, expects_normalised, inspect_model
from bench.evaluation.prediction import evaluating, is_right
from bench.external.file import FORM, from_file
from bench.external.zoos import (
    BuiltNetwork,
    Normalisation,
    from_robustbench,
    from_timm,
    from_torchvision,
)
from bench.records.spec import CHUNK, ModelSpec

ZOO_LOADERS = {
    "robustbench": from_robustbench,
    "torchvision": from_torchvision,
    "timm": from_timm,
}
PAIRS = (("new_mean", "new_std"), ("mean", "std"), ("mu", "sigma"))
"""Last parts of the keys that a normalisation is saved under; first those of `robustness`."""
IDENTITY = "--mean 0,0,0 --std 1,1,1"


@dataclass(frozen=True, kw_only=True)
class Named:
    """A model as named on the command line."""

    model: str
    """FILE.py:FACTORY, robustbench:NAME, torchvision:NAME or timm:NAME."""
    weights: Path | None = None
    """A file, or FILE:KEY if it holds several; None for the factory's own weights, or the
    package's, which are downloaded."""
    mean: str | None = None
    """Normalisation in front of it: comma-separated numbers, one per channel."""
    std: str | None = None


@dataclass(frozen=True)
class ExternalModel:
    """A network with the specification of its record."""

    network: nn.Module
    spec: ModelSpec
    notes: tuple[str, ...] = ()
    """Choices and changes that the user should know."""


def load_external(named: Named, dataset: Dataset, device: torch.device) -> ExternalModel:
    """Load the network and its weights, on `device`; raises ConfigError or CheckpointError.

    It is in eval mode, unless a factory with its own weights left it in train mode, which the
    evaluation notes.
    """
    notes = list[str]()
    normalisation = _parse_normalisation(named.mean, named.std, dataset.test.shape[2])
    given = None if named.weights is None else open_weights(*_file_and_key(named.weights))
    built = _build(named.model, dataset, pretrained=given is None)
    network = built.network
    if given is not None:
        state = _without_normalisation(given.state, network, given=normalisation is not None)
        notes += given.notes
        try:
            absent = load_state(network, state, constants=built.constants)
        except CheckpointError as error:
            raise CheckpointError("; ".join([str(error), *given.notes])) from None
        if absent:
            notes.append(f"{named.weights} lacks {', '.join(absent)}: the network's own stay")
    normalisation = normalisation or built.normalisation
    if normalisation is not None:
        network = Normalised(network, *normalisation)
    spec = ModelSpec(
        model=named.model,
        weights_sha256=state_sha256(network),
        source_sha256=built.source_sha256,
        num_classes=dataset.num_classes,
        dataset=dataset.name,
        mean=normalisation and normalisation[0],
        std=normalisation and normalisation[1],
    )
    network, changed = wrapped_model(network, named.model)
    if given is not None or built.source_sha256 is None:
        network.train(False)  # not eval(): a model's own train() may do something else
    return ExternalModel(network.to(device), spec, (*notes, *changed))


def self_check(model: nn.Module, x: Tensor, y: Tensor) -> tuple[list[str], int]:
    """Check the model's output on the first images; return lines to print, and its class count.

    x: (n, C, H, W) in [0, 1]; y: (n,). Raises ConfigError if the output cannot be logits of these
    labels.
    """
    x, y = x[:CHUNK], y[:CHUNK]
    notes = inspect_model(model, x, y, MIN_ROWS)
    with evaluating(model), torch.no_grad():
        logits = BatchedModel(model, MIN_ROWS)(x)
    right = is_right(logits, y)
    notes += expects_normalised(model, x, y, MIN_ROWS, right)
    n_correct, n_classes = int(right.sum()), logits.shape[1]
    head = (
        f"self-check on the first {len(y)} test images: {n_correct} right without an attack "
        f"({100 * n_correct / len(y):.1f}%), {n_classes} classes, "
        f"{sum(p.numel() for p in model.parameters()):,} parameters"
    )
    warnings = [f"  warning: {text}" for text in notes] or ["  no warnings"]
    return [head, *warnings], n_classes


def _file_and_key(weights: Path) -> tuple[Path, str | None]:
    if weights.is_file():
        return weights, None
    file, colon, key = str(weights).rpartition(":")
    if colon and Path(file).is_file():
        return Path(file), key
    raise CheckpointError(f"weights {weights} do not exist; give a file with --weights")


def _build(model: str, dataset: Dataset, *, pretrained: bool) -> BuiltNetwork:
    source, colon, name = model.partition(":")
    if colon and source in ZOO_LOADERS:
        return ZOO_LOADERS[source](name, dataset, pretrained=pretrained)
    if ".py" not in model:
        forms = ", ".join(f"{known}:NAME" for known in ZOO_LOADERS)
        raise ConfigError(f"--model {model}: write {FORM}, {forms}")
    return from_file(model, dataset, pretrained=pretrained)


class Normalised(nn.Module):
    """`network` on (x - mean) / std. Images (B, C, H, W) in [0, 1]; logits (B, K)."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", per_channel("mean", mean, len(mean)))
        self.register_buffer("std", per_channel("std", std, len(mean), positive=True))
        self.training = network.training

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


def _parse_normalisation(
    mean: str | None, std: str | None, n_channels: int
) -> Normalisation | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise ConfigError("--mean and --std go together: give both or neither")

    def numbers(name: str, text: str) -> tuple[float, ...]:
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            raise ConfigError(
                f"{name} {text}: write one number per channel, such as 0.4914,0.4822,0.4465"
            ) from None
        per_channel(name, values, n_channels, positive=name == "--std")  # raises
        return values

    return numbers("--mean", mean), numbers("--std", std)


def _without_normalisation(
    state: Mapping[str, Tensor], network: nn.Module, *, given: bool
) -> dict[str, Tensor]:
    """Drop a normalisation from a state dict if the network has no place for it.

    given: whether --mean and --std are set; if not, a CheckpointError names the file's values,
    since only the user knows whether the network normalises by itself.
    """
    own = {last(name) for name in network.state_dict()}
    for pair in PAIRS:
        present = {last(name): t for name, t in state.items() if last(name) in pair}
        if own.intersection(pair) or len(present) != len(pair):
            continue
        if not given:
            mean, std = (as_option(present[end]) for end in pair)
            raise CheckpointError(
                f"the weights come with a normalisation: give --mean {mean} --std {std}, or "
                f"{IDENTITY} if the network normalises by itself"
            )
        state = {name: tensor for name, tensor in state.items() if last(name) not in pair}
    return dict(state)
