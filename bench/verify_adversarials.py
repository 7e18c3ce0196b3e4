"""Run `bench verify-adversarials`: verify stored images against the data and the model."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.checkpoints import load_network
from bench.data import Dataset, load_dataset
from bench.data.dataset import first_images
from bench.errors import CheckpointError, ConfigError, DataError
from bench.evaluation.adversarials import Adversarials, VerifiedImages, read_adversarials, recheck
from bench.evaluation.model_checks import inspect_model
from bench.evaluation.store import Images
from bench.external import Named, load_external
from bench.records import load_records
from bench.records.run_folder import RunFolder
from bench.records.spec import CHECKPOINTS, CHUNK, EvalSpec, TrainSpec
from bench.threat import Threat

MAX_LISTED = 20
"""Indices of one kind that a line lists."""


@dataclass(frozen=True, kw_only=True)
class VerificationTarget:
    """The model and data to verify the images against; None means as named in the file."""

    results: Path
    model: str | None = None
    """A run id, or an external model as for `bench evaluate --model`."""
    weights: Path | None = None
    """Of an external model, like mean and std."""
    mean: str | None = None
    std: str | None = None
    dataset: str | None = None
    data_root: str | None = None


def verify_files(
    paths: Iterable[Path], against: VerificationTarget, device: torch.device
) -> Iterator[tuple[str, int]]:
    """Yield a line and an exit code per file: 0 as recorded, 1 something differs, 2 unusable.

    Raises ConfigError, CheckpointError or DataError if the model or its data cannot be loaded.
    """
    runs = {run.run_id: run for run in load_records(against.results)}

    @cache
    def load_images(source: str, n_train: int | None) -> Images:
        root = against.data_root
        dataset = load_dataset(source, data_root=root, train_size=n_train, trains=False)
        return Images(dataset, device)

    def load_model(name: str, checkpoint: str, dataset: Dataset) -> nn.Module:
        run = runs.get(name)
        if run is None:
            named = Named(model=name, weights=against.weights, mean=against.mean, std=against.std)
            return load_external(named, dataset, device).network
        if run.kind == "train":
            if against.weights or against.mean or against.std:
                raise ConfigError(f"{name} was trained here: --weights, --mean, --std are not its")
            own = checkpoint if checkpoint in CHECKPOINTS else "best"
            spec = TrainSpec.from_dict(run.spec)
            return load_network(spec, RunFolder(against.results, name), own)
        model = str(run.spec["model"])
        trained, _, its_checkpoint = model.partition(":")
        if trained in runs:  # a run of ours on other data than it was trained on
            return load_model(trained, its_checkpoint, dataset)
        mean, std = (
            ",".join(map(repr, values)) if (values := run.spec.get(key)) is not None else None
            for key in ("mean", "std")
        )
        named = Named(model=model, weights=against.weights, mean=mean, std=std)
        external = load_external(named, dataset, device)
        if replace(external.spec, variant=run.spec.get("variant", 0)).run_id != name:
            raise CheckpointError(
                f"{model} is not the network of {name}, or has other weights; name those "
                "with --weights, or check against another model with --model"
            )
        return external.network

    @cache
    def load_once(name: str, checkpoint: str, source: str, n_train: int | None) -> nn.Module:
        return load_model(name, checkpoint, load_images(source, n_train).dataset).to(device)

    for path in paths:
        try:
            found, spec = _read(path)
            run_id = str(found.facts["run_id"])
            run, name = runs.get(run_id), against.model or run_id
            if run is None and None in (against.model, against.dataset):
                raise ConfigError(
                    f"{path} is of the run {run_id}, which is not in {against.results}; name its "
                    "folder with --results, or a model and the data with --model and --dataset"
                )
            n_train = None
            if run is not None and run.kind == "train":
                n_train = int(run.spec["n_train"]) + int(run.spec["n_val"])
            source = against.dataset or str(run and run.provenance["dataset_source"])
            images = load_images(source, n_train)
            x, y = _originals(path, found, spec, images)
            network = load_once(name, spec.checkpoint, source, n_train)
            inspect_model(network, x, y, CHUNK)  # raises if it cannot take them
            outcome = recheck(found, network, x, y, CHUNK)
        except _Unusable as error:
            yield str(error), 2
            continue
        on = against.model or f"{run_id} ({spec.checkpoint})"
        head = f"{path}: {spec.attack} at eps {spec.eps:.4g} on {on}"
        yield f"{head}: {_findings(outcome)}", int(not outcome.holds)


class _Unusable(DataError):
    """A file that cannot be verified; the others can."""


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


def _findings(outcome: VerifiedImages) -> str:
    """Return `24 images, 9 predicted wrong, all as recorded`, or what differs and where."""
    found = []
    for what, index in outcome.differs.items():
        more = f" and {len(index) - MAX_LISTED} more" if len(index) > MAX_LISTED else ""
        found.append(f"{what}: {', '.join(map(str, index[:MAX_LISTED]))}{more}")
    counts = f"{outcome.n} images, {outcome.n_wrong} predicted wrong"
    return f"{counts}, {'; '.join(found) or 'all as recorded'}"
