"""Images repeated to fill a batch: some sizes are faster, or judge alike, and others are not.

Shapes: n images, ... the rest of them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def filled(x: Tensor, n_rows: int) -> Tensor:
    """(n, ...) -> at least n_rows rows, the last one again and again; none stays none."""
    lacking = n_rows - len(x)
    if lacking <= 0 or len(x) == 0:
        return x
    return torch.cat([x, x[-1:].expand(lacking, *x.shape[1:])])
