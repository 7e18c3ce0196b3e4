"""The driver against an engine that does what a script says, and files on their way."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.errors import ConfigError, ModelError, RecordError
from bench.estimate import made_dataset, made_spec
from bench.experiments.plan import Plan, RunPlan, make_plans
from bench.experiments.suite import load_suite
from bench.external import ExternalModel
from bench.external.identity import Fingerprint, refuse_another, write_fingerprint
from bench.jobs import display, runs
from bench.jobs.driver import MAX_LOSSES, Driver
from bench.jobs.job import Done, Engine, Event, Failed, Job, Lost, Sent, Shown, Trained
from bench.jobs.parcel import Mirror, Parcel
from bench.jobs.processes import ProcessesEngine
from bench.jobs.slurm import sbatch_options
from bench.jobs.work import Worker
from bench.jobs.workspace import Machines, Workspace, workspace
from bench.progress import Reporter
from bench.records import Chunk, load_records
from bench.records.measure import Measured, measure_files
from bench.records.run_folder import RunFolder, chunk_files
from bench.records.spec import EvalSpec, MeasureSpec, ModelSpec
from bench.storage import sha256, write_files
from tests.commands import files
from tests.harness import raises_line

SPEC = made_spec("madry", "cnn", 20, image_size=8)
DATA = made_dataset(20, SPEC)
N = 700
"""Three chunks."""
PGD = EvalSpec(checkpoint="best", attack="pgd-20", eps=0.1, n_examples=N, data_sha256="d")
CLEAN = replace(PGD, attack="clean")
C1 = MeasureSpec(checkpoint="best", name="C1", eps=0.1, n_examples=20, data_sha256="d")
WEIGHTS = b"weights"

WRONG = Parcel({"best.safetensors": b"x", "train.json": b"{}", "late": b""})
LATE = Failed(line="late", fixable=False)

Script = Callable[[int, Job], Iterator[Event]]


def works(job: Job, weights: bytes = WEIGHTS) -> Iterator[Event]:
    """What a worker sends that has no trouble."""
    if job.trains:
        yield Shown(0, 10, "")
        yield Sent(Parcel({"state-1.pt": b"state", "best-0.safetensors": weights}))
        files = {f"{name}.safetensors": weights for name in ("best", "last")}
        yield Sent(Parcel(files, ("best-0.safetensors",)))
        checkpoints = {name: {"sha256": sha256(weights)} for name in ("best", "last")}
        yield Trained({"status": "done", "checkpoints": checkpoints, "warnings": []})
    for spec, n in product(job.run.evaluations, job.chunks):
        yield Sent(Parcel(chunk_files(spec, n, chunk(spec, n))))
    for measure in job.run.measures:
        yield Sent(Parcel(measure_files(measure, Measured(values={"value": 1.0}), 1.0, {})))
    yield Done()


def chunk(spec: EvalSpec, number: int) -> Chunk:
    index = np.array(spec.chunks()[number])
    right = index % 3 > 0
    none = np.full(len(index), -1, dtype=np.int8)
    return Chunk(index, right, right, none, (spec.attack,), 1.0, label=index % 10)


class Scripted(Engine):
    """An engine whose workers send what the script says, one event per poll."""

    def __init__(self, script: Script | None = None, slots: int = 1) -> None:
        self.slots, self._script = slots, script or (lambda _, job: works(job))
        self.jobs: list[Job] = []
        self.most = 0
        """The most jobs that were out at once, of one run."""
        self._out: dict[int, tuple[Job, Iterator[Event]]] = {}

    def use(self, device: torch.device, say: Callable[[str], None]) -> None: ...

    def begin(self, make: Callable[..., Worker]) -> None: ...

    @property
    def free(self) -> int:
        return self.slots - len(self._out)

    def submit(self, attempt: int, job: Job) -> None:
        assert self.free
        self.jobs.append(job)
        self._out[attempt] = job, self._script(attempt, job)
        same = [other for other, _ in self._out.values() if other.run.run_id == job.run.run_id]
        self.most = max(self.most, len(same))

    def poll(self, seconds: float, take: Callable[[int, Event], None]) -> None:
        for attempt, (_, events) in list(self._out.items()):
            event = next(events)
            if isinstance(event, Done | Lost):
                del self._out[attempt]
            take(attempt, event)

    def close(self) -> None:
        self._out.clear()


def run_plan(
    seed: int = 0, *asked: EvalSpec, measures: tuple[MeasureSpec, ...] = (), epochs: int = 1
) -> RunPlan:
    spec = replace(SPEC, seed=seed, recipe=replace(SPEC.recipe, epochs=epochs))
    return RunPlan(spec, "madry", asked, measures)


def transfer(source: RunPlan) -> EvalSpec:
    return replace(PGD, attack="transfer", params={"surrogates": [source.run_id]})


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def drive(results: Path, engine: Scripted, *runs: RunPlan) -> Reporter:
    reporter = Reporter()
    where = Workspace(results, torch.device("cpu"), reporter, "bench run", engine)
    Driver([Plan("made", runs, DATA, "made")], where, engine).run()
    return reporter


def titles(engine: Scripted) -> list[tuple[int, str]]:
    """Seed and what was made, in the order in which the jobs were handed out."""
    return [
        (job.run.train_spec.seed, job.kind[-1].split()[0] if job.made else "training")
        for job in engine.jobs
    ]


def complete(results: Path) -> dict[int | None, int]:
    """Finished evaluations and measures by the seed of the run."""
    records = load_records(results)
    assert not records.damaged
    return {r.seed: sum(e.complete for e in r.evaluations) + len(r.measures) for r in records}


def test_the_same_command_does_nothing_a_second_time(results: Path) -> None:
    runs = [run_plan(seed, PGD, CLEAN, measures=(C1,)) for seed in (0, 1)]
    first = Scripted()
    drive(results, first, *runs)
    assert complete(results) == {0: 3, 1: 3}
    made = ["training", *["pgd-20"] * 3, *["clean"] * 3, "C1"]
    assert titles(first) == [(seed, name) for seed in (0, 1) for name in made]
    assert not list(results.rglob("state-*"))
    again = Scripted()
    drive(results, again, *runs)
    assert again.jobs == []


def test_surrogates_come_first_then_the_longest_and_attacks_last(results: Path) -> None:
    serving = run_plan(9)
    runs = [run_plan(seed, transfer(serving), epochs=seed + 1) for seed in (0, 1, 2)]
    engine = Scripted(slots=2)
    drive(results, engine, *runs, serving)
    assert titles(engine)[:4] == [(seed, "training") for seed in (9, 2, 1, 0)]
    assert {name for _, name in titles(engine)[4:]} == {"transfer"}
    assert complete(results) == {0: 1, 1: 1, 2: 1, 9: 0}


@pytest.mark.parametrize("slots", [1, 2])
def test_stages_follow_each_other_and_no_worker_waits_for_the_next(
    results: Path, slots: int
) -> None:
    """A run's later evaluations come after the trainings of an earlier stage."""

    def staged(run: RunPlan, first: int, **later: int) -> RunPlan:
        ids = {e.eval_id: later.get(e.attack, first) for e in run.evaluations}
        return replace(run, stages={"": first, **ids})

    runs = [
        staged(run_plan(2, CLEAN, epochs=9), 2),
        staged(run_plan(0, replace(PGD, n_examples=20), CLEAN), 1, clean=2),
        staged(run_plan(1, replace(PGD, n_examples=20)), 1),
    ]
    engine = Scripted(slots=slots)
    drive(results, engine, *runs)
    assert [job.stage for job in engine.jobs] == [1] * 4 + [2] * 7
    handed = titles(engine)[:4]
    made = [(0, "training"), (0, "pgd-20"), (1, "training"), (1, "pgd-20")]
    assert handed == (made if slots == 1 else [made[0], made[2], made[1], made[3]])
    assert complete(results) == {0: 2, 1: 1, 2: 1}


def test_records_and_best_weights_are_enough_to_go_on(results: Path) -> None:
    """As they are committed: without states, and without the weights of the last epoch."""
    source = run_plan(9, CLEAN)
    drive(results, Scripted(), source, run_plan(0, CLEAN, replace(PGD, checkpoint="last")))
    for path in results.rglob("last.safetensors"):
        path.unlink()
    engine = Scripted()
    done = run_plan(0, CLEAN, replace(PGD, checkpoint="last"))
    drive(results, engine, source, done, run_plan(1, transfer(source)))
    assert {seed for seed, _ in titles(engine)} == {1}


def test_idle_workers_help_with_the_chunks_of_one_network(results: Path) -> None:
    engine = Scripted(slots=3)
    drive(results, engine, run_plan(0, PGD))
    assert engine.most == 3


@pytest.mark.parametrize("kind", ["training", "pgd-20"])
def test_a_lost_job_is_handed_out_again_and_what_comes_late_is_dropped(
    results: Path, kind: str
) -> None:
    lost, given_up = list[int](), list[int]()
    late: list[Callable[[], None]] = []

    class Late(Scripted):
        def poll(self, seconds: float, take: Callable[[int, Event], None]) -> None:
            for send in late:
                send()
            late.clear()
            super().poll(seconds, take)
            while given_up:
                given_up.pop()
                late.extend(partial(take, lost[0], event) for event in (Sent(WRONG), LATE, Done()))

    def script(attempt: int, job: Job) -> Iterator[Event]:
        if not lost and job.trains == (kind == "training"):
            lost.append(attempt)
            if job.trains:
                yield Sent(Parcel({"state-1.pt": b"half"}))
            given_up.append(attempt)
            yield Lost("exit code -9")
        yield from works(job)

    engine = Late(script)
    reporter = drive(results, engine, run_plan(0, PGD))
    assert len(lost) == 1
    assert titles(engine).count((0, "training")) == 1 + (kind == "training")
    assert titles(engine).count((0, "pgd-20")) == 3 + (kind != "training")
    assert not reporter.failures
    assert not list(results.rglob("late"))
    assert complete(results) == {0: 1}


