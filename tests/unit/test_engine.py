"""Training: resumed equals uninterrupted, history, selection, failure, precision, SGD, passes."""

import copy
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.api import Batch, Method, TrainState
from bench.archs import build
from bench.data import Dataset, load_dataset
from bench.errors import NonFiniteLoss
from bench.experiments.recipe import load_recipe
from bench.progress import Reporter
from bench.records.load import QUANTILES, load_history
from bench.records.run_folder import RunFolder
from bench.records.spec import Recipe, TrainSpec
from bench.registry import get_method
from bench.training import engine
from bench.training.checkpoint import load_state
from bench.training.cost import Cost, passes
from bench.training.engine import initial_model
from bench.training.optimiser import MixedPrecision, Optimiser, learning_rate
from bench.training.validation import Score
from tests.trained import Stopped, short_spec, stop_at, trainer_of


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load_dataset("digits", train_size=100, test_size=20)


def trained(
    spec: TrainSpec,
    dataset: Dataset,
    results: Path,
    stopped_at: int | None = None,
    method: Method | None = None,
) -> dict[str, Any]:
    trainer = trainer_of(spec, dataset, results, method)
    if stopped_at is not None:
        stop_at(trainer, stopped_at)
    return trainer.run(Reporter(quiet=True))


@pytest.mark.parametrize(
    ("name", "saves"),
    [("cat-mix", "every batch"), ("trades", "every batch"), ("cat-mix", "every epoch")],
)
@pytest.mark.slow
def test_a_training_stopped_anywhere_ends_with_the_same_weights(
    name: str, saves: str, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = short_spec(name)
    whole = trained(spec, dataset, tmp_path / "whole")
    monkeypatch.setattr(engine, "SAVE_SECONDS", -1.0 if saves == "every batch" else 1e9)
    for number in (1, 5, 7, 9):  # five batches per epoch: the middle, the border, the last
        parts = tmp_path / f"stopped-{number}"
        with pytest.raises(Stopped):
            trained(spec, dataset, parts, number)
        summary = trained(spec, dataset, parts)
        folders = [RunFolder(results, spec.run_id) for results in (tmp_path / "whole", parts)]
        for checkpoint in ("best", "last"):
            one, two = (folder.weights(checkpoint).read_bytes() for folder in folders)
            assert one == two
        assert summary["checkpoints"] == whole["checkpoints"]
        assert summary["cost"]["forward_per_image"] == whole["cost"]["forward_per_image"]
        histories = [
            [{k: v for k, v in row.items() if "second" not in k} for row in load_history(f.path)]
            for f in folders
        ]
        assert histories[0] == histories[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "left", "says"),
    [
        ("*/state-*.pt", -100, "damaged"),
        ("*/best-*.safetensors", -8, "begun again"),
        ("*/best-*.safetensors", None, "begun again"),
    ],
)
def test_a_training_with_a_damaged_state_or_without_its_best_weights_begins_again(
    pattern: str, left: int | None, says: str, dataset: Dataset, tmp_path: Path
) -> None:
    spec = short_spec("natural")
    whole = trained(spec, dataset, tmp_path / "whole")
    with pytest.raises(Stopped):
        trained(spec, dataset, tmp_path / "cut", stopped_at=7)
    (path,) = (tmp_path / "cut").glob(pattern)
    if left is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:left])
    summary = trained(spec, dataset, tmp_path / "cut")
    assert summary["checkpoints"] == whole["checkpoints"]
    assert says in summary["warnings"][0]
    assert len(list(path.parent.glob("*.damaged"))) == ("state" in pattern)


def test_the_global_seed_does_not_matter_and_is_not_moved(dataset: Dataset, tmp_path: Path) -> None:
    spec = short_spec("madry", epochs=1)
    sums = []
    for number, seed in ((1, 0), (2, 0), (3, 1)):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        summary = trained(replace(spec, seed=seed), dataset, tmp_path / str(number))
        assert torch.equal(torch.get_rng_state(), before)
        sums.append(summary["checkpoints"])
    assert sums[0] == sums[1] != sums[2]


