"""From a study to its cells: every name and value is resolved here, before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.archs import resolve
from bench.attacks import AutoAttackPart, Cascade, attack_params, get_attack
from bench.data import Dataset, load_dataset
from bench.data.dataset import first_images
from bench.eps import REFERENCE_EPS
from bench.errors import ConfigError, unknown_name
from bench.folder import RunFolder
from bench.method import Method
from bench.recipe import Recipe, load_recipe
from bench.registry import get_method, method_name, method_sha256, parameters
from bench.spec import EvalSpec, TrainSpec, digest
from bench.study import AskedAttack, Study
from bench.threat import Threat

AUTOATTACK_CLASSES = 4
"""Its targeted DLR loss is made of the four largest logits."""


@dataclass(frozen=True)
class Cell:
    """One training run and the attacks that are asked for on its checkpoints."""

    spec: TrainSpec
    method: Method
    evaluations: tuple[EvalSpec, ...]

    def status(self, folder: RunFolder) -> CellStatus:
        """What of the cell is on disk."""
        summary = folder.train_summary()
        if summary and summary["status"] == "failed":
            return CellStatus(trained=True, failed=str(summary["error"]), missing=())
        missing = tuple(e for e in self.evaluations if folder.evaluation(e).missing())
        return CellStatus(trained=summary is not None, failed=None, missing=missing)


@dataclass(frozen=True)
class CellStatus:
    """What is there of a cell, and what is not."""

    trained: bool
    failed: str | None
    """Why the training ended early; it would again, so it is not repeated."""
    missing: tuple[EvalSpec, ...]

    @property
    def finished(self) -> bool:
        """Nothing is left to do."""
        return self.failed is not None or (self.trained and not self.missing)


@dataclass(frozen=True)
class Plan:
    """The cells of a study and the data that they share."""

    study: Study
    cells: tuple[Cell, ...]
    dataset: Dataset

    def statuses(self, results: Path) -> list[CellStatus]:
        """Of every cell, in order."""
        return [cell.status(RunFolder(results, cell.spec.run_id)) for cell in self.cells]


def make_plan(study: Study) -> Plan:
    """Raises a BenchError for the first thing that cannot work; writes nothing."""
    arch = resolve(study.arch)
    for attack in study.attacks:
        attack_params(attack.name)
    names = [method_name(name) for name in study.methods]
    for name in study.params:
        if name not in names:
            raise unknown_name("method of this run, in --param", name, names)
    resolved = [_resolve(study, name, arch) for name in study.methods]
    dataset = load_dataset(
        study.dataset,
        data_root=study.data_root,
        train_size=study.train_size,
        test_size=study.test_size,
    )
    check_classes(study.attacks, dataset)
    evaluations = eval_specs(study.attacks, study.eps, dataset)
    cells = []
    for name, method, recipe in resolved:
        method.validate(Threat(eps=study.eps), dataset.num_classes)
        spec = _train_spec(study, name, method, arch, recipe, dataset)
        cells += [Cell(replace(spec, seed=seed), method, evaluations) for seed in study.seeds]
    return Plan(study, tuple(cells), dataset)


def eval_specs(
    attacks: Sequence[AskedAttack], eps: float, dataset: Dataset
) -> tuple[EvalSpec, ...]:
    """A specification for each attack and checkpoint that is asked for, each once."""
    specs: dict[str, EvalSpec] = {}
    hashes: dict[int, str] = {}
    for attack in attacks:
        n = min(attack.first or len(dataset.test), len(dataset.test))
        if n not in hashes:
            hashes[n] = first_images(dataset.test, n).sha256
        for checkpoint in attack.checkpoints:
            spec = EvalSpec(
                checkpoint=checkpoint,
                attack=attack.name,
                params=attack_params(attack.name),
                eps=eps if attack.eps is None else attack.eps,
                n_examples=n,
                data_sha256=hashes[n],
            )
            specs[spec.eval_id] = spec
    return tuple(specs.values())


def check_classes(attacks: Sequence[AskedAttack], dataset: Dataset) -> None:
    """AutoAttack would refuse too few classes itself, but after the training."""
    for attack in attacks:
        is_autoattack = isinstance(get_attack(attack.name), AutoAttackPart | Cascade)
        if is_autoattack and dataset.num_classes < AUTOATTACK_CLASSES:
            raise ConfigError(
                f"attack '{attack.name}' needs at least {AUTOATTACK_CLASSES} classes and "
                f"{dataset.name} has {dataset.num_classes}; use --attacks pgd-20,cw"
            )


def _resolve(study: Study, name: str, arch: str) -> tuple[str, Method, Recipe]:
    """The method with its parameters, and its recipe with the study's changes."""
    registered = method_name(name)
    recipe, params = load_recipe(study.recipe, arch=arch, dataset=study.dataset, method=registered)
    method = get_method(name, **(params | dict(study.params.get(registered, {}))))
    return name, method, recipe.replaced(study.training, f"suite {study.suite}")


def _train_spec(
    study: Study, name: str, method: Method, arch: str, recipe: Recipe, dataset: Dataset
) -> TrainSpec:
    """Of the first seed."""
    pad = dataset.pad if recipe.pad is None else recipe.pad
    flip = dataset.flip if recipe.flip is None else recipe.flip
    eps = study.eps if recipe.eps is None else recipe.eps * (study.eps / REFERENCE_EPS)
    return TrainSpec(
        method=method_name(name),
        params={key: getattr(method, key) for key in parameters(type(method))},
        method_sha256=method_sha256(name),
        arch=arch,
        num_classes=dataset.num_classes,
        in_channels=dataset.in_channels,
        image_size=dataset.image_size,
        mean=dataset.mean,
        std=dataset.std,
        dataset=dataset.name,
        data_sha256=digest([dataset.train.sha256, dataset.val.sha256, dataset.scale], 64),
        n_train=len(dataset.train),
        n_val=len(dataset.val),
        eps=eps,
        study_eps=None if eps == study.eps else study.eps,
        seed=study.seeds[0],
        precision=study.precision,
        recipe=replace(recipe, pad=pad, flip=flip, eps=None),
        recipe_name=study.recipe,
    )
