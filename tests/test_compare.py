"""`bench compare` and `bench run --against` in process: exit codes and what is printed."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.experiments.suite import load_suite
from bench.records import load_records
from tests.commands import NAN, bench, done, method, refused
from tests.report.made import evaluate, train_run

pytestmark = pytest.mark.usefixtures("_registry_as_before")

ROOT = Path(__file__).parent.parent
ROBUST = ["--attacks", "pgd-20"]
SIZES = ["--seeds", "0", "--train-size", "60", "--test-size", "16", "--epochs", "1"]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for name, n_survivors in (("mine", 75), ("trades", 60)):
        for arch in ("cnn", "wrn-34-10"):
            folder = train_run(tmp_path, name, arch=arch)
            evaluate(folder, "pgd-20", range(n_survivors), 100)
            evaluate(folder, "pgd-20", range(50), 100, checkpoint="last")
    return tmp_path


def compare(results: Path, *arguments: str) -> list[str]:
    return done("compare", "--results", results, *arguments).stdout.splitlines()


def test_compare_prints_a_table_and_a_sentence(results: Path) -> None:
    lines = compare(results, "mine", "trades", "--arch", "cnn")
    assert lines[0] == "digits, cnn, recipe common, eps 8/255 (0.0314)"
    assert [line.split() for line in lines[3:5]] == [
        ["mine", "best", "0", "75.0", "15"],
        ["trades", "best", "0", "60.0", "0"],
    ]
    assert lines[-1] == (
        "mine is 15.0 points (95% interval 6.6 to 23.5) more robust than trades on the same 100 "
        "images under pgd-20; exact McNemar p < 0.0001: significant at 5%. One "
        "seed each: this is about two networks, not two methods."
    )


def test_compare_options_pick_setting_checkpoint_and_attack(results: Path) -> None:
    by_id = [run.run_id for run in load_records(results) if run.arch == "cnn"]
    last = compare(results, *by_id, "--checkpoint", "last", "--attack", "pgd-20")
    assert "not distinguishable" in last[-1]
    picked = ["--arch", "wrn", "--dataset", "digits", "--recipe", "common", "--eps", "8/255"]
    assert compare(results, "mine", "trades", *picked)[0].startswith("digits, wrn-34-10")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mine", "trads"], ["'trads' is not on record", "Did you mean 'trades'?", "mine, trades"]),
        (["mine", "trades"], ["2 settings", "digits, cnn", "pick one with --arch"]),
        (["mine", "trades", "--arch", "vgg"], ["--arch vgg", "there are cnn, wrn-34-10"]),
        (["mine", "trades", "--eps", "8"], ["did you mean 8/255?"]),
        (["mine", "mine", "--arch", "cnn"], ["the same"]),
        (["mine", "trades", "--arch", "cnn", "--attack", "pgd"], ["Did you mean 'pgd-20'?"]),
        (["mine", "trades", "--arch", "cnn", "--checkpoint", "bset"], ["Did you mean 'best'?"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_mistake_is_one_line(arguments: list[str], words: list[str], results: Path) -> None:
    refused(bench("compare", "--results", str(results), *arguments), *words)


def test_compare_without_records_says_what_to_run(tmp_path: Path) -> None:
    refused(bench("compare", "a", "b", "--results", tmp_path / "no"), "no", "bench run")


def test_the_readme_quotes_what_the_records_say() -> None:
    quoted = " ".join((ROOT / "README.md").read_text().replace("\n> ", " ").split())
    assert compare(ROOT / "results" / "digits", "cat-ce", "trades")[-1] in quoted


@pytest.mark.slow
def test_against_trains_each_method_once_and_compares_each_pair(tmp_path: Path) -> None:
    mine, results = tmp_path / "mine.py", tmp_path / "r"
    mine.write_text(method())
    options = ["run", "--results", results, *SIZES, *ROBUST]
    asked = [*options, "--methods", f"{mine},natural", "--against", "natural,madry"]
    plan = done(*asked, "--dry-run")
    assert [plan.stdout.count(f"{name}-cnn-digits-s0-") for name in ("natural", "madry")] == [1, 1]
    assert " images under " not in plan.stdout
    assert not results.exists()

    quiet = done(*asked, "--quiet")
    assert (quiet.stdout, quiet.stderr) == ("", "")
    names = [record.method for record in load_records(results)]
    assert sorted(names) == ["madry", "mine", "natural"]

    # nothing is missing now, and a run of another training must not confuse the names
    done(*options, "--methods", "madry", "--seeds", "1")
    again = done(*asked)
    assert "0 trained" in again.stdout
    verdicts = again.stdout.splitlines()[1:]
    pairs = [("mine", "natural"), ("mine", "madry"), ("natural", "madry")]
    for line, (first, second) in zip(verdicts, pairs, strict=True):
        assert line.startswith(f"{first} ")
        for words in (f" {second} ", "on the same 16 images under pgd-20", "exact McNemar"):
            assert words in line
        assert "after Holm's correction over 3 pairs" in line


def test_against_compares_the_methods_of_the_suite_where_none_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = load_suite("digits")
    small = replace(digits, studies=(replace(digits.only(), methods=("natural",)),))
    monkeypatch.setattr("bench.experiments.suite.load_suite", lambda *_: small)
    result = done("run", "--results", tmp_path, *SIZES, *ROBUST, "--against", "madry")
    (verdict,) = (line for line in result.stdout.splitlines() if " images under " in line)
    assert verdict.startswith("natural ")
    assert " madry " in verdict


def test_against_says_what_failed(tmp_path: Path) -> None:
    path = tmp_path / "nan.py"
    path.write_text(method("nan-loss", NAN))
    common = ["run", "--results", tmp_path / "r", *SIZES, *ROBUST, "--methods", path]
    result = bench(*common, "--against", "natural")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].startswith(
        "nan-loss and natural were not compared: nan-loss has nothing to compare: failed: the loss"
    )
