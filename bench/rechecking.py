"""Run `bench verify-adversarials`: verify stored images against the data and the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.data import Dataset, load_dataset
from bench.data.dataset import first_images
from bench.errors import CheckpointError, ConfigError, DataError
from bench.evaluation.adversarials import Adversarials, Recheck, read_adversarials, recheck
from bench.evaluation.model_checks import inspect_model
from bench.evaluation.store import Images, default_batch
from bench.external import Named, load_external
from bench.folder import RunFolder
from bench.records import RunRecord, load_records
from bench.spec import CHECKPOINTS, EvalSpec, TrainSpec
from bench.threat import Threat
from bench.trained import load_network

MAX_LISTED = 20
"""Indices of one kind that a line lists."""


@dataclass(frozen=True, kw_only=True)
class VerificationTarget:
    """The model and data to verify the images against; None means as named in the file."""

    results: Path
    """Folder of the records."""
    model: str | None = None
    """A run id, or an external model as for `bench evaluate --model`."""
    weights: Path | None = None
    """Of an external model, like mean and std."""
    mean: str | None = None
    std: str | None = None
    dataset: str | None = None
    data_root: str | None = None


@dataclass(frozen=True, kw_only=True)
class FileVerdict:
    """The result for one file."""

    line: str
    """The findings, or why the file cannot be used."""
    usable: bool = True
    holds: bool
    """Whether everything is as the file says."""


def verify_files(
    paths: Iterable[Path], against: VerificationTarget, device: torch.device
) -> Iterator[FileVerdict]:
    """Verify each file, in order; files of the same model load it once.

    Raises ConfigError, CheckpointError or DataError if the model or its data cannot be loaded.
    """
    runs = {run.run_id: run for run in load_records(against.results)}
    verifier = _Verifier(against, runs, device)
    for path in paths:
        try:
            yield verifier.verify(path)
        except _Unusable as error:
            yield FileVerdict(line=str(error), usable=False, holds=False)


class _Unusable(DataError):
    """A file that cannot be verified; the others can."""


@dataclass(frozen=True)
class _Verifier:
    against: VerificationTarget
    runs: dict[str, RunRecord]
    device: torch.device
    _images: dict[tuple[str, int | None], Images] = field(default_factory=dict)
    _networks: dict[tuple[str, str, str], nn.Module] = field(default_factory=dict)

    def verify(self, path: Path) -> FileVerdict:
        found, spec = _read(path)
        run_id = str(found.facts["run_id"])
        images = self._source(path, run_id)
        x, y = _originals(path, found, spec, images)
        network = self._network(path, run_id, spec.checkpoint, images.dataset)
        batch_size = default_batch(self.device, network)
        inspect_model(network, x, y, batch_size)  # raises if it cannot take them
        outcome = recheck(found, network, x, y, batch_size)
        on = self.against.model or f"{run_id} ({spec.checkpoint})"
        head = f"{path}: {spec.attack} at eps {spec.eps:.4g} on {on}"
        return FileVerdict(line=f"{head}: {_findings(outcome)}", holds=outcome.holds)

    def _source(self, path: Path, run_id: str) -> Images:
        """Return the images of the data set that is named, or else of the run's own."""
        run = self.runs.get(run_id)
        if run is None and self.against.dataset is None:
            raise self._unknown(path, run_id)
        source = self.against.dataset or str(run and run.provenance["dataset_source"])
        n_train = None
        if run is not None and run.kind == "train":
            n_train = int(run.spec["n_train"]) + int(run.spec["n_val"])
        if (source, n_train) not in self._images:
            root = self.against.data_root
            dataset = load_dataset(source, data_root=root, train_size=n_train, trains=False)
            self._images[source, n_train] = Images(dataset, self.device)
        return self._images[source, n_train]

    def _network(self, path: Path, run_id: str, checkpoint: str, dataset: Dataset) -> nn.Module:
        """Return the model that is named, or else the one that was attacked."""
        name = self.against.model or run_id
        key = name, checkpoint, dataset.name
        if key not in self._networks:
            if name not in self.runs and self.against.model is None:
                raise self._unknown(path, run_id)
            network = self._load(name, checkpoint, dataset)
            self._networks[key] = network.to(self.device)
        return self._networks[key]

    def _load(self, name: str, checkpoint: str, dataset: Dataset) -> nn.Module:
        run, given = self.runs.get(name), self.against
        if run is None:
            named = Named(model=name, weights=given.weights, mean=given.mean, std=given.std)
            return load_external(named, dataset, self.device).network
        if run.kind == "train":
            if given.weights or given.mean or given.std:
                raise ConfigError(f"{name} was trained here: --weights, --mean, --std are not its")
            there = checkpoint if checkpoint in CHECKPOINTS else "best"
            folder = RunFolder(given.results, name)
            return load_network(TrainSpec.from_dict(run.spec), folder, there)
        trained, _, its_checkpoint = str(run.spec["model"]).partition(":")
        if trained in self.runs:  # a run of ours on other data than it was trained on
            return self._load(trained, its_checkpoint, dataset)
        mean, std = (
            ",".join(map(repr, values)) if (values := run.spec.get(name)) is not None else None
            for name in ("mean", "std")
        )
        named = Named(model=str(run.spec["model"]), weights=given.weights, mean=mean, std=std)
        external = load_external(named, dataset, self.device)
        if replace(external.spec, variant=run.spec.get("variant", 0)).run_id != name:
            raise CheckpointError(
                f"{named.model} is not the network of {name}, or has other weights; name those "
                "with --weights, or check against another model with --model"
            )
        return external.network

    def _unknown(self, path: Path, run_id: str) -> ConfigError:
        return ConfigError(
            f"{path} is of the run {run_id}, which is not in {self.against.results}; name its "
            "folder with --results, or a model and the data with --model and --dataset"
        )


