"""Which records belong to a suite's cells: nothing else may stand under the paper's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.recipe import load_recipe
from bench.records import load_records
from bench.report.suite_runs import SuiteRuns, choose, is_variant
from bench.suite import load_suite
from tests.report.made import train_run


def train(results: Path, *, dataset: str = "cifar10", seed: int = 0, command: str = "") -> None:
    """The first training of Table 1 in its full size, by a command."""
    study = load_suite("table1", "full").studies[0]
    recipe, _ = load_recipe("common", arch=study.arch, dataset="cifar10", method="madry")
    train_run(
        results,
        "madry",
        seed=seed,
        dataset=dataset,
        arch=study.arch,
        recipe=study.recipe,
        eps=study.eps,
        epochs=recipe.epochs,
        values=recipe,
        provenance={"command": f"bench run {command}"},
    )


def chosen(results: Path) -> SuiteRuns | None:
    return choose(load_records(results), "table1", "full")


def test_a_variant_of_the_data_is_told_from_another_data_set() -> None:
    assert is_variant("cifar10", "cifar10")
    assert is_variant("cifar10-q75", "cifar10")
    assert is_variant("restricted-imagenet-32", "restricted-imagenet@32")
    assert not is_variant("cifar100", "cifar10")


def test_the_full_size_names_its_recipe(tmp_path: Path) -> None:
    train(tmp_path)
    found = chosen(tmp_path)
    assert found is not None
    assert found.full
    assert found.caption.endswith("the paper's size, by recipe common.")


@pytest.mark.parametrize(
    "words", ["--param madry.steps=3", "--train-size 1000", "--train-size=1000"]
)
def test_a_training_that_a_command_changed_is_no_cell(tmp_path: Path, words: str) -> None:
    train(tmp_path, command=words)
    assert chosen(tmp_path) is None
    train(tmp_path, seed=1)
    found = chosen(tmp_path)
    assert found is not None
    assert [run.seed for study in found.studies for run in study.runs.get("madry", ())] == [1]


def test_another_data_set_is_not_taken_for_the_papers(tmp_path: Path) -> None:
    train(tmp_path, dataset="cifar100")
    assert chosen(tmp_path) is None
