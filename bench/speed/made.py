"""A training step on any network and made images: what scales, and what a machine can do now."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from bench.archs.arch import Arch
from bench.method import Batch, Method, TrainState
from bench.recipe import Recipe
from bench.threat import Threat
from bench.training.optimiser import Optimiser
from bench.training.precision import with_precision

N_EPOCHS = 100
"""Of the training whose middle the step is from: what some methods do depends on the epoch."""


def made_step(
    network: Arch,
    method: Method,
    n_images: int,
    image_size: int,
    device: torch.device,
    precision: str = "fp32",
) -> Callable[[], float]:
    """One update of `network`, which goes to the device, on n images of noise; gives the loss.

    By the engine's own layout, optimiser and attack copy; no data loading, no augmentation.
    Every call trains on.
    """
    network.to(device).to(memory_format=torch.channels_last)
    noise = torch.Generator(device).manual_seed(0)
    size = (n_images, network.in_channels, image_size, image_size)
    x = torch.rand(size, device=device, generator=noise)
    index = torch.arange(n_images, device=device)
    classes = [m for m in network.modules() if isinstance(m, nn.Linear)][-1].out_features
    batch = Batch(x, index % classes, index)
    model, threat = with_precision(network, precision), Threat()
    state = TrainState(
        model=model,
        threat=threat,
        num_classes=classes,
        seed=0,
        n_epochs=N_EPOCHS,
        stepper=Optimiser(model, Recipe(epochs=N_EPOCHS, batch_size=n_images, lr=0.01), N_EPOCHS),
        device=device,
        epoch=N_EPOCHS // 2,
        examples=method.example_state(n_images, threat),
    )

    def step() -> float:
        model.train()
        loss = method.train_step(state, batch)["loss"]
        state.next_batch()
        return float(loss)  # waits for the device

    return step
