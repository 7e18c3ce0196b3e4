"""What every architecture promises, over the whole registry.

Shapes: B batch, C H W image, K classes. The large networks see 8x8 images, two at a time.
"""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import archs
from bench.archs.arch import Arch
from bench.archs.state_dict import load_state
from bench.archs.weights import read_weights, save_weights
from bench.errors import ConfigError
from tests.harness import generator, raises_line

N_CLASSES, N_CHANNELS, SIZE = 7, 3, 8
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)

N_PARAMETERS = {
    "cnn": 98_970,
    "vgg-16": 14_728_266,
    "wrn-34-10": 46_160_474,
    "wrn-28-10": 36_479_194,
    "resnet-18": 11_173_962,
    "preact-resnet-18": 11_172_170,
    "preact-resnet-18-raw": 11_172_170,
    "resnet-50": 23_528_522,
    "linear": 30_730,
}


@pytest.fixture(scope="module", params=archs.list_archs())
def name(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


@pytest.fixture(scope="module")
def model(name: str) -> Arch:
    """In eval mode, with BatchNorm statistics that are not the initial ones."""
    torch.manual_seed(0)
    model = archs.build(
        name, num_classes=N_CLASSES, in_channels=N_CHANNELS, image_size=SIZE, mean=MEAN, std=STD
    )
    return settle(model, torch.rand(8, N_CHANNELS, SIZE, SIZE))


def settle(model: Arch, images: Tensor) -> Arch:
    """Scales as after some training, and the statistics that belong to them."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(torch.rand_like(parameter), alpha=0.1)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    """(2, C, H, W) in [0, 1]."""
    return torch.rand(2, N_CHANNELS, SIZE, SIZE, generator=generator(2))


@pytest.fixture(scope="module")
def logits(model: Arch, x: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(x)
    return out


def empty_like(name: str, *, normalised: bool = True) -> Arch:
    """A second network of the same sizes whose values are garbage until weights are loaded."""
    with torch.device("meta"):
        more = {"mean": MEAN, "std": STD} if normalised else {}
        sizes = {"num_classes": N_CLASSES, "in_channels": N_CHANNELS, "image_size": SIZE}
        twin = archs.build(name, **sizes, **more)  # type: ignore[arg-type]
    assert all(tensor.is_meta for tensor in twin.state_dict().values())
    return twin.to_empty(device="cpu").eval()


@pytest.mark.slow
@torch.no_grad()
def test_forward_is_rest_of_stem_and_rest_keeps_its_input(
    model: Arch, x: Tensor, logits: Tensor
) -> None:
    """Also without BatchNorm, which a copy for attacks may fold away."""
    assert logits.shape == (2, N_CLASSES)
    assert logits.isfinite().all()
    assert (logits[0] - logits[1]).abs().amax() > 1e-2  # the image matters
    folded = copy.deepcopy(model)
    for module in list(folded.modules()):
        for child_name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, child_name, nn.Identity())
    for net in (model, folded):
        stem = net.stem(x)
        kept = stem.clone()
        assert torch.equal(net.rest(stem), net(x))
        assert torch.equal(stem, kept)


@torch.no_grad()
def test_stem_is_normalisation_and_the_first_layer(model: Arch, x: Tensor) -> None:
    z = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    layer = model.first_layer
    if isinstance(layer, nn.Linear):
        expected = F.linear(z.flatten(1), layer.weight, layer.bias)
    else:
        assert isinstance(layer, nn.Conv2d)
        assert layer.in_channels == N_CHANNELS
        stride, padding = layer.stride[0], layer.padding[0]
        expected = F.conv2d(z, layer.weight, layer.bias, stride, padding)
    torch.testing.assert_close(model.stem(x), expected)


@pytest.mark.slow
def test_the_gradient_reaches_the_input_and_every_parameter(model: Arch, x: Tensor) -> None:
    pixels = x.clone().requires_grad_(True)
    loss = F.cross_entropy(model(pixels), torch.tensor([0, 1]))
    named = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, [pixels, *named.values()])
    for what, gradient in zip(["x", *named], gradients, strict=True):
        assert gradient.isfinite().all(), what
        assert gradient.abs().amax() > 0, what
    assert (gradients[0].abs().amax((1, 2, 3)) > 0).all()


@torch.no_grad()
def test_a_row_does_not_depend_on_the_others(model: Arch, x: Tensor, logits: Tensor) -> None:
    tolerance = 1e-5 * max(1.0, logits.abs().amax().item())
    for row in range(2):
        alone = model(x[row : row + 1])[0]
        torch.testing.assert_close(alone, logits[row], rtol=0, atol=tolerance)


@pytest.mark.slow
@torch.no_grad()
def test_train_mode_normalises_by_the_batch(name: str, model: Arch, x: Tensor) -> None:
    """Also that a copy is a copy: training it moves no statistic of the original."""
    twin = copy.deepcopy(model).train()
    before = {key: value.clone() for key, value in model.named_buffers()}
    torch.testing.assert_close(copy.deepcopy(model)(x), model(x), rtol=0, atol=0)
    twin(x.repeat(2, 1, 1, 1))
    moved = dict(twin.named_buffers())
    for key, value in before.items():
        torch.testing.assert_close(dict(model.named_buffers())[key], value, rtol=0, atol=0)
        still = key in ("mean", "std")
        assert torch.equal(moved[key], value) == still, key
    assert (len(before) > 2) == (name != "linear")


@pytest.mark.slow
@torch.no_grad()
def test_float64_and_channels_last(model: Arch, x: Tensor, logits: Tensor) -> None:
    double = copy.deepcopy(model).double()
    expected = double(x.double())
    assert expected.dtype == torch.float64
    torch.testing.assert_close(logits.double(), expected, rtol=1e-3, atol=1e-3)
    double.to(memory_format=torch.channels_last)
    actual = double(x.double().to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@torch.no_grad()
def test_weights_come_back_from_a_file_and_mean_and_std_are_applied_inside(
    name: str, model: Arch, x: Tensor, logits: Tensor, tmp_path: Path
) -> None:
    save_weights(model, tmp_path / "weights.safetensors")
    state = dict(read_weights(tmp_path / "weights.safetensors"))
    twin = empty_like(name)
    load_state(twin, state)
    torch.testing.assert_close(twin(x), logits, rtol=0, atol=0)
    mean, std = state.pop("mean"), state.pop("std")
    assert mean.shape == std.shape == (1, N_CHANNELS, 1, 1)
    plain = empty_like(name, normalised=False)
    assert not {"mean", "std"} & {key for key, _ in plain.named_buffers()}
    load_state(plain, state)
    torch.testing.assert_close(plain((x - mean) / std), logits, rtol=0, atol=0)
    assert (plain(x) - logits).abs().amax() > 1e-2
    plain.set_normalisation(MEAN, STD)
    torch.testing.assert_close(plain(x), logits, rtol=0, atol=0)
    assert list(plain.state_dict()) == list(model.state_dict())


def test_published_parameter_counts_and_other_images(name: str) -> None:
    with torch.device("meta"):
        model = archs.build(name)
        other = archs.build(name, in_channels=1, image_size=28)
        assert other(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == N_PARAMETERS[name]
    assert f"{count:,} parameters" in archs.describe(name)
    assert "\n" not in archs.describe(name)


def test_names_and_aliases() -> None:
    assert archs.list_archs() == sorted(N_PARAMETERS)
    assert archs.resolve("wrn") == "wrn-34-10"
    assert archs.resolve("vgg") == "vgg-16"
    assert archs.resolve("cnn") == "cnn"
    assert archs.describe("wrn") == archs.describe("wrn-34-10")
    with pytest.raises(ConfigError, match=r"unknown arch 'wnr'\. Did you mean 'wrn'\? Known: "):
        archs.build("wnr")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": MEAN}, "mean and std go together"),
        ({"std": STD}, "mean and std go together"),
        ({"mean": MEAN, "std": (0.2, 0.0, 0.2)}, "finite and positive"),
        ({"mean": MEAN, "std": (0.2, -0.1, 0.2)}, "finite and positive"),
        ({"mean": (0.4, float("nan"), 0.4), "std": STD}, "finite"),
        ({"mean": (0.5,), "std": (0.5,)}, "mean has 1 values, the images 3 channels"),
        ({"num_classes": 1}, "num_classes 1: must be at least 2"),
        ({"in_channels": 0}, "in_channels 0: must be at least 1"),
    ],
)
def test_an_impossible_value_is_one_line(arguments: dict[str, object], message: str) -> None:
    with raises_line(ConfigError, message):
        archs.build("linear", **arguments)  # type: ignore[arg-type]
