"""Images and labels as a caller has them: what is converted, what is refused, what is untouched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.errors import DataError
from bench.evaluation import evaluate
from bench.evaluation.inputs import TOLERANCE, checked_inputs
from bench.threat import Threat

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(27, 4))


def greys(n: int = 6) -> tuple[Tensor, Tensor]:
    """(n, 3, 3, 3) uint8 of 0..255 and (n,) int64."""
    x = torch.arange(n * 27).mul(37).remainder(256).to(torch.uint8).view(n, 3, 3, 3)
    return x, torch.arange(n) % 4


def checked(x: Any, y: Any, model: nn.Module = MODEL) -> tuple[Tensor, Tensor]:
    return checked_inputs(x, y, model)


def refusal(x: Any, y: Any) -> str:
    with pytest.raises(DataError) as caught:
        checked(x, y)
    assert "\n" not in str(caught.value)
    return str(caught.value)


IMAGES: dict[str, Callable[[Tensor], Any]] = {
    "uint8": lambda x: x,
    "float32": lambda x: x.float() / 255,
    "float64": lambda x: x.double() / 255,
    "numpy uint8": lambda x: x.numpy(),
    "numpy float64": lambda x: x.numpy() / 255,
    "other byte order": lambda x: (x.numpy() / np.float32(255)).astype(">f4"),
    "mirrored twice": lambda x: np.ascontiguousarray((x.numpy() / 255)[:, ::-1])[:, ::-1],
    "list of tensors": lambda x: list(x.float() / 255),
    "list of arrays": lambda x: [image.numpy() / 255 for image in x],
    "nested lists": lambda x: (x.double() / 255).tolist(),
    "needs gradient": lambda x: (x.float() / 255).requires_grad_(),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images_of_any_kind_become_the_same_float32(kind: str) -> None:
    grey, y = greys()
    x, labels = checked(IMAGES[kind](grey), y)
    assert x.dtype == torch.float32
    assert not x.requires_grad
    assert torch.equal(x, grey.float() / 255)
    assert torch.equal(labels, y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32_unchanged(dtype: torch.dtype) -> None:
    half = (greys()[0].float() / 255).to(dtype)
    x, _ = checked(half, greys()[1])
    assert x.dtype == torch.float32
    assert torch.equal(x, half.float())


def test_float64_stays_where_the_model_computes_in_it() -> None:
    x, y = greys()[0].double() / 255, greys()[1]
    double = nn.Sequential(nn.Flatten(), nn.Linear(27, 4)).double()
    assert checked(x, y, double)[0].dtype == torch.float64
    assert checked(x, y, nn.Flatten())[0].dtype == torch.float64  # it has no weights to say
    assert checked(x, y)[0].dtype == torch.float32


LABELS: dict[str, Callable[[Tensor], Any]] = {
    "int32": lambda y: y.int(),
    "uint8": lambda y: y.to(torch.uint8),
    "numpy int32": lambda y: y.numpy().astype(np.int32),
    "numpy uint16": lambda y: y.numpy().astype(np.uint16),
    "list": lambda y: y.tolist(),
    "tuple of tensors": lambda y: tuple(y),
    "bool": lambda y: y > 0,
}


@pytest.mark.parametrize("kind", LABELS)
def test_whole_numbers_of_any_kind_are_labels(kind: str) -> None:
    x, y = greys(2)
    labels = checked(x, LABELS[kind](y))[1]
    assert labels.dtype == torch.int64
    assert torch.equal(labels, y)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (torch.float32, -1e-8, 1.0000001),
        (torch.float64, -TOLERANCE, 1 + TOLERANCE),
        (torch.float16, -0.001, 1.002),  # two steps of its rounding
        (torch.bfloat16, -0.01, 1.0156),
    ],
)
def test_pixels_within_rounding_are_clamped_in_a_copy(
    dtype: torch.dtype, low: float, high: float
) -> None:
    given = torch.full((2, 3, 3, 3), 0.5, dtype=dtype)
    given[0, 0, 0, 0], given[1, 2, 2, 2] = low, high
    before = given.clone()
    x, _ = checked(given, [0, 1])
    assert (float(x.min()), float(x.max())) == (0, 1)
    assert torch.equal(given, before)
    assert float(given.max()) > 1
    assert torch.equal(x.flatten()[1:-1], torch.full((52,), 0.5))


def test_normalising_and_back_leaves_usable_images() -> None:
    x = greys(500)[0].float() / 255
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1)
        for v in ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201))
    )
    again = (x - mean) / std * std + mean
    assert float(again.min()) < 0
    found = checked(again, greys(500)[1])[0]
    torch.testing.assert_close(found, x, rtol=0, atol=1e-6)
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


def bad(change: Callable[[Tensor], Tensor]) -> str:
    return refusal(change(greys()[0].float() / 255), greys()[1])


def test_images_beyond_rounding_are_refused_with_what_to_do() -> None:
    assert bad(lambda x: x + 2 * TOLERANCE).endswith("clamp what a resize or noise put outside")
    assert "put any normalisation inside the model" in bad(lambda x: (x - 0.5) / 0.5)
    assert "put any normalisation inside the model" in bad(lambda x: (x - 0.13) / 0.31)
    for message in (bad(lambda x: x * 255), bad(lambda x: x * 255 - 1e-7)):
        assert "look like grey levels of 0..255: divide them by 255" in message
    assert "some pixels are NaN" in bad(lambda x: x.masked_fill(x > 0.9, torch.nan))
    assert "inf" in bad(lambda x: x.masked_fill(x > 0.9, torch.inf))


def test_whole_number_images_are_uint8_or_refused() -> None:
    x, y = greys()
    for other in (x.int(), x.long(), x.numpy().astype(np.int16), x > 9):
        assert "or uint8 of 0..255; write x.float() / 255" in refusal(other, y)
    assert "may be grey levels of 0..255 or pixels in [0, 1]" in refusal(x % 2, y)
    assert float(checked(x * 0, y)[0].max()) == 0


def test_labels_that_are_no_class_indices_say_how_to_make_them() -> None:
    x, y = greys()
    assert refusal(x, y[:, None]).endswith(
        "must be (n, C, H, W) and (n,); give the labels as y[:, 0]"
    )
    one_hot = nn.functional.one_hot(y)
    assert refusal(x, one_hot).endswith("y.argmax(1) of one-hot labels")
    assert "write y.long()" in refusal(x, y.float())
    assert "write y.long()" in refusal(x, y.double().tolist())
    assert "labels (5,)" in refusal(x, y[:5])
    assert "labels ()" in refusal(x, 3)


def test_what_is_no_array_is_refused() -> None:
    x, y = greys()
    assert refusal([[1.0, 2.0], [1.0]], y).startswith("images are a list that is no tensor (")
    assert refusal("x.pt", y).startswith("images are a str that is no tensor (")
    assert refusal(x, ["cat"] * 6).startswith("labels are a list that is no tensor (")
    assert refusal(None, y).startswith("images are a NoneType that is no tensor (")
    assert refusal([x[0], x[1, :2]], y[:2]).startswith("images are a list that is no tensor (")


def test_read_only_arrays_are_taken_and_nothing_of_the_callers_is_written_to() -> None:
    x, y = greys()[0].numpy() / np.float32(255), greys()[1].numpy()
    x[0, 0, 0, 0] = 1 + 1e-7
    before = x.copy()
    x.flags.writeable = y.flags.writeable = False
    result = evaluate(MODEL, x, y, Threat(eps=0.1), attacks=("fgsm",))
    assert np.array_equal(x, before)
    exact = evaluate(
        MODEL, torch.from_numpy(before).clamp(0, 1), greys()[1], Threat(eps=0.1), attacks=("fgsm",)
    )
    assert torch.equal(result.clean, exact.clean)
    assert torch.equal(result.survivors["fgsm"], exact.survivors["fgsm"])
