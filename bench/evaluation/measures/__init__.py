"""Measured properties of a trained network, by name."""

from __future__ import annotations

from collections.abc import Callable

from bench.evaluation.measures.boundary import measure_boundary
from bench.evaluation.measures.complexity import measure_complexity
from bench.evaluation.measures.landscape import measure_landscape
from bench.evaluation.measures.margins import measure_margins
from bench.evaluation.measures.subject import Measured, Subject

__all__ = ["MEASURES", "Measured", "Subject"]

MEASURES: dict[str, tuple[Callable[..., Measured], str]] = {
    "landscape": (
        measure_landscape,
        "cross entropy and margin over the gradient's sign and a random sign vector, 2 eps either "
        "way (CAT paper, Figure 3)",
    ),
    "margins": (
        measure_margins,
        "least relative perturbation of input, layers, or both that breaks an image, an upper "
        "bound (after Wei and Ma, arXiv 1910.04284; our reading of the CAT paper's eq. 7)",
    ),
    "complexity": (
        measure_complexity,
        "log10 of the product of the layers' weight norms (CAT paper, section 3.5)",
    ),
    "boundary": (
        measure_boundary,
        "the line of a linear model of the two gaussians, and its robust accuracy in closed form "
        "(CAT paper, Figure 1)",
    ),
}
"""Name -> the function of a `Subject` and its parameters, and its definition with its source."""
