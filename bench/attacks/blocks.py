"""A model whose calls are cut into blocks, so that memory is bounded and no result moves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.archs.fast import FastCopy
from bench.archs.rows import filled
from bench.attacks.attack import Search
from bench.attacks.search import Holder, searched

MIN_ROWS = 16
"""Fewest rows of a block. Logits of fewer differ in their last bits from those of more."""


class Blocked(Holder):
    """Calls `model` on blocks of at most `batch_size` rows, a last short one padded to MIN_ROWS.

    The padding repeats the last row; its logits are cut off and carry no gradient back. Images
    that are one block whatever its size are not padded.
    """

    def __init__(self, model: nn.Module, batch_size: int) -> None:
        super().__init__()
        self.model = model
        self.batch_size = max(batch_size, MIN_ROWS)
        self.training = model.training  # train() would thaw layers that were frozen by hand
        self._copies: dict[Search, Blocked] = {}  # in a dict, so that they are no submodules

    @property
    def layout(self) -> torch.memory_format:
        """That of the images which the model takes without a copy."""
        found: torch.memory_format = getattr(self.model, "layout", torch.preserve_format)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K), a tensor of its own: Square writes into what it is given."""
        if len(x) <= self.batch_size:
            return self._call(x).clone()
        return torch.cat([self._block(block) for block in torch.split(x, self.batch_size)])

    def searched(self, search: Search) -> Blocked:
        """Blocks of the same size around a copy, which is made once and follows the weights."""
        if search in self._copies:
            copy = self._copies[search].model
            assert isinstance(copy, FastCopy)
            copy.refresh()
            return self._copies[search]
        found = searched(self.model, search)
        if found is self.model:
            return self
        blocked = Blocked(found, self.batch_size)
        if isinstance(found, FastCopy):
            self._copies[search] = blocked
        return blocked

    def _block(self, x: Tensor) -> Tensor:
        return self._call(filled(x, MIN_ROWS))[: len(x)]

    def _call(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits
