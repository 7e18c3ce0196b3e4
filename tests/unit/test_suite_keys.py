"""A key that a suite or a recipe does not have is refused in one line, wherever it stands."""

import tomllib
from collections.abc import Callable
from dataclasses import fields

import pytest

from bench.archs import list_archs
from bench.data.sources import sources
from bench.errors import ConfigError
from bench.evaluation.checks import CheckBudget
from bench.experiments import recipe, suite
from bench.experiments.recipe import list_recipes, load_recipe
from bench.experiments.study import changed
from bench.experiments.suite import list_suites, load_suite
from bench.registry import list_methods
from tests.commands import bench, refused
from tests.harness import raises_line

SHIPPED = list_recipes()

SUITE = """
title = "A suite with every key"
methods = ["madry"]
dataset = "digits"
eps = "8/255"
seeds = [0]
recipe = "common"
surrogate_recipe = "authors"
precision = "auto"
stage = 1

[params.madry]
steps = 7

[training]
epochs = 2

[[attacks]]
names = ["clean", "pgd-20@0.1"]
checkpoints = ["best"]
first = 100
split = "train"

[checks]
names = ["C1"]
checkpoints = ["best"]
first = 10
steps = 20
samples = 10
restarts = 6

[[measures]]
names = ["complexity", "landscape"]
checkpoints = ["best"]
first = 4
n_points = 5

[[studies]]
arch = "cnn"

[[studies]]
arch = "linear"
recipe = "paper"
params = { madry = { steps = 3 } }

[[studies]]
arch = "linear"
in_sizes = ["tiny"]

[sizes.tiny]
archs = { cnn = "linear" }
dataset = "digits"
reference_eps = "0.2"
training = { epochs = 1 }
train_size = 64
test_size = 32
first = { pgd-20 = 8, checks = 4, landscape = 2 }
checks = { steps = 30 }
measures = { n_points = 3 }
"""
RECIPE = """
title = "A recipe with every table"
listed_only = true

[recipe]
epochs = 9
batch_size = 8
lr = 0.1
params = { steps = 3 }

[dataset.digits]
lr = 0.2

[arch.cnn]
lr = 0.3

[method.madry]
epochs = 8

[method.madry.params]
steps = 4

[method.madry.arch.cnn]
lr = 0.4
params = { steps = 5 }
"""


def use(monkeypatch: pytest.MonkeyPatch, text: str, old: str = "", new: str = "") -> None:
    """Make a suite or recipe `made` of the text, with `new` in the place of the first `old`."""
    assert old in text
    table = tomllib.loads(text.replace(old, new, 1))
    module = recipe if text is RECIPE else suite
    monkeypatch.setattr(module, "_table", lambda name: table)
    monkeypatch.setattr(suite, "_files", lambda: {"made": None})
    monkeypatch.setattr(recipe, "list_recipes", lambda: ["made"] if text is RECIPE else SHIPPED)


def unknown_key(where: str, wrong: str, meant: str | None, load: Callable[[], object]) -> None:
    """Loading is refused in one line that names the key, its table and the key that was meant."""
    with pytest.raises(ConfigError) as caught:
        load()
    message = str(caught.value)
    assert message.startswith(f"unknown key ({where}) '{wrong}'.")
    assert meant is None or f"Did you mean '{meant}'?" in message
    assert "\n" not in message


def test_a_suite_with_every_key_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, SUITE)
    full, tiny = (load_suite("made", size).studies for size in ("full", "tiny"))
    assert [(s.arch, s.recipe) for s in full] == [("cnn", "common"), ("linear", "paper")]
    assert [s.arch for s in tiny] == ["linear"] * 3
    assert [s.params["madry"] for s in tiny] == [{"steps": 7}, {"steps": 3}, {"steps": 7}]
    assert {(s.precision, s.stage, s.surrogate_recipe) for s in full} == {("auto", 1, "authors")}
    (tuned,) = changed(full[1], params=["madry.start=zero"]).params.values()
    assert tuned == {"steps": 3, "start": "zero"}
    assert [a.first for a in tiny[0].attacks] == [100, 8]
    assert tiny[0].checks is not None
    assert (tiny[0].checks.first, tiny[0].checks.params["steps"]) == (4, 30)
    assert [(m.first, m.params) for m in tiny[0].measures] == [(2, {"n_points": 3})]