@pytest.mark.parametrize("progresses", [False, True])
def test_a_job_that_keeps_losing_workers_fails_unless_it_progresses(
    results: Path, progresses: bool
) -> None:
    n = 0

    def script(attempt: int, job: Job) -> Iterator[Event]:
        nonlocal n
        if job.trains and job.run.train_spec.seed == 0 and n < MAX_LOSSES:
            n += 1
            if progresses:
                yield Sent(Parcel({f"state-{n}.pt": b"state"}))
            yield Lost("exit code -9")
        yield from works(job)

    reporter = drive(results, Scripted(script), run_plan(0, PGD), run_plan(1, PGD))
    if progresses:
        assert complete(results) == {0: 1, 1: 1}
        assert reporter.exit_code == 0
        return
    assert complete(results) == {0: 0, 1: 1}
    assert reporter.exit_code == 1
    (line,) = reporter.failures.values()
    assert f"failed here: lost {MAX_LOSSES} workers" in line
    assert "exit code -9" in line
    drive(results, Scripted(), run_plan(0, PGD))
    assert complete(results) == {0: 1, 1: 1}


def test_a_failure_is_one_line_and_the_others_go_on(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = Failed(line="ValueError: no", fixable=False, traceback="Traceback!\n")

    def script(attempt: int, job: Job) -> Iterator[Event]:
        seed = job.run.train_spec.seed
        if job.trains and seed == 0:
            yield error
            yield Done()
        elif job.run.evaluations == (PGD,) and seed == 1:
            yield replace(error, spec_id=PGD.eval_id)
            yield Done()
        yield from works(job)

    runs = [run_plan(seed, PGD, CLEAN) for seed in (0, 1, 2)]
    engine = Scripted(script)
    reporter = drive(results, engine, *runs)
    assert reporter.exit_code == 1
    first, second = reporter.failures.values()
    assert first == second == "ValueError: no"
    assert list(reporter.failures) == [runs[0].run_id, f"{runs[1].run_id}/{PGD.eval_id}"]
    assert capsys.readouterr().err.count("ValueError: no") == 2
    assert titles(engine).count((1, "pgd-20")) == 1  # its other chunks are not tried
    assert complete(results) == {0: 0, 1: 1, 2: 2}
    assert (results / runs[0].run_id / "traceback.txt").read_text() == "Traceback!\n"


def test_a_loss_that_is_not_finite_is_recorded_and_not_repeated(results: Path) -> None:
    def script(attempt: int, job: Job) -> Iterator[Event]:
        yield Trained({"status": "failed", "error": "not finite", "warnings": []})
        yield Done()

    drive(results, Scripted(script), run_plan(0, PGD))
    engine = Scripted()
    drive(results, engine, run_plan(0, PGD))
    assert engine.jobs == []
    (record,) = load_records(results)
    assert record.status == "failed"


def test_what_needs_a_surrogate_that_failed_is_left_out(results: Path) -> None:
    serving = run_plan(9)

    def script(attempt: int, job: Job) -> Iterator[Event]:
        if job.run.run_id == serving.run_id:
            yield Failed(line="ValueError: no", fixable=False)
            yield Done()
        yield from works(job)

    reporter = drive(results, Scripted(script), serving, run_plan(0, transfer(serving), CLEAN))
    assert complete(results) == {0: 1, 9: 0}
    assert len(reporter.failures) == 2
    assert "what needs a surrogate was not made" in list(reporter.failures.values())[1]


def test_outcomes_of_earlier_weights_are_put_aside(results: Path) -> None:
    run = run_plan(0, PGD)
    drive(results, Scripted(), run)
    folder = results / run.run_id
    (folder / "best.safetensors").unlink()
    engine = Scripted(lambda _, job: works(job, b"other weights"))
    drive(results, engine, replace(run, evaluations=(PGD, CLEAN)))
    assert (folder / "evaluations.damaged").exists()
    assert titles(engine) == [(0, n) for n in ["training", *["pgd-20"] * 3, *["clean"] * 3]]
    assert complete(results) == {0: 2}
    assert not (folder / "train.json.earlier").exists()


def test_a_run_of_another_command_is_waited_for(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = run_plan(0, PGD), run_plan(1, PGD)
    claim = RunFolder(results, theirs.run_id).claimed()
    assert claim.__enter__()
    engine, waits = Scripted(), list[int]()

    def wait(_: float) -> None:
        waits.append(len(engine.jobs))
        claim.__exit__(None, None, None)

    monkeypatch.setattr("bench.jobs.driver.sleep", wait)
    monkeypatch.setattr(runs, "WAIT_SECONDS", 0.0)
    drive(results, engine, theirs, mine)
    assert waits == [4]  # its own run is done by then
    assert complete(results) == {0: 1, 1: 1}


def test_a_folder_that_cannot_lock_is_said_once(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", refuse)
    drive(results, Scripted(), run_plan(0, CLEAN), run_plan(1, CLEAN))
    assert capsys.readouterr().err.count("cannot lock files") == 1
    assert complete(results) == {0: 1, 1: 1}


def test_a_full_disk_ends_the_command_with_one_line(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Scripted()
    run = run_plan(0, PGD)
    drive(results, Scripted(), run_plan(0))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RecordError, match="No space left"):
            drive(results, engine, run)
    assert complete(results) == {0: 0}
    drive(results, Scripted(), run)
    assert complete(results) == {0: 1}


def test_one_line_says_what_each_worker_does_and_what_is_left(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(display, "SHOW_SECONDS", 0.0)
    monkeypatch.setattr("bench.progress.PLAIN_SECONDS", 0.0)
    first, second = run_plan(0, PGD), run_plan(1, PGD)
    drive(results, Scripted(slots=2), first, second)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("jobs: ")]
    assert f"{first.run_id}: training 0/10; {second.run_id}: training 0/10" in lines[1]
    assert lines[0].startswith("jobs: 0/8 ")  # nothing is known of the time yet
    assert f"{second.run_id} (best): pgd-20 at 0.1" in lines[-2]
    assert " left " in lines[-2]
    assert lines[-1].startswith("jobs: 8/8")


def test_a_model_that_is_another_when_it_is_loaded_again_is_refused(tmp_path: Path) -> None:
    spec = ModelSpec(
        model="a.py:make", weights_sha256="1", source_sha256="2", num_classes=10, dataset="made"
    )
    cpu, network = torch.device("cpu"), torch.nn.Identity()
    for other, same in ((replace(spec, variant=3), True), (replace(spec, num_classes=5), False)):
        plan = RunPlan(spec, source=lambda *_, other=other: ExternalModel(network, other))
        if same:
            assert plan.load("given", tmp_path, DATA, cpu) is network
        else:
            with raises_line(ModelError, "a.py:make is another model"):
                plan.load("given", tmp_path, DATA, cpu)
    few = np.array(["ab"])
    write_fingerprint(tmp_path, Fingerprint(few, np.ones((1, 4), np.float32)))
    refuse_another(tmp_path, Fingerprint(few, np.ones((1, 4), np.float32)))
    with raises_line(ModelError, "--workers 1"):
        refuse_another(tmp_path, Fingerprint(few, np.zeros((1, 4), np.float32)))


@pytest.mark.slow
def test_more_workers_than_gpus_need_per_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    threads = torch.get_num_threads()
    for n, per_gpu, device, fits in (
        *((3, 1, "cuda", False), (3, 2, "cuda", True)),
        *((2, 1, "cuda:1", False), (2, 2, "cuda:1", True)),
    ):
        engine = ProcessesEngine(n, per_gpu)
        try:
            if fits:
                engine.use(torch.device(device), print)
            else:
                with raises_line(ConfigError, f"--workers {n}", "1 job on each", "--per-gpu 2"):
                    engine.use(torch.device(device), print)
        finally:
            engine.close()
            torch.set_num_threads(threads)
    for options, n in (({"per_gpu": 2}, 4), ({"device": "cuda:1"}, 1), ({"device": "cpu"}, 1)):
        every = Machines(workers=0, **options).engine(tmp_path)  # --workers auto
        assert every.slots == n
        every.close()


def test_an_engine_with_slow_starts_gets_few_jobs(results: Path) -> None:
    engine = Scripted(slots=2)
    engine.whole = True
    attacks = [replace(PGD, attack=name) for name in ("pgd-20", "pgd-50", "cw", "fgsm")]
    drive(results, engine, run_plan(0, CLEAN, *attacks))
    assert complete(results) == {0: 5}
    made = [job for job in engine.jobs if job.made]
    assert 2 <= len(made) <= 11  # of 15 chunks
    assert any(len(job.made) > 1 for job in made)


@pytest.mark.parametrize("ends", [True, False])
def test_jobs_that_an_earlier_command_left_are_followed(results: Path, ends: bool) -> None:
    earlier = Scripted()
    run = run_plan(0, PGD)
    drive(results, earlier, run_plan(0))
    (training,) = earlier.jobs
    attack = replace(training, run=run, chunks=(0, 1))

    class Holding(Scripted):
        @property
        def held(self) -> list[Job]:
            return [] if self.jobs else [attack]

    def script(attempt: int, job: Job) -> Iterator[Event]:
        return works(job) if ends or attempt > 1 else iter([Lost("gone")])

    engine = Holding(script)
    reporter = drive(results, engine, run)
    chunks = [job.chunks for job in engine.jobs]
    assert chunks == [(0, 1), (2,)] if ends else [(0, 1), (0,), (1,), (2,)]
    assert not reporter.failures
    assert complete(results) == {0: 1}


def test_without_a_machine_the_driver_waits(results: Path) -> None:
    class Away(Scripted):
        def poll(self, seconds: float, take: Callable[[int, Event], None]) -> None:
            self.slots = 1
            super().poll(seconds, take)

    drive(results, engine := Away(slots=0), run_plan(0, CLEAN))
    assert complete(results) == {0: 1}
    assert engine.slots == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"slurm": ("time=1",)}, ["--slurm", "--cluster slurm"]),
        ({"cluster": "slurm"}, ["--workers N"]),
        ({"cluster": "slurm", "workers": 0}, ["--workers N"]),
        ({"cluster": "slurm", "workers": 2, "per_gpu": 2}, ["--per-gpu"]),
        ({"cluster": "nonsense"}, ["--cluster nonsense", "HOST:PORT"]),
        ({"cluster": "127.0.0.1:9"}, ["nothing answers on port 9 of 127.0.0.1"]),
        ({"cluster": "ray", "device": "cuda:1"}, ["--device cuda:1", "--cluster"]),
    ],
)
def test_a_cluster_that_cannot_be_is_one_line(
    options: dict[str, Any], words: list[str], results: Path
) -> None:
    with raises_line(ConfigError, *words), workspace(results, Machines(**options), quiet=True):
        pytest.fail("nothing could start")