def _read(path: Path) -> tuple[Adversarials, EvalSpec]:
    """Read the images and the specification of their evaluation."""
    try:
        found = read_adversarials(path)
        spec = EvalSpec(**{f.name: found.facts[f.name] for f in fields(EvalSpec)})
        Threat(spec.norm, float(spec.eps)), found.facts["run_id"], found.facts["dataset"]
    except DataError as error:
        raise _Unusable(str(error)) from None
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise _Unusable(f"{path} does not say what was attacked: {error!r}") from None
    return found, spec


def _originals(
    path: Path, found: Adversarials, spec: EvalSpec, images: Images
) -> tuple[Tensor, Tensor]:
    """Return the images (n, C, H, W) before the attack, and their labels (n,)."""
    dataset, wanted = images.dataset, found.facts["dataset"]
    split = getattr(dataset, spec.split)
    same = dataset.name == wanted and len(split) >= spec.n_examples
    if not same or first_images(split, spec.n_examples).sha256 != spec.data_sha256:
        raise _Unusable(
            f"{path} holds images of {wanted}, the first {spec.n_examples} of {spec.split}, and "
            f"those of {dataset.name} here are not the same; name them with --dataset"
        )
    index = found.index.tolist()
    if not all(0 <= i < spec.n_examples for i in index):
        raise _Unusable(f"{path} holds indices beyond its {spec.n_examples} images")
    x, y = images.chunk(index, spec.split)
    if x.shape != found.x_adv.shape:
        raise _Unusable(
            f"{path} holds images {tuple(found.x_adv.shape[1:])}, and those of {dataset.name} are "
            f"{tuple(x.shape[1:])}"
        )
    return x, y


def _findings(outcome: Recheck) -> str:
    """Return `24 images, 9 predicted wrong, all as recorded`, or what differs and where."""
    differs = {
        "outside the ball": outcome.outside_ball,
        "outside [0, 1]": outcome.outside_range,
        "other label": outcome.other_label,
        "other prediction": outcome.other_prediction,
    }
    found = []
    for what, index in differs.items():
        if index:
            more = f" and {len(index) - MAX_LISTED} more" if len(index) > MAX_LISTED else ""
            found.append(f"{what}: {', '.join(map(str, index[:MAX_LISTED]))}{more}")
    counts = f"{outcome.n} images, {outcome.n - outcome.n_correct} predicted wrong"
    return f"{counts}, {'; '.join(found) or 'all as recorded'}"
