"""The command line in process: exit codes, messages, files."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import Result

from bench.cli import main
from bench.records import load_records
from tests.commands import NAN, bench, done, files, method, refused

pytestmark = pytest.mark.usefixtures("_registry_as_before")

SIZES = ["--seeds", "0", "--train-size", "60", "--test-size", "16", "--epochs", "1"]
NATURAL = ["--methods", "natural", "--attacks", "clean"]


def run(results: Path, *arguments: str) -> Result:
    return bench("run", "--results", results, *SIZES, "--quiet", *arguments)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One naturally trained network under the clean attack."""
    results = tmp_path_factory.mktemp("cli") / "results"
    assert run(results, *NATURAL).exit_code == 0
    return results


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    """A copy to work on."""
    return Path(shutil.copytree(made, tmp_path / "results"))


def run_folder(results: Path) -> Path:
    (record,) = load_records(results)
    return record.path


@pytest.mark.slow
def test_a_run_does_only_what_is_missing(tmp_path: Path) -> None:
    asked = ["run", "--results", tmp_path, *SIZES, "--methods", "cat-ce,madry", "--attacks"]
    done(*asked, "clean,pgd-20")
    before = files(tmp_path)
    again = done(*asked, "clean,pgd-20")
    assert again.stderr.count("done already") == 2
    assert "0 trained, 0 evaluations and checks made, 0 failed" in again.stdout
    assert files(tmp_path) == before
    assert "0 trained, 4 evaluations and checks made" in done(*asked, "clean,pgd-20,cw").stdout
    records = load_records(tmp_path)
    frame = records.to_frame()
    assert len(frame) == 2 * 2 * 3
    assert (frame.status == "done").all()
    clean = frame[frame.attack == "clean"].n_correct.to_numpy()
    assert (frame[frame.attack == "pgd-20"].n_correct.to_numpy() <= clean).all()
    folder = records[0].path
    names = {p.name for p in folder.iterdir()}
    assert {"best.safetensors", "last.safetensors", "spec.json", "train.json"} <= names
    assert not [name for name in names if name.startswith("state-")]
    head = json.loads((folder / "spec.json").read_text())
    assert head["card"]["paper"] == "arXiv 2002.06789"
    assert head["card"]["params"]["c"] == 10.0
    assert head["provenance"]["machine"]["packages"]["torch"]


def test_damaged_weights_are_refused_and_trained_again(results: Path) -> None:
    weights = run_folder(results) / "best.safetensors"
    trained = weights.read_bytes()
    weights.write_bytes(trained[:-8])
    common = ["--results", results, "--quiet", "--attacks", "fgsm"]
    refused(bench("evaluate", weights.parent.name, *common), "best.safetensors", "damaged")
    assert run(results, "--methods", "natural", "--attacks", "clean,fgsm").exit_code == 0
    assert weights.read_bytes() == trained
    assert weights.with_name("best.safetensors.damaged").exists()
    assert len(load_records(results)[0].evaluations) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "trads"], ["unknown method 'trads'", "Did you mean 'trades'?"]),
        (["--eps", "8"], ["pixels are in [0, 1]; did you mean 8/255?"]),
        (["--eps", "x/255"], ["eps 'x/255' is not a number"]),
        (["--arch", "wrm"], ["Did you mean 'wrn'?"]),
        (["--dataset", "digit"], ["Did you mean 'digits'?"]),
        (["--suite", "digit"], ["Did you mean 'digits'?"]),
        (["--suite", "digits", "--size", "tiny"], ["no size 'tiny'; its sizes: full"]),
        (["--suite", "paper"], ["suite 'paper' has several studies"]),
        (["--recipe", "comon"], ["Did you mean 'common'?"]),
        (["--attacks", "pgd20"], ["Did you mean 'pgd-20'?"]),
        (["--seeds", "a"], ["--seeds a", "0,1,2"]),
        (["--epochs", "0"], ["epochs = 0", "is out of range: at least 1"]),
        (["--train-size", "1438"], ["train_size 1438: dataset 'digits' has 1437 train images"]),
        (["--train-size", "1"], ["training needs 2 classes, so raise train_size"]),
        (["--test-size", "0"], ["test_size 0: dataset 'digits' has 360 test images"]),
        (["--test-size", "-1"], ["test_size -1: "]),
        (["--device", "cuda:7"], ["cuda:7", "there is: cpu"]),
        (["--device", "abacus"], ["abacus", "there is: cpu"]),
        (["--param", "trades.beta"], ["write method.name=value"]),
        (["--param", "trades.beta=-1"], ["beta", "-1", "at least 0"]),
        (["--param", "trades.beta=much"], ["beta", "must be a number"]),
        (["--param", "trades.gamma=1"], ["gamma", "Known: ", "beta"]),
        (["--param", "mart.beta=1"], ["mart", "trades"]),
        (["--methods", "cat-ce", "--param", "cat-ce.c=40"], ["c * eps_max", "above 1"]),
        (["--methods", "nothing.py"], ["nothing.py does not exist"]),
        (["--dataset", "npz:none.npz", "--arch", "cnn"], ["none.npz"]),
        (["--against", "trades"], ["--against trades"]),
        (["--against", "trads"], ["Did you mean 'trades'?"]),
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


