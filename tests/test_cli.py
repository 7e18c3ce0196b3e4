"""The command line in process: exit codes, messages, files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bench import registry
from bench.archs import fast as compiled
from bench.archs.arch import Arch
from bench.archs.fast import CompiledCopy, Precision
from bench.cli import main
from bench.records import load_records
from bench.training import optimiser

SMALL = ["--train-size", "60", "--test-size", "16", "--epochs", "1", "--quiet"]

MINE = '''"""Cross entropy on images that were moved at random."""

from dataclasses import dataclass

from torch import Tensor

from bench.api import Batch, Method, TrainState, losses, register


@register("noise-cli")
@dataclass(frozen=True, kw_only=True)
class NoiseCli(Method):
    """Noise instead of an attack."""

    share: float = 1.0

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        noise = state.threat.uniform(batch.x, state.generator("noise"))
        return state.threat.project(batch.x + self.share * state.threat.eps * noise, batch.x)

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        return losses.cross_entropy(state.model(x_adv), batch.y).mean(){extra}
'''


@pytest.fixture(autouse=True)
def _registry_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in this process: what their method files register goes with each test."""
    registry.discover()
    for name in ("_METHODS", "_FILES"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def run(results: Path, *arguments: str) -> Result:
    return bench("run", "--results", str(results), *SMALL, *arguments)


def refused(result: Result, *words: str) -> None:
    """Exit code 2, and one line that holds all the words."""
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert result.stderr.startswith("error: ")
    for word in words:
        assert word in result.stderr, result.stderr


def make_npz(path: Path, **changes: object) -> str:
    g = np.random.default_rng(0)
    arrays: dict[str, object] = {
        "x_train": g.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8),
        "y_train": np.arange(60) % 10,
        "x_test": g.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8),
        "y_test": np.arange(20) % 10,
    }
    arrays |= changes
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})  # type: ignore[arg-type]
    return f"npz:{path}"


def test_a_run_does_only_what_is_missing(tmp_path: Path) -> None:
    first = run(tmp_path, "--methods", "natural,madry", "--attacks", "clean,pgd-20")
    assert first.exit_code == 0, first.output
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    again = bench(
        "run", "--results", str(tmp_path), *SMALL[:-1], "--methods", "natural,madry",
        "--attacks", "clean,pgd-20",
    )  # fmt: skip
    assert again.exit_code == 0
    assert again.stderr.count("done already") == 2
    assert "0 trained, 0 evaluations and checks made, 0 failed" in again.stdout
    assert {p: p.stat().st_mtime_ns for p in files} == files
    more = bench(
        "run", "--results", str(tmp_path), *SMALL[:-1], "--methods", "natural,madry",
        "--attacks", "clean,pgd-20,cw",
    )  # fmt: skip
    assert "0 trained, 4 evaluations and checks made" in more.stdout
    frame = load_records(tmp_path).to_frame()
    assert len(frame) == 2 * 2 * 3
    assert (frame.status == "done").all()
    clean = frame[frame.attack == "clean"].n_correct.to_numpy()
    assert (frame[frame.attack == "pgd-20"].n_correct.to_numpy() <= clean).all()


def test_a_run_that_compiles_says_so_and_trains_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    made: list[CompiledCopy] = []

    class Noted(CompiledCopy):
        def __init__(self, model: Arch, precision: Precision, n_rows: int) -> None:
            made.append(self)
            super().__init__(model, precision, n_rows)

    monkeypatch.setattr(optimiser, "CompiledCopy", Noted)
    one = ["--results", str(tmp_path), *SMALL[:-1], "--methods", "madry", "--attacks", "clean"]
    first = bench("run", *one, "--compile")
    assert first.exit_code == 0, first.output
    assert "--compile: on a CPU this takes longer than without" in first.stderr
    assert len(made) == 1
    (trained,) = load_records(tmp_path)
    assert trained.train is not None
    assert trained.train["compiled"] is True
    assert bench("run", *one).stderr.count("done already") == 1


def test_a_run_keeps_the_weights_of_both_checkpoints_and_no_state(tmp_path: Path) -> None:
    assert run(tmp_path, "--methods", "cat-ce", "--attacks", "clean").exit_code == 0
    (folder,) = tmp_path.iterdir()
    names = {p.name for p in folder.iterdir()}
    assert {"best.safetensors", "last.safetensors", "spec.json", "train.json"} <= names
    assert not [name for name in names if name.startswith("state-")]
    head = json.loads((folder / "spec.json").read_text())
    assert head["card"]["paper"] == "arXiv 2002.06789"
    assert head["card"]["params"]["c"] == 10.0
    assert head["provenance"]["machine"]["packages"]["torch"]


