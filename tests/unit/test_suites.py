"""Suites are data: every file loads in every size, sizes change what they say, cells are shared."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.attacks import get_attack
from bench.cli import main
from bench.errors import ConfigError
from bench.papers import plugins
from bench.plan import make_plan, make_plans
from bench.recipe import load_recipe
from bench.registry import get_method
from bench.study import AskedMeasures
from bench.suite import list_suites, load_suite, sizes

NAMES = [name for name, _ in list_suites()]
PAPER = ("figure1", "table1", "table3", "table4", "figure2", "figure3", "figure4a", "figure4b")


@pytest.mark.parametrize("name", NAMES)
def test_every_suite_can_be_run_in_every_size(name: str) -> None:
    for size in sizes(name):
        for study in load_suite(name, size).studies:
            for attack in study.attacks:
                get_attack(attack.name)
                assert attack.eps is None or 0 < attack.eps < 1
            for asked in study.measures:
                assert set(asked.names) <= set(plugins("measures"))
            for method in study.methods:
                get_method(method)
                recipe, _ = load_recipe(
                    study.recipe, arch=study.arch, dataset=study.dataset, method=method
                )
                recipe.replaced(study.training, name)


def test_the_paper_has_every_part_and_the_smallest_size_is_on_embedded_data() -> None:
    assert set(PAPER) <= set(NAMES)
    tiny = load_suite("paper", "tiny").studies
    assert {study.suite for study in tiny} == {*PAPER, "theory"}
    assert {study.dataset for study in tiny} == {"digits", "two-gaussians"}
    assert {study.arch for study in tiny} == {"cnn", "linear"}


def test_a_size_scales_every_radius_and_caps_the_images() -> None:
    full, tiny = (load_suite("table1", size).studies for size in ("full", "tiny"))
    assert [study.eps for study in full] == [0.01, 0.02, 0.03]
    for large, small in zip(full, tiny, strict=True):
        assert small.eps / large.eps == pytest.approx(0.2 / (8 / 255))
        assert small.attacks[1].eps == pytest.approx(0.01 * 0.2 / (8 / 255))
    assert full[0].attacks[-1].first == 10000
    assert (tiny[0].attacks[-1].first, tiny[0].attacks[-1].split) == (100, "train")
    whole, few = (load_suite("table3", size).only() for size in ("full", "tiny"))
    assert few.checks == AskedMeasures(first=32, params={"steps": 200, "samples": 500})
    assert whole.checks == AskedMeasures(first=1000)
    assert {a.first for a in few.attacks if a.name == "autoattack"} == {16}


def test_a_cell_that_several_artefacts_need_is_trained_once() -> None:
    studies = load_suite("paper", "tiny").studies
    plans = make_plans("t", studies)
    assert [plan.dataset.name for plan in plans] == ["two-gaussians", "digits"]
    cells = plans[1].cells
    ids = [cell.spec.run_id for cell in cells]
    assert len(ids) == len(set(ids))
    alone = [make_plan(study, plans[1].dataset) for study in studies if study.dataset == "digits"]
    asked = Counter(cell.spec.run_id for plan in alone for cell in plan.cells)
    assert set(asked) == set(ids)
    assert max(asked.values()) > 3
    cat = next(cell for cell in cells if cell.spec.method == "cat-ce")
    for plan in alone:
        for cell in (c for c in plan.cells if c.spec.run_id == cat.spec.run_id):
            assert {e.eval_id for e in cell.evaluations} <= {e.eval_id for e in cat.evaluations}
            assert {m.measure_id for m in cell.measures} <= {m.measure_id for m in cat.measures}
    first = {run for cell in cells for run in cell.surrogates}
    place = {run_id: number for number, run_id in enumerate(ids)}
    served = [place[c.spec.run_id] for c in cells if c.surrogates and c.spec.run_id not in first]
    assert max(place[run] for run in first) < min(served)


def test_an_option_that_a_suite_of_several_studies_cannot_take_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["run", "--suite", "paper", "--methods", "madry", "--results", str(tmp_path)]
    )
    assert result.exit_code == 2
    assert "suite 'paper' has several studies" in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--suite", "papre"], "Did you mean 'paper'"),
        (["--suite", "table1", "--size", "huge"], "its sizes: full, small, tiny"),
        (["--suite", "digits", "--size", "tiny"], "its sizes: full"),
    ],
)
def test_unknown_names_are_one_clear_line(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(main, ["run", *arguments])
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert words in result.output


def test_one_study_alone_takes_changes() -> None:
    with pytest.raises(ConfigError, match="several studies"):
        load_suite("table4").only()