def test_options_of_sbatch_are_read() -> None:
    times = ("90", "24:00:00", "1-12", "2-1:30", "90:00", "1-0:5:0")
    minutes = [sbatch_options([f"time={text}"])["time"] for text in times]
    assert minutes == [90, 1440, 2160, 2970, 90, 1445]
    found = sbatch_options(["partition=gpu", "cpus-per-task=4"])
    assert found == {"partition": "gpu", "cpus_per_task": "4"}
    for wrong in ("partition", "time=soon", "=gpu"):
        with raises_line(ConfigError, "--slurm", wrong):
            sbatch_options([wrong])


class Full(ProcessesEngine):
    """On a machine where no second process starts."""

    def _start(self, number: int) -> Any:
        if number == 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super()._start(number)


def test_workers_end_if_not_all_can_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OSError, match="Too many open files"):
        Full(3)
    assert active_children() == []
    assert list(tmp_path.iterdir()) == []


# --- files on their way ---


def test_a_kill_between_any_two_files_leaves_no_damage(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {"radius": np.arange(3.0)}
    files = chunk_files(PGD, 0, chunk(PGD, 0))
    files |= measure_files(C1, Measured(values={}, arrays=arrays), 1.0, {})
    assert len(files) == 5
    for n in range(len(files) + 1):
        folder = RunFolder(results / str(n), SPEC.run_id)
        folder.write_spec(SPEC, {}, {})
        Parcel(dict(list(files.items())[:n])).apply(folder.path)
        (run,) = (records := load_records(results / str(n)))
        assert not records.damaged
        evaluations = [len(e.index) for e in run.evaluations]
        assert sum(evaluations) == (256 if n >= 3 else 0)
        assert len(run.measures) == (n == 5)
    stamps = [p.stat().st_mtime_ns for p in folder.path.rglob("*.npz")]
    write_files(folder.path, files)
    assert [p.stat().st_mtime_ns for p in folder.path.rglob("*.npz")] == stamps


def test_a_mirror_sends_what_changed(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"1")
    (tmp_path / "stays").write_bytes(b"2")
    mirror = Mirror(tmp_path)
    assert mirror.changes() == Parcel()
    (tmp_path / "old").unlink()
    (tmp_path / "new").write_bytes(b"3")
    (tmp_path / ".new.partial").write_bytes(b"half")
    assert mirror.changes() == Parcel({"new": b"3"}, ("old",))
    assert mirror.changes() == Parcel()


@pytest.mark.slow
def test_committed_records_need_no_job(tmp_path: Path) -> None:
    committed = Path(__file__).parent.parent / "results" / "digits"
    (plan,) = make_plans("digits", load_suite("digits").studies)
    runs = [run for run in plan.runs if run.train_spec.seed == 0]
    assert len(runs) == 7
    for run in runs:
        shutil.copytree(committed / run.run_id, tmp_path / run.run_id)
    before, engine = files(tmp_path), Scripted()
    where = Workspace(tmp_path, torch.device("cpu"), Reporter(quiet=True), "bench run", engine)
    Driver([replace(plan, runs=tuple(runs))], where, engine).run()
    assert engine.jobs == []
    assert files(tmp_path) == before
