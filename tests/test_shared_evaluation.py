"""An evaluation that is shared, killed and resumed has the outcome of an undisturbed one."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyautoattack
import pytest
import torch
from click.testing import Result
from torch import Tensor, nn

from bench.attacks import AutoAttackPart
from bench.attacks.networks import BatchedModel
from bench.checkpoints import load_network
from bench.data import load_dataset
from bench.evaluation.chunk import Outcome, PartialOutcome, attack_chunk
from bench.evaluation.store import Images, read_unfinished, unfinished_bytes
from bench.jobs.parcel import Parcel
from bench.records import RunRecord, load_records
from bench.records.run_folder import RunFolder
from bench.records.spec import TrainSpec
from bench.seeding import seed_for
from bench.threat import Threat
from benchmarks.kills import workers_of
from tests import commands
from tests.commands import done, forget, linear_model
from tests.short import ShortAutoAttack

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
TIMEOUT = 240
EPS = 0.15
N = 280
"""Two chunks."""
ASKED = ["--attacks", f"pgd-20@{EPS},autoattack@{EPS}", "--test-size", str(N), "--quiet"]
SHORT = """
import psutil
import pyautoattack
from tests.short import ShortAutoAttack
pyautoattack.AutoAttack = ShortAutoAttack
"""


@pytest.fixture(scope="module")
def undisturbed(
    trained_digits: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[object]]:
    """What one process makes in one go."""
    results = Path(shutil.copytree(trained_digits, tmp_path_factory.mktemp("u") / "results"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyautoattack, "AutoAttack", ShortAutoAttack)
        assert bench("evaluate", results, *ASKED).exit_code == 0
    found = outcomes(results)
    (attacked,) = (e for e in record(results).evaluations if e.spec.attack == "autoattack")
    assert len(attacked.chunks) == 2
    assert 5 < attacked.n_correct < 200
    assert sum(n > 0 for n in attacked.broken_by().values()) > 1  # not all by the first part
    return found


def record(results: Path) -> RunRecord:
    return next(run for run in load_records(results) if run.method == "natural")


def bench(command: str, results: Path, *arguments: str) -> Result:
    return commands.bench(command, record(results).run_id, "--results", results, *arguments)


def outcomes(results: Path) -> dict[str, list[object]]:
    """Of every image: whether it survived, and what broke it."""
    return {
        e.eval_id: [(c.survived.tolist(), c.broken_by.tolist(), c.parts) for c in e.chunks]
        for e in record(results).evaluations
    }


def nothing_is_left(results: Path) -> None:
    assert not load_records(results).damaged
    ends = (".partial", ".damaged", ".unfinished")
    assert [p for p in results.rglob("*") if p.name.endswith(ends)] == []


@contextmanager
def started(results: Path, tmp_path: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`bench evaluate` in a process, whose helpers too run AutoAttack with few iterations."""
    (tmp_path / "site").mkdir(exist_ok=True)
    (tmp_path / "site" / "sitecustomize.py").write_text(SHORT)
    path = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "bench.cli", "evaluate", record(results).run_id),
            *("--results", str(results), *ASKED, *arguments),
        ],
        env=os.environ | {"PYTHONPATH": path},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + TIMEOUT
    while not ready() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.005)


def is_claimed(folder: Path) -> bool:
    """Whether a command works on the run."""
    with RunFolder(folder.parent, folder.name).claimed() as ours:
        return not ours


def test_three_processes_share_the_chunks(
    results: Path, tmp_path: Path, undisturbed: dict[str, list[object]]
) -> None:
    with started(results, tmp_path, "--workers", "3") as process:
        assert process.wait(TIMEOUT) == 0
    assert outcomes(results) == undisturbed
    nothing_is_left(results)


@pytest.mark.usefixtures("short_autoattack")
def test_three_kills_at_any_moment_cost_no_outcome(
    results: Path, tmp_path: Path, undisturbed: dict[str, list[object]]
) -> None:
    draw = random.Random(0)
    folder = record(results).path
    n_killed = 0
    for _ in range(3):
        before = outcomes(results)
        with started(results, tmp_path) as process:
            wait_until(lambda: is_claimed(folder), process)
            time.sleep(draw.uniform(0, 0.8))
            process.send_signal(signal.SIGKILL)
            n_killed += process.wait() == -signal.SIGKILL
        after = outcomes(results)
        for name, chunks in before.items():  # what was done stays done
            assert all(chunk in after[name] for chunk in chunks)
    assert n_killed >= 1  # a fast machine may be done before the others
    assert bench("evaluate", results, *ASKED).exit_code == 0
    assert outcomes(results) == undisturbed
    nothing_is_left(results)


class Stopped(BaseException):
    """In place of a kill."""


