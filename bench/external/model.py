"""Load the model that --model names, for images in [0, 1], with the identity of its record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.archs.fitting import load_state
from bench.archs.weights import open_weights, state_sha256
from bench.attacks.blocks import MIN_ROWS, Blocked
from bench.data import Dataset
from bench.errors import CheckpointError, ConfigError
from bench.evaluation.inputs import wrapped_model
from bench.evaluation.model_checks import expects_normalised, inspect_model
from bench.evaluation.prediction import evaluating, is_right
from bench.external.file import FORM, from_file
from bench.external.normalisation import (
    Normalised,
    parse_normalisation,
    without_normalisation,
)
from bench.external.zoos import BuiltNetwork, from_robustbench, from_timm, from_torchvision
from bench.spec import CHUNK, ModelSpec

ZOO_LOADERS = {
    "robustbench": from_robustbench,
    "torchvision": from_torchvision,
    "timm": from_timm,
}


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
    normalisation = parse_normalisation(named.mean, named.std, dataset.test.shape[2])
    given = None if named.weights is None else open_weights(*_file_and_key(named.weights))
    built = _build(named.model, dataset, pretrained=given is None)
    network = built.network
    if given is not None:
        state = without_normalisation(given.state, network, given=normalisation is not None)
        notes += given.notes
        try:
            absent = load_state(network, state, constants=built.constants)
        except CheckpointError as error:
            raise CheckpointError("; ".join([str(error), *given.notes])) from None
        if absent:
            notes.append(f"{named.weights} lacks {', '.join(absent)}: the network's own stay")
    if normalisation is None and built.mean is not None and built.std is not None:
        normalisation = built.mean, built.std
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
        logits = Blocked(model, MIN_ROWS)(x)
    right = is_right(logits, y)
    notes += expects_normalised(model, x, y, MIN_ROWS, right)
    n_correct, n_classes = int(right.sum()), logits.shape[1]
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    head = (
        f"self-check on the first {len(y)} test images: {n_correct} right without an attack "
        f"({100 * n_correct / len(y):.1f}%), {n_classes} classes, {n_parameters:,} parameters"
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
