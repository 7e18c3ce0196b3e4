"""Run `bench evaluate`: attack existing runs, or an external model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.archs.weights import state_sha256
from bench.asked import TWIN, Asked, all_sources
from bench.attacks.blocks import MIN_ROWS
from bench.data import Dataset
from bench.eps import REFERENCE_EPS, parse_eps
from bench.errors import BenchError, ConfigError, ModelError, RecordError
from bench.evaluation.inputs import explained
from bench.evaluation.store import Images, Target, evaluate_missing
from bench.external import ExternalModel, Named, load_external, self_check
from bench.external.identity import fingerprint, own_spec, write_fingerprint
from bench.folder import RunFolder
from bench.machine import describe_machine
from bench.plan_runs import Elsewhere, EvaluateOptions, plan_runs
from bench.progress import Reporter
from bench.provenance import evaluation_code
from bench.records import load_records
from bench.runner import WAIT_SECONDS, Runner
from bench.spec import CHUNK, GIVEN, EvalSpec, MeasureSpec, ModelSpec, TrainSpec
from bench.trained import load_network, refuse_other_images, surrogate_network


@dataclass(frozen=True)
class Workspace:
    """The results folder, device, reporter and helper processes of a command."""

    results: Path
    device: torch.device
    reporter: Reporter
    command: str
    """Goes into the records of surrogates that are trained."""
    helpers: AbstractContextManager[None]
    """Helper processes for the same work; entered once there is work to share."""


def evaluate_runs(runs: Sequence[str], request: EvaluateOptions, where: Workspace) -> None:
    """Attack trained runs; raises a BenchError before any work if one cannot be attacked.

    A failure of a run on other data than its own is reported, and the others continue.
    """
    plans, elsewhere = plan_runs(runs, request, load_records(where.results), where.results)
    given = [
        (found, partial(_as_given, found, checkpoint, where))
        for found in elsewhere
        for checkpoint in request.checkpoints
    ]
    for _, load in given:
        load()  # raises if it cannot be attacked
    inside = replace(where, helpers=nullcontext())
    with where.helpers:
        for plan in plans:
            for line in plan.dataset.lines():
                where.reporter.say(line)
            origin = {"command": where.command, "dataset_source": plan.source}
            provenance = origin | plan.dataset.notes()
            Runner(plan, where.results, where.device, where.reporter, provenance).run()
        for found, load in given:
            run = found.run
            where.reporter.say(
                f"the test images of {found.dataset.name} here are not those of {run.run_id}, "
                f"which was trained on {run.dataset}; on them it gets a record of its own"
            )
            own = str(TrainSpec.from_dict(run.spec).attacked_eps)
            asked = replace(request, eps=own if request.eps is None else request.eps)
            try:
                _evaluate_given(load, found.dataset, found.source, asked, inside)
            except RecordError:
                raise
            except BenchError as error:
                where.reporter.failed(f"{run.run_id} on {found.source}", f"error: {error}", error)
    where.reporter.say(f"the records are in {where.results}. Next: bench report")


def evaluate_external(named: Named, request: EvaluateOptions, where: Workspace) -> None:
    """Attack an external model; it gets a record like any other."""
    if request.dataset is None:
        raise ConfigError("--model needs --dataset: the test images to attack it on")
    data = request.load(request.dataset)
    folder, n = _evaluate_given(
        lambda: load_external(named, data, where.device), data, request.dataset, request, where
    )
    if where.reporter.exit_code == 2:
        raise ModelError(
            f"{len(where.reporter.failures)} of {n} evaluations and checks could not be made of "
            f"{named.model}, for the reasons above; the others are in {folder.path}"
        )


def _as_given(found: Elsewhere, checkpoint: str, where: Workspace) -> ExternalModel:
    """Load the network of a run, for a record on other data than it was trained on."""
    run_id, dataset = found.run.run_id, found.dataset
    spec = TrainSpec.from_dict(found.run.spec)
    refuse_other_images(spec, dataset)
    network = load_network(spec, RunFolder(where.results, run_id), checkpoint)
    model = ModelSpec(
        model=run_id if checkpoint == "best" else f"{run_id}:{checkpoint}",
        weights_sha256=state_sha256(network),
        source_sha256=None,
        num_classes=spec.num_classes,
        dataset=dataset.name,
    )
    return ExternalModel(network.to(where.device), model)


def _evaluate_given(
    load: Callable[[], ExternalModel],
    data: Dataset,
    source: str,
    request: EvaluateOptions,
    where: Workspace,
) -> tuple[RunFolder, int]:
    """Attack the model that `load` returns, on `data`, which --dataset calls `source`.

    Returns its folder, and the number of requested evaluations and checks.
    """
    results, device, reporter = where.results, where.device, where.reporter
    attacks = request.asked_attacks((GIVEN,))
    Asked(data).refuse_too_few_classes(attacks)
    networks: dict[str, nn.Module] = {}

    def network(run_id: str) -> nn.Module:
        if run_id not in networks:
            networks[run_id] = surrogate_network(results, run_id, data).to(device)
        return networks[run_id]

    own = {TWIN: request.surrogate} if request.surrogate else {}
    runs = {source: own.get(source, source) for source in all_sources(attacks, None)}
    for run_id in {*runs.values(), *own.values()}:
        network(run_id)  # raises if it cannot be used
    eps = REFERENCE_EPS if request.eps is None else parse_eps(request.eps)
    images = Images(data, device)
    external, n_classes = _looked_at(load, data, images, where)
    folder = RunFolder(results, external.spec.run_id)
    asked = Asked(data.seen_by(n_classes))
    asked.refuse_too_few_classes(attacks)
    specs = asked.evaluations(attacks, eps, runs)
    checks = request.asked_checks((GIVEN,))
    measures = asked.checks(checks, eps, own) if checks else ()
    with where.helpers:
        machine = describe_machine(device)  # once helpers have their share of its threads
        provenance = {"dataset_source": source, "machine": machine} | data.notes(external.notes)
        target = Target(
            folder=folder,
            checkpoint=GIVEN,
            model=external.network,
            images=images,
            surrogate=network,
            info=machine | {"code": evaluation_code()},
            keep_images=request.save_adversarials,
        )
        while not _attack(target, external, provenance, specs, measures, reporter):
            time.sleep(WAIT_SECONDS)
    n = len(specs) + len(measures)
    n_failed = sum(key.startswith(f"{folder.run_id}/") for key in reporter.failures)
    reporter.say(f"{folder.run_id}: {n - n_failed} evaluations and checks are in {folder.path}")
    return folder, n


def _looked_at(
    load: Callable[[], ExternalModel], data: Dataset, images: Images, where: Workspace
) -> tuple[ExternalModel, int]:
    """Load the model, run the self-check and report it; return the model and its class count.

    The model's specification is that of its own record. Raises ModelError if it cannot take the
    images.
    """
    reporter, results = where.reporter, where.results
    for line in data.lines():
        reporter.say(line)
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
    for line in lines:
        reporter.say(line)
    for note in external.notes:
        reporter.say(f"  note: {note}")
    external = replace(external, spec=own_spec(external.spec, found, results))
    if external.spec.variant:
        reporter.say(
            "  note: a model of the same text and weights, but with other outputs, is on record; "
            f"this one becomes {external.spec.run_id}"
        )
    write_fingerprint(results / external.spec.run_id, found)  # before the record of that name
    return external, n_classes


def _attack(
    target: Target,
    external: ExternalModel,
    provenance: Mapping[str, Any],
    specs: Sequence[EvalSpec],
    measures: Sequence[MeasureSpec],
    reporter: Reporter,
) -> bool:
    """Run what is missing; False if another process repairs the folder, or is still at some."""
    folder = target.folder
    with folder.claimed() as alone:
        if alone:
            folder.set_damage_aside()
            folder.write_spec(external.spec, {}, provenance)
    with folder.claimed(shared=True) as ours:
        return ours and evaluate_missing(target, specs, measures, reporter)