@pytest.fixture
def parts_run(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the parts of AutoAttack that run."""
    ran: list[str] = []
    call = AutoAttackPart.__call__

    def counted(self: AutoAttackPart, *args: object, **kwargs: object) -> Tensor:
        ran.append(self.part)
        return call(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(AutoAttackPart, "__call__", counted)
    return ran


@pytest.mark.usefixtures("short_autoattack")
def test_a_stop_between_two_parts_goes_on_with_the_next(
    results: Path,
    undisturbed: dict[str, list[object]],
    parts_run: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apply = Parcel.apply

    def stop_after_two(self: Parcel, folder: Path) -> None:
        apply(self, folder)
        if parts_run == ["apgd-ce", "apgd-t"]:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Parcel, "apply", stop_after_two)
        with pytest.raises(Stopped):
            bench("evaluate", results, *ASKED)
    (left,) = results.rglob("*.unfinished")
    assert left.stem == "0"
    kept = read_unfinished(left.read_bytes(), 256)
    assert kept is not None
    assert kept.n_parts == 2
    assert parts_run == ["apgd-ce", "apgd-t"]
    assert bench("evaluate", results, *ASKED).exit_code == 0
    assert parts_run[2:5] == ["fab-t", "square", "apgd-ce"]  # the last is the second chunk's
    assert outcomes(results) == undisturbed
    nothing_is_left(results)


@pytest.mark.usefixtures("short_autoattack")
def test_unfinished_work_is_removed_where_it_is_damaged_or_its_chunk_is_there(
    results: Path, parts_run: list[str]
) -> None:
    asked = ["--attacks", "autoattack", "--test-size", "24", "--quiet"]
    assert bench("evaluate", results, *asked).exit_code == 0
    expected = outcomes(results)
    run = record(results).path
    (name,) = (name for name in expected if name.startswith("autoattack-"))
    left = run / "evaluations" / name / "0.unfinished"
    left.parent.mkdir()
    left.write_bytes(b"killed after the chunk was written")
    assert bench("evaluate", results, *asked).exit_code == 0
    nothing_is_left(results)
    before = len(parts_run)
    forget(run, name)
    left.parent.mkdir()
    left.write_bytes(b"x" * 500)
    assert bench("evaluate", results, *asked).exit_code == 0
    assert parts_run[before:] == parts_run[:before]
    assert outcomes(results) == expected
    nothing_is_left(results)


def test_no_damage_to_unfinished_work_is_believed() -> None:
    flags = torch.tensor([0, -1, 1], dtype=torch.int8)
    whole = unfinished_bytes(PartialOutcome(2, flags, flags > 0, 1.5, ("a note",)))
    found = read_unfinished(whole, 3)
    assert found is not None
    assert (found.n_parts, found.seconds, found.warnings) == (2, 1.5, ("a note",))
    assert torch.equal(found.broken_by, flags)
    assert torch.equal(found.after, flags > 0)
    assert read_unfinished(whole, 4) is None
    for i in range(len(whole)):
        assert read_unfinished(whole[:i] + bytes([whole[i] ^ 0x10]) + whole[i + 1 :], 3) is None
        assert read_unfinished(whole[:i], 3) is None


class Digits:
    """The trained network and a chunk of test images."""

    def __init__(self, results: Path, number: int, n: int) -> None:
        run = record(results)
        folder = RunFolder(results, run.run_id)
        self.model = load_network(TrainSpec.from_dict(run.spec), folder, "best")
        self.index = list(range(256 * number, 256 * number + n))
        images = Images(load_dataset("digits"), torch.device("cpu"))
        self.x, self.y = images.chunk(self.index)

    def attack(self, name: str = "autoattack", eps: float = EPS, **options: Any) -> Outcome:
        index = torch.tensor(self.index)
        return attack_chunk(self.model, self.x, self.y, index, Threat(eps=eps), name, **options)


@pytest.mark.usefixtures("short_autoattack")
def test_survivors_of_a_chunk_are_the_packages_own(trained_digits: Path) -> None:
    """On the second chunk, whose seed is its own, in one call of the package."""
    digits = Digits(trained_digits, 1, 50)
    kept: list[PartialOutcome] = []
    found = digits.attack(on_part=kept.append)
    assert [unfinished.n_parts for unfinished in kept] == [1, 2, 3]
    assert all(int(u.broken_by.max()) < u.n_parts for u in kept)  # none knows a later part
    suite = pyautoattack.AutoAttack(
        BatchedModel(digits.model, 256),
        eps=EPS,
        seed=seed_for(0, "autoattack", 1),
        version="standard",
    )
    with torch.random.fork_rng():
        (x_adv, *_) = suite.run_standard_evaluation(digits.x, digits.y, batch_size=256)
    with torch.no_grad():
        theirs = digits.model(x_adv).argmax(1) == digits.y
    assert torch.equal(found.survived, theirs)
    assert torch.equal(found.survived, found.clean & (found.broken_by < 0))
    assert 0 < int(theirs.sum()) < int(found.clean.sum())


def test_a_transfer_that_is_stopped_keeps_what_all_images_did(trained_digits: Path) -> None:
    digits = Digits(trained_digits, 0, 60)
    digits.y = (digits.y + (torch.arange(60) % 3 == 0)) % 10  # a third are wrong from the start
    with torch.random.fork_rng():
        torch.manual_seed(1)
        other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    kept: list[PartialOutcome] = []
    whole = digits.attack("transfer", surrogate=(other,), on_part=kept.append)
    (first,) = kept
    before = first.broken_by.clone(), first.after.clone()
    resumed = digits.attack("transfer", surrogate=(other,), unfinished=first)
    assert torch.equal(first.broken_by, before[0])
    assert torch.equal(first.after, before[1])
    assert whole.after is not None
    assert resumed.after is not None
    assert torch.equal(resumed.after, whole.after)
    assert torch.equal(resumed.broken_by, whole.broken_by)
    assert int(first.after.sum()) < 60  # the first part did turn some


HOLD = """
import sys
from pathlib import Path
from bench.records.run_folder import RunFolder
with RunFolder(Path(sys.argv[1]), sys.argv[2]).claimed() as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


@pytest.mark.usefixtures("short_autoattack")
def test_a_run_is_waited_for_and_taken_over_when_its_process_dies(
    results: Path, undisturbed: dict[str, list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(results), record(results).run_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"True\n"
    waited: list[dict[str, list[object]]] = []

    def die(_: float) -> None:
        if holder.poll() is None:
            waited.append(outcomes(results))
            holder.kill()
            holder.wait()

    monkeypatch.setattr("bench.jobs.driver.sleep", die)
    assert bench("evaluate", results, *ASKED).exit_code == 0
    assert len(waited) == 1
    assert waited[0] != undisturbed
    assert outcomes(results) == undisturbed
    assert holder.stdin is not None
    holder.stdin.close()
    holder.stdout.close()


def test_an_outside_model_is_not_attacked_while_its_folder_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "results"
    arguments = [
        *("evaluate", *linear_model(tmp_path, 1), "--dataset", "digits"),
        *("--weights", f"{tmp_path}/0.pt"),
        *("--test-size", "16", "--attacks", "clean", "--results", str(results), "--quiet"),
    ]
    done(*arguments)
    (folder,) = results.iterdir()
    made = sorted(p.name for p in folder.rglob("*.npz"))
    shutil.rmtree(folder / "evaluations")
    (folder / "spec.json").unlink()
    with ExitStack() as mending:
        mending.enter_context(RunFolder(results, folder.name).claimed())
        waits: list[bool] = []

        def mended(_: float) -> None:
            waits.append((folder / "evaluations").exists())
            mending.close()

        monkeypatch.setattr("bench.jobs.driver.sleep", mended)
        done(*arguments)
    assert set(waits) == {False}
    assert (folder / "spec.json").exists()
    assert sorted(p.name for p in folder.rglob("*.npz")) == made


def test_a_mistake_is_one_line_and_leaves_no_worker(results: Path) -> None:
    found = bench("evaluate", results, "--attacks", "pgd20", "--workers", "3")
    assert found.exit_code == 2
    assert len(found.stderr.strip().splitlines()) == 1
    assert "Did you mean 'pgd-20'" in found.stderr
    assert not workers_of(psutil.Process())


@pytest.mark.usefixtures("_registry_as_before")
def test_workers_load_a_model_and_a_method_from_their_files(tmp_path: Path) -> None:
    model = [*linear_model(tmp_path, 1), "--dataset", "digits", "--weights", f"{tmp_path}/0.pt"]
    asked = ["--attacks", "clean,pgd-20@0.05", "--test-size", str(N), "--quiet"]
    found = []
    for workers in ("1", "2"):
        results = tmp_path / workers
        done("evaluate", *model, *asked, "--results", results, "--workers", workers)
        (run,) = load_records(results)
        found.append({e.eval_id: e.survived.tolist() for e in run.evaluations})
    assert found[0] == found[1]
    assert len(found[0]) == 2

    (tmp_path / "own.py").write_text(commands.method())
    small = ["--seeds", "0,1", "--epochs", "1", "--train-size", "60", "--test-size", "16"]
    own = ["--methods", tmp_path / "own.py", "--attacks", "clean", "--no-checks", "--quiet"]
    done("run", *own, *small, "--results", tmp_path / "r", "--workers", "2")
    assert [run.status for run in load_records(tmp_path / "r")] == ["done", "done"]
