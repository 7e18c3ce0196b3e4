"""From runs that are there to cells: more attacks and checks on them, and no training of theirs."""

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
class Request:
    """What `bench evaluate` asks of a model."""

    attacks: tuple[str, ...]
    checkpoints: tuple[str, ...]
    checks: bool = False
    check_size: int = 1000
    """Images that the checks look at."""
    dataset: str | None = None
    data_root: str | None = None
    eps: str | None = None
    test_size: int | None = None
    save_adversarials: bool = False
    surrogate: str | None = None
    """Run id of a naturally trained network, for the checks of a model from outside."""

    def asked_attacks(self, checkpoints: Sequence[str]) -> tuple[AskedAttack, ...]:
        """On these checkpoints."""
        return tuple(AskedAttack.parse(a, checkpoints=tuple(checkpoints)) for a in self.attacks)

    def asked_checks(self, checkpoints: Sequence[str]) -> AskedMeasures | None:
        """All of them, or None."""
        if not self.checks:
            return None
        return AskedMeasures(checkpoints=tuple(checkpoints), first=self.check_size)

    def load(self, source: str, train_size: int | None = None) -> Dataset:
        """The images; of the training images at most so many, and as many as there are."""
        return self.load_all(source, train_size, self.test_size)

    def load_all(
        self, source: str, train_size: int | None = None, test_size: int | None = None
    ) -> Dataset:
        """The same with all test images, unless `test_size` says how many."""
        return load_dataset(
            source,
            data_root=self.data_root,
            train_size=train_size,
            test_size=test_size,
            trains=False,
        )


@dataclass(frozen=True)
class Elsewhere:
    """A run that is to be attacked on other images than those of its record."""

    run: RunRecord
    dataset: Dataset
    source: str
    """What --dataset calls it."""


def plan_runs(
    names: Sequence[str], request: Request, records: Records, results: Path
) -> tuple[list[Plan], list[Elsewhere]]:
    """A plan for each data set, and the runs that are of other data.

    Raises a BenchError where a run cannot be attacked.
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
        everything = request.load_all(source, n_train)
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
    """Whether its data have that name, and the test images that it was attacked on are these.

    dataset: with all of its test images.
    """
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
    request: Request,
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
    """The run of that id, or the network of that method: one that is there, else a new training.

    It shares the arch and the training images with `spec`, and its recipe where there is none.
    """
    for run in records:
        if run.run_id == name:
            found = _trained_here(run, dataset)
            load_network(found, RunFolder(results, name), "best")  # raises where it cannot serve
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
            f"{dataset.name} has none here; name them with --dataset, or a run of `bench run` that "
            "is there (transfer:RUN_ID)"
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
    """A finished training of that method on the same arch and images, of the same recipe first."""
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
