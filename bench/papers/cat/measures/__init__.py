"""The paper's measures of a trained network, by name."""

from collections.abc import Callable

from bench.papers.cat.measures.bilateral import measure_bilateral
from bench.papers.cat.measures.boundary import measure_boundary
from bench.papers.cat.measures.complexity import measure_complexity
from bench.papers.cat.measures.landscape import measure_landscape
from bench.papers.cat.measures.margins import measure_margins
from bench.records.measure import Measured

MEASURES: dict[str, tuple[Callable[..., Measured], str]] = {
    "landscape": (
        measure_landscape,
        "cross entropy and margin over the gradient's sign and a random sign vector, 2 eps either "
        "way (Figure 3)",
    ),
    "bilateral": (
        measure_bilateral,
        "bilateral margin of Definition 3.1 (equation 7): smallest relative perturbation of input "
        "and softmax output that changes a prediction, an upper bound",
    ),
    "margins": (
        measure_margins,
        "smallest relative perturbation of input, layers, or both that changes a prediction, an "
        "upper bound: all-layer margins (Wei and Ma, arXiv 1910.04284), not Definition 3.1",
    ),
    "complexity": (
        measure_complexity,
        "log10 of the product of the layers' weight norms (section 3.5)",
    ),
    "boundary": (
        measure_boundary,
        "the line of a linear model of the two gaussians, and its robust accuracy in closed form "
        "(Figure 1)",
    ),
}
"""Name -> the function of a `MeasuredModel` and its parameters, and its definition."""
