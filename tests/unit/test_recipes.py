"""Recipes: what each says of each method, and that every value says where it is from."""

import re
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest

from bench.eps import REFERENCE_EPS
from bench.errors import ConfigError
from bench.experiments.plan import make_plan
from bench.experiments.recipe import list_recipes, load_recipe
from bench.experiments.suite import load_suite
from bench.records.spec import Recipe
from bench.registry import get_method, list_methods
from bench.training.optimiser import learning_rate
from tests.harness import raises_line

CAT_ONLY = ("cat-first-release", "cat-version-1", "cat-version-2")
CAT = ("cat-ce", "cat-mix")
LISTED = {
    **dict.fromkeys(CAT_ONLY, CAT),
    "authors": (
        *("natural", "madry", "trades", "mart", "iaat", "cat-ce", "cat-mix", "adv-ls", "adp-adv"),
        *("natural-ls", "mma", "bilateral", "dynamic", "free", "fast", "yopo"),
        *("awp-madry", "awp-trades", "ikl", "mlcat-wp"),
    ),
}
"""Methods with a table, for the recipes that train no others."""


def load(name: str, method: str, arch: str = "wrn-34-10") -> tuple[Recipe, dict[str, Any]]:
    return load_recipe(name, arch=arch, dataset="cifar10", method=method)


@pytest.mark.parametrize("method", list_methods())
@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_trains_every_method_it_is_for(name: str, method: str) -> None:
    """A recipe of listed methods refuses those without a table in its file."""
    listed = LISTED.get(name)
    if listed is not None and method not in listed:
        why = f"no values for method '{method}', only for {', '.join(listed)}"
        with raises_line(ConfigError, why, "such as common"):
            load(name, method)
        return
    for arch in ("cnn", "vgg-16", "resnet-18", "preact-resnet-18", "wrn-34-10"):
        recipe, params = load(name, method, arch)
        assert recipe.epochs >= 15
        get_method(method, **params)


# Official settings, written out a second time: method, arch, eps, epochs, batch, rate, weight
# decay, on what, padding.
OPTIMISERS: tuple[tuple[Any, ...], ...] = (
    ("madry", "wrn-34-10", 8 / 255, 205, 128, 0.1, 2e-4, "weights", 2, "constant"),
    ("trades", "wrn-34-10", 0.031, 76, 128, 0.1, 2e-4, "all", None, "constant"),
    ("mart", "wrn-34-10", 0.031, 90, 128, 0.1, 7e-4, "all", None, "constant"),
    ("mart", "resnet-18", 0.031, 120, 128, 0.01, 3.5e-3, "all", None, "constant"),
    ("iaat", "wrn-34-10", 8 / 255, 110, 256, 0.1, 5e-4, "all", None, "reflect"),
    ("mma", "wrn-28-10", 8 / 255, 142, 128, 0.3, 2e-4, "all", None, "reflect"),
    ("bilateral", "wrn-28-10", 8 / 255, 201, 128, 0.1, 2e-4, "weights", None, "constant"),
    ("dynamic", "wrn-34-10", 0.031, 120, 128, 0.01, 4e-3, "weights", None, "constant"),
    ("free", "wrn-34-10", 8 / 255, 26, 128, 0.1, 2e-4, "weights", 2, "constant"),
    ("fast", "preact-resnet-18", 8 / 255, 15, 128, 0.2, 5e-4, "all", None, "constant"),
    ("yopo", "wrn-34-10", 8 / 255, 37, 256, 0.08, 5e-4, "all", None, "constant"),
    ("yopo", "preact-resnet-18", 8 / 255, 37, 256, 0.04, 5e-4, "all", None, "constant"),
    ("awp-madry", "wrn-34-10", 8 / 255, 200, 128, 0.1, 5e-4, "all", None, "reflect"),
    ("awp-trades", "wrn-34-10", 8 / 255, 200, 128, 0.1, 5e-4, "all", None, "constant"),
    ("ikl", "wrn-34-10", 8 / 255, 200, 128, 0.2, 5e-4, "all", None, "constant"),
    ("mlcat-wp", "preact-resnet-18", 8 / 255, 200, 128, 0.1, 5e-4, "all", None, "reflect"),
    ("cat-ce", "wrn-34-10", 8 / 255, 200, 128, 0.1, 5e-4, "all", None, "constant"),
    ("cat-mix", "vgg-16", 8 / 255, 200, 128, 0.1, 5e-4, "all", None, "constant"),
)


