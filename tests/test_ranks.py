"""Several ranks train one network like one process does, and end together."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.testing import assert_close

from bench.api import Batch, Method, TrainState
from bench.archs import build
from bench.archs.batchnorm import SharedBatchNorm2d, recorded_statistics, share_batchnorm
from bench.archs.inference_copy import InferenceCopy
from bench.data import load_dataset
from bench.errors import ConfigError, NonFiniteLoss
from bench.jobs import spawn
from bench.jobs.job import Send
from bench.jobs.spawn import Unforeseen, run_ranks
from bench.progress import Reporter
from bench.ranks import RankLost, Ranks
from bench.records.spec import TrainSpec
from bench.registry import list_methods
from bench.training import engine
from bench.training.batching import refuse_ranks
from bench.verify import read_pin
from bench.verify.baselines import _Doubled, difference, run_method
from bench.verify.networks import one_thread
from tests.commands import bench, method, refused
from tests.harness import raises_line
from tests.trained import Stopped, short_spec, stop_at, trainer_of

PINS = Path(__file__).parent.parent / "results" / "pinned"
CPU = torch.device("cpu")
Found = dict[str, Any]


def on_ranks(n: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """Return what `work` returns on each of n ranks."""
    found: list[Any] = []
    run_ranks(partial(_send_result, work), [CPU] * n, found.append)
    return [result for _, result in sorted(found, key=lambda sent: sent[0])]


def _send_result(work: Callable[[Ranks], Any], _: torch.device, send: Send, ranks: Ranks) -> None:
    torch.set_num_threads(1)
    send((ranks.rank, work(ranks)))  # type: ignore[arg-type]


# --- BatchNorm ---


def batchnorm_is_that_of_the_whole_batch(ranks: Ranks) -> None:
    """Rows 4, 2, 0 of six, and then 2 each."""
    for bounds in ((0, 4, 6, 6), (0, 2, 4, 6)):
        for momentum in (0.1, None):
            generator = torch.Generator().manual_seed(0)
            x = torch.randn(6, 3, 4, 4, generator=generator, dtype=torch.float64)
            dy = torch.randn(x.shape, generator=generator, dtype=torch.float64)
            plain = nn.BatchNorm2d(3, momentum=momentum, dtype=torch.float64)
            nn.init.uniform_(plain.weight, generator=generator)
            shared = nn.BatchNorm2d(3, momentum=momentum, dtype=torch.float64)
            shared.load_state_dict(plain.state_dict())
            share_batchnorm(shared, ranks)
            assert isinstance(shared, SharedBatchNorm2d)
            rows = torch.arange(6)[bounds[ranks.rank] : bounds[ranks.rank + 1]]
            with ranks.sharing(6, rows):
                _compare_batchnorm(ranks, plain, shared, x, dy, rows)
            assert_close(shared(x), plain(x))  # each rank for itself between minibatches
            for one in (shared, plain):
                one.eval()
            assert_close(shared(x), plain(x))


def _compare_batchnorm(
    ranks: Ranks, plain: nn.Module, shared: nn.Module, x: Tensor, dy: Tensor, rows: Tensor
) -> None:
    for _ in range(2):
        one, part = x.clone().requires_grad_(), x[rows].requires_grad_()
        y, own = plain(one), shared(part)
        y.backward(dy)
        own.backward(dy[rows])
        assert_close(own, y[rows])
        assert one.grad is not None
        assert_close(part.grad, one.grad[rows])
        for mine, theirs in zip(shared.parameters(), plain.parameters(), strict=True):
            assert mine.grad is not None
            assert_close(ranks.sum(mine.grad), theirs.grad)
            mine.grad = theirs.grad = None
        assert_close(shared.state_dict(), plain.state_dict())
    values = {"weight": torch.full((3,), 2.0, dtype=torch.float64)}
    values |= {name: value.clone() for name, value in shared.named_buffers()}
    before = {name: value.clone() for name, value in shared.named_buffers()}
    assert_close(
        functional_call(shared, values, (x[rows],)), functional_call(plain, values, (x,))[rows]
    )
    assert_close(dict(shared.named_buffers()), before)
    for module, images in ((shared, x[rows]), (plain, x)):
        with recorded_statistics(module) as again:
            module(images)
        again()
    assert_close(shared.state_dict(), plain.state_dict())


def attack_copy_folds_it(ranks: Ranks) -> None:
    torch.manual_seed(0)
    network = build("resnet-18").eval()
    x = torch.rand(2, 3, 32, 32)
    expected = InferenceCopy(network)
    share_batchnorm(network, ranks)
    copy = InferenceCopy(network)
    assert len(copy._merges.norms) == len(expected._merges.norms) > 10
    assert_close(copy(x), expected(x), rtol=0, atol=0)


def bfloat16_is_normalised_in_fp32(ranks: Ranks) -> None:
    x = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    plain, shared = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    share_batchnorm(shared, ranks)
    with ranks.sharing(4) as rows:
        assert_close(shared(x[rows]), plain(x)[rows])
    assert_close(shared.running_var, plain.running_var)


def whole_keeps_bits(ranks: Ranks) -> None:
    values = torch.tensor([-0.0, 1e-40, float("nan"), 2.0])
    for value in (values, values.double(), values > 0, values.view(4, 1).expand(4, 3)):
        with ranks.sharing(4) as rows:
            whole = ranks.whole(value[rows])
        assert whole.dtype == value.dtype
        bits = [tensor.contiguous().view(torch.uint8) for tensor in (whole, value)]
        assert torch.equal(*bits)
    assert ranks.agree({"a": values})
    assert not ranks.agree({"a": values + ranks.rank})
    assert not ranks.agree({f"a{ranks.rank}": values})


def methods_as_pinned(ranks: Ranks, names: list[str]) -> Found:
    """Losses, and what differs from the pins."""
    found = {}
    for name in names:
        made = run_method(name, ranks=ranks)
        pin = read_pin(PINS / f"method-{name}.json")
        found[name] = made, difference(made, pin.fact, elsewhere=pin.elsewhere)
    return found


def three(ranks: Ranks) -> Found:
    batchnorm_is_that_of_the_whole_batch(ranks)
    attack_copy_folds_it(ranks)
    bfloat16_is_normalised_in_fp32(ranks)
    whole_keeps_bits(ranks)
    return methods_as_pinned(ranks, ["cat-ce", "free", "mma", "awp-madry"])


@pytest.mark.slow
def test_three_unequal_ranks_share_batchnorm_and_train_as_pinned() -> None:
    for found in on_ranks(3, three):
        assert {name: differs for name, (_, differs) in found.items() if differs} == {}


# --- methods ---


def float64(spec: TrainSpec, folder: Path, ranks: Ranks, stop: int | None = None) -> Found:
    """Train in float64; return weights and summary, or nothing if stopped at a batch."""
    with one_thread(torch.float64):
        dataset = load_dataset("digits", train_size=100, test_size=20)
        trainer = trainer_of(spec, dataset, folder, ranks=ranks)
        trainer.data, trainer.val = _Doubled(trainer.data), _Doubled(trainer.val)
        if stop is not None:
            stop_at(trainer, stop)
        try:
            summary = trainer.run(Reporter(quiet=True))
        except Stopped:
            return {}
        # no tensors: a pipe would share their memory, which ends with the process
        weights = {k: v.numpy() for k, v in trainer.network.state_dict().items()}
        return {"weights": weights, "summary": summary, "history": trainer.progress.history}


SPEC = short_spec("cat-ce")
MICRO = replace(SPEC, recipe=replace(SPEC.recipe, micro_batch=7))
BF16 = short_spec("trades", epochs=1, precision="bf16")


class Diverging(Method):
    """The loss is NaN on one rank's rows, in the fourth batch."""

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        return batch.x

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        bad = state.batch_number == 3 and state.ranks.rank == 1
        loss: Tensor = state.model(x_adv).square().mean() * (float("nan") if bad else 1.0)
        return loss