def test_missing_weights_are_trained_again_for_a_new_attack(tmp_path: Path) -> None:
    assert run(tmp_path, "--methods", "natural", "--attacks", "clean").exit_code == 0
    (folder,) = tmp_path.iterdir()
    trained = (folder / "best.safetensors").read_bytes()
    (folder / "best.safetensors").write_bytes(trained[:-8])
    assert run(tmp_path, "--methods", "natural", "--attacks", "clean,fgsm").exit_code == 0
    assert (folder / "best.safetensors").read_bytes() == trained
    assert (folder / "best.safetensors.damaged").exists()
    assert len(load_records(tmp_path)[0].evaluations) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "trads"], ["unknown method 'trads'", "Did you mean 'trades'?"]),
        (["--eps", "8"], ["pixels are in [0, 1]; did you mean 8/255?"]),
        (["--eps", "x/255"], ["eps 'x/255' is not a number"]),
        (["--arch", "wrm"], ["Did you mean 'wrn'?"]),
        (["--dataset", "digit"], ["Did you mean 'digits'?"]),
        (["--suite", "digit"], ["Did you mean 'digits'?"]),
        (["--recipe", "comon"], ["Did you mean 'common'?"]),
        (["--attacks", "pgd20"], ["Did you mean 'pgd-20'?"]),
        (["--seeds", "a"], ["--seeds a", "0,1,2"]),
        (["--epochs", "0"], ["epochs = 0", "at least 1"]),
        (["--batch-size", "0"], ["batch_size = 0", "at least 1"]),
        (["--train-size", "9999999"], ["9999999"]),
        (["--test-size", "-1"], ["-1"]),
        (["--device", "cuda:7"], ["cuda:7", "there is: cpu"]),
        (["--device", "abacus"], ["abacus", "there is: cpu"]),
        (["--param", "trades.beta"], ["write method.name=value"]),
        (["--param", "trades.beta=-1"], ["beta", "-1", "at least 0"]),
        (["--param", "trades.beta=much"], ["beta", "must be a number"]),
        (["--param", "trades.gamma=1"], ["gamma", "Known: ", "beta"]),
        (["--param", "mart.beta=1"], ["mart", "trades"]),
        (["--methods", "cat-ce", "--param", "cat-ce.c=40"], ["c * eps_max", "above 1"]),
        (["--methods", "nothing.py"], ["nothing.py does not exist"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    arguments: list[str], words: list[str], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    named = [] if "--methods" in arguments else ["--methods", "trades"]
    refused(run(results, *named, *arguments), *words)
    assert not results.exists()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"x_test": None}, "x_test"),
        ({"y_train": np.arange(60) % 10 - 1}, "y_train"),
        ({"y_train": np.arange(59) % 10}, "59"),
        ({"x_train": np.full((60, 8, 8, 3), 300)}, "255"),
        ({"x_train": np.full((60, 8, 8, 3), -1)}, "255"),
        ({"x_train": np.random.default_rng(0).random((60, 8, 8, 3))}, "uint8"),
    ],
    ids=str,
)
def test_bad_npz_data_is_one_line_and_leaves_nothing(
    changes: dict[str, object], word: str, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    source = make_npz(tmp_path / "bad.npz", **changes)
    refused(run(results, "--dataset", source, "--arch", "cnn"), "bad.npz", word)
    assert not results.exists()


def test_missing_and_truncated_data_name_the_file(tmp_path: Path) -> None:
    results = tmp_path / "results"
    refused(run(results, "--dataset", "npz:none.npz", "--arch", "cnn"), "none.npz")
    source = make_npz(tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:5000])
    refused(run(results, "--dataset", source, "--arch", "cnn"), "cut.npz")
    assert not results.exists()


def test_results_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(run(tmp_path / "file" / "results", "--methods", "natural"), "--results")


def test_a_method_file_trains_and_is_part_of_its_runs_identity(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MINE.format(extra=""))
    arguments = ["--methods", str(path), "--attacks", "clean", "--param", "noise-cli.share=0.5"]
    assert run(tmp_path / "r", *arguments).exit_code == 0
    path.write_text(MINE.format(extra="  # changed"))
    assert run(tmp_path / "r", *arguments).exit_code == 0
    one, two = load_records(tmp_path / "r")
    assert one.method == two.method == "noise-cli"
    assert one.spec["params"] == {"share": 0.5}
    assert one.run_id != two.run_id


def test_a_method_is_one_file(tmp_path: Path) -> None:
    """A new file in the package `methods` is listed and trains; nothing else has to know of it."""
    import methods

    package = tmp_path / "methods"
    shutil.copytree(Path(str(methods.__file__)).parent, package)
    (package / "new.py").write_text(MINE.replace('"noise-cli"', '"brand-new"').format(extra=""))
    trained = ["run", "--results", str(tmp_path / "r"), *SMALL, "--methods", "brand-new"]
    both = (["list", "methods"], [*trained, "--attacks", "clean"])
    code = f"from bench.cli import main\nfor a in {both!r}: main(a, standalone_mode=False)"
    listed = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,  # Python looks there first
    ).stdout
    assert any(line.startswith("brand-new") for line in listed.splitlines())
    assert load_records(tmp_path / "r")[0].status == "done"


