"""Every method with an adversary learns something that natural training does not."""

from __future__ import annotations

from functools import cache

import pytest

from bench.evaluation import evaluate
from bench.registry import list_methods
from tests.trained import trained

pytestmark = pytest.mark.slow

WITHOUT_ADVERSARY = ("natural", "natural-ls")
AHEAD = 10
"""Images of the 200 by which an adversary must help: five standard deviations at 2%."""


@cache
def n_robust(name: str) -> int:
    """Test images that survive PGD-20 after a short training on digits, with short attacks."""
    net = trained(name)
    return int(evaluate(net.model, net.x, net.y, net.threat, ("pgd-20",)).robust.sum())


@pytest.mark.parametrize("name", [n for n in list_methods() if n not in WITHOUT_ADVERSARY])
def test_beats_natural_training_under_pgd_20(name: str) -> None:
    assert n_robust(name) >= n_robust("natural") + AHEAD
