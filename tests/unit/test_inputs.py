"""A caller's model, images and labels: what is converted, refused, noticed and left unchanged."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.archs import build
from bench.errors import ConfigError, DataError, ModelError
from bench.evaluation import Evaluation, evaluate
from bench.evaluation.inputs import TOLERANCE, checked_inputs, explained, wrapped_model
from bench.threat import Threat
from tests.harness import raises_line

# --- images and labels ---

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(27, 4))


def greys(n: int = 6) -> tuple[Tensor, Tensor]:
    """(n, 3, 3, 3) uint8 of 0..255 and (n,) int64."""
    x = torch.arange(n * 27).mul(37).remainder(256).to(torch.uint8).view(n, 3, 3, 3)
    return x, torch.arange(n) % 4


GREYS, LABELS = greys()
PIXELS = GREYS.float() / 255


@pytest.mark.parametrize(
    "x",
    [
        GREYS,
        PIXELS,
        GREYS.double() / 255,
        GREYS.numpy(),
        GREYS.numpy() / 255,
        PIXELS.numpy().astype(">f4"),
        np.ascontiguousarray((GREYS.numpy() / 255)[:, ::-1])[:, ::-1],
        list(PIXELS),
        [image.numpy() / 255 for image in GREYS],
        (GREYS.double() / 255).tolist(),
        PIXELS.clone().requires_grad_(),
    ],
)
def test_images_of_any_kind_become_the_same_float32(x: Any) -> None:
    images, labels = checked_inputs(x, LABELS, MODEL)
    assert images.dtype == torch.float32
    assert not images.requires_grad
    assert torch.equal(images, PIXELS)
    assert torch.equal(labels, LABELS)


def test_precision_of_images() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        x, _ = checked_inputs(PIXELS.to(dtype), LABELS, MODEL)
        assert x.dtype == torch.float32
        assert torch.equal(x, PIXELS.to(dtype).float())
    double = nn.Sequential(nn.Flatten(), nn.Linear(27, 4)).double()
    for model, dtype in (
        (double, torch.float64),
        (nn.Flatten(), torch.float64),  # a model without weights
        (MODEL, torch.float32),
    ):
        assert checked_inputs(GREYS.double() / 255, LABELS, model)[0].dtype == dtype


@pytest.mark.parametrize(
    "y",
    [
        LABELS.int(),
        LABELS.to(torch.uint8),
        LABELS.numpy().astype(np.int32),
        LABELS.numpy().astype(np.uint16),
        LABELS.tolist(),
        tuple(LABELS),
    ],
)
def test_whole_numbers_of_any_kind_are_labels(y: Any) -> None:
    labels = checked_inputs(GREYS, y, MODEL)[1]
    assert labels.dtype == torch.int64
    assert torch.equal(labels, LABELS)
    assert checked_inputs(GREYS, LABELS > 0, MODEL)[1].tolist() == [0, 1, 1, 1, 0, 1]


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
    x, _ = checked_inputs(given, [0, 1], MODEL)
    assert (float(x.min()), float(x.max())) == (0, 1)
    assert torch.equal(given, before)
    assert float(given.max()) > 1
    assert torch.equal(x.flatten()[1:-1], torch.full((52,), 0.5))


NORMALISE = "put any normalisation inside the model"
WHOLE = "or uint8 of 0..255 and not only 0 and 1; write x.float() for pixels"
NO_TENSOR = "that is no tensor ("


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (PIXELS + 2 * TOLERANCE, LABELS, "clamp what a resize or noise put outside"),
        ((PIXELS - 0.5) / 0.5, LABELS, NORMALISE),
        ((PIXELS - 0.13) / 0.31, LABELS, NORMALISE),
        (PIXELS * 255, LABELS, "look like grey levels of 0..255: divide them by 255"),
        (PIXELS * 255 - 1e-7, LABELS, "look like grey levels of 0..255: divide them by 255"),
        (PIXELS.masked_fill(PIXELS > 0.9, torch.nan), LABELS, "images are in [nan, nan]"),
        (PIXELS.masked_fill(PIXELS > 0.9, torch.inf), LABELS, "inf"),
        (GREYS.int(), LABELS, WHOLE),
        (GREYS.numpy().astype(np.int16), LABELS, WHOLE),
        (GREYS > 9, LABELS, WHOLE),
        (GREYS % 2, LABELS, "images are torch.uint8: must be floats in [0, 1]"),
        (GREYS, LABELS[:, None], "must be (n, C, H, W) and (n,); a column gives labels by y[:, 0]"),
        (GREYS, F.one_hot(LABELS), "one-hot labels by y.argmax(1)"),
        (GREYS, LABELS.float(), "write y.long()"),
        (GREYS, LABELS.double().tolist(), "write y.long()"),
        (GREYS, LABELS[:5], "labels (5,)"),
        (GREYS, 3, "labels ()"),
        ([[1.0, 2.0], [1.0]], LABELS, f"images are a list {NO_TENSOR}"),
        ("x.pt", LABELS, f"images are a str {NO_TENSOR}"),
        (None, LABELS, f"images are a NoneType {NO_TENSOR}"),
        ([GREYS[0], GREYS[1, :2]], LABELS[:2], f"images are a list {NO_TENSOR}"),
        (GREYS, ["cat"] * 6, f"labels are a list {NO_TENSOR}"),
    ],
)
def test_what_is_refused_is_one_line_that_says_what_to_do(x: Any, y: Any, says: str) -> None:
    with raises_line(DataError, says):
        checked_inputs(x, y, MODEL)


def test_black_uint8_images_are_taken_and_read_only_arrays_not_written_to() -> None:
    assert float(checked_inputs(GREYS * 0, LABELS, MODEL)[0].max()) == 0
    x, y = GREYS.numpy() / np.float32(255), LABELS.numpy().copy()
    x[0, 0, 0, 0] = 1 + 1e-7
    before = x.copy()
    x.flags.writeable = y.flags.writeable = False
    result = evaluate(MODEL, x, y, 0.1, "fgsm")
    assert np.array_equal(x, before)
    exact = evaluate(MODEL, torch.from_numpy(before).clamp(0, 1), LABELS, 0.1, "fgsm")
    assert torch.equal(result.clean, exact.clean)
    assert torch.equal(result.survivors["fgsm"], exact.survivors["fgsm"])


# --- models ---

N, K = 40, 10


def prototypes() -> Tensor:
    return torch.rand(K, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2


def images(n: int = N) -> tuple[Tensor, Tensor]:
    """(n, 1, 8, 8) of ten prototypes and noise, and their labels, in no order."""
    g = torch.Generator().manual_seed(1)
    y = (torch.arange(n) % K)[torch.randperm(n, generator=g)]
    noise = torch.randn(n, 1, 8, 8, generator=g) * 0.05
    return (prototypes()[y] + noise).clamp(0, 1), y


class Nearest(nn.Module):
    """The nearest prototype's class; `body` makes the logits of x with the function `scores`."""

    def __init__(self, body: Callable[[Any, Tensor], Any] = lambda scores, x: scores(x)) -> None:
        super().__init__()
        self.fc = nn.Linear(64, K)
        with torch.no_grad():
            self.fc.weight.copy_(10 * prototypes().flatten(1))
            self.fc.bias.copy_(-5 * (prototypes().flatten(1) ** 2).sum(1))
        self.body = body
        self.training = False

    def forward(self, x: Tensor) -> Any:
        return self.body(lambda x: self.fc(x.flatten(1)), x)


