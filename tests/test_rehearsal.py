"""The plan for other machines: the driver's order on a virtual clock, and the seconds of jobs."""

import heapq
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.errors import ConfigError
from bench.experiments.plan import Plan, RunPlan
from bench.jobs.costs import HERE, MODEL, RECORDS, SCALED, Costs
from bench.jobs.devices import Devices
from bench.jobs.job import Began, Event, Job, Sent, Trained
from bench.jobs.parcel import Parcel
from bench.jobs.rehearsal import Span, longest_path, rehearse
from bench.jobs.workspace import Workspace
from bench.progress import Reporter
from bench.records.run_folder import chunk_files
from benchmarks import plan as benchmark
from tests.commands import bench, done, refused
from tests.harness import raises_line
from tests.test_benchmarks import run as measured
from tests.test_jobs import (
    C1,
    CLEAN,
    DATA,
    PGD,
    N,
    Scripted,
    chunk,
    drive,
    run_plan,
    transfer,
    works,
)

H100 = "NVIDIA H100 80GB HBM3"


def seconds_of(job: Job) -> tuple[float, str]:
    """A duration that differs between jobs, longer for trainings."""
    return zlib.crc32(job.name.encode()) % 1000 + 5000 * job.trains, "made"


class Timed(Scripted):
    """An engine whose jobs end in the order of their durations, with all that they make."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots=slots)
        self.now = 0.0
        self._ends: list[tuple[float, int]] = []

    def submit(self, attempt: int, job: Job) -> None:
        super().submit(attempt, job)
        heapq.heappush(self._ends, (self.now + seconds_of(job)[0], attempt))

    def poll(self, seconds: float, take: Callable[[int, Event], None]) -> None:
        self.now, attempt = heapq.heappop(self._ends)
        _, events = self._out[attempt]
        *before, last = events
        for event in before:
            take(attempt, event)
        del self._out[attempt]
        take(attempt, last)


def rehearsed(results: Path, n: int, *runs: RunPlan) -> list[Span]:
    where = Workspace(results, torch.device("cpu"), Reporter(), "bench run", Scripted())
    return rehearse([Plan("made", runs, DATA, "made")], where, n, seconds_of)


def job(run: RunPlan, number: int = 0) -> Job:
    return Job(run=run, dataset=0, chunks=(number,))


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_jobs_go_out_in_the_order_of_a_real_run(tmp_path: Path, slots: int) -> None:
    serving = run_plan(9)
    runs = [run_plan(seed, PGD, transfer(serving), measures=(C1,)) for seed in (0, 1, 2)]
    runs = [*runs, run_plan(3, CLEAN, epochs=3), serving]
    spans = rehearsed(tmp_path, slots, *runs)
    assert not list(tmp_path.iterdir())
    engine = Timed(slots)
    drive(tmp_path, engine, *runs)
    assert [span.job.name for span in spans] == [other.name for other in engine.jobs]
    assert max(span.end for span in spans) == engine.now
    assert rehearsed(tmp_path, slots, *runs) == []  # all is done
    assert longest_path(spans)[0] <= engine.now


def test_the_longest_path_waits_for_surrogates(tmp_path: Path) -> None:
    serving = run_plan(9)
    spans = rehearsed(tmp_path, 8, run_plan(0, transfer(serving)), serving)
    trained = {s.job.run.run_id: s.end for s in spans if s.job.trains}
    seconds, path = longest_path(spans)
    assert seconds == max(s.end for s in spans if not s.job.trains)
    assert max(trained, key=lambda run_id: trained[run_id]) in path


def test_devices_are_read_and_a_mistake_is_one_line() -> None:
    assert Devices.parse("64xH100") == Devices(64, "H100")
    assert Devices.parse("a100") == Devices(1, "A100")
    assert Devices.parse("8xB300:700").flops("bf16") == 700e12
    assert Devices.parse("h100").named(H100)
    assert not Devices.parse("10xA10").named("NVIDIA A100-SXM4-80GB")
    for text in ("0xH100", "8x", "8xH100:0", "8 H100", ""):
        with raises_line(ConfigError, "--devices", "64xH100"):
            Devices.parse(text)
    refused(bench("run", "--devices", "8xH100"), "add --dry-run")
    wrong = ("run", "--dry-run", "--devices", "8xH1000", "--methods", "natural")
    refused(bench(*wrong), "Did you mean 'H100'?", "--devices 8xH1000:TFLOPS")


def on_h100(_: int, job: Job) -> Iterator[Event]:
    """A worker on an H100: 100 seconds of training steps, 7 of each chunk."""
    if not job.trains:
        for number in job.chunks:
            outcome = replace(chunk(PGD, number), seconds=7.0, info={"device": H100})
            yield Sent(Parcel(chunk_files(PGD, number, outcome)))
    for event in works(job):
        if isinstance(event, Trained):
            yield Began({"device": H100})
            passes = {"forward_per_image": 11, "backward_per_image": 11}
            event = Trained({**event.summary, "cost": {"train_seconds": 100.0, **passes}})
        if job.trains or not isinstance(event, Sent):
            yield event


def test_seconds_are_those_of_records_of_such_devices(tmp_path: Path) -> None:
    asked = run_plan(0, PGD)
    drive(tmp_path, Scripted(on_h100), asked)
    costs, training = Costs(Devices(8, "H100"), tmp_path), job(run_plan(1))
    seconds, source = costs.seconds(training)
    assert source == RECORDS
    assert 100 < seconds < 110  # with validation
    last = N // 256
    for number, expected in ((0, 7 * 3 * 256 / N), (last, 7 * 3 * (N - 256 * last) / N)):
        found, source = costs.seconds(job(asked, number))
        assert found == pytest.approx(expected)
        assert source == RECORDS
    trades = replace(training.run, spec=replace(asked.train_spec, method="trades"))
    assert costs.seconds(job(replace(trades, method_name="trades")))[1] == SCALED
    assert costs.seconds(job(run_plan(0, CLEAN)))[1] == SCALED
    assert Costs(Devices(8, "A100"), tmp_path).seconds(training)[1] == MODEL
    four = Costs(Devices(8, "H100"), tmp_path, gpus_per_training=4)
    assert four.seconds(training)[0] == pytest.approx(seconds * 1.15 / 4)
    assert four.seconds(job(asked)) == costs.seconds(job(asked))


def test_the_model_is_flops_by_speed_but_no_faster_than_its_calls(tmp_path: Path) -> None:
    slow, fast = (Costs(Devices(1, "X", tflops), tmp_path / "r") for tflops in (1e-6, 1e6))
    training, twice = job(run_plan(0)), job(run_plan(0, epochs=2))
    assert slow.seconds(twice)[0] == 2 * slow.seconds(training)[0]
    half = Costs(Devices(1, "X", 2e-6), tmp_path / "r")
    assert slow.seconds(training)[0] == pytest.approx(2 * half.seconds(training)[0])
    assert slow.seconds(training)[1] == MODEL
    assert fast.seconds(training)[0] > 1e-9 * slow.seconds(training)[0]
    assert Costs(Devices(1, "cpu"), tmp_path / "r").seconds(training)[1] == HERE


def test_the_page_needs_no_data_and_says_what_it_supposes(tmp_path: Path) -> None:
    options = ("--data-root", tmp_path / "none", "--results", tmp_path / "r", "--dry-run")
    asked = ("run", "--suite", "table4", *options, "--devices")
    pages = {text: done(*asked, text).output for text in ("1xH100", "64xH100", "64xA100")}
    assert not list(tmp_path.iterdir())
    for page in pages.values():
        assert "an estimate, nothing measured" in page
        for word in (
            "wall time",
            "longest path",
            "storage",
            "transfer",
            "factor of 2",
            "are not here",
        ):
            assert word in page
        assert "are not here" in page
    hours = {text: _hours(page) for text, page in pages.items()}
    assert hours["1xH100"] == hours["64xH100"]
    assert hours["64xA100"] == pytest.approx(hours["1xH100"] * 494 / 156, rel=0.02)
    four = done(*asked, "8xH100", "--gpus-per-training", "4").output
    assert "4 GPUs train 3.5 times as fast" in four
    refused(bench(*asked, "2xH100", "--gpus-per-training", "4"), "--gpus-per-training 4")


def _hours(page: str) -> float:
    (line,) = (line for line in page.splitlines() if line.startswith("in all"))
    return float(line.split()[-1])


@pytest.mark.slow
def test_recorded_durations_of_a_real_run_give_its_wall_time() -> None:
    small = ("--methods", "natural", "--seeds", "0", "--train-size", "200", "--test-size", "8")
    text = measured(benchmark.main, "--suite", "table4", "--size", "tiny", *small).output
    shares = {line[:15]: float(line.split()[-1]) for line in text.splitlines()[2:-1]}
    assert set(shares) == {"steps measured ", "its records    ", "durations of it"}
    assert 0.8 < shares["durations of it"] < 1.05
