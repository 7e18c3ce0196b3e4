"""Evaluate any model on any images: the public entry point."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks import get_attack
from bench.attacks.maximise import attack_mode
from bench.attacks.networks import MIN_ROWS, fitted
from bench.errors import ConfigError
from bench.evaluation.checks import Check, CheckBudget, left_out, run_checks
from bench.evaluation.chunk import Outcome, attack_chunk
from bench.evaluation.inputs import Values, blamed, checked_inputs, wrapped_model
from bench.evaluation.model_checks import expects_normalised, inspect_model
from bench.records.spec import CHUNK
from bench.threat import Threat


@dataclass(frozen=True)
class Evaluation:
    """The outcome of every image under every attack."""

    clean: Tensor
    """(n,) bool: correct without an attack."""
    survivors: dict[str, Tensor]
    """Attack -> (n,) bool: correct without and under that attack."""
    outcomes: dict[str, tuple[Outcome, ...]] = field(repr=False)
    """Attack -> its chunks, with the part that broke each image."""
    checks: list[Check]
    warnings: list[str]

    @property
    def robust(self) -> Tensor:
        """(n,) bool: correct without and under every attack. Its mean is the robust accuracy."""
        return torch.stack([self.clean, *self.survivors.values()]).all(0)


def evaluate(
    model: nn.Module | Callable[[Tensor], Tensor],
    x: Values,
    y: Values,
    threat: Threat | float,
    attacks: Sequence[str] = ("pgd-20", "autoattack"),
    seed: int = 0,
    batch_size: int = 256,
    checks: bool = False,
    surrogates: Mapping[str, nn.Module | Callable[[Tensor], Tensor]] | None = None,
    effort: CheckBudget | None = None,
) -> Evaluation:
    """Attack `model` on images x (n, C, H, W) in [0, 1] with labels y (n,), chunk by chunk.

    model: a module or a function from images in [0, 1] to logits. It is evaluated in eval mode and
    fp32 (in float64 if its weights are), on the device of its parameters, on copies of the images.
    x, y: tensors, numpy arrays or lists. Images are floats in [0, 1] or uint8 of 0..255, see
    `checked_inputs`; pixels at most 1e-5 outside [0, 1] are clamped. threat: a Threat, or its eps.
    batch_size: most rows per call of the model, halved if the memory runs out; changes no result.
    checks: also look for gradient masking, computing as much as `effort` allows. surrogates:
    networks by name, on the same device, for transfer attacks; `transfer` and some checks need
    `natural`, a naturally trained network of the same arch.

    Raises ConfigError or DataError for an unknown attack or unusable images, labels or logits, and
    ModelError, naming the attack, for any exception of the model.
    """
    threat = threat if isinstance(threat, Threat) else Threat(eps=threat)
    attacks = (attacks,) if isinstance(attacks, str) else attacks
    model, widened = wrapped_model(model)
    networks = {name: wrapped_model(found)[0] for name, found in (surrogates or {}).items()}
    crafted_on = {name: _surrogates(name, networks) for name in attacks}
    images, labels = checked_inputs(x, y, model)
    device = next((p.device for p in model.parameters()), images.device)
    x, y = images.to(device), labels.to(device)
    notes = dict.fromkeys([*widened, *inspect_model(model, x, y, batch_size)])
    index = torch.arange(len(y))

    def attacked(name: str, clean: Tensor | None) -> tuple[Outcome, ...]:
        with blamed(model, name):
            return tuple(
                attack_chunk(
                    *(model, x[chunk], y[chunk], index[chunk], threat, name),
                    seed=seed,
                    batch_size=batch_size,
                    surrogate=crafted_on.get(name, ()),
                    clean=None if clean is None else clean[chunk],
                )
                for chunk in (slice(c, c + CHUNK) for c in range(0, len(y), CHUNK))
            )

    outcomes = {"clean": attacked("clean", None)}
    clean = torch.cat([part.clean for part in outcomes["clean"]])
    notes |= dict.fromkeys(expects_normalised(model, x, y, batch_size, clean))
    outcomes |= {name: attacked(name, clean) for name in dict.fromkeys(attacks) if name != "clean"}
    notes |= dict.fromkeys(w for parts in outcomes.values() for p in parts for w in p.warnings)
    outcomes = {name: outcomes[name] for name in attacks}
    survivors = {name: torch.cat([p.survived for p in parts]) for name, parts in outcomes.items()}
    found: list[Check] = []
    if checks:
        natural = [networks["natural"]] if "natural" in networks else []
        with blamed(model, "the masking checks"):
            options: dict[str, Any] = {"seed": seed, "budget": effort, "surrogates": natural}
            found = fitted(
                *(model, batch_size, device),
                lambda rows: run_checks(model, x, y, threat, batch_size=rows, **options),
            )
        if not found:
            notes["no check was made: no image is correct without an attack"] = None
        with attack_mode(model, "eval"), torch.no_grad():
            n_classes = int(model(x[:MIN_ROWS]).shape[1])
        for number, why in left_out(len(natural), n_classes).items():
            notes[f"check {number} was not made: it {why}"] = None
    return Evaluation(clean, survivors, outcomes, found, list(notes))


def _surrogates(attack: str, networks: Mapping[str, nn.Module]) -> tuple[nn.Module, ...]:
    """Return the networks that the attack is crafted on; raise ConfigError if one is missing."""
    try:
        return tuple(networks[source] for source in get_attack(attack).sources)
    except KeyError as error:
        raise ConfigError(
            f"attack '{attack}' is crafted on another network: "
            f"evaluate(..., surrogates={{{error}: network}})"
        ) from None
