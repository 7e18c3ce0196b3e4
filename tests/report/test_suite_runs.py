"""Which records belong to a suite: those that it planned, and no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.experiments.study import is_variant
from bench.records import load_records
from bench.records.run_folder import RunFolder
from bench.report.suite_runs import SuiteRuns, choose
from tests.report.made import evaluate
from tests.report.made_measures import study_of, trained
from tests.report.made_suite import make_suite, nothing


def seeds(chosen: SuiteRuns | None) -> list[int | None]:
    assert chosen is not None
    return [run.seed for study in chosen.studies for run in study.runs.get("madry", ())]


def test_a_variant_of_the_data_is_told_from_another_data_set() -> None:
    assert is_variant("cifar10", "cifar10")
    assert is_variant("cifar10-q75", "cifar10")
    assert is_variant("restricted-imagenet-32", "restricted-imagenet@32")
    assert not is_variant("cifar100", "cifar10")


@pytest.mark.parametrize(
    ("recipe", "end"),
    [
        ("paper", "recipe paper): the paper's size."),
        ("common", "recipe common): not the paper's."),
    ],
)
def test_the_full_size_names_its_recipe_and_is_the_paper_s_by_the_paper_s(
    recipe: str, end: str, tmp_path: Path
) -> None:
    study = study_of("table1", size="full")
    assert study.recipe == "paper"
    trained(tmp_path, replace(study, recipe=recipe), "madry")
    found = choose(load_records(tmp_path), "table1", "full")
    assert found is not None
    assert found.full == (recipe == "paper")
    assert found.caption.endswith(end)


def test_recipes_are_not_mixed_and_the_suite_s_own_wins_a_tie(tmp_path: Path) -> None:
    study = study_of("table3", size="full")
    for recipe, methods in (("common", ("madry", "trades")), ("paper", ("madry", "mart"))):
        for method in methods:
            trained(tmp_path, replace(study, recipe=recipe), method)
    found = choose(load_records(tmp_path), "table3")
    assert found is not None
    assert found.full
    assert set(found.studies[0].runs) == {"madry", "mart"}
    trained(tmp_path, replace(study, recipe="common"), "mma")
    found = choose(load_records(tmp_path), "table3")
    assert found is not None
    assert not found.full
    assert set(found.studies[0].runs) == {"madry", "trades", "mma"}
    assert found.command == "bench run --suite table3 --recipe common"


def test_only_planned_and_finished_trainings_count(tmp_path: Path) -> None:
    study = study_of("table1")
    trained(tmp_path, study, "madry", seed=1)
    trained(tmp_path, study, "madry", seed=2, error="the loss is not finite")
    manifest = next((tmp_path / "suites").glob("table1*.json"))
    planned = manifest.read_bytes()
    trained(tmp_path, study, "madry", seed=3)
    manifest.write_bytes(planned)
    assert seeds(choose(load_records(tmp_path), "table1")) == [1]


def test_of_two_versions_the_one_with_more_outcomes_counts(tmp_path: Path) -> None:
    study = study_of("table1")
    for steps in (10, 20):
        trained(tmp_path, study, "madry", params={"steps": steps})
    run = next(run for run in load_records(tmp_path) if run.spec["params"]["steps"] == 20)
    evaluate(RunFolder(tmp_path, run.run_id), "pgd-20", 0.5, 10, eps=study.eps)
    chosen = choose(load_records(tmp_path), "table1")
    assert chosen is not None
    assert [run.spec["params"] for run in chosen.studies[0].runs["madry"]] == [{"steps": 20}]


def test_the_size_and_the_variant_with_the_largest_share_are_chosen(tmp_path: Path) -> None:
    make_suite(tmp_path, "table3", methods=("madry", "trades"), survives=nothing)
    make_suite(tmp_path, "table3", methods=("madry",), size="full", survives=nothing)
    tiny = choose(load_records(tmp_path), "table3")
    assert tiny is not None
    assert (tiny.suite.size, tiny.n_trainings, tiny.full) == ("tiny", 2, False)
    assert tiny.command == "bench run --suite table3 --size tiny"
    for method in ("madry", "trades", "mart"):
        make_suite(
            tmp_path, "table3", methods=(method,), size="full", dataset="cifar10-q75",
            survives=nothing,
        )  # fmt: skip
    found = choose(load_records(tmp_path), "table3")
    assert found is not None
    assert (found.suite.size, found.dataset, found.full) == ("full", "cifar10-q75", False)
    assert choose(load_records(tmp_path), "figure3", "full") is None or found
    assert choose(load_records(tmp_path), "figure1") is None
