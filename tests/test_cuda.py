"""Every path on the pretended CUDA device: devices never mix, and waits of the host are counted."""

import copy
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyautoattack
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from bench.api import Batch, Method, TrainState, losses
from bench.archs import ARCHS, Arch, build
from bench.archs.resnet import WideResNet
from bench.attacks import list_attacks
from bench.data import load_dataset
from bench.data.folder import list_files
from bench.data.loader import batches, epoch_order, loader
from bench.estimate import made_dataset, made_spec
from bench.evaluation import attack_chunk, evaluate
from bench.evaluation.checks import CHECKS, CheckBudget, run_checks
from bench.evaluation.measuring import MeasuredModel
from bench.machine import tf32_operations
from bench.papers import plugins
from bench.progress import Reporter
from bench.registry import list_methods
from bench.storage import read_json
from bench.threat import Threat
from bench.training.engine import Trainer
from tests.commands import done
from tests.pictures import make_folder
from tests.pretended_cuda import CUDA, Log
from tests.short import TinyAutoAttack
from tests.trained import Stopped, stop_at, trainer_of

N, BATCH = 8, 4
MEASURES = plugins("measures")


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A residual network that is small enough for every method."""
    monkeypatch.setitem(ARCHS, "narrow", (partial(WideResNet, depth=10, widen=1), ""))


def trainer(
    name: str,
    folder: Path,
    method: Method | None = None,
    *,
    arch: str = "cnn",
    precision: str = "fp32",
    epochs: int = 2,
    device: torch.device = CUDA,
) -> Trainer:
    """On the device; the network is sure of its classes, and three images of four are right."""
    spec = made_spec(name, arch, N, image_size=8, precision=precision)
    recipe = replace(spec.recipe, epochs=epochs, batch_size=BATCH, lr=1e-4, pad=1, flip=True)
    spec = replace(spec, recipe=recipe)
    made = trainer_of(spec, made_dataset(N, spec), folder, method, device)
    split = made.data
    *_, last = (m for m in made.network.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        last.weight *= 50
        index = torch.arange(N, device=device)
        logits = made.network.train()(split.images(index))
    split.y = torch.where(index % 4 == 0, split.y, logits.argmax(1))
    return made


def second_step(made: Trainer, log: Log) -> None:
    """The first makes copies and momentum."""
    made.state.epoch = 1
    index = torch.arange(BATCH, device=made.device)
    made._batch(index, 0)
    log.clear()
    made._batch(index, 1)


@pytest.mark.parametrize("name", list_methods())
def test_a_step_on_the_device_is_the_step_on_the_cpu(name: str, tmp_path: Path, cuda: Log) -> None:
    """Bit for bit, but for MMA, which also moves wrong images there, in vain."""
    states = []
    for device in (torch.device("cpu"), CUDA):
        made = trainer(name, tmp_path, device=device)
        second_step(made, cuda)
        states.append({k: v.cpu() for k, v in made.network.state_dict().items()})
        assert name != "mma" or 0 < (made.state.examples["margin"] > 0).sum() < BATCH
    atol = 1e-6 if name == "mma" else 0
    assert_close(*states, rtol=0, atol=atol)


@dataclass(frozen=True, kw_only=True)
class Planted(Method):
    """Natural training with a fault in every step."""

    fault: Callable[[TrainState, Batch], object]

    def example_state(self, n: int, threat: Threat) -> dict[str, Tensor]:
        return {"seen": torch.zeros(n)}

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        self.fault(state, batch)
        return batch.x

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        return losses.cross_entropy(state.model(x_adv), batch.y).mean()


FAULTS: list[tuple[Callable[[TrainState, Batch], object], str | int]] = [
    (lambda _, batch: batch.x.clone().uniform_(generator=torch.Generator()), "generator on cpu"),
    (lambda state, batch: state.examples["seen"].cpu()[batch.index], "index on cuda:0"),
    (lambda state, batch: batch.x + torch.zeros(BATCH, 1, 1, 1), "tensors on cuda:0 and cpu"),
    (lambda _, batch: batch.x.numpy(), "can't convert"),
    (lambda _, batch: batch.x[torch.arange(2)], 1),
    (lambda _, batch: batch.x.mean().item(), 1),
    (lambda _, batch: batch.y.cpu().numpy(), 1),
    (lambda _, batch: bool(batch.y.any()), 1),
    (lambda _, batch: torch.tensor([0.1], device=CUDA), 1),
    (lambda _, batch: [batch.x[batch.y > k] for k in range(3)], 3),
    (lambda _, batch: batch.x.masked_fill_(batch.x > 1, 1.0), 0),
    (lambda state, batch: state.examples["seen"][batch.index], 0),
]
"""What a method may do wrong, or right, and the error or the number of waits that it makes."""


@pytest.mark.parametrize(("fault", "found"), FAULTS)
def test_the_device_sees_faults_that_are_planted_in_a_step(
    fault: Callable[[TrainState, Batch], object], found: str | int, tmp_path: Path, cuda: Log
) -> None:
    made = trainer("natural", tmp_path, Planted(fault=fault))
    errors = pytest.raises((RuntimeError, TypeError), match=str(found))
    with errors if isinstance(found, str) else nullcontext():
        second_step(made, cuda)
        assert cuda.n_waits == found, cuda.waits


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("arch", ["cnn", "narrow"])
@pytest.mark.parametrize("name", list_methods())
@pytest.mark.usefixtures("narrow")
def test_a_training_step_never_waits_for_the_device(
    name: str, arch: str, precision: str, tmp_path: Path, cuda: Log
) -> None:
    made = trainer(name, tmp_path, arch=arch, precision=precision)
    second_step(made, cuda)
    assert not cuda.waits


def test_tf32_is_recorded_and_neither_reads_images_nor_judges_them(
    tmp_path: Path, cuda: Log
) -> None:
    made = trainer("madry", tmp_path, epochs=1)
    seen = set()

    def look(module: nn.Module, args: object, logits: Tensor) -> None:
        is_first = isinstance(module, nn.Conv2d)
        seen.add((is_first, torch.is_grad_enabled(), *tf32_operations(CUDA)))

    for module in (made.network, made.network.first_layer):
        module.register_forward_hook(look)
    summary = made.run(Reporter(quiet=True))
    assert summary["tf32"] == ["convolutions"]
    step, judged = (False, True, "convolutions"), (False, False)
    assert seen == {step, judged, (True, True), (True, False)}


@cache
def attacked() -> tuple[Arch, Tensor, Tensor]:
    """A cnn on the CPU and images that it was fitted to, but for one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build("cnn", image_size=8, mean=(0.5,) * 3, std=(0.25,) * 3)
        x, y = torch.rand(12, 3, 8, 8), torch.arange(12) % 10
    sgd = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(15):
        torch.autograd.backward(losses.cross_entropy(net(x), y).mean())
        sgd.step()
        sgd.zero_grad()
    y[0] = 9
    return net.eval(), x, y