def attacked(model: Any, *attacks: str, n: int = N) -> Evaluation:
    x, y = images(n)
    before = x.clone()
    try:
        return evaluate(model, x, y, Threat(eps=0.02), attacks=attacks)
    finally:
        assert torch.equal(x, before), "the caller's images"


def same(model: Any, attack: str, n: int = N) -> list[str]:
    """Return the warnings; the survivors must be those of the plain model."""
    found, expected = attacked(model, attack, n=n), attacked(Nearest(), attack, n=n)
    assert torch.equal(found.survivors[attack], expected.survivors[attack])
    return found.warnings


def writes(scores: Any, x: Tensor) -> Any:
    x.sub_(0.5).div_(0.25)
    return scores(x * 0.25 + 0.5)


def writes_unseen(scores: Any, x: Tensor) -> Any:
    with torch.no_grad():
        x.mul_(0.5)
    return scores(x * 2)


@pytest.mark.parametrize("body", [writes, writes_unseen])
def test_a_model_may_write_into_its_images(body: Any) -> None:
    warning = "the model writes into the images that it is given; it gets copies"
    assert same(Nearest(body), "pgd-20") == [warning]


def needs_four(scores: Any, x: Tensor) -> Any:
    if len(x) < 4:
        raise ValueError("too few for my normalisation")
    return scores(x)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (lambda scores, x: scores(x).squeeze(), "returns (10,) for 1 images"),
        (needs_four, "ValueError: too few for my"),
    ],
)
@pytest.mark.parametrize("n", [1, 257])
def test_a_model_that_takes_no_single_image_gets_more(body: Any, why: str, n: int) -> None:
    (note,) = same(Nearest(body), "pgd-20", n)
    assert why in note
    assert "filled up by repeating their last image" in note


@pytest.mark.parametrize(
    "model",
    [
        Nearest(lambda s, x: s(F.batch_norm(x, None, None, training=True) * 0.25 + 0.5)),
        Nearest(lambda s, x: s(x + 0.1 * x.roll(1, 0))),  # a trace of the image before it
        lambda x: torch.ones(len(x), 10 + (len(x) == 1)),
    ],
)
@pytest.mark.parametrize("n", [1, 16, 40, 300])
def test_logits_that_depend_on_the_batch_are_found(model: Any, n: int) -> None:
    found = [note for note in attacked(model, n=n).warnings if "depend on the other" in note]
    assert len(found) == 1


