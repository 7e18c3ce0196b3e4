"""Ids hash what can change the outcome, and nothing else."""

import json
from dataclasses import replace
from typing import Any

import pytest

from bench.errors import ConfigError
from bench.experiments.recipe import changed_recipe, load_recipe
from bench.records.spec import CHUNK, EvalSpec, ModelSpec, Recipe, TrainSpec

RECIPE = Recipe(epochs=2, batch_size=8, lr=0.1, milestones=(0.5,), pad=4, flip=True)
SPEC = TrainSpec(
    method="trades",
    params={"beta": 6.0},
    arch="cnn",
    num_classes=10,
    in_channels=1,
    image_size=8,
    mean=(0.5,),
    std=(0.25,),
    dataset="digits",
    data_sha256="ab",
    n_train=90,
    n_val=10,
    eps=0.2,
    seed=0,
    recipe=RECIPE,
    recipe_name="common",
)
EVAL = EvalSpec(checkpoint="best", attack="pgd-20", eps=0.2, n_examples=600, data_sha256="cd")


def test_a_spec_survives_json_with_its_id() -> None:
    again = TrainSpec.from_dict(SPEC.to_dict())
    assert again == SPEC
    assert again.run_id == SPEC.run_id
    listed = replace(SPEC, recipe=replace(RECIPE, drop=(0.2,)))
    assert TrainSpec.from_dict(listed.to_dict()) == listed
    assert EvalSpec(**EVAL.to_dict()).eval_id == EVAL.eval_id


RETRAINS: tuple[dict[str, Any], ...] = (
    {"method": "mart"},
    {"params": {"beta": 5.0}},
    {"method_sha256": "x"},
    {"arch": "vgg-16"},
    {"mean": None, "std": None},
    {"data_sha256": "cd"},
    {"eps": 0.1},
    {"seed": 1},
    {"precision": "bf16"},
    {"recipe": replace(RECIPE, weight_decay=0.0)},
    {"recipe": replace(RECIPE, flip=False)},
    {"recipe": replace(RECIPE, decay="weights")},
    {"recipe": replace(RECIPE, drop=(0.2,))},
    {"recipe": replace(RECIPE, time_decay=1.0)},
    {"recipe": replace(RECIPE, fresh_momentum=True)},
)
ATTACKS_AGAIN: tuple[dict[str, Any], ...] = (
    *({"checkpoint": "last"}, {"attack": "cw"}, {"params": {"steps": 3}}, {"eps": 0.1}),
    *({"split": "train"}, {"n_examples": 500}, {"data_sha256": "ab"}, {"seed": 1}),
    {"precision": "bf16"},
)


def test_what_can_change_the_outcome_changes_the_id_and_names_do_not() -> None:
    ids = {SPEC.run_id, *(replace(SPEC, **change).run_id for change in RETRAINS)}
    assert len(ids) == 1 + len(RETRAINS)
    ids = {EVAL.eval_id, *(replace(EVAL, **change).eval_id for change in ATTACKS_AGAIN)}
    assert len(ids) == 1 + len(ATTACKS_AGAIN)
    assert replace(SPEC, recipe_name="paper", study_eps=0.3).run_id == SPEC.run_id
    renamed = replace(SPEC, dataset="other")
    assert renamed.run_id.rpartition("-")[2] == SPEC.run_id.rpartition("-")[2]


def test_chunks_are_frames_of_256_indices() -> None:
    chunks = EVAL.chunks()
    assert [len(chunk) for chunk in chunks] == [CHUNK, CHUNK, 600 - 2 * CHUNK]
    assert [i for chunk in chunks for i in chunk] == list(range(600))
    assert all(len({i // CHUNK for i in chunk}) == 1 for chunk in chunks)


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown checkpoint 'first'"):
        replace(EVAL, checkpoint="first")
    with pytest.raises(ConfigError, match="unknown split 'dev'"):
        replace(EVAL, split="dev")
    with pytest.raises(ConfigError, match="unknown precision 'fp16'"):
        replace(SPEC, precision="fp16")


def test_a_normalisation_in_front_is_part_of_a_models_identity_and_none_changes_no_id() -> None:
    spec = ModelSpec(
        model="zoo/mine.py:make",
        weights_sha256="b" * 64,
        source_sha256="c" * 64,
        num_classes=10,
        dataset="digits",
    )
    assert spec.run_id == "model-mine.py-make-b765e1605f"  # as before there was a normalisation
    normalised = replace(spec, mean=(0.5,), std=(0.25,))
    ids = {spec.run_id, normalised.run_id, replace(normalised, std=(0.5,)).run_id}
    ids.add(replace(spec, weights_sha256="3").run_id)
    assert len(ids) == 4
    assert ModelSpec(**spec.to_dict()) == spec
    assert ModelSpec(**json.loads(json.dumps(normalised.to_dict()))).run_id == normalised.run_id


def test_the_common_recipe_starts_vgg_lower() -> None:
    values = {
        arch: load_recipe("common", arch=arch, dataset="cifar10", method="madry")[0]
        for arch in ("vgg-16", "wrn-34-10")
    }
    assert values["vgg-16"].lr == 0.01
    assert values["wrn-34-10"].lr == 0.1
    assert values["wrn-34-10"].weight_decay == 5e-4


WRONG: dict[str, tuple[object, ...]] = {
    "epochs": (0, "3", 1.5),
    "batch_size": (0,),
    "micro_batch": (1, 8),
    "lr": (0.0, "fast"),
    "momentum": (1.0,),
    "pad": (-1,),
    "weight_decay": (-1.0,),
    "schedule": ("step",),
    "milestones": ((1.5,),),
    "clip": (0.0,),
    "warmup": (1.0,),
    "pad_mode": ("edge",),
    "decay": ("biases",),
    "time_decay": (-1.0,),
    "drop": (0.0, (0.1, 0.1), (-0.1,)),
    "eps": (0.0, 8.0),
}


@pytest.mark.parametrize(("name", "value"), [(name, v) for name in WRONG for v in WRONG[name]])
def test_a_recipe_names_the_value_that_is_out_of_range(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"suite x: .*{name} = "):
        changed_recipe(RECIPE, {name: value}, "suite x")


def test_an_unknown_recipe_value_is_named() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'epochs'"):
        changed_recipe(RECIPE, {"epoch": 3}, "suite x")
