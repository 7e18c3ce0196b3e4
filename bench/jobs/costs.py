"""Seconds of jobs on given devices: from records, from steps measured here, or from a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from bench.estimate import MEASURE, Estimator, Forecast, SecondsPerImage, cost_of
from bench.experiments.plan import RunPlan
from bench.jobs.devices import CPU, Devices
from bench.jobs.job import Job
from bench.machine import describe_machine, n_cores
from bench.records import RunRecord, load_records
from bench.records.spec import CHUNK, EvalSpec, MeasureSpec, TrainSpec
from bench.training.cost import Passes, passes

LAUNCH_SECONDS = 6e-6
"""Time of a call into torch on a GPU that has little to compute, in the model."""
RANKS_LOSS = 0.05
"""K GPUs train K / (1 + RANKS_LOSS (K - 1)) times as fast in the model: 3.5 times on 4."""
RECORDS, SCALED = "records of such jobs", "records of the same network, scaled by FLOPs"
HERE, MODEL = "steps measured here, now", "an estimate, nothing measured"
SOURCES = (RECORDS, SCALED, HERE, MODEL)


class Costs:
    """Seconds of jobs, and which of the four sources each is from."""

    def __init__(self, devices: Devices, results: Path, gpus_per_training: int = 1) -> None:
        """results: a folder of records; those made on such devices count."""
        self.devices, self.gpus_per_training = devices, gpus_per_training
        here = torch.device(CPU)
        if devices.name != CPU and torch.cuda.is_available():
            here = torch.device("cuda")
        self.machine = describe_machine(here)
        self.threads = max(1, n_cores() // devices.n)
        """Of each job, where the devices are cores."""
        self.estimator: Estimator | None = None
        if devices.named(self.machine["device"]) and devices.tflops is None:
            self.estimator = Estimator(here)
        self._passes: dict[str, Passes] = {}
        self._units: dict[tuple[str, str], SecondsPerImage] = {}
        self._forecast = Forecast()
        for run in load_records(results):
            if run.kind == "train":
                self._learn(run)

    @property
    def ranks_factor(self) -> float:
        """Return the seconds of a training on several GPUs, next to those on one."""
        return (1 + RANKS_LOSS * (self.gpus_per_training - 1)) / self.gpus_per_training

    def seconds(self, job: Job) -> tuple[float, str]:
        """Return the seconds of a job and their source; raises ConfigError for unknown devices."""
        parts = [self._part(job, made) for made in job.made.values() or [None]]
        total = sum(seconds for seconds, _ in parts)
        total *= self.ranks_factor if job.trains else 1.0
        return total, max((source for _, source in parts), key=SOURCES.index)

    def _part(self, job: Job, made: EvalSpec | MeasureSpec | None) -> tuple[float, str]:
        """Return the seconds of a training (None), a chunk or a measure."""
        kind = _kind(job.run.train_spec, made)
        level = self._forecast.level(kind)
        if level > 0:  # the same network
            effort = _cost(self._units_of("flops", job.run), job, made)
            found = self._forecast.seconds(kind, effort)
            assert found is not None
            return found, RECORDS if level == len(kind) else SCALED
        source = MODEL if self.estimator is None else HERE
        return _cost(self._units_of(source, job.run), job, made), source

    def _units_of(self, kind: str, run: RunPlan) -> SecondsPerImage:
        key = kind, run.run_id
        if key not in self._units:
            spec, method = run.train_spec, run.method
            assert method is not None
            if kind == HERE:
                assert self.estimator is not None
                with _threads(self.threads if self.devices.name == CPU else None):
                    measured = self.estimator.per_image(spec, method)
                assert measured is not None  # without a deadline
                self._units[key] = measured
            else:
                known = f"{spec.method} {spec.params}"
                if known not in self._passes:
                    self._passes[known] = passes(method)
                count = self._passes[known]
                n = count.forward + count.backward
                self._units[key] = _flops(spec, n) if kind == "flops" else self._modelled(spec, n)
        return self._units[key]

    def _modelled(self, spec: TrainSpec, n_passes: float) -> SecondsPerImage:
        """Return FLOPs by the stated speed, or the time of the calls where that is longer."""
        network = cost_of(spec)

        def forward(precision: str, rows: int) -> float:
            calls = LAUNCH_SECONDS * network.n_operations / rows
            return max(network.flops / self.devices.flops(precision), calls)

        step = (n_passes + 1) * forward(spec.precision, spec.recipe.batch_size)
        attack = forward("fp32", CHUNK)
        return SecondsPerImage(step, 2 * attack, attack)

    def _learn(self, run: RunRecord) -> None:
        """Add the seconds of a run's jobs that were done on such devices."""
        spec, train = TrainSpec.from_dict(run.spec), run.train or {}
        units, cost = _flops(spec, 0.0), None if "ranks" in train else train.get("cost")
        if cost and self._counts(run.provenance.get("machine")):
            units = _flops(spec, cost["forward_per_image"] + cost["backward_per_image"])
            steps = spec.recipe.epochs * spec.n_train * units.train_step
            whole = units.training(spec)  # with validation, which the record's seconds leave out
            self._forecast.add(_kind(spec, None), whole, cost["train_seconds"] * whole / steps)
        for evaluation in run.evaluations:
            made = evaluation.spec
            for chunk in evaluation.chunks:
                if self._counts(chunk.info):
                    effort = units.attack(made) * len(chunk.index) / made.n_examples
                    self._forecast.add(_kind(spec, made), effort, chunk.seconds)
        for measure in run.measures:
            if self._counts(measure.info):
                effort = MEASURE * measure.spec.n_examples * units.forward
                self._forecast.add(_kind(spec, measure.spec), effort, measure.seconds)

    def _counts(self, machine: object) -> bool:
        """Whether a record's machine had such a device; a CPU counts with its number of threads."""
        facts = dict(machine) if isinstance(machine, dict) else {}
        if self.devices.name != CPU:
            return self.devices.named(str(facts.get("device", "")))
        wanted = {"device": CPU, "processor": self.machine["processor"], "threads": self.threads}
        return all(facts.get(name) == value for name, value in wanted.items())


def _kind(spec: TrainSpec, made: EvalSpec | MeasureSpec | None) -> tuple[str, str, str]:
    if made is None:
        return spec.arch, f"training in {spec.precision}", spec.method
    return spec.arch, type(made).__name__, made.title


def _cost(units: SecondsPerImage, job: Job, made: EvalSpec | MeasureSpec | None) -> float:
    """Return the seconds of a part of a job by those per image; or its FLOPs, by FLOPs."""
    if made is None:
        return units.training(job.run.train_spec)
    if isinstance(made, MeasureSpec):
        return MEASURE * made.n_examples * units.forward
    chunks = made.chunks()
    return units.attack(made) * sum(len(chunks[c]) for c in job.chunks) / made.n_examples


def _flops(spec: TrainSpec, n_passes: float) -> SecondsPerImage:
    """Return FLOPs per image; a step has n_passes and the gradients of the weights."""
    flops = cost_of(spec).flops
    return SecondsPerImage((n_passes + 1) * flops, 2 * flops, flops)


@contextmanager
def _threads(n: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(before if n is None else n)
    yield
    torch.set_num_threads(before)