def test_what_is_damaged_is_named_kept_aside_and_redone(tmp_path: Path) -> None:
    arguments = ["--methods", "natural", "--attacks", "clean"]
    assert run(tmp_path, *arguments).exit_code == 0
    (folder,) = tmp_path.iterdir()
    (chunk,) = folder.glob("evaluations/clean-best*/0.json")
    paths = [folder / "spec.json", folder / "train.json", chunk, chunk.with_name("eval.json")]
    for path in paths:
        before = path.read_bytes()
        path.write_bytes(before[: len(before) // 2])
        damaged = {p: p.read_bytes() for p in folder.rglob("*.json")}
        assert run(tmp_path, *arguments, "--dry-run").exit_code == 0
        assert {p: p.read_bytes() for p in folder.rglob("*.json")} == damaged
        assert run(tmp_path, *arguments).exit_code == 0
        assert path.with_name(f"{path.name}.damaged").exists()
        records = load_records(tmp_path)
        assert not records.damaged
        assert len(records[0].evaluations) == 2
        assert all(evaluation.complete for evaluation in records[0].evaluations)


def test_evaluate_refuses_weights_that_are_not_the_recorded_ones(tmp_path: Path) -> None:
    assert run(tmp_path, "--methods", "natural", "--attacks", "clean").exit_code == 0
    (folder,) = tmp_path.iterdir()
    (folder / "best.safetensors").write_bytes((folder / "last.safetensors").read_bytes()[:-1])
    common = ["--results", str(tmp_path), "--quiet", "--attacks", "fgsm"]
    refused(bench("evaluate", folder.name, *common), "best.safetensors", "damaged")


def test_a_failed_run_is_recorded_and_others_go_on(tmp_path: Path) -> None:
    path = tmp_path / "nan.py"
    path.write_text(MINE.replace('"noise-cli"', '"nan-loss"').format(extra=' * float("nan")'))
    arguments = ["--methods", f"{path},natural", "--attacks", "clean"]
    result = run(tmp_path / "r", *arguments)
    assert result.exit_code == 1
    by_method = {record.method: record for record in load_records(tmp_path / "r")}
    failed = by_method["nan-loss"]
    assert failed.status == "failed"
    assert failed.train is not None
    assert "epoch 0, step 0" in failed.train["error"]
    assert by_method["natural"].status == "done"
    assert run(tmp_path / "r", *arguments).exit_code == 1  # a failure is a result: not repeated
    report = bench("report", "--results", str(tmp_path / "r"), "--reports", str(tmp_path / "p"))
    assert report.exit_code == 0
    assert "failed: the loss is not finite at epoch 0, step 0" in report.stdout


def test_dry_run_names_the_cells_and_a_time_and_writes_nothing(tmp_path: Path) -> None:
    result = bench(
        "run", "--results", str(tmp_path / "r"), *SMALL[:-1], "--methods", "natural,trades",
        "--dry-run",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "natural-cnn-digits-s0-" in result.stdout
    assert "trades-cnn-digits-s0-" in result.stdout
    assert "In all about" in result.stdout
    assert not (tmp_path / "r").exists()


def test_report_without_records_says_what_to_run(tmp_path: Path) -> None:
    arguments = ["--results", str(tmp_path / "none"), "--reports", str(tmp_path / "p")]
    refused(bench("report", *arguments), "none", "bench run")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("kind", ["methods", "archs", "datasets", "attacks", "suites", "recipes"])
def test_list_shows_each_registry(kind: str) -> None:
    result = bench("list", kind)
    assert result.exit_code == 0
    known = {
        "methods": "trades",
        "archs": "wrn-34-10",
        "datasets": "npz:PATH",
        "attacks": "autoattack",
        "suites": "digits",
        "recipes": "common",
    }
    assert any(line.startswith(known[kind]) for line in result.stdout.splitlines())


def test_evaluate_adds_an_attack_to_a_run(tmp_path: Path) -> None:
    assert run(tmp_path, "--methods", "natural", "--attacks", "clean").exit_code == 0
    (record,) = load_records(tmp_path)
    common = ["--results", str(tmp_path), "--quiet", "--attacks", "pgd-20@0.1"]
    result = bench("evaluate", record.run_id, *common, "--test-size", "10")
    assert result.exit_code == 0, result.output
    added = load_records(tmp_path)[0].evaluations
    assert {(e.spec.attack, e.spec.eps, e.n_examples) for e in added} == {
        ("clean", 0.2, 16),
        ("pgd-20", 0.1, 10),
    }
    refused(bench("evaluate", "natural", *common), "unknown run 'natural'")
    refused(bench("evaluate", *common), "--model")


FACTORY = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def broken():
    raise ValueError("no weights here")

def number():
    return 3

def wide():
    return nn.Linear(65, 10)

def pair():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x
    return Pair()
"""


def test_a_model_of_ones_own_gets_a_record_and_a_row(tmp_path: Path) -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    path = tmp_path / "mine.py"
    path.write_text(FACTORY)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    torch.save({"state_dict": network.state_dict()}, tmp_path / "weights.pt")
    common = ["--results", str(tmp_path / "r"), "--quiet", "--test-size", "32", "--eps", "0.05"]
    arguments = ["--dataset", "digits", "--attacks", "clean,pgd-20"]
    weights = ["--weights", str(tmp_path / "weights.pt")]
    result = bench("evaluate", "--model", f"{path}:make", *weights, *arguments, *common)
    assert result.exit_code == 0, result.output
    (record,) = load_records(tmp_path / "r")
    assert record.kind == "model"
    assert {e.spec.attack for e in record.evaluations} == {"clean", "pgd-20"}
    assert {e.spec.checkpoint for e in record.evaluations} == {"given"}
    report = bench("report", "--results", str(tmp_path / "r"), "--reports", str(tmp_path / "p"))
    assert "mine.py:make" in report.stdout
    model = ["evaluate", *arguments, *common, "--model"]
    refused(bench(*model, f"{path}:broken"), "ValueError: no weights here")
    refused(bench(*model, f"{path}:number"), "returned int")
    refused(bench(*model, f"{path}:wide"), "cannot take images (1, 8, 8)")
    refused(bench(*model, f"{path}:pair"), "returns a tuple")
    assert len(list((tmp_path / "r").iterdir())) == 1
    refused(bench(*model, f"{path}"), "FILE.py:FACTORY")
    refused(bench(*model, f"{path}:make", "--weights", str(tmp_path / "no.pt")), "no.pt")
    (tmp_path / "weights.pt").write_bytes(b"cut")
    refused(bench(*model, f"{path}:make", *weights), "weights.pt")
    refused(bench("evaluate", "--model", f"{path}:make", *common), "--dataset")


def test_every_option_says_what_it_does() -> None:
    for command in main.commands.values():
        assert command.help
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert getattr(parameter, "help", None), f"{command.name} {parameter.name}"


def test_python_m_bench_is_bench() -> None:
    def module(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    usage = "Usage: python -m bench run [OPTIONS]"
    assert module("-m", "bench", "run", "--help").startswith(usage)
    assert module("-m", "bench", "--version") == f"bench, version {version('atbench')}\n"
    assert module("-c", "import bench.__main__") == ""


LISTS = (
    *(("run", f"--{name}") for name in ("methods", "attacks", "seeds", "against")),
    *(("evaluate", f"--{name}") for name in ("attacks", "checkpoints")),
    *(("speed", f"--{name}") for name in ("only", "arch", "precision")),
    ("verify", "--only"),
)


@pytest.mark.parametrize("text", ["", " , "])
@pytest.mark.parametrize(("command", "option"), LISTS, ids=lambda value: value.strip("-"))
def test_a_list_without_names_is_not_an_option_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, option: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(bench(command, option, text), f"{option} '{text}' names nothing; give one or several")
    assert not list(tmp_path.iterdir())


def test_an_option_that_is_left_out_is_the_suites(tmp_path: Path) -> None:
    arguments = ["run", "--dry-run", "--quiet", "--results", str(tmp_path), "--no-checks"]
    left_out = bench(*arguments).output
    for method in ("natural", "madry", "trades", "mart", "iaat", "cat-ce", "cat-mix"):
        assert method in left_out
    one = bench(*arguments, "--methods", "madry,", "--seeds", " 3 ,,").output
    assert "madry-cnn-digits-s3-" in one
    assert "trades" not in one


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, "PASSIVE 2000"),
        ({"GOMP_SPINCOUNT": "7"}, "PASSIVE 7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
    ],
)
def test_threads_wait_a_moment_and_then_sleep(given: dict[str, str], found: str) -> None:
    """Unless the user has chosen; torch reads both when it is loaded, which is later."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    code = (
        "import os, sys, bench.cli; assert 'torch' not in sys.modules; "
        f"print(*map(os.environ.get, {names}))"
    )
    kept = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == found


@pytest.mark.parametrize(("command", "then"), [("run", "to resume."), ("speed", "to start over.")])
def test_who_stops_a_command_hears_what_the_same_one_does(
    command: str, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main.commands[command], "callback", stop)
    done = bench(command)
    assert done.exit_code == 130
    assert done.output == f"Interrupted. Run the same command again {then}\n"
