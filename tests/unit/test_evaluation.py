"""The evaluator counts what it sees itself, and says what it cannot believe."""

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from bench.attacks import ATTACKS, Attack
from bench.errors import ConfigError
from bench.evaluation import evaluate
from bench.evaluation.chunk import attack_chunk
from bench.machine import tf32_operations
from bench.threat import Threat
from tests.harness import SmallNet, small_batch, small_net

THREAT = Threat(eps=0.1)


def net(num_classes: int = 4) -> SmallNet:
    return small_net(dtype=torch.float32, num_classes=num_classes).eval()


def images(n: int) -> tuple[Tensor, Tensor]:
    """Images, nine in ten of which the network gets right."""
    x = small_batch(n, dtype=torch.float32).x
    y = net()(x).argmax(1)
    return x, torch.where(torch.arange(n) % 10 == 0, (y + 1) % 4, y)


def test_an_images_outcome_does_not_depend_on_the_images_beside_it() -> None:
    x, y = images(60)
    index = torch.arange(60)
    whole = attack_chunk(net(), x, y, index, THREAT, "pgd-20")
    half = attack_chunk(net(), x[30:], y[30:], index[30:], THREAT, "pgd-20")
    assert torch.equal(whole.survived[30:], half.survived)


def test_an_attack_that_cheats_is_projected(monkeypatch: pytest.MonkeyPatch) -> None:
    class Far(Attack):
        def __call__(self, model: nn.Module, x: Tensor, *_: object, **__: object) -> Tensor:
            return 1 - x

    class Broken(Attack):
        def __call__(self, model: nn.Module, x: Tensor, *_: object, **__: object) -> Tensor:
            return torch.full_like(x, torch.nan)

    x, y = images(50)
    monkeypatch.setitem(ATTACKS, "far", (Far(), ""))
    monkeypatch.setitem(ATTACKS, "broken", (Broken(), ""))
    result = evaluate(net(), x, y, Threat(eps=1e-9), attacks=("far", "broken"))
    assert torch.equal(result.survivors["far"], result.clean)
    assert not result.survivors["broken"].any()
    assert not result.robust.any()
    assert any("far left the ball on 45 images" in note for note in result.warnings)
    assert any("broken returned 45 images that are not finite" in n for n in result.warnings)


def test_a_model_in_train_mode_is_named_evaluated_in_eval_mode_and_left_as_it_was() -> None:
    x, y = images(40)
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = evaluate(model, x, y, THREAT, attacks=("pgd-20",))
    assert any("train mode" in note for note in result.warnings)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(result.robust, evaluate(net(), x, y, THREAT, attacks=("pgd-20",)).robust)


def test_a_model_without_a_class_of_the_labels_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match="3 classes"):
        evaluate(net(3), *images(10), THREAT)


@pytest.mark.parametrize("attack", ["pgd-10", "autoattack"])
def test_a_search_keeps_torchs_arithmetic_and_the_judge_is_exact(
    attack: str, short_autoattack: None
) -> None:
    class Noting(SmallNet):
        seen: ClassVar[list[tuple[bool, bool]]] = []

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append((x.requires_grad, bool(tf32_operations(torch.device("cuda")))))
            return super().forward(x)

    model, batch = Noting().eval(), small_batch(n=20, dtype=torch.float32)
    index = torch.arange(20)
    attack_chunk(model, batch.x, model(batch.x).argmax(1), index, Threat(eps=0.01), attack)
    gradients = [tf32 for gradient, tf32 in model.seen if gradient]
    assert gradients[:10] == [True] * 10
    assert model.seen.count((False, False)) >= 2  # of clean and of adversarial images


def test_a_gpu_without_tf32_is_recorded_as_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tf32_operations(torch.device("cuda")) == ["convolutions"]
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert tf32_operations(torch.device("cuda")) == []
