"""Compute a measure or a masking check from its specification, on one model."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, cast

from torch import Tensor, nn

from bench.attacks.networks import fitted
from bench.errors import ConfigError
from bench.evaluation.checks import CHECKS, CheckBudget, CheckContext, left_out
from bench.evaluation.prediction import evaluating
from bench.papers import plugins
from bench.records.measure import Measured
from bench.records.spec import MeasureSpec
from bench.threat import Threat


@dataclass(frozen=True, kw_only=True)
class MeasuredModel:
    """What a measure receives: a network in eval mode, and images of one data set."""

    model: nn.Module
    """Returns logits, on the images' device."""
    x: Tensor
    """(n, C, H, W) in [0, 1]."""
    y: Tensor
    """(n,)."""
    threat: Threat
    seed: int = 0
    batch_size: int = 256
    """Rows of one call."""


def finite_or_none(number: float) -> float | None:
    """Return a number that JSON can hold; None for NaN and the infinities."""
    return float(number) if math.isfinite(number) else None


@dataclass
class Measuring:
    """Measures of one model; its masking checks share what they compute."""

    model: nn.Module
    batch_size: int
    surrogate: Callable[[str], nn.Module]
    """The network of a run id."""
    _contexts: dict[Any, CheckContext] = field(default_factory=dict, repr=False)

    def measure(self, spec: MeasureSpec, x: Tensor, y: Tensor) -> Measured:
        """Measure on images (n, C, H, W), labels (n,); raises ConfigError if it is impossible."""
        return fitted(
            self.model, self.batch_size, x.device, lambda rows: self._measure(spec, x, y, rows)
        )

    def _measure(self, spec: MeasureSpec, x: Tensor, y: Tensor, batch_size: int) -> Measured:
        if batch_size != self.batch_size:  # other contexts would hold more than fits
            self.batch_size = batch_size
            self._contexts.clear()
        threat = Threat(spec.norm, spec.eps)
        options: dict[str, Any] = {"seed": spec.seed, "batch_size": batch_size}
        with evaluating(self.model):
            if spec.name not in CHECKS:
                measured = MeasuredModel(model=self.model, x=x, y=y, threat=threat, **options)
                function, _ = plugins("measures")[spec.name]
                return cast(Measured, function(measured, **spec.params))
            key = (spec.eps, spec.split, spec.n_examples, spec.seed)
            if key not in self._contexts:
                self._contexts[key] = CheckContext.of(self.model, x, y, threat, **options)
            return self._check(spec, self._contexts[key])

    def _check(self, spec: MeasureSpec, shared: CheckContext) -> Measured:
        budget = {f.name: spec.params[f.name] for f in fields(CheckBudget) if f.name in spec.params}
        networks = [self.surrogate(run_id) for run_id in spec.surrogates]
        ctx = shared.sharing(CheckBudget(**budget), networks)
        if len(ctx.y) == 0:
            return Measured(values={"skipped": "no image is correct without an attack"})
        absent = left_out(len(ctx.surrogates), ctx.n_classes)
        if spec.name in absent:
            raise ConfigError(f"check {spec.name} cannot be made: it {absent[spec.name]}")
        return Measured(values=CHECKS[spec.name].run(ctx).to_dict())