def test_history_has_what_a_reader_plots(dataset: Dataset, tmp_path: Path) -> None:
    spec = short_spec("cat-ce")
    summary = trained(spec, dataset, tmp_path)
    rows = load_history(tmp_path / spec.run_id)
    assert [row["epoch"] for row in rows] == [0, 1]
    for row in rows:
        assert {"loss", "lr", "val_clean", "val_robust", "images_per_second"} <= row.keys()
        assert len(row["radius_quantiles"]) == len(QUANTILES)
        assert sorted(row["radius_quantiles"]) == row["radius_quantiles"]
        assert row["n_val"] == len(dataset.val)
    assert 0 < rows[1]["radius_quantiles"][-1] <= spec.eps
    # ten gradients, the success test, the update; one backward each but for the test
    assert summary["cost"]["forward_per_image"] == 12
    assert summary["cost"]["backward_per_image"] == 11


def test_radii_are_kept_by_dataset_index(dataset: Dataset, tmp_path: Path) -> None:
    spec = short_spec("cat-ce", epochs=3)
    with pytest.raises(Stopped):
        trained(spec, dataset, tmp_path, stopped_at=10)
    saved, _ = load_state(tmp_path / spec.run_id, torch.device("cpu"))
    assert saved is not None
    radius = saved["examples"]["radius"]
    assert radius.shape == (len(dataset.train),)
    steps = radius / (0.005 * spec.eps / (8 / 255))
    assert torch.allclose(steps, steps.round(), atol=1e-4)  # every image was seen twice
    assert steps.round().max() == 2


@dataclass(frozen=True, kw_only=True)
class Diverging(Method):
    """The loss is NaN from the eighth batch on."""

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        return batch.x

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        loss: Tensor = state.model(x_adv).square().mean()
        return loss * float("nan") if state.batch_number >= 7 else loss


def test_a_loss_that_is_not_finite_names_its_epoch_and_step(
    dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteLoss) as caught:
        trained(short_spec("natural"), dataset, tmp_path, method=Diverging())
    assert (caught.value.epoch, caught.value.step) == (1, 2)


def test_best_is_chosen_by_the_accuracy_that_the_method_names() -> None:
    early, late = Score(n_clean=3, n_robust=3, n=10), Score(n_clean=9, n_robust=0, n=10)
    assert early.rank("robust") > late.rank("robust")
    assert early.rank("clean") < late.rank("clean")
    assert get_method("natural").selects_by == "clean"


def test_bf16_keeps_the_first_layer_in_fp32(dataset: Dataset, tmp_path: Path) -> None:
    spec = short_spec("natural", precision="bf16")
    model = MixedPrecision(initial_model(spec))
    x = torch.full((4, 1, 8, 8), 0.5)
    moved = x + 0.0005  # less than the spacing of bf16 at 0.5
    assert torch.equal(x.bfloat16(), moved.bfloat16())
    assert not torch.equal(model.stem(x), model.stem(moved))
    assert model(x).dtype == torch.float32


def test_a_last_batch_of_one_image_joins_the_one_before(dataset: Dataset, tmp_path: Path) -> None:
    spec = short_spec("natural", epochs=1, batch_size=89)
    trainer = trainer_of(spec, dataset, tmp_path)
    assert trainer.n_batches == 1
    trainer.run(Reporter(quiet=True))
    assert trainer.cost.forward == len(dataset.train) == 90


# SGD by the recipe: learning rates, weight decay, and when the momentum is reset.


def small_model() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net


def recipe(**values: Any) -> Recipe:
    return Recipe(**({"epochs": 1, "batch_size": 1, "lr": 0.1} | values))


@pytest.mark.parametrize("decay", ["all", "weights"])
def test_decay_shrinks_what_it_is_on(decay: str) -> None:
    """Without a gradient of the loss, a step is p -= lr wd p; the rate is that of all groups."""
    net = small_model()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    made = recipe(weight_decay=0.5, decay=decay, milestones=(0.5,), drop=0.2)
    optimiser = Optimiser(net, made, n_batches=4)
    assert optimiser.set_rate(0) == 0.1
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    after = dict(net.named_parameters())
    shrunk = {name for name in before if not torch.equal(after[name], before[name])}
    assert shrunk == ({"0.weight", "3.weight"} if decay == "weights" else set(before))
    for name in shrunk:
        torch.testing.assert_close(after[name].detach(), before[name] * (1 - 0.1 * 0.5))
    optimiser.set_rate(2)
    assert all(group["lr"] == pytest.approx(0.02) for group in optimiser.sgd.param_groups)


