"""Evaluate any model on any images: the public entry point, and the checks on what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bench.attacks import get_attack
from bench.attacks.blocks import MIN_ROWS, Blocked
from bench.attacks.maximise import attack_mode
from bench.errors import ConfigError
from bench.evaluation.checks import Check, Effort, left_out, run_checks
from bench.evaluation.chunk import Outcome, attack_chunk, exact_arithmetic
from bench.evaluation.given import Given, blamed, given_model
from bench.evaluation.inputs import Values, checked_inputs
from bench.evaluation.normalised import expects_normalised
from bench.spec import CHUNK
from bench.threat import Threat

SAME = 1e-4
"""Largest difference of logits, relative to their size, that two batchings of an image may have."""


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
    effort: Effort | None = None,
) -> Evaluation:
    """Attack `model` on images x (n, C, H, W) in [0, 1] with labels y (n,), chunk by chunk.

    The model, a module or a function, takes images in [0, 1] and returns logits. It is evaluated in
    eval mode and fp32 (in float64 if that is its own), on the device of its parameters, and gets
    copies of the images.

    x and y are tensors, numpy arrays or lists. Images are floats in [0, 1], or uint8 of 0..255,
    which are divided by 255; half precision becomes float32, and so does float64 unless the model
    is in float64 (or a function, given a float64 tensor). Pixels at most 1e-5 outside of [0, 1]
    (half precision: two rounding steps) are clamped, in a copy; others are refused. Labels are
    integers of any type, or bool.

    threat: a Threat, or its eps. batch_size: rows of one call of the model; it bounds the memory
    and changes no result. checks: also measure whether the model hides its gradients, as far as
    `effort` says; surrogates: networks by name, on the same device, which transfer attacks are
    crafted on: `natural` is the naturally trained one of the same arch, which `transfer` and some
    checks need.

    Raises ConfigError or DataError for an unknown attack or unusable images, labels or logits, and
    ModelError, naming the attack, for whatever the model raises under it.
    """
    threat = threat if isinstance(threat, Threat) else Threat(eps=threat)
    attacks = (attacks,) if isinstance(attacks, str) else attacks
    model, widened = given_model(model)
    networks = {name: given_model(found)[0] for name, found in (surrogates or {}).items()}
    crafted_on = {name: tuple(_surrogates(name, networks)) for name in attacks}
    images, labels = checked_inputs(x, y, model)
    device = next((p.device for p in model.parameters()), images.device)
    x, y = images.to(device), labels.to(device)
    notes = dict.fromkeys([*widened, *inspect_model(model, x, y, batch_size)])

    def attacked(name: str, clean: Tensor | None) -> tuple[Outcome, ...]:
        surrogate = crafted_on.get(name, ())
        with blamed(model, name):
            return _attacked(model, x, y, threat, name, seed, batch_size, surrogate, clean)

    outcomes = {"clean": attacked("clean", None)}
    clean = torch.cat([part.clean for part in outcomes["clean"]])
    notes |= dict.fromkeys(expects_normalised(model, x, y, batch_size, clean))
    outcomes |= {name: attacked(name, clean) for name in dict.fromkeys(attacks) if name != "clean"}
    notes |= dict.fromkeys(
        note for parts in outcomes.values() for p in parts for note in p.warnings
    )
    outcomes = {name: outcomes[name] for name in attacks}
    survivors = {name: torch.cat([p.survived for p in parts]) for name, parts in outcomes.items()}
    found: list[Check] = []
    if checks:
        natural = [networks["natural"]] if "natural" in networks else []
        with blamed(model, "the masking checks"):
            found = run_checks(
                *(model, x, y, threat),
                seed=seed,
                batch_size=batch_size,
                effort=effort,
                surrogates=natural,
            )
        notes |= dict.fromkeys(_not_made(model, x, found, len(natural)))
    return Evaluation(clean, survivors, outcomes, found, list(notes))


def _attacked(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    attack: str,
    seed: int,
    batch_size: int,
    surrogate: tuple[nn.Module, ...],
    clean: Tensor | None,
) -> tuple[Outcome, ...]:
    """One attack, chunk by chunk."""
    index = torch.arange(len(y))
    return tuple(
        attack_chunk(
            *(model, x[chunk], y[chunk], index[chunk], threat, attack),
            seed=seed,
            batch_size=batch_size,
            surrogate=surrogate,
            clean=None if clean is None else clean[chunk],
        )
        for chunk in (slice(c, c + CHUNK) for c in range(0, len(y), CHUNK))
    )


def _not_made(
    model: nn.Module, x: Tensor, found: Sequence[Check], n_surrogates: int
) -> Iterator[str]:
    """What of the checks could not be made, and why."""
    if not found:
        yield "no check was made: no image is correct without an attack"
    for number, why in left_out(n_surrogates, _n_classes(model, x)).items():
        yield f"check {number} was not made: it {why}"


def _n_classes(model: nn.Module, x: Tensor) -> int:
    with attack_mode(model, "eval"), torch.no_grad():
        return int(model(x[:MIN_ROWS]).shape[1])


def _surrogates(attack: str, networks: Mapping[str, nn.Module]) -> list[nn.Module]:
    """Those that the attack is crafted on; raises ConfigError where one is not given."""
    sources = get_attack(attack).sources
    for source in sources:
        if source not in networks:
            raise ConfigError(
                f"attack '{attack}' is crafted on another network: "
                f"evaluate(..., surrogates={{'{source}': network}})"
            )
    return [networks[source] for source in sources]


def inspect_model(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> list[str]:
    """What is wrong with the model's output on the first images, as warnings.

    Raises ConfigError where its output cannot be logits of these labels.
    """
    notes = []
    if model.training:
        notes.append("the model was in train mode; it is evaluated in eval mode")
    first, labels = x[:CHUNK], y[:CHUNK]
    with attack_mode(model, "eval"), torch.no_grad(), exact_arithmetic():
        if isinstance(model, Given):
            notes += model.probe(first)
        blocked = Blocked(model, batch_size)
        logits = blocked(first)
        unsteady = _unsteady(blocked, first, logits)
    if logits.ndim != 2 or len(logits) != len(first):
        raise ConfigError(
            f"the model returns {tuple(logits.shape)} for {len(first)} images; "
            "it must return logits (n, K)"
        )
    if int(y.max()) >= logits.shape[1] or int(y.min()) < 0:
        raise ConfigError(
            f"labels are in {int(y.min())}..{int(y.max())} and the model has "
            f"{logits.shape[1]} classes"
        )
    finite = logits.isfinite().all(1)
    if not finite.all():
        notes.append(f"{int((~finite).sum())} of the first {len(first)} images: logits not finite")
    good = logits[finite]
    if len(good) and bool((good >= 0).all()) and bool(((good.sum(1) - 1).abs() < 1e-4).all()):
        notes.append(
            "the model seems to return probabilities; attacks need logits: remove its softmax"
        )
    notes += [unsteady] * bool(unsteady)
    if bool((logits.argmax(1)[finite] == labels[finite]).float().mean() < 1.5 / logits.shape[1]):
        notes.append(
            "clean accuracy is near chance: are labels, channels and normalisation the model's own?"
        )
    return notes


def _unsteady(model: nn.Module, x: Tensor, logits: Tensor) -> str:
    """A warning where an image's logits are not its own; empty where they are.

    The images are passed again in other company: few of them, one alone, and a part that begins
    elsewhere. Nothing but rounding may come of that. logits: (n, K), of x all at once.
    """
    relied = "; no attack's result on this model can be relied on"
    if _differ(logits, model(x)):
        what = "the model's logits are random, or change from call to call"
        return f"{what}: two calls on the same images differ{relied}"
    n = len(x)
    parts = [slice(0, MIN_ROWS), slice(0, 1), slice(n // 3, n)]
    if any(_differ(logits[part], model(x[part])) for part in parts) or (
        n == 1 and _differ(logits, model(torch.cat([x, 1 - x]))[:1])
    ):
        return f"an image's logits depend on the other images of its batch{relied}"
    return ""


def _differ(logits: Tensor, others: Tensor) -> bool:
    """Whether the same images got other logits, by more than rounding."""
    if logits.shape != others.shape:
        return True
    known = (logits.isfinite() & others.isfinite()).all(1)
    if not bool(known.any()):
        return False
    size = logits[known].abs().amax()
    return bool((logits[known] - others[known]).abs().amax() > SAME * size)
