"""Run `bench evaluate`: attack existing runs, which are not trained again, or an external model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from bench.archs.weights import state_sha256
from bench.attacks.networks import MIN_ROWS
from bench.checkpoints import load_network, refuse_other_images, surrogate_network
from bench.data import Dataset, load_dataset
from bench.data.dataset import first_images
from bench.eps import REFERENCE_EPS
from bench.errors import (
    BenchError,
    ConfigError,
    ModelError,
    RecordError,
    refuse_unknown,
    unknown_name,
)
from bench.evaluation.inputs import explained
from bench.evaluation.store import Images
from bench.experiments.evaluation_specs import TWIN, SpecBuilder, all_sources
from bench.experiments.plan import Plan, RunPlan, surrogate, surrogates_first, training_sha256
from bench.experiments.study import AttackConfig, MeasureConfig
from bench.external import ExternalModel, Named, load_external, self_check
from bench.external.identity import fingerprint, own_spec, write_fingerprint
from bench.jobs.driver import run_plans
from bench.jobs.workspace import Workspace
from bench.records import Records, RunRecord, load_records
from bench.records.run_folder import RunFolder
from bench.records.spec import CHECKPOINTS, CHUNK, GIVEN, ModelSpec, TrainSpec
from bench.registry import get_method, list_methods, parameters

Loads: TypeAlias = Callable[[Path, Dataset, torch.device], ExternalModel]
"""Loads a model, given the results folder and the images; picklable."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """The options of `bench evaluate`."""

    attacks: tuple[str, ...]
    checkpoints: tuple[str, ...]
    checks: bool = False
    check_size: int = 1000
    dataset: str | None = None
    data_root: str | None = None
    eps: float | None = None
    test_size: int | None = None
    save_adversarials: bool = False
    surrogate: str | None = None
    """Run id of a naturally trained network, for the checks of an external model."""

    def attack_configs(self, checkpoints: tuple[str, ...]) -> tuple[AttackConfig, ...]:
        return tuple(AttackConfig.parse(text, checkpoints=checkpoints) for text in self.attacks)

    def check_config(self, checkpoints: tuple[str, ...]) -> MeasureConfig | None:
        checks = MeasureConfig(checkpoints=checkpoints, first=self.check_size)
        return checks if self.checks else None

    def load(self, source: str, n_train: int | None = None, *, whole: bool = False) -> Dataset:
        """Load at most `n_train` training images and test_size test images, or the `whole` test."""
        n_test = None if whole else self.test_size
        return load_dataset(
            source, data_root=self.data_root, train_size=n_train, test_size=n_test, trains=False
        )


def evaluate_runs(names: Sequence[str], options: EvaluateOptions, where: Workspace) -> None:
    """Attack trained runs; raises a BenchError before any work if one cannot be attacked.

    On data other than its own, a run gets another record, like an external model's. If that fails
    it is reported, and the others continue.
    """
    refuse_unknown("checkpoint", options.checkpoints, CHECKPOINTS)
    records = load_records(where.results)
    by_source: dict[tuple[str, int], list[RunRecord]] = {}
    for run in [_finished(name, records) for name in names]:
        source = options.dataset or str(run.provenance["dataset_source"])
        n_train = int(run.spec["n_train"]) + int(run.spec["n_val"])
        by_source.setdefault((source, n_train), []).append(run)
    plans: list[Plan] = []
    elsewhere: list[tuple[RunRecord, Dataset, str, Loads]] = []
    for (source, n_train), group in by_source.items():
        everything = options.load(source, n_train, whole=True)
        dataset = options.load(source, n_train) if options.test_size else everything
        own = []
        for run in group:
            if _is_of(run, everything):
                own.append(run)
                continue
            for checkpoint in options.checkpoints:
                loads = partial(_as_external, run.run_id, run.spec, checkpoint)
                elsewhere.append((run, dataset, source, loads))
        if own:
            plans.append(_plan(dataset, source, own, options, records, where))
    for _, dataset, _, load in elsewhere:
        load(where.results, dataset, where.device)  # raises if it cannot be attacked
    for plan in plans:
        for line in plan.dataset.lines():
            where.reporter.say(line)
    for run, dataset, source, load in elsewhere:
        where.reporter.say(
            f"the test images of {dataset.name} here are not those of {run.run_id}, "
            f"which was trained on {run.dataset}; on them it gets a record of its own"
        )
        own_eps = TrainSpec.from_dict(run.spec).attacked_eps
        asked = replace(options, eps=own_eps if options.eps is None else options.eps)
        try:
            plan, _ = _external_plan(load, dataset, source, asked, where)
            names = ("train.json", *(f"{name}.safetensors" for name in options.checkpoints))
            (own_run,) = plan.runs
            own_run = replace(own_run, reads=tuple(f"{run.run_id}/{name}" for name in names))
            plans.append(replace(plan, runs=(own_run,)))
        except RecordError:
            raise
        except BenchError as error:
            line = f"error: {error}"
            where.reporter.failed(f"{run.run_id} on {source}", line, fixable=True)
    run_plans(plans, where)
    where.reporter.say(f"the records are in {where.results}. Next: bench report")


def evaluate_external(named: Named, options: EvaluateOptions, where: Workspace) -> None:
    """Attack an external model; it gets a record like any other."""
    if options.dataset is None:
        raise ConfigError("--model needs --dataset: the test images to attack it on")
    data = options.load(options.dataset)
    load = partial(_load_named, named)
    plan, network = _external_plan(load, data, options.dataset, options, where)
    (run,) = plan.runs
    run_plans([plan], where, networks={run.run_id: network})
    n, folder = len(run.evaluations) + len(run.measures), where.results / run.run_id
    if where.reporter.exit_code == 2:
        raise ModelError(
            f"{len(where.reporter.failures)} of {n} evaluations and checks could not be made of "
            f"{named.model}, for the reasons above; the others are in {folder}"
        )
    n_made = n - len(where.reporter.failures)
    where.reporter.say(f"{run.run_id}: {n_made} evaluations and checks are in {folder}")


def _finished(name: str, records: Records) -> RunRecord:
    runs = {run.run_id: run for run in records}
    trained = [run_id for run_id, run in runs.items() if run.kind == "train"]
    if name in runs and name not in trained:
        raise ConfigError(
            f"{name} is a record of a model from outside, which is not in the results: name the "
            "model again with --model"
        )
    refuse_unknown("run", [name], trained)
    if runs[name].status != "done":
        raise ConfigError(f"run {name} is {runs[name].status}; run its training to the end first")
    return runs[name]


def _is_of(run: RunRecord, dataset: Dataset) -> bool:
    """Whether `dataset`, with all its test images, holds those that the run was attacked on."""
    specs = [e.spec for e in run.evaluations if e.spec.split == "test"]
    return run.dataset == dataset.name and all(
        n <= len(dataset.test) and first_images(dataset.test, n).sha256 == sha256
        for n, sha256 in {(spec.n_examples, spec.data_sha256) for spec in specs}
    )


def _plan(
    dataset: Dataset,
    source: str,
    runs: Sequence[RunRecord],
    options: EvaluateOptions,
    records: Records,
    where: Workspace,
) -> Plan:
    dataset = dataset.seen_by(max(int(run.spec["num_classes"]) for run in runs))
    asked = SpecBuilder(dataset)
    attacks = options.attack_configs(options.checkpoints)
    checks = options.check_config(options.checkpoints)
    planned, beside = [], {}
    for run in runs:
        spec = TrainSpec.from_dict(run.spec)
        for checkpoint in options.checkpoints:
            load_network(spec, RunFolder(where.results, run.run_id), checkpoint)
        serve = {}
        for name in all_sources(attacks, checks):
            found = _surrogate(name, spec, dataset, records, where)
            serve[name] = found.run_id
            beside[found.run_id] = found
        eps = spec.attacked_eps if options.eps is None else options.eps
        evaluations = asked.evaluations(attacks, eps, serve)
        measures = asked.checks(checks, eps, serve) if checks else ()
        planned.append(RunPlan(spec, None, evaluations, measures, options.save_adversarials))
    title = f"attacks on {len(runs)} runs on {dataset.name}"
    return Plan(title, surrogates_first(planned, beside), dataset, source)


def _surrogate(
    name: str, spec: TrainSpec, dataset: Dataset, records: Records, where: Workspace
) -> RunPlan:
    """Return the surrogate: the run with this id, or else a run of this method.

    A run of the method is trained if none exists, with the arch, data and recipe of `spec`.
    """
    for run in (run for run in records if run.run_id == name):
        if run.kind != "train":
            raise ConfigError(
                f"surrogate {name} was not trained here, so its network is not in the results; "
                "name a run of `bench run`, or a method"
            )
        found = TrainSpec.from_dict(run.spec)
        refuse_other_images(found, dataset)
        load_network(found, RunFolder(where.results, name), "best")  # raises if it cannot serve
        return RunPlan(found)
    if name not in list_methods():
        raise unknown_name("method or run id of a surrogate", name, list_methods())
    finished = [
        TrainSpec.from_dict(run.spec)
        for run in records
        if run.kind == "train" and run.method == name and run.status == "done"
    ]
    alike = [
        other
        for other in sorted(finished, key=lambda s: (s.recipe_name != spec.recipe_name, s.seed))
        if (other.arch, other.data_sha256) == (spec.arch, spec.data_sha256)
        and other.run_id != spec.run_id
    ]
    if alike:
        planned = RunPlan(alike[0], name)
    else:
        method = get_method(name)
        params = {key: getattr(method, key) for key in parameters(type(method))}
        twin = replace(spec, method=name, params=params, method_sha256=None)
        planned = RunPlan(surrogate(spec, twin), name)
    if RunFolder(where.results, planned.run_id).weights("best").exists():
        return planned
    if training_sha256(dataset) != spec.data_sha256:
        here = "others" if len(dataset.train) else "none"
        raise ConfigError(
            f"surrogate '{name}' would be trained on the training images of {spec.run_id}, and "
            f"{dataset.name} has {here} here; name them with --dataset, or an existing run of "
            "`bench run` (transfer:RUN_ID)"
        )
    return planned


def _load_named(
    named: Named, results: Path, dataset: Dataset, device: torch.device
) -> ExternalModel:
    return load_external(named, dataset, device)


def _as_external(
    run_id: str,
    spec: Mapping[str, Any],
    checkpoint: str,
    results: Path,
    dataset: Dataset,
    device: torch.device,
) -> ExternalModel:
    """Load the network of a run, for a record on other data than it was trained on."""
    trained = TrainSpec.from_dict(spec)
    refuse_other_images(trained, dataset)
    network = load_network(trained, RunFolder(results, run_id), checkpoint)
    model = ModelSpec(
        model=run_id if checkpoint == "best" else f"{run_id}:{checkpoint}",
        weights_sha256=state_sha256(network),
        source_sha256=None,
        num_classes=trained.num_classes,
        dataset=dataset.name,
    )
    return ExternalModel(network.to(device), model)


def _external_plan(
    load: Loads, data: Dataset, source: str, options: EvaluateOptions, where: Workspace
) -> tuple[Plan, nn.Module]:
    """Plan attacks on the model that `load` returns, on `data`, which --dataset calls `source`.

    Returns the model too. Raises a BenchError if it or a surrogate cannot be used.
    """
    attacks = options.attack_configs((GIVEN,))
    own = {TWIN: options.surrogate} if options.surrogate else {}
    runs = {source: own.get(source, source) for source in all_sources(attacks, None)}
    for run_id in {*runs.values(), *own.values()}:
        surrogate_network(where.results, run_id, data)
    eps = REFERENCE_EPS if options.eps is None else options.eps
    external, n_classes = _checked(load, data, where)
    asked = SpecBuilder(data.seen_by(n_classes))
    checks = options.check_config((GIVEN,))
    run = RunPlan(
        external.spec,
        evaluations=asked.evaluations(attacks, eps, runs),
        measures=asked.checks(checks, eps, own) if checks else (),
        keep_images=options.save_adversarials,
        source=load,
        notes=external.notes,
    )
    return Plan(external.spec.model, (run,), data, source), external.network


def _checked(load: Loads, data: Dataset, where: Workspace) -> tuple[ExternalModel, int]:
    """Load the model, run the self-check and report it; return the model and its class count.

    The model's specification is that of its own record. Raises ModelError if it cannot take the
    images.
    """
    say = where.reporter.say
    for line in data.lines():
        say(line)
    first = Images(data, where.device).chunk(range(min(CHUNK, len(data.test))))
    try:
        external = load(where.results, data, where.device)
        lines, n_classes = self_check(external.network, *first)
        found = fingerprint(external.network, first[0])
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(
            f"the model and {MIN_ROWS} images do not fit into the memory of {where.device} "
            f"({explained(error)}); name another with --device"
        ) from error
    external = replace(external, spec=own_spec(external.spec, found, where.results))
    notes = list(external.notes)
    if external.spec.variant:
        notes.append(
            "a model of the same text and weights, but with other outputs, is on record; "
            f"this one becomes {external.spec.run_id}"
        )
    for line in [*lines, *(f"  note: {note}" for note in notes)]:
        say(line)
    write_fingerprint(where.results / external.spec.run_id, found)  # before the other records
    return external, n_classes