def test_a_recipe_reaches_every_study_of_a_suite(tmp_path: Path) -> None:
    """That recipe is only for the methods in it, so madry's trainings are refused by name."""
    suite = ["--suite", "table4", "--size", "tiny", "--recipe", "cat-version-1"]
    refused(run(tmp_path, *suite), "recipe 'cat-version-1' has no values for method 'madry'")


def test_results_that_cannot_be_written_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(run(tmp_path / "file" / "results", "--methods", "natural"), "--results")


def test_a_method_file_trains_and_is_part_of_its_runs_identity(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    arguments = ["--methods", str(path), "--attacks", "clean", "--param", "mine.scale=0.5"]
    for text in (method(), method() + "# changed\n"):
        path.write_text(text)
        assert run(tmp_path / "r", *arguments).exit_code == 0
    one, two = load_records(tmp_path / "r")
    assert one.method == two.method == "mine"
    assert one.spec["params"] == {"scale": 0.5}
    assert one.run_id != two.run_id


def test_what_is_damaged_is_named_kept_aside_and_redone(results: Path) -> None:
    folder = run_folder(results)
    names = ("spec.json", "train.json", "evaluations/best.npz", "evaluations/last.npz")
    for path in (folder / name for name in names):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        before = files(results)
        assert run(results, *NATURAL, "--dry-run").exit_code == 0
        assert files(results) == before
        assert run(results, *NATURAL).exit_code == 0
        assert path.with_name(f"{path.name}.damaged").exists()
        records = load_records(results)
        assert not records.damaged
        assert [e.complete for e in records[0].evaluations] == [True, True]


def test_a_failed_run_is_recorded_and_others_go_on(tmp_path: Path) -> None:
    path, results = tmp_path / "nan.py", tmp_path / "r"
    path.write_text(method("nan-loss", NAN))
    arguments = ["--methods", f"{path},natural", "--attacks", "clean"]
    assert run(results, *arguments).exit_code == 1
    by_method = {record.method: record for record in load_records(results)}
    failed = by_method["nan-loss"]
    assert failed.status == "failed"
    assert failed.train is not None
    assert "epoch 0, step 0" in failed.train["error"]
    assert by_method["natural"].status == "done"
    assert run(results, *arguments).exit_code == 1  # a failure is a result: not repeated
    report = done("report", "--results", results, "--reports", tmp_path / "p")
    assert "failed: the loss is not finite at epoch 0, step 0" in report.stdout


@pytest.mark.slow
def test_dry_run_names_the_cells_and_a_time_and_writes_nothing(tmp_path: Path) -> None:
    asked = ["run", "--results", tmp_path / "r", *SIZES, "--dry-run"]
    result = done(*asked, "--methods", "natural,trades")
    assert "natural-cnn-digits-s0-" in result.stdout
    assert "trades-cnn-digits-s0-" in result.stdout
    assert "In all about" in result.stdout
    assert "its radius" not in result.stderr
    whole = done(*asked, "--no-checks")
    left_out = whole.stdout  # the methods are the suite's
    assert "cat-ce reaches" in whole.stderr
    for name in ("natural", "madry", "trades", "mart", "iaat", "cat-ce", "cat-mix"):
        assert name in left_out
    one = done(*asked, "--methods", "madry,", "--seeds", " 3 ,,").stdout
    assert "madry-cnn-digits-s3-" in one
    assert "trades" not in one
    assert not (tmp_path / "r").exists()


def test_report_without_records_says_what_to_run(tmp_path: Path) -> None:
    arguments = ["--results", tmp_path / "none", "--reports", tmp_path / "p"]
    refused(bench("report", *arguments), "none", "bench run")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        ("methods", "trades"),
        ("archs", "wrn-34-10"),
        ("datasets", "npz:PATH"),
        ("attacks", "autoattack"),
        ("suites", "digits"),
        ("recipes", "common"),
    ],
)
def test_list_shows_each_registry(kind: str, known: str) -> None:
    assert any(line.startswith(known) for line in done("list", kind).stdout.splitlines())


def test_evaluate_adds_an_attack_to_a_run(results: Path) -> None:
    common = ["--results", results, "--quiet", "--attacks", "pgd-20@0.1"]
    done("evaluate", run_folder(results).name, *common, "--test-size", "10")
    added = load_records(results)[0].evaluations
    assert {(e.spec.attack, e.spec.eps, e.n_examples) for e in added} == {
        ("clean", 0.2, 16),
        ("pgd-20", 0.1, 10),
    }
    refused(bench("evaluate", "natural", *common), "unknown run 'natural'")
    refused(bench("evaluate", *common), "--model")


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


@pytest.mark.parametrize("text", ["", " , "])
@pytest.mark.parametrize("option", ["run --methods", "evaluate --checkpoints", "verify --only"])
def test_a_list_without_names_is_not_an_option_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    command, name = option.split()
    refused(bench(command, name, text), f"{name} '{text}' names nothing; give one or several")
    assert not list(tmp_path.iterdir())


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
    finished = subprocess.run(
        [sys.executable, "-c", code], env=kept | given, capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == found


@pytest.mark.parametrize(("command", "then"), [("run", "to resume."), ("verify", "to start over.")])
def test_who_stops_a_command_hears_what_the_same_one_does(
    command: str, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main.commands[command], "callback", stop)
    stopped = bench(command)
    assert stopped.exit_code == 130
    assert stopped.output == f"Interrupted. Run the same command again {then}\n"
