"""Our DLR losses beside those of the AutoAttack package."""

from __future__ import annotations

import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from bench.losses import dlr, targeted_dlr


def logits_and_labels(k: int) -> tuple[Tensor, Tensor]:
    """Half of the rows classified as their label says."""
    g = torch.Generator().manual_seed(k)
    logits = 5 * torch.randn(64, k, generator=g)
    return logits, torch.where(torch.arange(64) % 2 == 0, logits.argmax(1), torch.arange(64) % k)


@pytest.mark.parametrize("k", [3, 4, 10, 100])
def test_the_untargeted_loss_is_the_packages(k: int) -> None:
    logits, y = logits_and_labels(k)
    package = pyautoattack.AutoAttack(nn.Identity(), eps=0.1, device="cpu").apgd
    expected = package.dlr_loss(logits, y)
    torch.testing.assert_close(dlr(logits, y), expected, rtol=0, atol=1e-6)
    assert bool((expected > 0).any())
    assert bool((expected < 0).any())


@pytest.mark.parametrize("k", [4, 10, 100])
@pytest.mark.parametrize("place", [1, 2, -1])
def test_the_targeted_loss_is_the_packages(k: int, place: int) -> None:
    logits, y = logits_and_labels(k)
    package = pyautoattack.AutoAttack(nn.Identity(), eps=0.1, device="cpu").apgd_targeted
    package.y_target = logits.argsort(dim=1, descending=True)[:, place]
    expected = package.dlr_loss_targeted(logits, y)
    found = targeted_dlr(logits, y, package.y_target)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
