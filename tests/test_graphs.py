"""The passes of the attacked copy by CUDA graphs, on the pretended device."""

import copy
import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.archs import build, graphs
from bench.archs.arch import Arch
from bench.archs.feedforward import Cnn
from bench.archs.inference_copy import InferenceCopy, Precision, kept_copy
from tests.pretended_cuda import CUDA, Log
from tests.test_cuda import BATCH, trainer

N = 20


def images(device: torch.device | str = "cpu", n: int = N) -> Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)


def passes(model: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    return logits.detach().cpu(), gradient.cpu()


def recorded(network: Arch, precision: Precision = "fp32") -> tuple[InferenceCopy, Arch]:
    """A copy on the device after its graph was recorded, and its network there."""
    twin = copy.deepcopy(network).to(CUDA)
    copied = InferenceCopy(twin, precision)
    for _ in range(graphs.CALLS_BEFORE):
        passes(copied, images(CUDA))
    return copied, twin


def network(arch: str = "cnn") -> Arch:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(arch).eval()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graph_does_what_the_copy_does_and_follows_the_weights(
    precision: Precision, cuda: Log
) -> None:
    net = network()
    plain, x = InferenceCopy(net, precision), images()
    copied, twin = recorded(net, precision)
    assert len(cuda.tapes) == 2
    for given in (x, x[:9], 1 - x):
        torch.testing.assert_close(passes(copied, given.to(CUDA)), passes(plain, given))
    with torch.no_grad():
        logits = copied(x.to(CUDA))
        kept = logits.clone()
        copied(1 - x.to(CUDA))
        assert torch.equal(logits, kept)
        for model in (net, twin):
            for parameter in model.parameters():
                parameter.mul_(1.1)
    plain.refresh()
    copied.refresh()
    torch.testing.assert_close(passes(copied, x.to(CUDA)), passes(plain, x))
    assert len(cuda.tapes) == 2
    cuda.clear()
    passes(copied, x.to(CUDA))
    assert cuda.launches < 25
    big = images(n=40)  # a size that was not recorded
    torch.testing.assert_close(passes(copied, big.to(CUDA)), passes(plain, big))


def test_passes_that_wait_for_their_gradients_do_not_disturb_one_another(cuda: Log) -> None:
    net = network()
    plain, (copied, _) = InferenceCopy(net), recorded(net)
    pair = [images(), 1 - images()]
    waiting = [x.to(CUDA).requires_grad_() for x in pair]
    losses = [copied(x).square().sum() for x in waiting]
    for loss, x, given in zip(losses, waiting, pair, strict=True):
        expected = passes(plain, given)[1]
        for _ in range(2):  # also a second time through the same pass
            (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
            torch.testing.assert_close(gradient.cpu(), expected)


def test_a_training_from_graphs_trains_the_same_weights_without_a_wait(
    tmp_path: Path, cuda: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = []
    for on in ("0", "1"):
        monkeypatch.setenv(graphs.SWITCH, on)
        made = trainer("madry", tmp_path)
        index = torch.arange(BATCH, device=CUDA)
        for step in range(4):
            cuda.clear()
            made._batch(index, step)
        assert not cuda.waits
        states.append({name: value.cpu() for name, value in made.network.state_dict().items()})
        assert bool(cuda.tapes) == (on == "1")
    assert cuda.tapes[0].n_replays > 10
    torch.testing.assert_close(*states)


class Reading(Cnn):
    """A network that looks at a value, which a graph cannot."""

    def rest(self, h: Tensor) -> Tensor:
        return super().rest(h * (1.0 if h.detach().sum().item() > 0 else 2.0))


@pytest.mark.filterwarnings("ignore::bench.archs.inference_copy.FoldWarning")
def test_what_no_graph_can_hold_runs_without_and_one_line_says_so(
    cuda: Log, caplog: pytest.LogCaptureFixture
) -> None:
    net = network()
    net.__class__ = Reading
    for _ in range(2):
        copied, _ = recorded(net)
        torch.testing.assert_close(
            passes(copied, images(CUDA)), passes(InferenceCopy(net), images())
        )
    (line,) = caplog.messages
    assert "CUDA graphs are not used (RuntimeError: operation not permitted" in line


def test_a_weight_that_moved_in_memory_is_noticed(cuda: Log) -> None:
    """Of the pretended device: a real graph would read the old memory."""
    copied, _ = recorded(network())
    weight = copied.network.first_layer.weight
    assert isinstance(weight, Tensor)
    weight.data = weight.data.clone()
    with pytest.raises(AssertionError, match="a tensor of the graph changed"):
        passes(copied, images(CUDA))


def test_a_network_and_its_graphs_are_freed_at_once(cuda: Log) -> None:
    gc.disable()  # a lack of a GPU's memory does not start a collection
    try:
        twin = network().to(CUDA)
        copied = kept_copy(twin, "fp32")
        for _ in range(graphs.CALLS_BEFORE):
            passes(copied, images(CUDA))
        assert len(cuda.tapes) == 2
        kept = [weakref.ref(of) for of in (twin, copied)]
        cuda.tapes.clear()
        del copied, twin
        assert [ref() for ref in kept] == [None, None]
    finally:
        gc.enable()
