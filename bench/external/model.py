"""From what --model names to a network that takes images in [0, 1], and its record's identity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bench.archs.weights import load_state, network_bytes, read_weights
from bench.data import Dataset
from bench.errors import CheckpointError, ConfigError
from bench.external.file import FORM, from_file
from bench.external.hub import from_timm, from_torchvision
from bench.external.normalisation import (
    Normalisation,
    Normalised,
    parse_normalisation,
    without_normalisation,
)
from bench.external.robustbench import from_robustbench
from bench.external.source import Built
from bench.spec import ModelSpec
from bench.storage import sha256

SOURCES = {
    "robustbench": from_robustbench,
    "torchvision": from_torchvision,
    "timm": from_timm,
}


@dataclass(frozen=True, kw_only=True)
class Named:
    """A model as a user names it."""

    model: str
    """FILE.py:FACTORY, or robustbench:, torchvision: or timm: and a name."""
    weights: Path | None = None
    """A file; None for the factory's own weights, or the package's, which are downloaded."""
    mean: str | None = None
    """Of a normalisation in front of it: numbers with commas, a channel each."""
    std: str | None = None

    def normalisation(self, n_channels: int) -> Normalisation | None:
        """The values of `mean` and `std`; raises ConfigError where they are unusable."""
        return parse_normalisation(self.mean, self.std, n_channels)


@dataclass(frozen=True)
class ExternalModel:
    """A network, and what its record says of it."""

    network: nn.Module
    spec: ModelSpec


def load_external(named: Named, dataset: Dataset, device: torch.device) -> ExternalModel:
    """The network that `named` is, with its weights in it, on `device`.

    It is in eval mode, unless a factory made it with its own weights and left it in train mode,
    which the evaluation notes. Raises ConfigError or CheckpointError.
    """
    weights, normalisation = named.weights, named.normalisation(dataset.test.shape[2])
    if weights is not None and not weights.is_file():
        raise CheckpointError(f"weights {weights} do not exist; give a file with --weights")
    built = _build(named.model, dataset, pretrained=weights is None)
    network = built.network
    if weights is not None:
        state = without_normalisation(read_weights(weights), given=normalisation is not None)
        load_state(network, state, constants=built.constants)
    if weights is not None or built.source_sha256 is None:
        network.eval()
    if normalisation is None and built.mean is not None and built.std is not None:
        normalisation = built.mean, built.std
    if normalisation is not None:
        network = Normalised(network, *normalisation)
    spec = ModelSpec(
        model=named.model,
        weights_sha256=sha256(network_bytes(network)),
        source_sha256=built.source_sha256,
        num_classes=dataset.num_classes,
        dataset=dataset.name,
        mean=normalisation and normalisation[0],
        std=normalisation and normalisation[1],
    )
    return ExternalModel(network.to(device), spec)


def _build(model: str, dataset: Dataset, *, pretrained: bool) -> Built:
    source, colon, name = model.partition(":")
    if colon and source in SOURCES:
        return SOURCES[source](name, dataset, pretrained=pretrained)
    if ".py" not in model:
        forms = ", ".join(f"{known}:NAME" for known in SOURCES)
        raise ConfigError(f"--model {model}: write {FORM}, {forms}")
    return from_file(model, dataset, pretrained=pretrained)
