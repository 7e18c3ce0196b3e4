"""Resolve studies into runs: trainings and evaluations with every name and value, before any work.

A run's plan is picklable, so that workers can be sent parts of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from bench.archs import resolve
from bench.attacks import get_attack
from bench.checkpoints import load_network
from bench.data import Dataset, load_dataset
from bench.eps import REFERENCE_EPS
from bench.errors import ConfigError, ModelError, refuse_unknown
from bench.experiments.evaluation_specs import SpecBuilder, all_sources
from bench.experiments.recipe import changed_recipe, load_recipe
from bench.experiments.study import Study, is_variant
from bench.experiments.suite import list_suites, load_suite, sizes
from bench.external import ExternalModel
from bench.method import Method
from bench.records.manifest import Manifest, PlannedRun
from bench.records.run_folder import RunFolder
from bench.records.spec import EvalSpec, MeasureSpec, ModelSpec, Recipe, TrainSpec, digest
from bench.registry import get_method, method_name, method_sha256, parameters
from bench.threat import Threat


@dataclass(frozen=True)
class RunPlan:
    """A run: its training, and the evaluations and measures of its checkpoints."""

    spec: TrainSpec | ModelSpec
    method_name: str | None = None
    """Name or file of the method; None for an existing run or a model, which are not trained."""
    evaluations: tuple[EvalSpec, ...] = ()
    measures: tuple[MeasureSpec, ...] = ()
    keep_images: bool = False
    """Whether to save the adversarial images."""
    source: Callable[[Path, Dataset, torch.device], ExternalModel] | None = None
    """Loads an external model, given the results folder and the images; picklable."""
    notes: tuple[str, ...] = ()
    """On an external model."""
    reads: tuple[str, ...] = ()
    """Files of the results folder that `source` reads."""
    stages: Mapping[str, int] = field(default_factory=dict)
    """The first stage that needs an evaluation or a measure, by id, or the training, by "" (0)."""

    @property
    def run_id(self) -> str:
        return self.spec.run_id

    @property
    def train_spec(self) -> TrainSpec:
        assert isinstance(self.spec, TrainSpec)
        return self.spec

    @property
    def method(self) -> Method | None:
        if self.method_name is None:
            return None
        return get_method(self.method_name, **self.train_spec.params)

    @cached_property
    def surrogates(self) -> set[str]:
        """Run ids of the other models that its attacks and checks need."""
        return {run for spec in (*self.evaluations, *self.measures) for run in spec.surrogates}

    @property
    def checkpoints(self) -> list[str]:
        """Return the checkpoints that are evaluated or measured."""
        return list(dict.fromkeys(s.checkpoint for s in (*self.evaluations, *self.measures)))

    @property
    def warning(self) -> str:
        """Return `cat-ce reaches 0.64 of its radius in 4 epochs; 7 are the least`, or nothing."""
        spec, method = self.train_spec, self.method
        epochs, needed = spec.recipe.epochs, method.epochs_to_radius if method else 0
        if epochs >= needed:
            return ""
        least = f"{math.ceil(needed)} are the least" if math.isfinite(needed) else "it never grows"
        return (
            f"{spec.method} reaches {epochs / needed:.2f} of its radius in {epochs} epochs; {least}"
        )

    def joined(self, other: RunPlan) -> RunPlan:
        """Return the run with the evaluations and measures of both."""
        evaluations = {e.eval_id: e for e in (*self.evaluations, *other.evaluations)}
        measures = {m.measure_id: m for m in (*self.measures, *other.measures)}
        stages = {
            key: min(found)
            for key in {**self.stages, **other.stages}
            if (found := [run.stages[key] for run in (self, other) if key in run.stages])
        }
        return replace(
            self,
            evaluations=tuple(evaluations.values()),
            measures=tuple(measures.values()),
            stages=stages,
        )

    def status(self, folder: RunFolder) -> RunStatus:
        summary = folder.train_summary()
        if summary and summary["status"] == "failed":
            return RunStatus(trained=True, failed=str(summary["error"]))
        images = self.keep_images
        left = ((e, tuple(folder.evaluation(e).missing(images=images))) for e in self.evaluations)
        return RunStatus(
            trained=summary is not None or isinstance(self.spec, ModelSpec),
            missing=tuple((e, chunks) for e, chunks in left if chunks),
            missing_measures=tuple(m for m in self.measures if not folder.has_measure(m)),
        )

    def load(
        self, checkpoint: str, results: Path, dataset: Dataset, device: torch.device
    ) -> nn.Module:
        """Load a checkpoint's network on `device`; raises a BenchError.

        dataset: the images that it will be attacked on.
        """
        if self.source is None:
            folder = RunFolder(results, self.run_id)
            return load_network(self.train_spec, folder, checkpoint).to(device)
        assert isinstance(self.spec, ModelSpec)
        found = self.source(results, dataset, device)
        if replace(self.spec, variant=found.spec.variant) != found.spec:
            raise ModelError(f"{found.spec.model} is another model when it is loaded again")
        return found.network


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Which parts of a run are on disk."""

    trained: bool
    failed: str | None = None
    """Why training ended early; it would again, so it is not repeated."""
    missing: tuple[tuple[EvalSpec, tuple[int, ...]], ...] = ()
    """Unfinished evaluations, each with the numbers of its missing chunks."""
    missing_measures: tuple[MeasureSpec, ...] = ()

    @cached_property
    def surrogates(self) -> set[str]:
        """Run ids of the models that the missing parts need."""
        specs = (*(spec for spec, _ in self.missing), *self.missing_measures)
        return {run for spec in specs for run in spec.surrogates}

    @property
    def n_missing(self) -> int:
        return len(self.missing) + len(self.missing_measures)

    @property
    def finished(self) -> bool:
        return self.failed is not None or (self.trained and not self.n_missing)