@contextmanager
def changed(owner: object, name: str, value: object) -> Iterator[None]:
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def mistakes(ranks: Ranks) -> dict[str, str]:
    """What tells each way to share a minibatch wrongly, in words."""

    def told() -> str:
        try:
            return str(methods_as_pinned(ranks, ["cat-ce"])["cat-ce"][1])
        except ConfigError as error:
            return str(error)

    def rank_seeded(_: Ranks, generator: torch.Generator) -> torch.Generator:
        seed = generator.initial_seed() + ranks.rank
        return torch.Generator(generator.device).manual_seed(seed)

    def own_alone(_: Ranks, own: Tensor) -> Tensor:
        assert ranks.part is not None
        filled = own.new_zeros((ranks.part.n, *own.shape[1:]))
        filled[ranks.part.rows] = own
        return filled

    found = {"nothing": told()}
    with changed(engine, "share_batchnorm", lambda *_: None):
        found["local BatchNorm"] = told()
    with changed(Ranks, "stream", lambda _, generator: generator):
        found["the same noise on every rank"] = told()
    with changed(Ranks, "stream", rank_seeded):
        found["noise seeded by rank"] = told()
    with changed(Ranks, "whole", own_alone):
        found["state stays on its rank"] = told()
    return found


def two(ranks: Ranks, folder: Path) -> Found:
    found: Found = {"methods": methods_as_pinned(ranks, list_methods())}
    found["mistakes"] = mistakes(ranks)
    found["micro"] = float64(MICRO, folder / "micro", ranks)
    engine.SAVE_SECONDS = -1.0
    assert float64(SPEC, folder / "two then one", ranks, 7) == {}
    found["one then two"] = float64(SPEC, folder / "one then two", ranks)
    dataset = load_dataset("digits", train_size=100, test_size=20)
    found["bf16"] = trainer_of(BF16, dataset, folder / "bf16", ranks=ranks).run(
        Reporter(quiet=True)
    )
    spec = short_spec("natural")
    trainer = trainer_of(spec, dataset, folder / "nan", Diverging(), ranks=ranks)
    try:
        trainer.run(Reporter(quiet=True))
    except NonFiniteLoss as error:
        found["nan"] = str(error)
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return float64(SPEC, tmp_path_factory.mktemp("alone"), Ranks())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Found]]:
    """The results folders, and what two ranks found, in one start."""
    folder = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "SAVE_SECONDS", -1.0)
        assert float64(SPEC, folder / "one then two", Ranks(), 4) == {}
    return folder, on_ranks(2, partial(two, folder=folder))


