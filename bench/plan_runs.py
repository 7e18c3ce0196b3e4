"""Plan attacks and checks on existing runs, which are not trained again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.asked import Asked, all_sources
from bench.data import Dataset, load_dataset
from bench.data.dataset import first_images
from bench.eps import parse_eps
from bench.errors import ConfigError, unknown_name
from bench.folder import RunFolder
from bench.plan import Cell, Plan, surrogate, surrogates_first
from bench.records import Records, RunRecord
from bench.registry import get_method, list_methods, parameters
from bench.spec import CHECKPOINTS, TrainSpec, digest
from bench.study import AskedAttack, AskedMeasures
from bench.trained import load_network, refuse_other_images


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The options of `bench evaluate`."""

    attacks: tuple[str, ...]
    checkpoints: tuple[str, ...]
    checks: bool = False
    check_size: int = 1000
    """The checks use only the first N images."""
    dataset: str | None = None
    data_root: str | None = None
    eps: str | None = None
    test_size: int | None = None
    save_adversarials: bool = False
    surrogate: str | None = None
    """Run id of a naturally trained network, for the checks of an external model."""

    def asked_attacks(self, checkpoints: Sequence[str]) -> tuple[AskedAttack, ...]:
        return tuple(AskedAttack.parse(a, checkpoints=tuple(checkpoints)) for a in self.attacks)

    def asked_checks(self, checkpoints: Sequence[str]) -> AskedMeasures | None:
        if not self.checks:
            return None
        return AskedMeasures(checkpoints=tuple(checkpoints), first=self.check_size)

    def load(self, source: str, n_train: int | None = None, *, whole: bool = False) -> Dataset:
        """Load at most `n_train` training images and test_size test images, or the `whole` test."""
        n_test = None if whole else self.test_size
        return load_dataset(
            source, data_root=self.data_root, train_size=n_train, test_size=n_test, trains=False
        )


@dataclass(frozen=True)
class Elsewhere:
    """A run to attack on other images than those of its record."""

    run: RunRecord
    dataset: Dataset
    source: str
    """Its name on the command line."""


def plan_runs(
    names: Sequence[str], request: EvaluateOptions, records: Records, results: Path
) -> tuple[list[Plan], list[Elsewhere]]:
    """Return a plan per data set, and the runs to attack on data that is not their own.

    Raises a BenchError if a run cannot be attacked.
    """
    for checkpoint in request.checkpoints:
        if checkpoint not in CHECKPOINTS:
            raise unknown_name("checkpoint", checkpoint, CHECKPOINTS)
    there = {run.run_id: run for run in records if run.kind == "train"}
    outside = {run.run_id for run in records if run.kind == "model"}
    runs = [_finished(name, there, outside) for name in names]
    by_source: dict[tuple[str, int], list[RunRecord]] = {}
    for run in runs:
        source = request.dataset or str(run.provenance["dataset_source"])
        n_train = int(run.spec["n_train"]) + int(run.spec["n_val"])
        by_source.setdefault((source, n_train), []).append(run)
    plans, elsewhere = list[Plan](), list[Elsewhere]()
    for (source, n_train), group in by_source.items():
        everything = request.load(source, n_train, whole=True)
        dataset = request.load(source, n_train) if request.test_size else everything
        own = []
        for run in group:
            if _is_of(run, everything):
                own.append(run)
            else:
                elsewhere.append(Elsewhere(run, dataset, source))
        if own:
            plans.append(_plan(dataset, source, own, request, records, results))
    return plans, elsewhere


def _finished(name: str, there: dict[str, RunRecord], outside: Collection[str]) -> RunRecord:
    if name in outside:
        raise ConfigError(
            f"{name} is a record of a model from outside, which is not in the results: name the "
            "model again with --model"
        )
    if name not in there:
        raise unknown_name("run", name, there)
    if there[name].status != "done":
        raise ConfigError(f"run {name} is {there[name].status}; run its training to the end first")
    return there[name]


