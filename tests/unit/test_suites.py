"""Suites are data: every file loads in every size, sizes change what they say, runs are shared."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest

from bench.attacks import get_attack
from bench.errors import ConfigError
from bench.estimate import made_dataset, made_spec
from bench.experiments.plan import Plan, RunPlan, joined, make_plan, make_plans, suite_manifests
from bench.experiments.recipe import changed_recipe, load_recipe
from bench.experiments.study import OWN_DATA, MeasureConfig
from bench.experiments.suite import list_suites, load_suite, sizes
from bench.papers import plugins
from bench.registry import get_method, list_methods

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
                changed_recipe(recipe, study.training, name)


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
    assert few.checks == MeasureConfig(first=32, params={"steps": 200, "samples": 500})
    assert whole.checks == MeasureConfig(first=1000)
    assert {a.first for a in few.attacks if a.name == "autoattack"} == {16}


def test_a_cell_that_several_artefacts_need_is_trained_once() -> None:
    studies = load_suite("paper", "tiny").studies
    plans = make_plans("t", studies)
    assert [plan.dataset.name for plan in plans] == ["two-gaussians", "digits"]
    runs = plans[1].runs
    ids = [run.run_id for run in runs]
    assert len(ids) == len(set(ids))
    alone = [make_plan(study, plans[1].dataset) for study in studies if study.dataset == "digits"]
    asked = Counter(run.run_id for plan in alone for run in plan.runs)
    assert set(asked) == set(ids)
    assert max(asked.values()) > 3
    cat = next(run for run in runs if run.train_spec.method == "cat-ce")
    for run in (c for plan in alone for c in plan.runs if c.run_id == cat.spec.run_id):
        assert all(evaluation in cat.evaluations for evaluation in run.evaluations)
        assert all(measure in cat.measures for measure in run.measures)
    of_train, of_test = (
        next(m for m in cat.measures if m.name == name) for name in ("bilateral", "margins")
    )
    assert (of_train.split, of_test.split) == ("train", "test")
    assert of_train.data_sha256 != of_test.data_sha256
    first = {run for one in runs for run in one.surrogates}
    place = {run_id: number for number, run_id in enumerate(ids)}
    served = [place[c.run_id] for c in runs if c.surrogates and c.run_id not in first]
    assert max(place[run] for run in first) < min(served)


def test_the_paper_s_size_is_by_its_recipe_and_the_smaller_ones_are_not() -> None:
    by_size = {
        size: {s.recipe for s in load_suite("paper", size).studies if s.dataset not in OWN_DATA}
        for size in ("full", "small", "tiny")
    }
    assert by_size == {"full": {"paper"}, "small": {"common"}, "tiny": {"common"}}


def test_only_a_suite_of_one_study_takes_changes() -> None:
    with pytest.raises(ConfigError, match="several studies"):
        load_suite("table4").only()
    with pytest.raises(ConfigError, match="its sizes: full, small, cpu, tiny"):
        load_suite("table1", "huge")


@pytest.fixture(scope="module")
def campaign() -> Plan:
    """The suite `reference` in size cpu, on a made variant of CIFAR-10."""
    data = replace(made_dataset(20, made_spec("madry", "cnn", 20)), name="cifar10-q75")
    studies = [
        replace(study, precision="fp32")
        for study in load_suite("reference", "cpu").studies
        if study.dataset not in OWN_DATA
    ]
    runs = joined(run for study in studies for run in make_plan(study, data).runs)
    return Plan("t", tuple(runs), data, "made", tuple(studies))


def names(runs: Iterable[RunPlan]) -> list[tuple[str, int]]:
    return [(run.train_spec.method, run.train_spec.seed) for run in runs]


def test_the_reference_campaign_is_worked_on_in_the_order_of_its_use(campaign: Plan) -> None:
    stages = {
        stage: [run for run in campaign.runs if run.stages[""] == stage and run.checkpoints]
        for stage in range(6)
    }
    ten = load_suite("reference", "cpu").studies[0].methods
    transfer = ("natural", 1)  # the source of the attack on natural training
    assert set(names(stages[1])) == {*((method, 0) for method in ten), transfer}
    later = {(method, seed) for method in ten for seed in (1, 2)} - {transfer}
    assert set(names(stages[2])) == later | {("cat-ce", 0), ("cat-mix", 0)}
    others = set(list_methods()) - set(ten) | {"cat-ce", "cat-mix"}
    assert set(names(stages[3])) == {(method, 0) for method in others}
    released = Counter(run.train_spec.recipe_name for run in stages[3])
    assert [released[f"cat-{n}"] for n in ("first-release", "version-1", "version-2")] == [2, 2, 2]
    only_paper = {run.train_spec.eps for run in stages[4]}
    assert (len(stages[4]), only_paper) == (3, {0.01, 0.02, 0.03})
    assert not stages[0] + stages[5]
    madry = next(run for run in stages[1] if names([run]) == [("madry", 0)])
    when = {(e.attack, round(e.eps, 3)): madry.stages[e.eval_id] for e in madry.evaluations}
    assert [when[key] for key in (("autoattack", 0.031), ("autoattack", 0.015))] == [1, 4]


def test_the_paper_in_size_cpu_shares_the_trainings_of_the_campaign(campaign: Plan) -> None:
    """The figures and tables get CAT's rows whose radius can reach its bound early."""
    assert {study.suite for study in campaign.studies} >= {*PAPER, "theory"} - {"figure1"}
    found = {m.suite: m for m in suite_manifests(campaign) if m.size == "cpu"}
    assert set(found) == {*PAPER, "theory", "reference"} - {"figure1"}
    own = {run.run_id for run in found["reference"].runs}
    paper = {run.run_id for m in found.values() if m.suite != "reference" for run in m.runs}
    by_id = {run.run_id: run for run in campaign.runs}
    assert all(by_id[run_id].train_spec.eps in (0.01, 0.02, 0.03) for run_id in paper - own)
    for run_id in paper:
        run = by_id[run_id]
        assert run.method is not None
        assert run.method.epochs_to_radius <= 0.2 * run.train_spec.recipe.epochs
    etas = {run.train_spec.params["eta"] for run in by_id.values() if "cat-ce" in run.run_id}
    assert 0.005 in etas  # the paper's own
    assert {e.n_examples for run in by_id.values() for e in run.evaluations} == {20}


def test_the_gpu_size_of_the_campaign_ends_with_autoattack_on_all_images() -> None:
    studies = load_suite("reference", "gpu").studies
    assert {study.arch for study in studies} == {"vgg-16", "resnet-18", "wrn-34-10"}
    assert {study.suite for study in studies} == {"reference"}
    first = {
        study.stage: {a.first for a in study.attacks if a.name == "autoattack"} for study in studies
    }
    assert first == {1: {1000}, 2: {1000}, 3: {1000}, 4: {None}}
    assert load_suite("reference").size == "gpu"
    assert "full" not in sizes("reference")
