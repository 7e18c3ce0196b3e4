"""Every method with an adversary learns something that natural training does not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from bench.archs.weights import load_state, read_weights
from bench.evaluation import evaluate
from bench.evaluation.store import Images
from bench.folder import RunFolder
from bench.plan import make_plan
from bench.progress import Reporter
from bench.registry import list_methods, method_class, parameters
from bench.suite import load_suite
from bench.threat import Threat
from bench.training.engine import Trainer, initial_model

N_TEST = 200
WITHOUT_ADVERSARY = ("natural", "natural-ls")
AHEAD = 10
"""Images of the 200 by which an adversary must help: five standard deviations at 2%."""


@cache
def n_robust(name: str) -> int:
    """Test images that survive PGD-20 after a short training on digits, with short attacks."""
    short = {name: {"steps": "5"}} if "steps" in parameters(method_class(name)) else {}
    study = replace(load_suite("digits").only(), methods=(name,), params=short, train_size=500)
    plan = make_plan(study)
    cell, dataset = plan.cells[0], plan.dataset
    assert cell.method is not None
    spec = replace(cell.spec, recipe=replace(cell.spec.recipe, epochs=10, batch_size=30))
    with TemporaryDirectory() as results:
        folder = RunFolder(Path(results), spec.run_id)
        Trainer(spec, cell.method, dataset, folder, torch.device("cpu")).run(Reporter(quiet=True))
        model = initial_model(spec)
        load_state(model, read_weights(folder.weights("last")))
    x, y = Images(dataset, torch.device("cpu")).chunk(range(N_TEST))
    return int(evaluate(model, x, y, Threat(eps=spec.eps), ("pgd-20",)).robust.sum())


@pytest.mark.parametrize("name", [n for n in list_methods() if n not in WITHOUT_ADVERSARY])
def test_beats_natural_training_under_pgd_20(name: str) -> None:
    assert n_robust(name) >= n_robust("natural") + AHEAD