@dataclass(frozen=True)
class Plan:
    """Runs on one data set."""

    title: str
    runs: tuple[RunPlan, ...]
    dataset: Dataset
    source: str
    studies: tuple[Study, ...] = ()
    """The studies of the runs; none for evaluations of existing runs."""

    def statuses(self, results: Path) -> list[RunStatus]:
        return [run.status(RunFolder(results, run.run_id)) for run in self.runs]


def make_plans(
    title: str, studies: Sequence[Study], load: Callable[[Study], Dataset] | None = None
) -> list[Plan]:
    """Return one plan per data set; a training that several studies need is in it once.

    load: returns a study's data, or what stands in for them where nothing is trained.
    """
    together: dict[tuple[object, ...], list[Plan]] = {}
    for study in studies:
        key = (study.dataset, study.data_root, study.train_size, study.test_size)
        loaded = together[key][0].dataset if key in together else load and load(study)
        together.setdefault(key, []).append(make_plan(study, loaded))
    return [
        replace(
            plans[0],
            title=title,
            runs=surrogates_first(joined(run for plan in plans for run in plan.runs), {}),
            studies=tuple(study for plan in plans for study in plan.studies),
        )
        for plans in together.values()
    ]


def joined(runs: Iterable[RunPlan]) -> list[RunPlan]:
    """Return the runs with each training once."""
    found: dict[str, RunPlan] = {}
    for run in runs:
        run_id = run.run_id
        found[run_id] = found[run_id].joined(run) if run_id in found else run
    return list(found.values())


def make_plan(
    study: Study, dataset: Dataset | None = None, asked: SpecBuilder | None = None
) -> Plan:
    """Return the plan of one study; raises a BenchError for the first thing that cannot work.

    dataset: the study's, if it is loaded already; asked: of that data set, with its hashes.
    """
    arch = resolve(study.arch)
    for attack in study.attacks:
        get_attack(attack.name)
    names = [method_name(name) for name in study.methods]
    refuse_unknown("method of this run, in --param or [params]", study.params, names)
    wanted = all_sources(study.attacks, study.checks)
    resolved = {
        name: _resolve(study, name, arch) for name in dict.fromkeys((*study.methods, *wanted))
    }
    dataset = dataset or load_dataset(
        study.dataset,
        data_root=study.data_root,
        train_size=study.train_size,
        test_size=study.test_size,
    )
    asked = asked or SpecBuilder(dataset)
    specs = {}
    for name, (method, recipe) in resolved.items():
        method.validate(Threat(eps=study.eps), dataset.num_classes)
        specs[name] = _train_spec(study, name, method, arch, recipe, dataset)
    runs: list[RunPlan] = []
    beside: dict[str, RunPlan] = {}
    for name in study.methods:
        for seed in study.seeds:
            spec = replace(specs[name], seed=seed)
            serve = {source: surrogate(spec, specs[source]) for source in wanted}
            beside |= {
                s.run_id: RunPlan(s, source, stages={"": study.stage})
                for source, s in serve.items()
            }
            ids = {source: s.run_id for source, s in serve.items()}
            measures = asked.checks(study.checks, study.eps, ids) if study.checks else ()
            for group in study.measures:
                measures += asked.measures(group, study.eps)
            evaluations = asked.evaluations(study.attacks, study.eps, ids)
            made = ("", *(e.eval_id for e in evaluations), *(m.measure_id for m in measures))
            stages = dict.fromkeys(made, study.stage)
            runs.append(RunPlan(spec, name, evaluations, measures, stages=stages))
    return Plan(study.title, surrogates_first(runs, beside), dataset, study.dataset, (study,))