@pytest.mark.slow
def test_every_method_trains_on_two_ranks_as_pinned(pair: tuple[Path, list[Found]]) -> None:
    first, second = (found["methods"] for found in pair[1])
    assert first == second  # to the bit
    assert {name: differs for name, (_, differs) in first.items() if differs} == {}
    assert len(first) == len(list_methods())


@pytest.mark.slow
def test_what_ranks_could_share_wrongly_is_noticed(pair: tuple[Path, list[Found]]) -> None:
    told = pair[1][0]["mistakes"]
    assert told.pop("nothing") == ""
    assert "differ after epoch 0" in told.pop("local BatchNorm")
    assert "differ after epoch 0" in told.pop("state stays on its rank")
    for words in told.values():
        assert words.startswith("loss at step 0 ")


@pytest.mark.slow
def test_the_number_of_ranks_may_change_at_a_resume(
    pair: tuple[Path, list[Found]], alone: Found
) -> None:
    folder, found = pair
    two_then_one = float64(SPEC, folder / "two then one", Ranks())
    for resumed in (two_then_one, found[0]["one then two"]):
        assert_close(resumed["weights"], alone["weights"], rtol=1e-9, atol=1e-11)
        assert resumed["summary"]["ranks"] == [1, 2]
        cost = resumed["summary"]["cost"]["forward_per_image"]
        assert cost == alone["summary"]["cost"]["forward_per_image"]
        for one, other in zip(resumed["history"], alone["history"], strict=True):
            for name in ("loss", "val_clean", "val_robust", "radius_mean"):
                assert one[name] == pytest.approx(other[name], rel=1e-9)
    assert "ranks" not in alone["summary"]