def _is_of(run: RunRecord, dataset: Dataset) -> bool:
    """Whether `dataset`, with all its test images, holds those that the run was attacked on."""
    there = {
        (e.spec.n_examples, e.spec.data_sha256) for e in run.evaluations if e.spec.split == "test"
    }
    return run.dataset == dataset.name and all(
        n <= len(dataset.test) and first_images(dataset.test, n).sha256 == sha256
        for n, sha256 in there
    )


def _plan(
    dataset: Dataset,
    source: str,
    runs: Sequence[RunRecord],
    request: EvaluateOptions,
    records: Records,
    results: Path,
) -> Plan:
    dataset = dataset.seen_by(max(int(run.spec["num_classes"]) for run in runs))
    asked = Asked(dataset)
    attacks = request.asked_attacks(request.checkpoints)
    checks = request.asked_checks(request.checkpoints)
    asked.refuse_too_few_classes(attacks)
    cells, beside = [], {}
    for run in runs:
        spec = TrainSpec.from_dict(run.spec)
        for checkpoint in request.checkpoints:
            load_network(spec, RunFolder(results, run.run_id), checkpoint)
        serve = {}
        for name in all_sources(attacks, checks):
            cell = _surrogate(name, spec, dataset, records, results)
            serve[name] = cell.spec.run_id
            beside[cell.spec.run_id] = cell
        eps = spec.attacked_eps if request.eps is None else parse_eps(request.eps)
        evaluations = asked.evaluations(attacks, eps, serve)
        measures = asked.checks(checks, eps, serve) if checks else ()
        cells.append(Cell(spec, None, evaluations, measures, request.save_adversarials))
    title = f"attacks on {len(cells)} runs on {dataset.name}"
    return Plan(title, surrogates_first(cells, beside), dataset, source)


def _surrogate(
    name: str, spec: TrainSpec, dataset: Dataset, records: Records, results: Path
) -> Cell:
    """Return the surrogate: the run with this id, or else a run of this method.

    A run of the method is trained if none exists, with the arch, data and recipe of `spec`.
    """
    for run in records:
        if run.run_id == name:
            found = _trained_here(run, dataset)
            load_network(found, RunFolder(results, name), "best")  # raises if it cannot serve
            return Cell(found, None)
    if name not in list_methods():
        raise unknown_name("method or run id of a surrogate", name, list_methods())
    cell = _alike(name, spec, records)
    if cell is None:
        method = get_method(name)
        params = {key: getattr(method, key) for key in parameters(type(method))}
        twin = replace(spec, method=name, params=params, method_sha256=None)
        cell = Cell(surrogate(spec, twin), method)
    if RunFolder(results, cell.spec.run_id).weights("best").exists():
        return cell
    if not len(dataset.train):
        raise ConfigError(
            f"surrogate '{name}' would be trained on the training images of {spec.run_id}, and "
            f"{dataset.name} has none here; name them with --dataset, or an existing run of "
            "`bench run` (transfer:RUN_ID)"
        )
    if digest([dataset.train.sha256, dataset.val.sha256, dataset.scale], 64) != spec.data_sha256:
        raise ConfigError(
            f"the training images of {spec.run_id} are not those of {dataset.name} here, so that "
            f"surrogate '{name}' cannot be trained on them; name them with --dataset"
        )
    return cell


def _trained_here(run: RunRecord, dataset: Dataset) -> TrainSpec:
    if run.kind != "train":
        raise ConfigError(
            f"surrogate {run.run_id} was not trained here, so its network is not in the results; "
            "name a run of `bench run`, or a method"
        )
    spec = TrainSpec.from_dict(run.spec)
    refuse_other_images(spec, dataset)
    return spec


def _alike(name: str, spec: TrainSpec, records: Records) -> Cell | None:
    """Find a finished run of this method, same arch and images; prefer the same recipe."""
    finished = [
        TrainSpec.from_dict(run.spec)
        for run in records
        if run.kind == "train" and run.method == name and run.status == "done"
    ]
    for other in sorted(finished, key=lambda s: (s.recipe_name != spec.recipe_name, s.seed)):
        same = (other.arch, other.data_sha256) == (spec.arch, spec.data_sha256)
        if same and other.run_id != spec.run_id:
            return Cell(other, get_method(name, **other.params))
    return None