@pytest.mark.parametrize("row", OPTIMISERS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_the_authors_optimisers(row: tuple[Any, ...]) -> None:
    method, arch, eps, *others = row
    r, _ = load("authors", method, arch)
    assert (r.eps or REFERENCE_EPS) == eps
    assert r.momentum == 0.9
    found = (r.epochs, r.batch_size, r.lr, r.weight_decay, r.decay, r.pad, r.pad_mode)
    assert found == tuple(others)


# method, its parameters; a step in pixels at the authors' own eps.
ATTACKS: tuple[tuple[str, float, dict[str, Any]], ...] = (
    ("madry", 2 / 255, {"steps": 10, "start": "uniform", "attack_bn": "train"}),
    ("trades", 0.007, {"steps": 10, "beta": 6.0}),
    ("mart", 0.007, {"steps": 10, "beta": 6.0}),
    ("iaat", 2 / 255, {"steps": 10, "attack_bn": "train", "gamma": 1.9 / 255, "beta": 0.1}),
    ("bilateral", 8 / 255, {"ratio": 9.0, "gamma": 0.01}),
    ("dynamic", 0.031 / 4, {"steps": 10, "c_max": 0.5, "reference": "start", "weighted": True}),
    ("free", 8 / 255, {"replays": 8}),
    ("fast", 10 / 255, {"attack_bn": "train", "max_drop": 1.0}),
    ("yopo", 2 / 255, {"passes": 5, "inner_steps": 3}),
    ("awp-madry", 2 / 255, {"steps": 10, "start": "uniform", "attack_bn": "train", "gamma": 0.01}),
    ("awp-trades", 2 / 255, {"steps": 10, "beta": 6.0, "gamma": 0.005, "warmup": 0.05}),
    ("mlcat-wp", 2 / 255, {"steps": 10, "attack_bn": "train", "threshold": 1.5, "ascents": 10}),
    ("cat-ce", 0.007, {"steps": 10, "start": "zero", "attack_bn": "eval", "eta": 0.005}),
    ("cat-mix", 0.007, {"steps": 10, "start": "zero", "attack_bn": "eval", "kappa": 10.0}),
)


@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: str(row[0]))
def test_the_authors_attacks(row: tuple[str, float, dict[str, Any]]) -> None:
    name, step, expected = row
    recipe, params = load("authors", name)
    method: Any = get_method(name, **params)
    ratio = (recipe.eps or REFERENCE_EPS) / REFERENCE_EPS
    assert method.step_size * ratio == pytest.approx(step, rel=1e-12)
    assert {key: getattr(method, key) for key in expected} == expected


def test_methods_without_a_step_of_their_own() -> None:
    mma: Any = get_method("mma", **load("authors", "mma")[1])
    assert (mma.steps, mma.bisections, mma.bisection_bn) == (10, 10, "train")
    assert (mma.d_max, mma.floor) == (0.0471, 0.005)
    assert mma.clean_weight == pytest.approx(1 / 3, rel=1e-12)
    ikl: Any = get_method("ikl", **load("authors", "ikl")[1])
    assert (ikl.alpha, ikl.beta, ikl.temperature, ikl.steps) == (4.0, 20.0, 4.0, 5)
    assert (ikl.relative_step, ikl.gamma, ikl.warmup, ikl.decay) == (0.5, 0.005, 0.05, 0.9)
    mart: Any = get_method("mart", **load("authors", "mart", "resnet-18")[1])
    assert (mart.beta, mart.steps) == (5.0, 10)


# method, arch -> epochs at a rate, in order.
RATES: tuple[tuple[str, str, tuple[tuple[int, float], ...]], ...] = (
    ("madry", "wrn-34-10", ((103, 0.1), (51, 0.01), (51, 0.001))),
    ("trades", "wrn-34-10", ((74, 0.1), (2, 0.01))),
    ("mart", "wrn-34-10", ((74, 0.1), (15, 0.01), (1, 0.001))),
    ("mart", "resnet-18", ((74, 0.01), (15, 1e-3), (10, 1e-4), (21, 1e-5))),
    ("iaat", "wrn-34-10", ((70, 0.1), (20, 0.02), (10, 0.004), (10, 0.0008))),
    ("bilateral", "wrn-34-10", ((100, 0.1), (50, 0.01), (51, 0.001))),
    ("yopo", "wrn-34-10", ((30, 0.08), (4, 0.008), (2, 0.0008), (1, 0.00008))),
    ("awp-madry", "wrn-34-10", ((100, 0.1), (50, 0.01), (50, 0.001))),
    ("awp-trades", "wrn-34-10", ((99, 0.1), (50, 0.01), (51, 0.001))),
    ("mlcat-wp", "wrn-34-10", ((100, 0.1), (50, 0.01), (50, 0.001))),
    ("cat-ce", "wrn-34-10", ((80, 0.1), (60, 0.01), (40, 0.001), (20, 0.0001))),
)


@pytest.mark.parametrize("per_epoch", [383, 391])
@pytest.mark.parametrize("row", RATES, ids=lambda row: f"{row[0]}-{row[1]}")
def test_the_authors_rates(row: tuple[str, str, Any], per_epoch: int) -> None:
    method, arch, parts = row
    expected = [rate for n, rate in parts for _ in range(n)]
    recipe, _ = load("authors", method, arch)
    assert recipe.epochs == len(expected)
    special = {}
    if method == "madry":  # 205 epochs: drops in the middle of one, and a quarter before its end
        special = {102: (0.1, 0.01), 153: (0.01, 0.001)}
    for epoch, rate in enumerate(expected):
        steps = (epoch * per_epoch, (epoch + 1) * per_epoch - 1)  # its first and last batch
        found = [learning_rate(recipe, step, len(expected) * per_epoch) for step in steps]
        assert found == pytest.approx(special.get(epoch, (rate, rate)), rel=1e-12), epoch


