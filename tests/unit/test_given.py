"""Models from outside, called from Python: what they may do, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.archs import build
from bench.errors import ConfigError, ModelError
from bench.evaluation import Evaluation, evaluate
from bench.evaluation.inputs import explained, wrapped_model
from bench.threat import Threat

N, K, PIXELS = 40, 10, 64


def images(n: int = N) -> tuple[Tensor, Tensor]:
    """(n, 1, 8, 8) of ten prototypes and noise, and their labels, in no order of theirs."""
    g = torch.Generator().manual_seed(0)
    prototypes = torch.rand(K, 1, 8, 8, generator=g) * 0.6 + 0.2
    y = torch.arange(n) % K
    y = y[torch.randperm(n, generator=g)]
    noise = torch.randn(n, 1, 8, 8, generator=g) * 0.05
    return (prototypes[y] + noise).clamp(0, 1), y


class Nearest(nn.Module):
    """The nearest prototype's class."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        prototypes = (torch.rand(K, 1, 8, 8, generator=g) * 0.6 + 0.2).flatten(1)
        self.fc = nn.Linear(PIXELS, K)
        with torch.no_grad():
            self.fc.weight.copy_(10 * prototypes)
            self.fc.bias.copy_(-5 * (prototypes**2).sum(1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x.flatten(1))
        return logits


def attacked(model: Any, *attacks: str, n: int = N) -> Evaluation:
    x, y = images(n)
    before = x.clone()
    try:
        return evaluate(model, x, y, Threat(eps=0.02), attacks=attacks)
    finally:
        assert torch.equal(x, before), "the caller's images"


def reference(*attacks: str, n: int = N) -> Evaluation:
    return attacked(Nearest().eval(), *attacks, n=n)


class WritesInPlace(Nearest):
    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5).div_(0.25)
        return super().forward(x * 0.25 + 0.5)


class WritesUnseen(Nearest):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x.mul_(0.5)
        return super().forward(x * 2)


@pytest.mark.parametrize("kind", [WritesInPlace, WritesUnseen])
def test_a_model_may_write_into_its_images(kind: type[nn.Module]) -> None:
    found, expected = attacked(kind().eval(), "pgd-20"), reference("pgd-20")
    assert torch.equal(found.survivors["pgd-20"], expected.survivors["pgd-20"])
    assert found.warnings == ["the model writes into the images that it is given; it gets copies"]


class Squeezes(Nearest):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze()


class NeedsFour(Nearest):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) < 4:
            raise ValueError("too few for my normalisation")
        return super().forward(x)


@pytest.mark.parametrize(
    ("kind", "why"),
    [(Squeezes, "returns (10,) for 1 images"), (NeedsFour, "ValueError: too few for my")],
)
@pytest.mark.parametrize("n", [1, 257])
def test_a_model_that_takes_no_single_image_gets_more(
    kind: type[nn.Module], why: str, n: int
) -> None:
    found, expected = attacked(kind().eval(), "pgd-20", n=n), reference("pgd-20", n=n)
    assert torch.equal(found.survivors["pgd-20"], expected.survivors["pgd-20"])
    (note,) = found.warnings
    assert why in note
    assert "filled up by repeating their last image" in note


class BatchStatistics(Nearest):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1, track_running_stats=False, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x) * 0.25 + 0.5)


