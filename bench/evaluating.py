"""What `bench evaluate` does: more attacks on runs that are there, or a model from outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from bench.attacks.blocks import MIN_ROWS
from bench.data import Dataset, load_dataset
from bench.eps import REFERENCE_EPS, parse_eps
from bench.errors import ConfigError, unknown_name
from bench.evaluation.store import Images, evaluate_missing
from bench.external import Named, load_external
from bench.external.selfcheck import self_check
from bench.folder import RunFolder
from bench.machine import describe_machine
from bench.plan import check_classes, eval_specs
from bench.progress import Reporter
from bench.records import RunRecord, load_records
from bench.runner import load_network
from bench.spec import CHECKPOINTS, CHUNK, GIVEN, EvalSpec, TrainSpec
from bench.study import AskedAttack


def evaluate_runs(
    runs: Sequence[str],
    *,
    reporter: Reporter,
    attacks: Sequence[str],
    checkpoints: Sequence[str],
    dataset: str | None,
    data_root: str | None,
    eps: str | None,
    test_size: int | None,
    device: torch.device,
    results: Path,
) -> None:
    """Attack trained runs; raises a BenchError before any work where one cannot be attacked."""
    for checkpoint in checkpoints:
        if checkpoint not in CHECKPOINTS:
            raise unknown_name("checkpoint", checkpoint, CHECKPOINTS)
    there = {run.run_id: run for run in load_records(results) if run.kind == "train"}
    chosen = [_finished(name, there) for name in runs]
    asked = [AskedAttack.parse(a, checkpoints=tuple(checkpoints)) for a in attacks]
    data: dict[str, Dataset] = {}
    work: list[tuple[TrainSpec, RunFolder, Dataset, tuple[EvalSpec, ...]]] = []
    for run in chosen:
        source = dataset or str(run.provenance["dataset_source"])
        if source not in data:
            data[source] = load_dataset(source, data_root=data_root, test_size=test_size)
        spec = TrainSpec.from_dict(run.spec)
        if data[source].name != spec.dataset:
            raise ConfigError(
                f"{run.run_id} was trained on {spec.dataset} and {source} is "
                f"{data[source].name}; name its data with --dataset"
            )
        own = parse_eps(eps) if eps else spec.attacked_eps
        check_classes(asked, data[source])
        folder = RunFolder(results, run.run_id)
        for checkpoint in checkpoints:
            load_network(spec, folder, checkpoint)
        work.append((spec, folder, data[source], eval_specs(asked, own, data[source])))
    for spec, folder, images, specs in work:
        with _held(folder):
            for checkpoint in checkpoints:
                evaluate_missing(
                    folder,
                    checkpoint,
                    load_network(spec, folder, checkpoint).to(device),
                    [s for s in specs if s.checkpoint == checkpoint],
                    Images.of(images, device),
                    describe_machine(device),
                    reporter,
                )
        reporter.say(f"{folder.run_id}: {len(specs)} evaluations are in {folder.path}")


def evaluate_external(
    named: Named,
    *,
    reporter: Reporter,
    attacks: Sequence[str],
    checkpoints: Sequence[str],
    dataset: str | None,
    data_root: str | None,
    eps: str | None,
    test_size: int | None,
    device: torch.device,
    results: Path,
) -> None:
    """Attack a model that was not trained here; it gets a record like any other."""
    if dataset is None:
        raise ConfigError("--model needs --dataset: the test images to attack it on")
    data = load_dataset(dataset, data_root=data_root, test_size=test_size)
    asked = [AskedAttack.parse(name, checkpoints=(GIVEN,)) for name in attacks]
    check_classes(asked, data)
    specs = eval_specs(asked, parse_eps(eps) if eps else REFERENCE_EPS, data)
    external = load_external(named, data, device)
    folder = RunFolder(results, external.spec.run_id)
    machine = describe_machine(device)
    images = Images.of(data, device)
    first = images.chunk(range(min(CHUNK, len(data.test))))
    for line in self_check(external.network, *first, MIN_ROWS).lines():
        reporter.say(line)
    with _held(folder):
        folder.write_spec(external.spec, {}, {"dataset_source": dataset, "machine": machine})
        evaluate_missing(folder, GIVEN, external.network, specs, images, machine, reporter)
    reporter.say(f"{folder.run_id}: {len(specs)} evaluations are in {folder.path}")


@contextmanager
def _held(folder: RunFolder) -> Iterator[None]:
    """The folder is this process's alone inside, and free of damage."""
    with folder.claimed() as mine:
        if not mine:
            raise ConfigError(f"another process works on {folder.run_id}; try again after it")
        folder.set_damage_aside()
        yield


def _finished(name: str, there: dict[str, RunRecord]) -> RunRecord:
    if name not in there:
        raise unknown_name("run", name, there)
    if there[name].status != "done":
        raise ConfigError(f"run {name} is {there[name].status}; run its training to the end first")
    return there[name]
