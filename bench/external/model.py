"""From what --model names to a network that takes images in [0, 1], and its record's identity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bench.archs.fitting import load_state
from bench.archs.weights import open_weights, state_sha256
from bench.data import Dataset
from bench.errors import CheckpointError, ConfigError
from bench.evaluation.given import given_model
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
    """A file, or FILE:KEY where it holds several; None for the factory's own weights, or the
    package's, which are downloaded."""
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
    notes: tuple[str, ...] = ()
    """What was chosen or changed on the way, for the user to know."""


def load_external(named: Named, dataset: Dataset, device: torch.device) -> ExternalModel:
    """The network that `named` is, with its weights in it, on `device`.

    It is in eval mode, unless a factory made it with its own weights and left it in train mode,
    which the evaluation notes. Raises ConfigError or CheckpointError.
    """
    notes, normalisation = list[str](), named.normalisation(dataset.test.shape[2])
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
    network, changed = given_model(network, named.model)
    if given is not None or built.source_sha256 is None:
        network.train(False)  # not eval(): a model's own train() may be something else
    return ExternalModel(network.to(device), spec, (*notes, *changed))


def _file_and_key(weights: Path) -> tuple[Path, str | None]:
    """FILE, or FILE:KEY; raises CheckpointError where there is no such file."""
    if weights.is_file():
        return weights, None
    file, colon, key = str(weights).rpartition(":")
    if colon and Path(file).is_file():
        return Path(file), key
    raise CheckpointError(f"weights {weights} do not exist; give a file with --weights")


def _build(model: str, dataset: Dataset, *, pretrained: bool) -> Built:
    source, colon, name = model.partition(":")
    if colon and source in SOURCES:
        return SOURCES[source](name, dataset, pretrained=pretrained)
    if ".py" not in model:
        forms = ", ".join(f"{known}:NAME" for known in SOURCES)
        raise ConfigError(f"--model {model}: write {FORM}, {forms}")
    return from_file(model, dataset, pretrained=pretrained)