@pytest.mark.slow
def test_ranks_share_every_micro_batch(pair: tuple[Path, list[Found]], tmp_path: Path) -> None:
    one = float64(MICRO, tmp_path, Ranks())
    for found in pair[1]:
        assert_close(found["micro"]["weights"], one["weights"], rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_ranks_agree_in_bf16_and_stop_together(pair: tuple[Path, list[Found]]) -> None:
    assert pair[1][0]["bf16"]["ranks"] == [2]  # the engine compared their weights
    assert [found["nan"] for found in pair[1]] == ["the loss is not finite at epoch 0, step 3"] * 2


# --- processes ---


def hangs(ranks: Ranks) -> None:
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    ranks.wait()


def fails(ranks: Ranks) -> None:
    if ranks.rank == 1:
        raise ValueError("only here")
    ranks.wait()


@pytest.mark.slow
def test_a_rank_that_hangs_or_fails_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("TIMEOUT", 10.0), ("GRACE", 0.5), ("END", 0.5)):
        monkeypatch.setattr(spawn, f"{name}_SECONDS", seconds)
    with pytest.raises(RankLost, match="rank 0: "):
        on_ranks(2, hangs)
    with pytest.raises(Unforeseen) as found:
        on_ranks(2, fails)
    assert (found.value.line, found.value.place[:14]) == ("ValueError: only here", "test_ranks.py:")
    left = [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]
    assert left == []


@pytest.mark.slow
@pytest.mark.usefixtures("_registry_as_before")
def test_a_method_that_draws_by_torch_itself_is_told_how_to(tmp_path: Path) -> None:
    draws = "x_adv = x_adv + torch.empty_like(x_adv).uniform_(generator=state.generator('start'))"
    mine = tmp_path / "mine.py"
    mine.write_text("import torch\n" + method(fault=draws))
    asked = ("--methods", mine, "--seeds", "0", "--train-size", "40", "--test-size", "10")
    result = bench("run", *asked, "--gpus-per-training", "2", "--results", tmp_path / "r")
    assert result.exit_code == 1
    (line,) = [line for line in result.output.splitlines() if "failed here" in line]
    assert "TypeError: mine.py:17: the method gives the generator" in line
    assert "drawn(x, generator," in line
    assert "traceback.txt" in line


def test_impossible_numbers_of_gpus_are_refused_before_any_work(tmp_path: Path) -> None:
    asked = ("--methods", "natural", "--train-size", "46", "--batch-size", "20")
    result = bench("run", *asked, "--gpus-per-training", "4", "--results", tmp_path / "r")
    refused(result, "the smallest batch has 2 of 42 images", "at most 2 GPUs")
    assert not (tmp_path / "r").exists()


def test_a_batch_with_fewer_images_than_ranks_is_refused() -> None:
    recipe = short_spec("natural").recipe  # batches of 20
    refuse_ranks(recipe, 100, 20)
    with raises_line(ConfigError, "the smallest batch has 3 of 103 images", "at most 3 GPUs"):
        refuse_ranks(recipe, 103, 4)
    with raises_line(ConfigError, "the smallest micro-batch has 6 of 100 images"):
        refuse_ranks(MICRO.recipe, 100, 7)


def test_a_layer_that_cannot_be_shared_is_named() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with raises_line(ConfigError, "1 is a BatchNorm1d"):
        share_batchnorm(network, Ranks(0, 2))
