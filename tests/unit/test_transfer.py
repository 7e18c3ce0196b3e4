"""Transferred images: crafted on the surrogate alone, judged on the target alone."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.attacks import Transfer, attack_params, describe_attack, get_attack
from bench.attacks.networks import BatchedModel, Ensemble
from bench.errors import ConfigError
from bench.records.spec import CHUNK
from bench.threat import Threat
from tests.harness import SmallNet, generator, raises_line, right, small_batch, small_net

THREAT = Threat(eps=0.08)


def networks(*seeds: int) -> list[SmallNet]:
    """The same network with weights moved a little, a way for each seed; in eval mode."""
    found = []
    for seed in seeds:
        net = small_net(dtype=torch.float32).eval()
        with torch.no_grad():
            for weight in net.parameters():
                weight.add_(torch.randn(weight.shape, generator=generator(seed)), alpha=0.05)
        found.append(net)
    return found


def subject(n: int = 60) -> tuple[SmallNet, SmallNet, Tensor, Tensor]:
    """Target, surrogate, images, and labels that are the target's but for some of them."""
    target, surrogate = networks(0, 1)
    x = small_batch(n=n, dtype=torch.float32).x
    with torch.no_grad():
        y = target(x).argmax(1)
    y[::10] = (y[::10] + 1) % 4
    return target, surrogate, x, y


class NoGradient(nn.Module):
    """A target that is only called without gradients."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        logits: Tensor = self.model(x)
        return logits


def test_each_image_is_that_of_the_first_part_that_breaks_the_target() -> None:
    target, surrogate, x, y = subject()
    attack = get_attack("transfer", surrogate=surrogate)
    found = attack(NoGradient(target), x, y, THREAT, generator=generator())
    parts = [
        get_attack(name)(surrogate, x, y, THREAT, generator=generator())
        for name in ("pgd-20", "cw")
    ]
    by_first, by_second = (~right(target, part, y) for part in parts)
    for kind in (~by_first & by_second, by_first & ~by_second, ~by_first & ~by_second):
        assert bool(kind.any())
    expected = torch.where(by_first[:, None, None, None], parts[0], parts[1])
    assert torch.equal(found, expected)
    assert torch.equal(right(target, found, y), ~by_first & ~by_second)


def test_stages_are_named_by_the_attack_and_take_any_image() -> None:
    """Also those that the target gets wrong as they are; the target is never called."""
    target, surrogate, x, y = subject()
    assert not bool(right(target, x, y).all())
    transfer = get_attack("transfer", crafted_with=("cw", "pgd-10"), surrogate=surrogate)
    assert [name for name, _ in transfer.stages] == ["cw", "pgd-10"]
    never = nn.Module()
    for name, stage in transfer.stages:
        found = stage(never, x, y, THREAT, generator=generator())
        own = get_attack(name)(surrogate, x, y, THREAT, generator=generator())
        assert torch.equal(found, own)


def test_several_sources_are_attacked_by_the_mean_of_their_logits() -> None:
    target, _, x, y = subject()
    nets = tuple(networks(1, 2))
    attack = get_attack("transfer:natural+madry", crafted_with=("pgd-20",), surrogate=nets)
    found = attack(target, x, y, THREAT, generator=generator())
    expected = get_attack("pgd-20")(Ensemble(nets), x, y, THREAT, generator=generator())
    assert torch.equal(found, expected)
    torch.testing.assert_close(Ensemble(nets)(x), (nets[0](x) + nets[1](x)) / 2)
    alone = get_attack("transfer", crafted_with=("pgd-20",), surrogate=nets[0])
    assert not torch.equal(found, alone(target, x, y, THREAT, generator=generator()))


def test_an_images_result_does_not_depend_on_the_rest_of_the_batch() -> None:
    """Nor on how many draws an earlier part made for them."""

    class Rough(SmallNet):
        """Bends so much within the ball that another start ends elsewhere."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward((40 * x).sin())

    target, smooth, x, y = subject()
    surrogate = Rough().eval()
    surrogate.load_state_dict(smooth.state_dict())
    places = torch.randperm(CHUNK, generator=generator(1))[: len(x)]
    attack = get_attack(
        "transfer", crafted_with=("pgd-20x10", "cw"), surrogate=BatchedModel(surrogate, 64)
    )
    blocked = BatchedModel(target, 64)
    whole = attack(blocked, x, y, THREAT, generator=generator(), rows=places)
    fallen = ~right(surrogate, whole, y) & right(target, whole, y)
    assert int(fallen.sum()) > 1  # of a batch of these, the first part makes fewer draws
    few = fallen.nonzero()[:, 0].flip(0)
    part = attack(blocked, x[few], y[few], THREAT, generator=generator(), rows=places[few])
    assert torch.equal(part, whole[few])


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("transfer", ("natural",)),
        ("transfer:madry", ("madry",)),
        ("transfer:natural+madry", ("natural", "madry")),
    ],
)
def test_a_name_names_its_sources_and_a_network_is_no_parameter(
    name: str, sources: tuple[str, ...]
) -> None:
    class NoCopy(nn.Module):
        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("copied")

    nets = tuple(NoCopy() for _ in sources)
    assert get_attack(name) == get_attack(name, surrogate=nets) == Transfer(sources=sources)
    assert describe_attack(name).startswith(
        f"images crafted on {' and '.join(sources)}"
        + (" (mean of their logits)" if len(sources) > 1 else "")
        + " by pgd-20, then cw (CAT paper, Table 4)"
    )
    assert get_attack(name).passes == (40 * len(sources), 2 * len(sources) + 2)
    params = attack_params(name, surrogate=nets)
    assert params == {"sources": list(sources), "crafted_with": ["pgd-20", "cw"]}
    assert json.loads(json.dumps(params)) == params
    shown = f"Transfer(sources={sources}, crafted_with=('pgd-20', 'cw'))"
    assert repr(get_attack(name, surrogate=nets)) == shown


@pytest.mark.parametrize("name", ["transfer", "transfer:madry"])
def test_without_a_surrogate_the_error_says_how_to_give_one(name: str) -> None:
    target, _, x, y = subject(4)
    with raises_line(ConfigError, f"attack '{name}' needs", f'get_attack("{name}", surrogate='):
        get_attack(name)(target, x, y, THREAT)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("transfer:", {}, "a source of attack 'transfer' has no name; use transfer:natural or"),
        ("transfer:a+", {}, "a source of attack 'transfer' has no name"),
        ("transfer", {"crafted_with": ()}, "crafted_with is empty"),
        ("transfer", {"crafted_with": ("pgd",)}, "craft transferred images with 'pgd'. Did you"),
        ("transfer", {"crafted_with": ("transfer",)}, "craft transferred images with 'transfer'"),
        ("transfer:a+b", {"surrogate": nn.Identity()}, "sources 2, networks 1"),
        ("transfer", {"surrogate": (nn.Identity(),) * 2}, "sources 1, networks 2"),
        ("transfr:a", {}, "unknown attack 'transfr:a'. Did you mean 'transfer'?"),
        ("pgd-20:a", {}, "unknown attack 'pgd-20:a'. Did you mean 'pgd-20'?"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, params: dict[str, Any], message: str) -> None:
    with raises_line(ConfigError, message):
        get_attack(name, **params)