@pytest.mark.parametrize(
    ("old", "new", "where", "wrong", "meant"),
    [
        ("dataset =", "datset =", "top level", "datset", "dataset"),
        ('recipe = "paper"', 'recpie = "paper"', "[[studies]]", "recpie", "recipe"),
        ('recipe = "paper"', "sizes = {}", "[[studies]]", "sizes", None),
        ("epochs = 2", "epoch = 2", "[training]", "epoch", "epochs"),
        ('split = "train"', 'splt = "train"', "[[attacks]]", "splt", "split"),
        ("restarts = 6", "restart = 6", "[checks]", "restart", "restarts"),
        ("train_size = 64", "trian_size = 64", "[sizes.tiny]", "trian_size", "train_size"),
        ('in_sizes = ["tiny"]', 'in_sizes = ["tyni"]', "[[studies]] in_sizes", "tyni", "tiny"),
        ("{ epochs = 1 }", "{ epohcs = 1 }", "[sizes.tiny] training", "epohcs", "epochs"),
        ("{ cnn =", "{ cnm =", "[sizes.tiny] archs", "cnm", "cnn"),
        ("{ cnn =", "{ resnet-18 =", "[sizes.tiny] archs", "resnet-18", None),
        ("pgd-20 = 8", "pdg-20 = 8", "[sizes.tiny] first", "pdg-20", "pgd-20"),
        ("checks = 4", "check = 4", "[sizes.tiny] first", "check", "checks"),
        ("{ steps = 30", "{ step = 30", "[sizes.tiny] checks", "step", "steps"),
        ("{ n_points = 3", "{ n_point = 3", "[sizes.tiny] measures", "n_point", "n_points"),
    ],
)
def test_a_suite_refuses_a_key_that_it_does_not_have(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str, where: str, wrong: str, meant: str | None
) -> None:
    use(monkeypatch, SUITE, old, new)
    unknown_key(f"suite made, {where}", wrong, meant, lambda: load_suite("made", "tiny"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = [0]", "seeds = [nan]", "top level: a number is nan or inf; every number must be"),
        ("seeds = [0]", 'seeds = ["0"]', "top level: seeds = ['0'] should be a valid integer"),
        ("seeds = [0]\n", "", "suite made: seeds is missing"),
        ("[[attacks]]", "[attacks]", "top level: attacks = {"),
        ("first = 100", "first = 0", "[[attacks]]: first = 0 should be greater than or equal to 1"),
        (
            '["best"]\nfirst = 10\n',
            '["bset"]\n',
            "[checks]: unknown checkpoint 'bset'. Did",
        ),
        (
            'split = "train"',
            'split = "dev"',
            "[[attacks]]: unknown split 'dev'. Known: ",
        ),
        ('precision = "auto"', 'precision = "fp16"', "suite made: unknown precision 'fp16'. Did"),
        ("test_size = 32", 'test_size = "32"', "[sizes.tiny]: test_size = '32' should be a valid"),
    ],
)
def test_a_suite_refuses_a_value_of_another_kind(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str, message: str
) -> None:
    use(monkeypatch, SUITE, old, new)
    with raises_line(ConfigError, message):
        load_suite("made", "tiny")


def test_a_measure_takes_the_keys_of_its_function_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`complexity` has no parameters, so that a group with `landscape` can have none."""
    text = SUITE[: SUITE.index("[sizes.tiny]")].replace('in_sizes = ["tiny"]\n', "")
    landscape = text.replace('"complexity", ', "").replace("n_points = 5", "n_piont = 5")
    effort = landscape.replace("n_piont", "n_points").replace("steps = 20", "steps = 20.5")
    for made, words in (
        (effort, "[checks]: steps = 20.5 should be a valid integer"),
        (text, "([[measures]], complexity) 'n_points'"),
        (landscape, "([[measures]], landscape) 'n_piont'. Did you mean 'n_points'"),
    ):
        use(monkeypatch, made)
        refused(bench("run", "--suite", "made", "--dry-run", "--device", "cpu"), words)


def test_a_suite_without_checks_has_none_to_make_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    before, rest = SUITE.split("[checks]")
    text = before + rest[rest.index("[[measures]]") :].replace("checks = 4, ", "")
    use(monkeypatch, text)
    with pytest.raises(ConfigError, match=r"\[sizes.tiny\] checks\) 'steps'. Known: none"):
        load_suite("made")


def test_the_keys_of_the_checks_are_the_fields_of_their_effort() -> None:
    assert tuple(field.name for field in fields(CheckBudget)) == suite._EFFORT


def test_a_recipe_with_every_table_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, RECIPE)
    found, params = load_recipe("made", arch="cnn", dataset="digits", method="madry")
    assert (found.epochs, found.lr, params) == (8, 0.4, {"steps": 5})


@pytest.mark.parametrize(
    ("old", "new", "where", "wrong", "meant"),
    [
        ("listed_only", "listedonly", "top level", "listedonly", "listed_only"),
        ("[arch.cnn]", "[archs.cnn]", "top level", "archs", "arch"),
        ("batch_size = 8", "batch_size = 8\nbatchsize = 8", "[recipe]", "batchsize", "batch_size"),
        ("lr = 0.2", "lrr = 0.2", "[dataset.digits]", "lrr", "lr"),
        ("lr = 0.3", "param = {}", "[arch.cnn]", "param", "params"),
        ("lr = 0.3", "arch = {}", "[arch.cnn]", "arch", None),
        ("epochs = 8", "epoch = 8", "[method.madry]", "epoch", "epochs"),
        ("[method.madry.params]", "[method.madry.parms]", "[method.madry]", "parms", "params"),
        ("lr = 0.4", "weight_deacy = 1", "[method.madry.arch.cnn]", "weight_deacy", "weight_decay"),
    ],
)
def test_a_recipe_refuses_a_key_that_it_does_not_have(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str, where: str, wrong: str, meant: str | None
) -> None:
    use(monkeypatch, RECIPE, old, new)
    cell = {"arch": "linear", "dataset": "cifar10", "method": "madry"}  # the whole file is checked
    unknown_key(f"recipe made, {where}", wrong, meant, lambda: load_recipe("made", **cell))


@pytest.mark.parametrize("name", [name for name, _ in list_suites()])
def test_every_shipped_suite_refuses_one_more_key(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    original = suite._table
    more = {name: original(name) | {"no_such_key": 1}}
    monkeypatch.setattr(suite, "_table", lambda asked: more.get(asked) or original(asked))
    with pytest.raises(ConfigError, match=rf"\(suite {name}, top level\) 'no_such_key'"):
        load_suite(name)


@pytest.mark.parametrize("name", list_recipes())
def test_the_tables_of_a_shipped_recipe_are_for_what_there_is(name: str) -> None:
    """A misspelt table would be for no run, and nothing would say so."""
    table = recipe._table(name)
    assert set(table.get("arch", {})) <= set(list_archs())
    assert set(table.get("dataset", {})) <= set(sources())
    assert set(table.get("method", {})) <= set(list_methods())
    for own in table.get("method", {}).values():
        assert set(own.get("arch", {})) <= set(list_archs())