class Neighbour(Nearest):
    """A trace of the image before it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * x.roll(1, 0))


@pytest.mark.parametrize("kind", [BatchStatistics, Neighbour])
@pytest.mark.parametrize("n", [1, 16, 40, 300])
def test_logits_that_depend_on_the_batch_are_found(kind: type[nn.Module], n: int) -> None:
    found = attacked(kind().eval(), n=n)
    depends = [text for text in found.warnings if "depend on the other images" in text]
    assert len(depends) == 1, found.warnings


class Dropped(Nearest):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.1, training=True))


def test_random_logits_are_called_random_and_others_neither() -> None:
    assert any("are random" in text for text in attacked(Dropped().eval()).warnings)
    for n in (1, 15, 256, 300):
        assert reference(n=n).warnings == []


class NoGrad(Nearest):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class InferenceMode(Nearest):
    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Numpy(Nearest):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.from_numpy(np.rint(x.detach().numpy() * 255) / 255).float())


@pytest.mark.parametrize("kind", [NoGrad, InferenceMode, Numpy])
@pytest.mark.parametrize("attack", ["pgd-20", "cw", "apgd-ce"])
def test_a_model_without_gradients_is_named_with_the_attack(
    kind: type[nn.Module], attack: str
) -> None:
    with pytest.raises(ModelError) as caught:
        attacked(kind().eval(), attack)
    expected = (
        f"{attack} cannot be run on the model {kind.__name__}: no gradient reaches the images"
    )
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [NoGrad, InferenceMode])
def test_what_needs_no_gradient_runs_on_it(kind: type[nn.Module]) -> None:
    found, expected = attacked(kind().eval(), "square"), reference("square")
    assert torch.equal(found.survivors["square"], expected.survivors["square"])


def test_a_graph_that_is_kept_is_explained() -> None:
    x = torch.ones(2, requires_grad=True)
    y = (x**2).sum()
    torch.autograd.grad(y, x)
    with pytest.raises(RuntimeError) as caught:
        torch.autograd.grad(y, x)
    assert explained(caught.value).startswith("it keeps a tensor of an earlier call")


class OwnTrain(Nearest):
    """`train` is what the name says to its author."""

    def train(self, epochs: Any = 5) -> Any:
        for _ in epochs:
            raise AssertionError("trained")


class Uncopied(Nearest):
    def __deepcopy__(self, memo: object) -> None:
        raise TypeError("cannot pickle a lock")


def test_a_train_method_of_its_own_is_no_obstacle() -> None:
    model = OwnTrain()
    assert model.training
    found = attacked(model, "pgd-20")
    assert model.training, "its mode is as it was"
    assert torch.equal(found.survivors["pgd-20"], reference("pgd-20").survivors["pgd-20"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_another_precision(dtype: torch.dtype) -> None:
    model = Nearest().eval().to(dtype)
    found = attacked(model, "pgd-20", "square")
    assert found.survivors["pgd-20"].float().mean() > 0.5
    assert all(p.dtype == dtype for p in model.parameters()), "the caller's model"
    widened = [f"the model's {dtype} weights were copied into float32"]
    assert found.warnings == ([] if dtype == torch.float64 else widened)


def test_half_precision_that_cannot_be_copied_is_refused_before_any_attack() -> None:
    with pytest.raises(
        ConfigError, match=r"cannot be copied into float32 .*call \.float\(\) on it"
    ):
        attacked(Uncopied().eval().half(), "pgd-20")


def test_a_function_an_attack_and_an_eps_may_be_given_plainly() -> None:
    model, (x, y), expected = Nearest().eval(), images(), reference("pgd-20")
    for images_, attacks in ((x, "pgd-20"), (x.tolist(), ("pgd-20",))):
        found = evaluate(lambda x: model(x), images_, y, 0.02, attacks=attacks)
        assert torch.equal(found.clean, expected.clean)
        assert torch.equal(found.survivors["pgd-20"], expected.survivors["pgd-20"])


@pytest.mark.parametrize("model", [[Nearest()], None, Nearest, 3, "net.py:make"])
def test_what_is_no_model_is_one_line(model: object) -> None:
    with pytest.raises(ConfigError, match=r"is no model: give a torch\.nn\.Module, or a function"):
        attacked(model)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: [x], "returns a list; it must return logits"),
        (lambda x: x, r"returns \(16, 1, 8, 8\) for 16 images; it must return logits"),
        (lambda x: x.no, "cannot take images \\(1, 8, 8\\): AttributeError"),
    ],
)
def test_what_returns_no_logits_is_one_line(function: Callable[[Tensor], Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        attacked(function)


class CastsToHalf(Nearest):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.half()).float()


def test_casts_to_half_precision_are_named_where_they_fail() -> None:
    with pytest.raises(ModelError, match=r"float16 weights were copied into float32: remove casts"):
        attacked(CastsToHalf().eval().half())


class OnlyImages(Nearest):
    """Right on few images, and it takes nothing that is no image."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.min() >= 0
        assert x.max() <= 1
        return super().forward(x).roll(1, 1)


def test_a_model_that_refuses_what_is_no_image_is_not_asked_about_normalisation() -> None:
    found = attacked(OnlyImages().eval(), "pgd-20")
    assert all("near chance" in text for text in found.warnings)


class Exits(Nearest):
    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            raise SystemExit(0)
        return super().forward(x)


def test_a_model_that_exits_under_an_attack_is_named() -> None:
    with pytest.raises(ModelError, match="pgd-20 cannot be run"):
        attacked(Exits().eval(), "pgd-20")


def test_a_lazy_layer_and_a_varying_number_of_classes() -> None:
    with pytest.raises(ConfigError, match="parameter without values yet"):
        attacked(nn.Sequential(nn.Flatten(), nn.LazyLinear(K)))
    found = attacked(lambda x: torch.ones(len(x), 10 + (len(x) == 1)))
    assert any("depend on the other images" in text for text in found.warnings)


def test_our_own_networks_are_called_as_they_are() -> None:
    network = build("cnn", in_channels=1)
    assert wrapped_model(network) == (network, [])