@pytest.mark.parametrize("fresh", [False, True])
def test_fresh_momentum_starts_anew_at_each_drop_and_in_a_resumed_run(fresh: bool) -> None:
    """A constant gradient of 1: the step is lr, 1.9 lr, 2.71 lr, ... until the momentum goes."""
    made = recipe(weight_decay=0.0, milestones=(0.4, 0.8), drop=0.1, fresh_momentum=fresh)
    weight = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    optimiser = Optimiser(weight, made, n_batches=5)
    steps = []
    for number in range(5):
        if number == 2:
            resumed = Optimiser(weight, made, n_batches=5)
            resumed.sgd.load_state_dict(optimiser.sgd.state_dict())
            optimiser = resumed
        rate = optimiser.set_rate(number)
        before = weight.weight.item()
        weight.weight.grad = torch.ones_like(weight.weight)
        optimiser.step()
        steps.append((before - weight.weight.item()) / rate)
    expected = [1, 1.9, 1, 1.9, 1] if fresh else [1, 1.9, 2.71, 3.439, 4.0951]
    assert steps == pytest.approx(expected, rel=1e-9)
    assert recipe().fresh_momentum is False


@pytest.mark.parametrize("per_epoch", [1, 7, 391])
def test_common_drops_at_epochs_100_and_105(per_epoch: int) -> None:
    common, _ = load_recipe("common", arch="wrn-34-10", dataset="cifar10", method="madry")
    for epoch in range(110):
        batches = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        rates = {learning_rate(common, batch, 110 * per_epoch) for batch in batches}
        wanted = 0.1 if epoch < 100 else 0.01 if epoch < 105 else 0.001
        assert list(rates) == [pytest.approx(wanted)], epoch


@pytest.mark.parametrize(
    ("made", "rates"),
    [
        (
            recipe(schedule="cosine"),
            {0: 0.1, 50: 0.05, 99: 0.05 * (1 + math.cos(0.99 * math.pi))},
        ),
        (
            recipe(schedule="onecycle", warmup=0.25),  # a triangle
            {0: 0, 10: 0.04, 25: 0.1, 100: 0},
        ),
        (recipe(schedule="onecycle", warmup=0.0), {0: 0.1}),
    ],
)
def test_schedules(made: Recipe, rates: dict[int, float]) -> None:
    for batch, rate in rates.items():
        assert learning_rate(made, batch, 100) == pytest.approx(rate)


# Passes are counted where they happen, whatever way a method calls the network.


@pytest.mark.parametrize(
    ("name", "params", "forward", "backward"),
    [
        ("natural", {}, 1, 1),
        ("madry", {}, 11, 11),  # ten gradients, the update
        ("madry", {"steps": 4}, 5, 5),
        ("trades", {}, 13, 12),  # and the clean target, the clean images
        ("cat-ce", {}, 12, 11),  # and the success test
        ("fast", {}, 2, 2),
        ("free", {}, 8, 8),
        ("yopo", {}, 5, 5),
    ],
)
def test_passes_counted_by_hand(
    name: str, params: dict[str, Any], forward: int, backward: int
) -> None:
    count = passes(get_method(name, **params))
    assert (count.forward, count.backward) == (forward, backward)


def test_yopos_inner_steps_are_passes_of_the_first_layer() -> None:
    few, many = (passes(get_method("yopo", inner_steps=n)) for n in (1, 4))
    assert many.forward == few.forward
    assert many.first_layer == few.first_layer + 5 * 3


def test_only_what_is_inside_the_block_counts_and_copies_count_too() -> None:
    network = build("cnn", in_channels=1)
    cost = Cost()
    cost.watch(network, network.first_layer)
    x = torch.rand(3, 1, 8, 8)
    network(x).sum().backward()
    assert cost == Cost()
    with cost.counting():
        network(x).sum().backward()
        with torch.no_grad():
            network(x)
        copy.deepcopy(network)(x).sum().backward()
    assert (cost.forward, cost.backward, cost.first_layer) == (9, 6, 9)


def test_cudnn_is_tuned_in_steps_only_and_not_where_they_must_be_deterministic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cudnn, seen = torch.backends.cudnn, list[bool]()
    spec = short_spec("natural")
    made = trainer_of(spec, load_dataset("digits", train_size=100, test_size=20), tmp_path)
    made.network.register_forward_hook(lambda *_: seen.append(cudnn.benchmark))
    for deterministic in (False, True):
        monkeypatch.setattr(cudnn, "deterministic", deterministic)
        made._batch(torch.arange(8), 0)
        assert not cudnn.benchmark
    assert seen == [True, False]
