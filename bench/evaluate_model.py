"""Run `bench evaluate`: attack existing runs, which are not trained again, or an external model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

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
from bench.evaluation.store import AttackedCheckpoint, Images, evaluate_missing
from bench.evaluation_specs import TWIN, SpecBuilder, all_sources
from bench.external import ExternalModel, Named, load_external, self_check
from bench.external.identity import fingerprint, own_spec, write_fingerprint
from bench.machine import describe_machine
from bench.plan import Plan, TrainingJob, surrogate, surrogates_first, training_sha256
from bench.provenance import evaluation_code
from bench.records import Records, RunRecord, load_records
from bench.registry import get_method, list_methods, parameters
from bench.run_store import RunFolder
from bench.runner import WAIT_SECONDS, Runner
from bench.spec import CHECKPOINTS, CHUNK, GIVEN, EvalSpec, MeasureSpec, ModelSpec, TrainSpec
from bench.study import AttackConfig, MeasureConfig
from bench.workers import Workspace


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
    elsewhere: list[tuple[RunRecord, Dataset, str]] = []
    for (source, n_train), group in by_source.items():
        everything = options.load(source, n_train, whole=True)
        dataset = options.load(source, n_train) if options.test_size else everything
        own = []
        for run in group:
            if _is_of(run, everything):
                own.append(run)
            else:
                elsewhere.append((run, dataset, source))
        if own:
            plans.append(_plan(dataset, source, own, options, records, where))
    loads = [
        (found, partial(_as_external, *found[:2], checkpoint, where))
        for found in elsewhere
        for checkpoint in options.checkpoints
    ]
    for _, load in loads:
        load()  # raises if it cannot be attacked
    with where.helpers:
        for plan in plans:
            for line in plan.dataset.lines():
                where.reporter.say(line)
            Runner(plan, where).run()
        inside = replace(where, helpers=nullcontext())
        for (run, dataset, source), load in loads:
            where.reporter.say(
                f"the test images of {dataset.name} here are not those of {run.run_id}, "
                f"which was trained on {run.dataset}; on them it gets a record of its own"
            )
            own_eps = TrainSpec.from_dict(run.spec).attacked_eps
            asked = replace(options, eps=own_eps if options.eps is None else options.eps)
            try:
                _evaluate_external(load, dataset, source, asked, inside)
            except RecordError:
                raise
            except BenchError as error:
                where.reporter.failed(f"{run.run_id} on {source}", f"error: {error}", error)
    where.reporter.say(f"the records are in {where.results}. Next: bench report")


def evaluate_external(named: Named, options: EvaluateOptions, where: Workspace) -> None:
    """Attack an external model; it gets a record like any other."""
    if options.dataset is None:
        raise ConfigError("--model needs --dataset: the test images to attack it on")
    data = options.load(options.dataset)
    folder, n = _evaluate_external(
        lambda: load_external(named, data, where.device), data, options.dataset, options, where
    )
    if where.reporter.exit_code == 2:
        raise ModelError(
            f"{len(where.reporter.failures)} of {n} evaluations and checks could not be made of "
            f"{named.model}, for the reasons above; the others are in {folder.path}"
        )


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
    asked.refuse_too_few_classes(attacks)
    cells, beside = [], {}
    for run in runs:
        spec = TrainSpec.from_dict(run.spec)
        for checkpoint in options.checkpoints:
            load_network(spec, RunFolder(where.results, run.run_id), checkpoint)
        serve = {}
        for name in all_sources(attacks, checks):
            cell = _surrogate(name, spec, dataset, records, where)
            serve[name] = cell.spec.run_id
            beside[cell.spec.run_id] = cell
        eps = spec.attacked_eps if options.eps is None else options.eps
        evaluations = asked.evaluations(attacks, eps, serve)
        measures = asked.checks(checks, eps, serve) if checks else ()
        cells.append(TrainingJob(spec, None, evaluations, measures, options.save_adversarials))
    title = f"attacks on {len(cells)} runs on {dataset.name}"
    return Plan(title, surrogates_first(cells, beside), dataset, source)


def _surrogate(
    name: str, spec: TrainSpec, dataset: Dataset, records: Records, where: Workspace
) -> TrainingJob:
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
        return TrainingJob(found, None)
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
        cell = TrainingJob(alike[0], get_method(name, **alike[0].params))
    else:
        method = get_method(name)
        params = {key: getattr(method, key) for key in parameters(type(method))}
        twin = replace(spec, method=name, params=params, method_sha256=None)
        cell = TrainingJob(surrogate(spec, twin), method)
    if RunFolder(where.results, cell.spec.run_id).weights("best").exists():
        return cell
    if training_sha256(dataset) != spec.data_sha256:
        here = "others" if len(dataset.train) else "none"
        raise ConfigError(
            f"surrogate '{name}' would be trained on the training images of {spec.run_id}, and "
            f"{dataset.name} has {here} here; name them with --dataset, or an existing run of "
            "`bench run` (transfer:RUN_ID)"
        )
    return cell


def _as_external(
    run: RunRecord, dataset: Dataset, checkpoint: str, where: Workspace
) -> ExternalModel:
    """Load the network of a run, for a record on other data than it was trained on."""
    spec = TrainSpec.from_dict(run.spec)
    refuse_other_images(spec, dataset)
    network = load_network(spec, RunFolder(where.results, run.run_id), checkpoint)
    model = ModelSpec(
        model=run.run_id if checkpoint == "best" else f"{run.run_id}:{checkpoint}",
        weights_sha256=state_sha256(network),
        source_sha256=None,
        num_classes=spec.num_classes,
        dataset=dataset.name,
    )
    return ExternalModel(network.to(where.device), model)


def _evaluate_external(
    load: Callable[[], ExternalModel],
    data: Dataset,
    source: str,
    options: EvaluateOptions,
    where: Workspace,
) -> tuple[RunFolder, int]:
    """Attack the model that `load` returns, on `data`, which --dataset calls `source`.

    Returns its folder, and the number of requested evaluations and checks.
    """
    results, device, reporter = where.results, where.device, where.reporter
    attacks = options.attack_configs((GIVEN,))
    SpecBuilder(data).refuse_too_few_classes(attacks)
    networks: dict[str, nn.Module] = {}

    def network(run_id: str) -> nn.Module:
        if run_id not in networks:
            networks[run_id] = surrogate_network(results, run_id, data).to(device)
        return networks[run_id]

    own = {TWIN: options.surrogate} if options.surrogate else {}
    runs = {source: own.get(source, source) for source in all_sources(attacks, None)}
    for run_id in {*runs.values(), *own.values()}:
        network(run_id)  # raises if it cannot be used
    eps = REFERENCE_EPS if options.eps is None else options.eps
    images = Images(data, device)
    external, n_classes = _checked(load, data, images, where)
    folder = RunFolder(results, external.spec.run_id)
    asked = SpecBuilder(data.seen_by(n_classes))
    asked.refuse_too_few_classes(attacks)
    specs = asked.evaluations(attacks, eps, runs)
    checks = options.check_config((GIVEN,))
    measures = asked.checks(checks, eps, own) if checks else ()
    with where.helpers:
        machine = describe_machine(device)  # once helpers have their share of its threads
        provenance = {"dataset_source": source, "machine": machine} | data.notes(external.notes)
        target = AttackedCheckpoint(
            folder=folder,
            checkpoint=GIVEN,
            model=external.network,
            images=images,
            surrogate=network,
            info=machine | {"code": evaluation_code()},
            keep_images=options.save_adversarials,
        )
        while not _attack(target, external.spec, provenance, specs, measures, where):
            time.sleep(WAIT_SECONDS)
    n = len(specs) + len(measures)
    n_failed = sum(key.startswith(f"{folder.run_id}/") for key in reporter.failures)
    reporter.say(f"{folder.run_id}: {n - n_failed} evaluations and checks are in {folder.path}")
    return folder, n


def _checked(
    load: Callable[[], ExternalModel], data: Dataset, images: Images, where: Workspace
) -> tuple[ExternalModel, int]:
    """Load the model, run the self-check and report it; return the model and its class count.

    The model's specification is that of its own record. Raises ModelError if it cannot take the
    images.
    """
    say = where.reporter.say
    for line in data.lines():
        say(line)
    first = images.chunk(range(min(CHUNK, len(data.test))))
    try:
        external = load()
        lines, n_classes = self_check(external.network, *first)
        found = fingerprint(external.network, first[0])
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(
            f"the model and {MIN_ROWS} images do not fit into the memory of {images.device} "
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


def _attack(
    target: AttackedCheckpoint,
    spec: ModelSpec,
    provenance: Mapping[str, Any],
    specs: Sequence[EvalSpec],
    measures: Sequence[MeasureSpec],
    where: Workspace,
) -> bool:
    """Run what is missing; False if another process repairs the folder, or is still at some."""
    folder = target.folder
    with folder.claimed() as alone:
        if alone:
            folder.quarantine_damaged()
            folder.write_spec(spec, {}, provenance)
    with folder.claimed(shared=True) as ours:
        return ours and evaluate_missing(target, specs, measures, where.reporter, folder.merge)
