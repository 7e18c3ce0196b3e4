"""A measure or a masking check by its specification, on one model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor, nn

from bench.attacks.maximise import attack_mode
from bench.errors import ConfigError
from bench.evaluation.checks import CHECKS, Effort, Lab, left_out
from bench.evaluation.chunk import exact_arithmetic
from bench.evaluation.measures import MEASURES, Subject
from bench.measured import Measured
from bench.spec import MeasureSpec
from bench.threat import Threat


@dataclass
class Measuring:
    """One model; what its checks share is computed once."""

    model: nn.Module
    batch_size: int
    surrogate: Callable[[str], nn.Module]
    """The network of a run id."""
    _labs: dict[Any, Lab] = field(default_factory=dict, repr=False)

    def measure(self, spec: MeasureSpec, x: Tensor, y: Tensor) -> Measured:
        """On images (n, C, H, W) with labels (n,); raises ConfigError where it cannot be made."""
        with attack_mode(self.model, "eval"), exact_arithmetic():
            if spec.name in CHECKS:
                return self._check(spec, x, y)
            subject = Subject(
                model=self.model,
                x=x,
                y=y,
                threat=Threat(spec.norm, spec.eps),
                seed=spec.seed,
                batch_size=self.batch_size,
            )
            return MEASURES[spec.name][0](subject, **spec.params)

    def _check(self, spec: MeasureSpec, x: Tensor, y: Tensor) -> Measured:
        lab = self._lab(spec, x, y)
        if len(lab.y) == 0:
            return Measured(values={"skipped": "no image is correct without an attack"})
        absent = left_out(len(lab.surrogates), lab.n_classes)
        if spec.name in absent:
            raise ConfigError(f"check {spec.name} cannot be made: it {absent[spec.name]}")
        check = CHECKS[spec.name].run(lab)
        return Measured(values=check.to_dict(), arrays=check.arrays)

    def _lab(self, spec: MeasureSpec, x: Tensor, y: Tensor) -> Lab:
        """The lab of these images; what its checks found is shared by all that ask alike."""
        effort = {f.name: spec.params[f.name] for f in fields(Effort) if f.name in spec.params}
        key = (spec.eps, spec.split, spec.n_examples, spec.seed)
        if key not in self._labs:
            threat = Threat(spec.norm, spec.eps)
            self._labs[key] = Lab.of(
                self.model, x, y, threat, seed=spec.seed, batch_size=self.batch_size
            )
        networks = [self.surrogate(run_id) for run_id in spec.surrogates]
        return self._labs[key].asked(Effort(**effort), networks)
