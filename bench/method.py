"""The contract of a method. Read this first.

Adversarial training is a min-max problem, and a method has its two halves: `perturb`, the inner
maximisation, and `loss`, the outer minimisation. A method holds hyper-parameters and nothing
else; what changes lives in the TrainState and so in the checkpoint.

Shapes: B batch, C H W image, K classes, N training images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from bench.attacks.maximise import ModelMode
from bench.seeding import generator_for
from bench.threat import Threat


@dataclass(frozen=True)
class Batch:
    """One batch after augmentation."""

    x: Tensor
    """(B, C, H, W) in [0, 1]."""
    y: Tensor
    """(B,) class indices."""
    index: Tensor
    """(B,) places in the training split: the key of per-example state."""


class Stepper(Protocol):
    """The engine's side of an update: precision, clipping, schedule, counting."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a scalar to the parameters' gradients."""

    def step(self) -> None:
        """Move the parameters by their gradients, and clear these."""

    def attack_model(self, model: nn.Module, mode: ModelMode) -> nn.Module:
        """The network to attack in place of `model`."""


@dataclass(kw_only=True)
class TrainState:
    """Everything that a method may read, and the few things it may write."""

    model: nn.Module
    """Logits of images in [0, 1]; in train mode between attacks."""
    threat: Threat
    num_classes: int
    seed: int
    """Of the run; draw from `generator`, never from this."""
    n_epochs: int
    stepper: Stepper
    device: torch.device
    epoch: int = 0
    """From 0."""
    batch_number: int = 0
    """Batches seen since the start of the training; replays of a batch share its number."""
    examples: dict[str, Tensor] = field(default_factory=dict)
    """(N, ...) tensors that persist over epochs, keyed by `Batch.index`; in the checkpoint."""
    memory: dict[str, Tensor] = field(default_factory=dict)
    """Other tensors that persist, such as Free's perturbation; in the checkpoint."""
    scratch: dict[str, Tensor] = field(default_factory=dict)
    """Handed from `perturb` to `loss`; cleared before each batch."""
    _generators: dict[str, torch.Generator] = field(default_factory=dict, repr=False)

    def generator(self, purpose: str) -> torch.Generator:
        """The stream of one purpose in this batch, such as "start" or "labels".

        It is seeded by run, purpose and batch number, so that a resumed training draws what an
        uninterrupted one draws, and one purpose never moves another.
        """
        if purpose not in self._generators:
            self._generators[purpose] = generator_for(
                self.seed, "train", purpose, self.batch_number, device=self.device
            )
        return self._generators[purpose]

    def next_batch(self) -> None:
        """Called by the engine after each batch."""
        self.batch_number += 1
        self.scratch.clear()
        self._generators.clear()

    def attack_model(self, mode: ModelMode) -> nn.Module:
        """The network to attack: in eval mode it may be a faster copy of `model`."""
        return self.stepper.attack_model(self.model, mode)

    def backward(self, loss: Tensor) -> None:
        """Gradients of a scalar loss, added to the parameters' own."""
        self.stepper.backward(loss)

    def step(self) -> None:
        """One update of the optimiser; clears the gradients."""
        self.stepper.step()


class Method:
    """Base class. A subclass is a frozen keyword-only dataclass whose fields are parameters.

    Every length among them is stated at eps = 8/255; `state.threat.scale` brings it to the eps
    of the run. `__post_init__` refuses values out of range with a ConfigError.
    """

    title: ClassVar[str] = ""
    """Short name in tables, such as TRADES."""
    paper: ClassVar[str] = ""
    """arXiv id or venue of the source."""
    objective: ClassVar[str] = ""
    """The outer problem in a line of plain text."""
    inner: ClassVar[str] = ""
    """The inner problem in a line of plain text."""
    selects_by: ClassVar[Literal["robust", "clean"]] = "robust"
    """Which validation accuracy chooses the best checkpoint. `clean` for a method without an
    adversary: its robust accuracy is highest before it has learnt anything."""

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        """Inner maximisation: x_adv (B, C, H, W), detached.

        All random draws and all writes to `state` happen here.
        """
        raise NotImplementedError

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        """Outer minimisation: a scalar.

        Pure: no draws, no writes; of `state` it reads `model` and `scratch`. So a wrapper may
        evaluate it on a proxy: `replace(state, model=proxy)`.
        """
        raise NotImplementedError

    def train_step(self, state: TrainState, batch: Batch) -> Mapping[str, Tensor]:
        """One batch; returns scalars to log, on the device, `loss` among them."""
        x_adv = self.perturb(state, batch)
        loss = self.loss(state, batch, x_adv)
        state.backward(loss)
        state.step()
        return {"loss": loss.detach()}

    def example_state(self, n: int, threat: Threat) -> dict[str, Tensor]:
        """Initial per-example tensors, each (n, ...), on the CPU."""
        return {}

    def end_epoch(self, state: TrainState) -> None:
        """Called after the last batch of each epoch."""

    def eval_model(self, state: TrainState) -> nn.Module:
        """The network that is validated and saved."""
        return state.model

    def validate(self, threat: Threat, num_classes: int) -> None:
        """Checks that need the threat or the number of classes; raises ConfigError."""
