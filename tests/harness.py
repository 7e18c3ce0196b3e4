"""Small networks, batches, the plainest stepper, and assertions that many tests share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from bench.attacks.maximise import ModelMode
from bench.method import Batch, Method, Stepper, TrainState
from bench.threat import REFERENCE_EPS, Threat


class PlainStepper:
    """SGD and nothing else; with lr 0 the gradients stay for a test to read."""

    def __init__(self, model: nn.Module, lr: float = 0.05) -> None:
        self.model = model
        self.lr = lr

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        if self.lr == 0:
            return
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=self.lr)
                    parameter.grad = None

    def attack_model(self, model: nn.Module, mode: ModelMode) -> nn.Module:
        return model


class SmallNet(nn.Module):
    """A convolution, BatchNorm and a linear head; `stem` and `rest` as every arch has them."""

    def __init__(self, num_classes: int = 4, channels: int = 2, size: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * size * size, num_classes)

    def stem(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv(x)
        return h

    def rest(self, h: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.bn(h).tanh().flatten(1))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.stem(x))


class OnePixel(nn.Module):
    """Logits 0 and slope (x - edge); counts its forwards with and without an input gradient."""

    def __init__(self, slope: float = 10.0) -> None:
        super().__init__()
        self.slope = slope
        self.edge = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.forwards = {"gradient": 0, "plain": 0}

    def forward(self, x: Tensor) -> Tensor:
        self.forwards["gradient" if x.requires_grad else "plain"] += 1
        z = self.slope * (x.flatten(1) - self.edge)
        return torch.cat([torch.zeros_like(z), z], dim=1)


class Grey(nn.Module):
    """Logits that are functions of t, the mean distance of an image's pixels from 0.5."""

    def __init__(self, *logits: Callable[[Tensor], Tensor | float]) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        t = (x - 0.5).flatten(1).mean(1)
        return torch.stack([0 * t + logit(t) for logit in self.logits], 1)


class Counted(nn.Module):
    """Records the number of images of each call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rows: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        logits: Tensor = self.model(x)
        return logits


@contextmanager
def raises_line(kind: type[Exception], *words: str) -> Iterator[None]:
    """The block raises that error, with a message of one line that holds these words."""
    with pytest.raises(kind) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(n,) bool: whether the model classifies each image as its label says."""
    with torch.no_grad():
        correct: Tensor = model(x).argmax(1) == y
        return correct


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_net(seed: int = 0, dtype: torch.dtype = torch.float64, num_classes: int = 4) -> SmallNet:
    torch.manual_seed(seed)
    return SmallNet(num_classes).to(dtype).train()


def small_batch(
    n: int = 6, seed: int = 1, dtype: torch.dtype = torch.float64, num_classes: int = 4
) -> Batch:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 2, 4, 4, generator=g, dtype=torch.float64).to(dtype)
    y = torch.randint(num_classes, (n,), generator=g)
    return Batch(x=x, y=y, index=torch.arange(n))


def make_state(
    method: Method,
    model: nn.Module,
    *,
    n: int = 16,
    num_classes: int = 4,
    eps: float = REFERENCE_EPS,
    lr: float = 0.05,
    seed: int = 0,
    n_epochs: int = 10,
    stepper: Stepper | None = None,
) -> TrainState:
    threat = Threat(eps=eps)
    return TrainState(
        model=model,
        threat=threat,
        num_classes=num_classes,
        seed=seed,
        n_epochs=n_epochs,
        stepper=stepper or PlainStepper(model, lr),
        device=torch.device("cpu"),
        examples=method.example_state(n, threat),
    )