def test_rates_that_are_no_equal_drops() -> None:
    mma, dynamic, fast, ikl = (
        load("authors", name)[0] for name in ("mma", "dynamic", "fast", "ikl")
    )
    for steps, rate in ((0, 0.3), (20_000, 0.09), (30_000, 0.03), (40_000, 0.009)):
        assert learning_rate(mma, steps, 50_000) == rate
        assert learning_rate(mma, steps + 9_999, 50_000) == rate  # exactly
    n = 46_800
    for step, dropped in ((0, 0.01), (20_000, 0.01), (59 * 390, 0.001), (99 * 390, 0.0001)):
        expected = dropped / (1 + 1e-4 * step)  # dynamic also decays with time
        assert learning_rate(dynamic, step, n) == pytest.approx(expected, rel=1e-12)
    assert learning_rate(dynamic, 59 * 390 - 1, n) > 10 * learning_rate(dynamic, 59 * 390, n)
    found = [learning_rate(fast, step, 1000) for step in (0, 250, 500, 750)]  # a triangle
    assert found == pytest.approx([0, 0.1, 0.2, 0.1], rel=1e-12)
    found = [learning_rate(ikl, step, 1000) for step in (0, 500)]  # a cosine
    assert found == pytest.approx([0.2, 0.1], rel=1e-12)


NAMES = ("c", "eta", "eps_max", "step_size", "train_where", "radius_rule", "divide_draw")
# recipe -> values of those parameters, kappa, epochs, drops.
RELEASES: dict[str, tuple[tuple[Any, ...], float, int, tuple[float, ...]]] = {
    "cat-first-release": (
        *((10.0, 0.0025, 0.03, 0.002, "right", "distance", True), 50.0),
        *(200, (0.4, 0.7, 0.9)),
    ),
    "cat-version-1": (
        *((10.0, 0.03, 0.06, 0.007, "wrong", "distance", False), 10.0),
        *(80, (0.25, 0.5, 0.75)),
    ),
    "cat-version-2": (
        *((10.0, 0.0025, 0.035, 0.007, "all", "inverted", False), 10.0),
        *(80, (0.25, 0.5, 0.75)),
    ),
}


@pytest.mark.parametrize("name", CAT_ONLY)
@pytest.mark.parametrize("method", CAT)
def test_the_released_variants_of_cat(name: str, method: str) -> None:
    expected, kappa, epochs, milestones = RELEASES[name]
    recipe, params = load(name, method)
    built: Any = get_method(method, **params)
    assert tuple(getattr(built, key) for key in NAMES) == expected
    assert built.steps == 10
    if method == "cat-mix":
        found = (built.kappa, built.mix_attack_clamp, built.mix_weight)
        assert found == (kappa, "official", "eps_sum")
    assert (recipe.epochs, recipe.milestones, recipe.drop) == (epochs, milestones, 0.1)
    assert (recipe.lr, recipe.batch_size, recipe.weight_decay) == (0.1, 128, 5e-4)
    assert recipe.fresh_momentum


def test_authors_trains_cat_by_the_papers_algorithm() -> None:
    for method in CAT:
        assert get_method(method, **load("authors", method)[1]) == get_method(method)


@pytest.mark.parametrize("name", list_recipes())
def test_every_value_names_its_source(name: str) -> None:
    text = (files("bench") / "recipes" / f"{name}.toml").read_text()
    lines = [line for line in text.splitlines() if re.match(r"\w+ *= ", line)]
    values = [line for line in lines if not re.match(r"(title|listed_only) = ", line)]
    assert len(values) >= 9
    for line in values:
        assert re.search(r" # \S", re.sub(r'"[^"]*"', "", line)), line


@pytest.mark.parametrize("eps", [8 / 255, 0.2])
def test_eps_is_the_radius_of_the_training_alone(eps: float) -> None:
    study = replace(
        load_suite("digits").only(),
        methods=("trades", "madry"),
        seeds=(0,),
        recipe="authors",
        eps=eps,
    )
    _surrogate, trades, madry = make_plan(study).runs
    trades_spec, madry_spec = trades.train_spec, madry.train_spec
    assert trades_spec.eps == pytest.approx(0.031 * eps / (8 / 255), rel=1e-12)
    assert eps != 8 / 255 or trades_spec.eps == 0.031  # exactly
    assert madry_spec.eps == eps
    assert (trades_spec.study_eps, madry_spec.study_eps) == (eps, None)
    assert trades_spec.recipe.eps is None
    assert {e.eps for e in trades.evaluations} == {e.eps for e in madry.evaluations}
    assert eps in {e.eps for e in trades.evaluations}