def surrogate(spec: TrainSpec, source: TrainSpec) -> TrainSpec:
    """Return the training of `source` with the seed of `spec`, but never `spec` itself."""
    twin = replace(source, seed=spec.seed)
    return replace(twin, seed=spec.seed + 1) if twin.run_id == spec.run_id else twin


def surrogates_first(runs: Sequence[RunPlan], beside: Mapping[str, RunPlan]) -> tuple[RunPlan, ...]:
    """Return the runs and the surrogates that only serve them, surrogates first."""
    own = {run.run_id for run in runs}
    needed = {run_id for run in runs for run_id in run.surrogates}
    support = [run for run_id, run in beside.items() if run_id in needed - own]
    return (*support, *sorted(runs, key=lambda run: run.run_id not in needed))


def training_sha256(dataset: Dataset) -> str:
    """Return the hash of the training and validation images, their scale, and their labels."""
    return digest([dataset.train.sha256, dataset.val.sha256, dataset.scale], 64)


def _resolve(study: Study, name: str, arch: str) -> tuple[Method, Recipe]:
    found, registered = _recipe_name(study, name), method_name(name)
    recipe, params = load_recipe(found, arch=arch, dataset=study.dataset, method=registered)
    method = get_method(name, **(params | dict(study.params.get(registered, {}))))
    recipe = changed_recipe(recipe, study.training, f"training of suite {study.suite}")
    if recipe.micro_batch is not None:
        method.refuse_micro_batch()
    return method, recipe


def _recipe_name(study: Study, name: str) -> str:
    return study.recipe if name in study.methods else study.surrogate_recipe or study.recipe


def _train_spec(
    study: Study, name: str, method: Method, arch: str, recipe: Recipe, dataset: Dataset
) -> TrainSpec:
    """Return the specification of the first seed."""
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
        data_sha256=training_sha256(dataset),
        n_train=len(dataset.train),
        n_val=len(dataset.val),
        eps=eps,
        study_eps=None if eps == study.eps else study.eps,
        seed=study.seeds[0],
        precision=study.precision,
        recipe=replace(recipe, pad=pad, flip=flip, eps=None),
        recipe_name=_recipe_name(study, name),
    )


def suite_manifests(plan: Plan) -> list[Manifest]:
    """Return a manifest of the plan's runs for every suite of the package that trains them.

    A suite's own plan on these data says so: its run ids are the same.
    """
    run_ids = {run.run_id for run in plan.runs if run.checkpoints}
    builder = SpecBuilder(plan.dataset)
    found = []
    for suite, size in [(name, size) for name, _ in list_suites() for size in sizes(name)]:
        own = [study for study in load_suite(suite, size).studies if study.suite == suite]
        runs = tuple(
            _planned(run, number)
            for number, study in enumerate(own)
            for run in _same_runs(study, plan, builder)
            if run.run_id in run_ids and run.checkpoints
        )
        if runs:
            found.append(Manifest(suite=suite, size=size, runs=runs))
    return found


def _planned(run: RunPlan, study: int) -> PlannedRun:
    spec = run.train_spec
    return PlannedRun(
        study=study,
        dataset=spec.dataset,
        method=spec.method,
        seed=spec.seed,
        arch=spec.arch,
        eps=spec.attacked_eps,
        run_id=run.run_id,
        evaluations=tuple(e.eval_id for e in run.evaluations),
        measures=tuple(m.measure_id for m in run.measures),
    )


def _same_runs(study: Study, plan: Plan, asked: SpecBuilder) -> Sequence[RunPlan]:
    """Return the runs of a suite's study with the data, recipe, methods and seeds of the plan."""
    alike = [
        other
        for other in plan.studies
        if (other.arch, other.eps, other.train_size) == (study.arch, study.eps, study.train_size)
    ]
    if not alike or not is_variant(plan.dataset.name, study.dataset):
        return ()
    methods = {name for other in alike for name in other.methods}
    recipes = [other.recipe for other in alike]
    same = replace(
        study,
        methods=tuple(name for name in study.methods if name in methods),
        params={name: own for name, own in study.params.items() if name in methods},
        seeds=tuple(sorted({seed for other in alike for seed in other.seeds})),
        dataset=alike[0].dataset,
        recipe=study.recipe if study.recipe in recipes else recipes[0],
        precision=alike[0].precision if study.precision == "auto" else study.precision,
        data_root=alike[0].data_root,
        test_size=alike[0].test_size,
    )
    try:
        return make_plan(same, plan.dataset, asked).runs
    except ConfigError:  # the suite cannot run on these data
        return ()
