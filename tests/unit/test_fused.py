"""A convolution with its ReLU is the two of them, in value and in the gradient of the map."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.archs import fused
from bench.archs.fused import FusedConv

SHAPES = {
    "plain": (nn.Conv2d(3, 8, 3, padding=1), 12),
    "strided": (nn.Conv2d(3, 8, 3, stride=2, padding=1), 12),
    "grouped": (nn.Conv2d(4, 8, 3, groups=2), 12),
    "dilated": (nn.Conv2d(3, 8, 3, dilation=2, padding=2, bias=False), 12),
    "wide": (nn.Conv2d(16, 32, 3, padding=1), 8),  # its weight in kernel order, in fp32 too
    "pointwise": (nn.Conv2d(64, 64, 1, padding=1), 3),  # so too; its way back no convolution
    "wide strided": (nn.Conv2d(32, 64, 3, stride=2), 8),  # so too
    "heavy": (nn.Conv2d(64, 128, 3, padding=1), 4),  # in NCHW, in fp32
}


def outcome(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The map, and the gradient of a sum of it with signs that differ."""
    x = x.clone().requires_grad_()
    out = net(x)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    (gradient,) = torch.autograd.grad((out * weights).sum(), x)
    return out.detach(), gradient


def pair(shape: str, dtype: torch.dtype, *, relu: bool) -> tuple[nn.Module, FusedConv, Tensor]:
    conv, size = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, conv.in_channels, size, size, generator=generator).to(dtype)
    plain, merged = copy.deepcopy(conv).to(dtype), copy.deepcopy(conv).to(dtype)
    FusedConv.of(merged.requires_grad_(False), relu=relu)
    assert isinstance(merged, FusedConv)
    return nn.Sequential(plain, nn.ReLU()) if relu else plain, merged, x


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
def test_is_both_layers(shape: str, dtype: torch.dtype, tolerance: float, relu: bool) -> None:
    plain, merged, x = pair(shape, dtype, relu=relu)
    for ours, theirs in zip(outcome(merged, x), outcome(plain, x), strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_without_a_gradient_it_is_the_same_without_autograd(
    shape: str, dtype: torch.dtype, relu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, merged, x = pair(shape, dtype, relu=relu)
    expected, _ = outcome(merged, x)
    monkeypatch.delattr(fused, "_Convolve")
    with torch.no_grad():
        assert torch.equal(merged(x.clone().requires_grad_()), expected)
    assert torch.equal(merged(x), expected)


def test_without_the_kernel_of_a_cpu_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    _, merged, x = pair("plain", torch.float32, relu=True)
    with_kernel = outcome(merged, x)
    monkeypatch.setattr(fused, "_has_kernel", lambda x: False)
    for ours, theirs in zip(outcome(merged, x), with_kernel, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_rounded_map_is_that_of_fp32_and_its_gradient_near() -> None:
    plain, merged, x = pair("plain", torch.float32, relu=True)
    merged.rounds = True
    exact, ours = outcome(plain, x), outcome(merged, x)
    assert torch.equal(ours[0], exact[0].bfloat16())
    assert ours[1].dtype == torch.float32
    assert (ours[1] - exact[1]).abs().max() < 0.02 * exact[1].abs().max()


def test_a_gradient_in_another_layout_is_the_same() -> None:
    plain, merged, x = pair("plain", torch.float32, relu=True)
    spread = nn.Flatten(2)  # hands back a gradient in NCHW
    ours = outcome(nn.Sequential(merged, spread), x)
    theirs = outcome(nn.Sequential(plain, spread), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_hooks_and_keys_stay_with_the_layer() -> None:
    conv = nn.Conv2d(3, 4, 3)
    seen: list[int] = []
    conv.register_forward_hook(lambda *_: seen.append(1))
    keys = list(conv.state_dict())
    FusedConv.of(conv, relu=True)
    conv(torch.zeros(1, 3, 8, 8))
    assert seen == [1]
    assert list(conv.state_dict()) == keys


KERNELS = [
    torch.float32,
    pytest.param(
        torch.bfloat16,
        marks=pytest.mark.skipif(
            not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="a CPU without AVX-512"
        ),
    ),
]
PACKS = {
    torch.float32: {"wide": True, "pointwise": False, "wide strided": False},
    torch.bfloat16: {
        **dict.fromkeys(("plain", "dilated", "wide", "heavy"), True),
        **dict.fromkeys(("strided", "pointwise", "wide strided"), False),
    },
}
"""The shapes whose weights are kept in kernel order, and whether for the way back as well."""


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", KERNELS)
def test_weights_are_kept_in_kernel_order_for_both_ways(shape: str, dtype: torch.dtype) -> None:
    _, merged, x = pair(shape, dtype, relu=False)
    assert merged.packs(x) == (shape in PACKS[dtype])
    if merged.packs(x):
        assert (merged.back(merged.forth(x)) is not None) == PACKS[dtype][shape]


@pytest.fixture
def reorders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever a weight is brought into kernel order."""
    calls: list[int] = []
    reorder = torch.ops.mkldnn._reorder_convolution_weight

    def counted(*args: Any) -> Tensor:
        calls.append(1)
        found: Tensor = reorder(*args)
        return found

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_convolution_weight", counted)
    return calls


@pytest.mark.parametrize("dtype", KERNELS)
def test_a_weight_is_reordered_when_it_changes_and_not_at_every_call(
    dtype: torch.dtype, reorders: list[int]
) -> None:
    plain, merged, x = pair("wide", dtype, relu=False)
    assert isinstance(plain, nn.Conv2d)

    def assert_equal() -> None:
        for ours, theirs in zip(outcome(merged, x), outcome(plain, x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=3e-2, atol=3e-2)

    for _ in range(2):
        assert_equal()
    assert len(reorders) == 2  # each way once
    for conv in (plain, merged):
        with torch.no_grad():
            conv.weight.mul_(-2)
    assert_equal()
    assert len(reorders) == 4
    for conv in (plain, merged):
        conv.weight.data = -3 * conv.weight.detach()
    assert_equal()
    assert len(reorders) == 6
    new = 2 * merged.weight.detach()
    plain.weight, merged.weight = nn.Parameter(new), nn.Parameter(new.clone(), requires_grad=False)
    assert_equal()
    assert len(reorders) == 8


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("dtype", KERNELS)
def test_an_image_has_the_same_bits_in_any_batch(dtype: torch.dtype, relu: bool) -> None:
    _, merged, x = pair("wide", dtype, relu=relu)
    weights = torch.linspace(-1, 1, merged(x[:1]).numel(), dtype=dtype).view_as(merged(x[:1]))

    def gradient(of: Tensor) -> Tensor:
        of = of.clone().requires_grad_()
        (found,) = torch.autograd.grad((merged(of) * weights).sum(), of)
        return found

    for rows in (slice(0, 1), slice(1, 3)):
        assert torch.equal(merged(x[rows]), merged(x)[rows])
        assert torch.equal(gradient(x[rows]), gradient(x)[rows])


def test_a_copy_has_a_weight_of_its_own() -> None:
    _, merged, x = pair("wide", torch.float32, relu=True)
    before = outcome(merged, x)
    with torch.no_grad():
        copy.deepcopy(merged).weight.zero_()
    torch.testing.assert_close(outcome(merged, x), before, rtol=0, atol=0)
    torch.testing.assert_close(outcome(copy.deepcopy(merged), x), before, rtol=0, atol=0)
