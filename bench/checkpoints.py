"""Load the networks of runs in a results folder; only recorded weights are used."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from bench.archs.state_dict import load_state
from bench.archs.weights import read_weights
from bench.data import Dataset
from bench.errors import CheckpointError, ConfigError, RecordError
from bench.records.run_folder import RunFolder
from bench.records.spec import TrainSpec
from bench.storage import read_json, sha256_file
from bench.training.engine import initial_model


def weights_whole(folder: RunFolder, summary: Mapping[str, Any], checkpoint: str) -> bool:
    path, recorded = folder.weights(checkpoint), summary.get("checkpoints", {})
    found = path.exists() and checkpoint in recorded
    return found and sha256_file(path) == recorded[checkpoint]["sha256"]


def load_network(spec: TrainSpec, folder: RunFolder, checkpoint: str) -> nn.Module:
    """Load a trained network on the CPU, in eval mode; raises CheckpointError."""
    path, summary = folder.weights(checkpoint), folder.train_summary()
    again = "run the command that trained it again to make it"
    if summary is None or not path.exists():
        raise CheckpointError(f"the weights {path} are not here; {again}")
    if not weights_whole(folder, summary, checkpoint):
        raise CheckpointError(f"{path} is damaged: it is not what was recorded; {again}")
    model = initial_model(spec)
    load_state(model, read_weights(path))
    return model.eval()


def surrogate_network(results: Path, run_id: str, dataset: Dataset) -> nn.Module:
    """Load the best checkpoint of a run, on the CPU, in eval mode.

    Raises CheckpointError, and ConfigError if it was trained on images of another kind.
    """
    folder = RunFolder(results, run_id)
    try:
        spec = TrainSpec.from_dict(read_json(folder.path / "spec.json")["spec"])
    except (RecordError, KeyError, TypeError):
        raise CheckpointError(
            f"surrogate '{run_id}' is not a training in {results}; write transfer:RUN_ID with a "
            "run that is there (`bench run --methods natural` makes one)"
        ) from None
    refuse_other_images(spec, dataset)
    return load_network(spec, folder, "best")


def refuse_other_images(spec: TrainSpec, dataset: Dataset) -> None:
    """Raise ConfigError if a network cannot take the images, or lacks some of their classes."""
    dataset = dataset.seen_by(spec.num_classes)
    takes, has = (
        f"images {(of.in_channels, of.image_size, of.image_size)} of {of.num_classes} classes"
        for of in (spec, dataset)
    )
    if takes != has:
        raise ConfigError(
            f"{spec.run_id} was trained on {takes} and {dataset.name} has {has}; "
            "name a run on such images"
        )