def test_random_logits_are_called_random_and_others_neither() -> None:
    dropped = Nearest(lambda s, x: s(F.dropout(x, 0.1, training=True)))
    assert any("are random" in text for text in attacked(dropped).warnings)
    for n in (1, 15, 256, 300):
        assert attacked(Nearest(), n=n).warnings == []


WITHOUT_GRADIENT = [
    torch.no_grad()(lambda scores, x: scores(x)),
    torch.inference_mode()(lambda scores, x: scores(x)),
    lambda s, x: s(torch.from_numpy(np.rint(x.detach().numpy() * 255) / 255).float()),
]


@pytest.mark.parametrize("body", WITHOUT_GRADIENT)
@pytest.mark.parametrize("attack", ["pgd-20", "cw", "apgd-ce"])
def test_a_model_without_gradients_is_named_with_the_attack(body: Any, attack: str) -> None:
    words = f"{attack} cannot be run on the model Nearest: no gradient reaches the images"
    with raises_line(ModelError, words):
        attacked(Nearest(body), attack)


def test_a_graph_that_is_kept_is_explained() -> None:
    x = torch.ones(2, requires_grad=True)
    y = (x**2).sum()
    torch.autograd.grad(y, x)
    with pytest.raises(RuntimeError) as caught:
        torch.autograd.grad(y, x)
    assert explained(caught.value).startswith("it keeps a tensor of an earlier call")


def test_a_train_method_of_its_own_is_no_obstacle() -> None:
    class OwnTrain(Nearest):
        def train(self, epochs: Any = 5) -> Any:
            for _ in epochs:
                raise AssertionError("trained")

    model = OwnTrain()
    model.training = True
    same(model, "pgd-20")
    assert model.training, "its mode is as it was"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_another_precision(dtype: torch.dtype) -> None:
    model = Nearest().to(dtype)
    found = attacked(model, "pgd-20")
    assert found.survivors["pgd-20"].float().mean() > 0.5
    assert all(p.dtype == dtype for p in model.parameters()), "the caller's model"
    widened = [f"the model's {dtype} weights were copied into float32"]
    assert found.warnings == ([] if dtype == torch.float64 else widened)


class Uncopied(Nearest):
    def __deepcopy__(self, memo: object) -> None:
        raise TypeError("cannot pickle a lock")


def exits(scores: Any, x: Tensor) -> Any:
    if x.requires_grad:
        raise SystemExit(0)
    return scores(x)


NO_MODEL = r"is no model: give a torch\.nn\.Module, or a function"
SHAPE = r"returns \(16, 1, 8, 8\) for 16 images; it must return logits"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ([Nearest()], NO_MODEL),
        (None, NO_MODEL),
        (Nearest, NO_MODEL),
        ("net.py:make", NO_MODEL),
        (lambda x: [x], "returns a list; it must return logits"),
        (lambda x: x, SHAPE),
        (lambda x: x.no, r"cannot take images \(1, 8, 8\): AttributeError"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(K)), "parameter without values yet"),
        (Uncopied().half(), r"cannot be copied into float32 .*call \.float\(\) on it"),
        (
            Nearest(lambda scores, x: scores(x.half()).float()).half(),
            r"float16 weights were copied into float32\) cannot take images",
        ),
        (Nearest(exits), "pgd-20 cannot be run"),
    ],
)
def test_what_cannot_be_attacked_is_one_line(model: Any, says: str) -> None:
    with pytest.raises((ConfigError, ModelError), match=says) as caught:
        attacked(model, "pgd-20")
    assert "\n" not in str(caught.value)


def test_a_function_an_attack_and_an_eps_may_be_given_plainly() -> None:
    model, (x, y), expected = Nearest(), images(), attacked(Nearest(), "pgd-20")
    for images_, attacks in ((x, "pgd-20"), (x.tolist(), ("pgd-20",))):
        found = evaluate(lambda x: model(x), images_, y, 0.02, attacks=attacks)
        assert torch.equal(found.clean, expected.clean)
        assert torch.equal(found.survivors["pgd-20"], expected.survivors["pgd-20"])


def test_a_model_that_refuses_what_is_no_image_is_not_asked_about_normalisation() -> None:
    def only_images(scores: Any, x: Tensor) -> Any:
        assert x.min() >= 0
        assert x.max() <= 1
        return scores(x).roll(1, 1)  # right on few images

    found = attacked(Nearest(only_images), "pgd-20")
    (note,) = found.warnings
    assert "near chance" in note


def test_our_own_networks_are_called_as_they_are() -> None:
    network = build("cnn", in_channels=1)
    assert wrapped_model(network) == (network, [])