def on_device() -> tuple[Arch, Tensor, Tensor]:
    net, x, y = attacked()
    return copy.deepcopy(net).to(CUDA), x.to(CUDA), y.to(CUDA)


LONG = ("pgd-20x10", "pgd-100", "pgd-500", "pgd-100x10-mma", "pgd-50x10-fast")
"""Attacks with the code of others, which take fewer steps."""


@pytest.mark.parametrize("name", [name for name in list_attacks() if name not in LONG])
def test_an_attack_is_the_one_on_the_cpu_and_each_part_is_read_back_once(
    name: str, monkeypatch: pytest.MonkeyPatch, cuda: Log
) -> None:
    monkeypatch.setattr(pyautoattack, "AutoAttack", TinyAutoAttack)
    threat, outcomes = Threat(eps=0.1), []
    for net, x, y in (attacked(), on_device()):
        index, surrogate = torch.arange(len(y)), (net,) if name == "transfer" else ()
        cuda.clear()
        outcomes.append(attack_chunk(net, x, y, index, threat, name, surrogate=surrogate))
    on_cpu, found = outcomes
    for of in ("clean", "survived", "broken_by"):
        assert torch.equal(getattr(found, of), getattr(on_cpu, of))
    last = found.broken_by.where(found.broken_by >= 0, len(found.parts))
    n_parts = min(int(last[found.clean].max()) + 1, len(found.parts)) - (name == "clean")
    n_reads = 1 + n_parts + len(found.package_checks[:1])  # first, of the clean images
    assert sum(n for at, n in cuda.waits.items() if "evaluation/" in at) == n_reads
    if name in ("fgsm", "cw", "pgd-20", "transfer"):  # what does not ask which images are left
        assert 0 < found.survived.sum() < found.clean.sum()
        assert cuda.n_waits == n_reads, cuda.waits


@pytest.mark.parametrize("name", ["natural", "cat-ce", "free"])
def test_an_epoch_ends_with_five_waits_and_a_resumed_training_is_the_whole_one(
    name: str, tmp_path: Path, cuda: Log
) -> None:
    """For the check of the loss, the score, the history, the best weights and the saved state."""
    whole = trainer(name, tmp_path / "whole")
    cuda.clear()
    whole.run(Reporter(quiet=True))
    assert cuda.n_waits == 2 * 5 + 1, cuda.waits  # and for the last weights
    stopped = trainer(name, tmp_path / "stopped")
    stop_at(stopped, stopped.batches_per_epoch + 1)
    with pytest.raises(Stopped):
        stopped.run(Reporter(quiet=True))
    resumed = trainer(name, tmp_path / "stopped")
    resumed.run(Reporter(quiet=True))
    assert_close(resumed.network.state_dict(), whole.network.state_dict(), rtol=0, atol=0)


