"""The contract of a method. Read this first.

Adversarial training is a min-max problem, and a method has its two halves: `perturb`, the inner
maximisation, and `loss`, the outer minimisation. A method holds hyper-parameters and nothing
else; what changes lives in the TrainState and so in the checkpoint.

Several ranks may share a minibatch (bench/ranks.py). A batch then holds the rows of one rank.
`backward` weights a mean over them, so that most methods need not know; what a method computes over
the whole minibatch in another way goes through `gradients`, `sum`, `whole` and `own` of the state.

Shapes: B batch, C H W image, K classes, N training images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from bench.attacks.maximise import ModelMode, Objective, OnStep, Start, attack_mode, maximise
from bench.errors import ConfigError
from bench.param import check_ranges
from bench.ranks import ALONE, Generator, Ranks
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
    """(B,) positions in the training split: the key of per-example state."""


class Stepper(Protocol):
    """The engine's side of an update: precision, clipping, schedule, counting."""

    def backward(self, loss: Tensor) -> None: ...

    def step(self) -> None: ...

    def attack_model(self, model: nn.Module, mode: ModelMode) -> nn.Module: ...


@dataclass(kw_only=True)
class TrainState:
    """What a method may read, and the few things it may write."""

    model: nn.Module
    """Logits of images in [0, 1]; in train mode between attacks."""
    threat: Threat
    num_classes: int
    seed: int
    """The run's seed; draw from `generator`, never from this."""
    n_epochs: int
    stepper: Stepper
    device: torch.device
    epoch: int = 0
    """Counts from 0."""
    batch_number: int = 0
    """Batches since the start of training; replays of a batch share its number."""
    examples: dict[str, Tensor] = field(default_factory=dict)
    """(N, ...) tensors that persist over epochs, keyed by `Batch.index`; in the checkpoint."""
    memory: dict[str, Tensor] = field(default_factory=dict)
    """Other tensors that persist, such as Free's perturbation; in the checkpoint."""
    scratch: dict[str, Tensor] = field(default_factory=dict)
    """Handed from `perturb` to `loss`; cleared before each batch."""
    ranks: Ranks = ALONE
    """The processes that share the training."""
    _generators: dict[str, torch.Generator] = field(default_factory=dict, repr=False)

    def generator(self, purpose: str) -> Generator:
        """Return this batch's random stream for one purpose, such as "start" or "labels".

        Its seed depends on run, purpose and batch number only: resumed training draws the same
        numbers as uninterrupted training, and one purpose never shifts another. Draw with
        `bench.api.drawn`, since the stream is for the whole minibatch that ranks share.
        """
        if purpose not in self._generators:
            self._generators[purpose] = generator_for(
                self.seed, "train", purpose, self.batch_number, device=self.device
            )
        return self.ranks.stream(self._generators[purpose])

    def next_batch(self) -> None:
        """End the batch; the engine calls it."""
        self.batch_number += 1
        self.scratch.clear()
        self._generators.clear()

    def attack_model(self, mode: ModelMode) -> nn.Module:
        """Return the network to attack: in eval mode it may be a faster copy of `model`."""
        return self.stepper.attack_model(self.model, mode)

    def maximise(
        self,
        objective: Objective,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        steps: int,
        step_size: float | Tensor | Callable[[int], float | Tensor],
        start: Start | Tensor,
        radius: float | Tensor | None = None,
        on_step: OnStep | None = None,
        model_mode: ModelMode = "eval",
        stream: str = "start",
    ) -> Tensor:
        """Return the last iterate of `bench.api.maximise` under this state's threat.

        radius: pixels, eps by default. stream: the generator of the random start.
        """
        return maximise(
            objective,
            model,
            x,
            y,
            threat=self.threat,
            radius=self.threat.eps if radius is None else radius,
            steps=steps,
            step_size=step_size,
            start=start,
            on_step=on_step,
            generator=self.generator(stream),
            model_mode=model_mode,
        )

    def backward(self, loss: Tensor, reduction: Literal["mean", "sum"] = "mean") -> None:
        """Add the gradients of a scalar loss to the parameters' gradients.

        reduction: what the loss is over the images of the batch.
        """
        part = self.ranks.part
        self.stepper.backward(loss if part is None or reduction == "sum" else loss * part.share)

    def gradients(self, loss: Tensor, of: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradients of a mean over the minibatch; zeros where it does not depend."""
        part = self.ranks.part
        loss = loss if part is None else loss * part.share
        found = list(torch.autograd.grad(loss, of, materialize_grads=True))
        self.ranks.sum_all_(found)
        return found

    def sum(self, value: Tensor) -> Tensor:
        """Return a sum over the whole minibatch, given the sum over the rows here."""
        return self.ranks.sum(value)

    def whole(self, own: Tensor) -> Tensor:
        """(B, ...) -> (n, ...): the rows of the whole minibatch, given the rows here."""
        return self.ranks.whole(own)

    def own(self, whole: Tensor) -> Tensor:
        """(n, ...) -> (B, ...): the rows here; a view of those of the whole minibatch."""
        return whole if self.ranks.part is None else whole[self.ranks.part.rows]

    def whole_size(self, n_own: int) -> int:
        """Return the number of images in the whole minibatch, of which `n_own` are here."""
        return n_own if self.ranks.part is None else self.ranks.part.n

    def count(self, n_own: int) -> int:
        """Return a number of images, given the number here; ranks wait for each other."""
        if self.ranks.size == 1:
            return n_own
        return int(self.sum(torch.tensor(n_own, device=self.device)))

    @contextmanager
    def subset(self, chosen: Tensor) -> Iterator[None]:
        """Draw for the chosen rows (B,) inside, as one process does that draws for them alone.

        A pass in train mode needs all ranks, those included that have none of these rows.
        """
        if self.ranks.part is None:
            yield
            return
        places = self.own(self.whole(chosen).cumsum(0) - 1)[chosen]
        with self.ranks.sharing(self.ranks.part.n, places):
            yield

    def step(self) -> None:
        """Make one optimiser step, and clear the gradients."""
        self.stepper.step()


def predict(model: nn.Module, x: Tensor, mode: ModelMode = "eval") -> Tensor:
    """Return logits (B, K) without a gradient, with BatchNorm in `mode`."""
    with attack_mode(model, mode), torch.no_grad():
        logits: Tensor = model(x)
    return logits


class Method:
    """Base class. A subclass is a frozen keyword-only dataclass whose fields are parameters.

    `param(default, ge=...)` declares a number's range. Every length is stated at eps = 8/255;
    `state.threat.scale` brings it to the eps of the run. A subclass that checks more overrides
    `__post_init__` and calls `super().__post_init__()` first.
    """

    title: ClassVar[str] = ""
    """Short name in tables, such as TRADES."""
    paper: ClassVar[str] = ""
    """arXiv id or venue of the source."""
    objective: ClassVar[str] = ""
    """The outer problem in one line of plain text."""
    inner: ClassVar[str] = ""
    """The inner problem in one line of plain text."""
    selects_by: ClassVar[Literal["robust", "clean"]] = "robust"
    """The validation accuracy that selects the best checkpoint. `clean` for a method without an
    adversary, whose robust accuracy is highest before it has learnt anything."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def perturb(self, state: TrainState, batch: Batch) -> Tensor:
        """Return x_adv (B, C, H, W), detached: the inner maximisation.

        All random draws and all writes to `state` happen here.
        """
        raise NotImplementedError

    def loss(self, state: TrainState, batch: Batch, x_adv: Tensor) -> Tensor:
        """Return the scalar to minimise: the outer minimisation.

        Pure: it draws and writes nothing, and reads only `model` and `scratch` of `state`. So a
        wrapper may evaluate it on a proxy: `replace(state, model=proxy)`.
        """
        raise NotImplementedError

    def train_step(self, state: TrainState, batch: Batch) -> Mapping[str, Tensor]:
        """Train on one batch; return scalars to log, on the device, including `loss`."""
        x_adv = self.perturb(state, batch)
        loss = self.loss(state, batch, x_adv)
        state.backward(loss)
        state.step()
        return {"loss": loss.detach()}

    @property
    def has_standard_step(self) -> bool:
        """Whether gradients summed over parts of a batch are those of the batch."""
        return type(self).train_step is Method.train_step

    def refuse_micro_batch(self) -> None:
        """Raise ConfigError for a method whose step needs the whole batch."""
        if not self.has_standard_step:
            raise ConfigError(
                f"{self.title or type(self).__name__} cannot be trained with a micro-batch: its "
                "training step is its own and needs the whole batch; choose a smaller --batch-size"
            )

    def example_state(self, n: int, threat: Threat) -> dict[str, Tensor]:
        """Return the initial per-example tensors, each (n, ...), on the CPU."""
        return {}

    def end_epoch(self, state: TrainState) -> None:
        """Act after the last batch of an epoch."""

    def eval_model(self, state: TrainState) -> nn.Module:
        """Return the network that is validated and saved."""
        return state.model

    @property
    def epochs_to_radius(self) -> float:
        """Epochs after which a radius per image that grows can be at its bound; 0 without one.

        A shorter training is of another method, and `bench run` warns of it.
        """
        return 0.0

    def validate(self, threat: Threat, num_classes: int) -> None:
        """Raise ConfigError where the method does not fit this threat or number of classes."""
