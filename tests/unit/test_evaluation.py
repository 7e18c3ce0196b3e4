"""The evaluator counts what it sees itself, and says what it cannot believe."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bench.attacks import ATTACKS, Attack
from bench.errors import ConfigError, DataError
from bench.evaluation import evaluate
from bench.evaluation.chunk import attack_chunk
from bench.threat import Threat

THREAT = Threat(eps=0.1)


class Net(nn.Module):
    """A fixed small network with BatchNorm; `after` changes its images and logits to logits."""

    def __init__(
        self, n_out: int = 5, after: Callable[[Tensor, Tensor], Tensor] = lambda x, logits: logits
    ) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.layers = nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(8 * 36, n_out),
            )
        self.after = after
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x, self.layers(x) * 4)


def images(n: int = 300) -> tuple[Tensor, Tensor]:
    """Images, and labels that the network mostly gets right."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(n, 1, 6, 6, generator=g)
    with torch.no_grad():
        y = Net()(x).argmax(1)
    return x, torch.where(torch.arange(n) % 10 == 0, (y + 1) % 5, y)


@pytest.mark.slow
def test_survivors_do_not_depend_on_the_block_size() -> None:
    x, y = images()
    runs = [
        evaluate(Net(), x, y, THREAT, attacks=("pgd-20", "cw", "apgd-ce"), batch_size=b)
        for b in (16, 64, 256)
    ]
    first = runs[0]
    for name, flags in first.survivors.items():
        assert all(torch.equal(flags, run.survivors[name]) for run in runs[1:]), name
        assert 0 < flags.sum() < first.clean.sum()
        assert not (flags & ~first.clean).any()
    assert torch.equal(first.robust, torch.stack(list(first.survivors.values())).all(0))
    assert first.clean.sum() == 270
    assert not first.warnings


def test_an_images_outcome_does_not_depend_on_the_images_beside_it() -> None:
    x, y = images(60)
    index = torch.arange(60)
    whole = attack_chunk(Net(), x, y, index, THREAT, "pgd-20")
    half = attack_chunk(Net(), x[30:], y[30:], index[30:], THREAT, "pgd-20")
    assert torch.equal(whole.survived[30:], half.survived)


@pytest.mark.slow
def test_the_part_that_broke_an_image_is_kept() -> None:
    x, y = images(20)
    outcome = attack_chunk(Net(), x, y, torch.arange(20), THREAT, "autoattack-rand")
    assert outcome.parts == ("apgd-ce", "apgd-dlr")
    broken = outcome.broken_by >= 0
    assert torch.equal(outcome.survived, outcome.clean & ~broken)
    assert (outcome.broken_by[outcome.survived] == -1).all()
    assert (outcome.broken_by == 0).any()


def nan_where_dark(x: Tensor, logits: Tensor) -> Tensor:
    return logits.masked_fill((x[:, 0, 0, 0] < 0.1)[:, None], torch.nan)


def test_output_that_is_unusable_is_named_and_nan_counts_as_broken() -> None:
    x, y = images(100)
    for model, labels, words in (
        (Net(after=lambda x, logits: logits.softmax(1)), y, "probabilities"),
        (Net(), (y + 2) % 5, "near chance"),
        (Net(after=nan_where_dark), y, "not finite"),
    ):
        result = evaluate(model, x, labels, THREAT, attacks=("fgsm",))
        assert any(words in note for note in result.warnings)
    assert not result.clean[x[:, 0, 0, 0] < 0.1].any()


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
    result = evaluate(Net(), x, y, Threat(eps=1e-9), attacks=("far", "broken"))
    assert torch.equal(result.survivors["far"], result.clean)
    assert not result.survivors["broken"].any()
    assert any("far left the ball on 45 images" in note for note in result.warnings)
    assert any("broken returned 45 images that are not finite" in n for n in result.warnings)


def test_a_model_in_train_mode_is_named_evaluated_in_eval_mode_and_left_as_it_was() -> None:
    x, y = images(40)
    model = Net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = evaluate(model, x, y, THREAT, attacks=("pgd-20",))
    assert any("train mode" in note for note in result.warnings)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(result.robust, evaluate(Net(), x, y, THREAT, attacks=("pgd-20",)).robust)


def test_unusable_images_models_and_names_are_one_clear_error() -> None:
    x, y = images(10)
    with pytest.raises(DataError, match=r"\[0, 1\].*inside the model"):
        evaluate(Net(), x * 255, y, THREAT)
    with pytest.raises(ConfigError, match="3 classes"):
        evaluate(Net(3), x, y, THREAT)
    with pytest.raises(ConfigError, match="logits"):
        evaluate(nn.Flatten(0), x, y, THREAT)
    with pytest.raises(ConfigError, match="Did you mean 'pgd-20'"):
        evaluate(Net(), x, y, THREAT, attacks=("pdg-20",))