def test_data_loaders_wait_once_an_epoch_where_images_are_streamed(
    tmp_path: Path, cuda: Log
) -> None:
    """To learn the order; resident images, of a folder too, never."""
    root = make_folder(tmp_path, {"train": 5, "val": 1, "test": 1})
    for streamed, n_waits in ((True, 1), (False, 0)):
        split = load_dataset("digits").train.take(np.arange(15))
        if streamed:
            split = list_files(root / "train", {"a": 0, "b": 1, "c": 2}, 8)
        data, on_host = (loader(split, 1 / 16, device) for device in (CUDA, "cpu"))
        cuda.clear()
        order = epoch_order(len(data), 0, 0, CUDA)
        parts = batches(order, 6)
        data.expect(parts, 0)
        seen = [data.views(part, 0, number) for number, part in enumerate(parts)]
        labels = [data.labels(part) for part in parts]
        assert cuda.n_waits == n_waits, cuda.waits
        for number, part in enumerate(parts):
            assert torch.equal(seen[number].cpu(), on_host.views(part.cpu(), 0, number))
            assert torch.equal(labels[number].cpu(), on_host.labels(part.cpu()))


def test_evaluate_counts_what_it_counts_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, cuda: Log
) -> None:
    monkeypatch.setattr(pyautoattack, "AutoAttack", TinyAutoAttack)
    found = []
    for net, x, y in (attacked(), on_device()):
        cuda.clear()
        attacks, others = ("clean", "pgd-10", "cw", "transfer"), {"natural": copy.deepcopy(net)}
        found.append(evaluate(net, x, y, Threat(eps=0.1), attacks, surrogates=others))
    on_cpu, there = found
    for name, survivors in on_cpu.survivors.items():
        assert torch.equal(there.survivors[name], survivors)
    assert there.warnings == on_cpu.warnings
    files = [place.rpartition("/")[2].partition(":")[0] for place in cuda.waits.elements()]
    # five parts are read back; what is said of the model and the images is found once
    assert Counter(files) == {"chunk.py": 5, "model_checks.py": 31, "inputs.py": 2}


def linear(seed: int) -> Arch:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build("linear", num_classes=4, in_channels=1, image_size=4).eval()


@pytest.mark.parametrize("number", CHECKS)
def test_a_masking_check_runs_on_the_device(
    number: str, monkeypatch: pytest.MonkeyPatch, cuda: Log
) -> None:
    monkeypatch.setattr(pyautoattack, "AutoAttack", TinyAutoAttack)
    budget = CheckBudget(steps=20, samples=20, restarts=6)
    x = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    values = []
    for device in (torch.device("cpu"), CUDA):
        net, other = linear(0).to(device), linear(1).to(device)
        there = x.to(device)
        checks = run_checks(
            *(net, there, net(there).argmax(1), Threat(eps=0.05)),
            budget=budget,
            surrogates=[other],
            numbers=[number],
        )
        values.append([(check.name, check.value, check.alarm) for check in checks])
    assert values[0] == values[1]
    assert values[0]


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_runs_on_the_device(name: str, cuda: Log) -> None:
    measure, _ = MEASURES[name]
    x = torch.rand(12, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    found = []
    for device in (torch.device("cpu"), CUDA):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).to(device).eval()
        there = x.to(device)
        y = model(there).argmax(1)
        found.append(measure(MeasuredModel(model=model, x=there, y=y, threat=Threat(eps=0.05))))
    assert found[0].values == found[1].values


def test_bench_run_on_the_device(tmp_path: Path, cuda: Log) -> None:
    line = (
        *("run", "--methods", "cat-ce", "--train-size", 40, "--test-size", 12, "--epochs", 1),
        *("--attacks", "pgd-20,transfer", "--precision", "bf16", "--seeds", 0, "--quiet"),
    )
    done(*line, "--device", "cuda", "--results", tmp_path)
    trained = [read_json(path) for path in tmp_path.glob("*/train.json")]
    assert [summary["status"] for summary in trained] == ["done"] * 2
    found = {path.name for path in tmp_path.glob("cat-ce*/evaluations/*.npz")}
    assert found == {"best.npz", "last.npz"}
    # nobody seeded the device's own generator for good
    assert torch.equal(cuda.rng_state, torch.zeros_like(cuda.rng_state))
