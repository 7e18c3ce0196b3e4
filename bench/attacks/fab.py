"""The projection that FAB makes at every step, without sorting every image's pixels.

Shapes: n points of d coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST_STEPS = 64
"""Some four are made; a length that is not found by then is a little short."""
PRECISION = 1e-6
"""Of a length, relative to itself."""


def step_to_hyperplane(points: Tensor, normals: Tensor, offsets: Tensor) -> Tensor:
    """(n, d) in [0, 1], (n, d), (n,) -> (n, d): the least step onto normal . z = offset in [0, 1].

    Least in the max norm; where no point of the box is on the hyperplane, the step goes as far
    towards it as the box allows. As `projection_linf` of the package (FAB: Croce and Hein, arXiv
    1907.02044), which sorts the pixels by their room.

    A coordinate moves by the common length or until the box ends: with rooms r and slopes |w|
    what is covered, sum |w| min(r, length), is concave in the length, so that Newton's steps from
    0 grow to the length that covers the distance and never beyond.
    """
    distance = torch.linalg.vecdot(normals, points) - offsets
    towards = torch.where(distance >= 0, -1.0, 1.0).to(normals.dtype).unsqueeze(1) * normals
    slopes = towards.abs()
    is_up = torch.gt(towards, 0, out=torch.empty_like(towards))  # as numbers, which cost less
    room = is_up - points * (2 * is_up - 1)
    length = torch.zeros_like(distance).unsqueeze(1)
    missing = distance.abs().unsqueeze(1)
    has_room = torch.empty_like(room)
    for _ in range(MOST_STEPS):
        covered = torch.linalg.vecdot(slopes, torch.minimum(room, length)).unsqueeze(1)
        torch.gt(room, length, out=has_room)
        slope = torch.linalg.vecdot(slopes, has_room).unsqueeze(1)
        growth = torch.where(slope > 0, (missing - covered) / slope, 0.0).clamp_(min=0.0)
        length = length + growth
        if not bool((growth > PRECISION * length).any()):
            break
    return towards.sign() * torch.minimum(room, length)
