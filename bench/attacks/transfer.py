"""Transfer attacks: images crafted on other networks, without gradients of the target.

A target that resists the attacks on itself better than images from elsewhere hides its gradients
(Athalye et al., arXiv 1802.00420; Carlini et al., arXiv 1902.06705).

Shapes: B batch, C H W image, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from bench.attacks.attack import Attack, Noise, Stages, definitions, in_turn
from bench.attacks.networks import Ensemble
from bench.errors import ConfigError, unknown_name
from bench.threat import Threat

NAME = "transfer"


@dataclass(frozen=True, kw_only=True)
class TransferPart(Attack):
    """One attack on the surrogate; the target model is not called."""

    crafted_with: str
    needed: str
    """Name of the transfer attack, for the error without a surrogate."""
    surrogate: nn.Module | None = field(default=None, repr=False, compare=False)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: Noise) -> Tensor:
        if self.surrogate is None:
            raise ConfigError(
                f"attack '{self.needed}' needs the network that its images are crafted on; "
                f'use get_attack("{self.needed}", surrogate=network)'
            )
        attack, _ = definitions()[self.crafted_with]
        return attack(self.surrogate, x, y, threat, **noise._asdict())


@dataclass(frozen=True, kw_only=True)
class Transfer(Attack):
    """Attacks on a surrogate in order; an image is broken if one of them breaks it.

    The surrogate is attacked in eval mode and unchanged afterwards. All parts draw from one seed.
    """

    sources: tuple[str, ...] = ("natural",)
    """Names of the surrogates; with several, the mean of their logits is attacked."""
    crafted_with: tuple[str, ...] = ("pgd-20", "cw")
    """Names of the attacks. `cw` does not stop at the boundary: its images are far beyond it."""
    surrogate: nn.Module | Sequence[nn.Module] | None = field(
        default=None, repr=False, compare=False
    )
    """One network per source; not a parameter, and not in records."""

    def __post_init__(self) -> None:
        if not self.sources or not all(self.sources):
            raise ConfigError(
                "a source of attack 'transfer' has no name; "
                "use transfer:natural or transfer:natural+madry"
            )
        if not self.crafted_with:
            raise ConfigError("crafted_with is empty; use names of attacks, such as pgd-20 and cw")
        for name in self.crafted_with:
            if name not in definitions():
                raise unknown_name("attack to craft transferred images with", name, definitions())
        n = len(self._networks)
        if n not in (0, len(self.sources)):
            raise ConfigError(
                f"attack '{self.name}' needs a surrogate for each source, in their order: "
                f"sources {len(self.sources)}, networks {n}"
            )

    @property
    def name(self) -> str:
        return NAME if self.sources == ("natural",) else f"{NAME}:{'+'.join(self.sources)}"

    @property
    def definition(self) -> str:
        several = " (mean of their logits)" if len(self.sources) > 1 else ""
        return (
            f"images crafted on {' and '.join(self.sources)}{several} by "
            f"{', then '.join(self.crafted_with)} (CAT paper, Table 4)"
        )

    @property
    def stages(self) -> Stages:
        networks = self._networks
        surrogate = Ensemble(networks) if len(networks) > 1 else next(iter(networks), None)
        return tuple(
            (name, TransferPart(crafted_with=name, needed=self.name, surrogate=surrogate))
            for name in self.crafted_with
        )

    @property
    def passes(self) -> tuple[int, int]:
        """Approximate passes per image, of the surrogates and the target together."""
        each = [definitions()[name][0].passes for name in self.crafted_with]
        n = len(self.sources)
        return n * sum(g for g, _ in each), n * sum(f for _, f in each) + len(each)

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: Noise) -> Tensor:
        def run(part: Attack, left: Tensor) -> Tensor:
            generator = noise.generator
            if generator is not None:  # in its initial state
                generator = torch.Generator(generator.device).manual_seed(generator.initial_seed())
            whole = part.craft(model, x, y, threat, Noise(generator, noise.rows))
            return whole[left]  # crafted on all: no image's noise depends on what broke before

        return in_turn([partial(run, part) for _, part in self.stages], model, x, y)

    @property
    def _networks(self) -> tuple[nn.Module, ...]:
        if self.surrogate is None:
            return ()
        return (self.surrogate,) if isinstance(self.surrogate, nn.Module) else (*self.surrogate,)
