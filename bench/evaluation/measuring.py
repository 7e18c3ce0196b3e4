"""Compute a measure or a masking check from its specification, on one model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, cast

from torch import Tensor, nn

from bench.errors import ConfigError
from bench.evaluation.checks import CHECKS, CheckBudget, CheckContext, left_out
from bench.evaluation.measured_model import MeasuredModel
from bench.evaluation.prediction import evaluating
from bench.measured import Measured
from bench.papers import plugins
from bench.spec import MeasureSpec
from bench.threat import Threat


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
        threat = Threat(spec.norm, spec.eps)
        with evaluating(self.model):
            if spec.name in CHECKS:
                return self._check(spec, x, y, threat)
            measured = MeasuredModel(
                model=self.model,
                x=x,
                y=y,
                threat=threat,
                seed=spec.seed,
                batch_size=self.batch_size,
            )
            function, _ = plugins("measures")[spec.name]
            return cast(Measured, function(measured, **spec.params))

    def _check(self, spec: MeasureSpec, x: Tensor, y: Tensor, threat: Threat) -> Measured:
        key = (spec.eps, spec.split, spec.n_examples, spec.seed)
        if key not in self._contexts:
            self._contexts[key] = CheckContext.of(
                self.model, x, y, threat, seed=spec.seed, batch_size=self.batch_size
            )
        names = [f.name for f in fields(CheckBudget) if f.name in spec.params]
        budget = CheckBudget(**{name: spec.params[name] for name in names})
        networks = [self.surrogate(run_id) for run_id in spec.surrogates]
        ctx = self._contexts[key].sharing(budget, networks)
        if len(ctx.y) == 0:
            return Measured(values={"skipped": "no image is correct without an attack"})
        absent = left_out(len(ctx.surrogates), ctx.n_classes)
        if spec.name in absent:
            raise ConfigError(f"check {spec.name} cannot be made: it {absent[spec.name]}")
        return Measured(values=CHECKS[spec.name].run(ctx).to_dict())
