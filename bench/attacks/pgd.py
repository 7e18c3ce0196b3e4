"""Attacks of the PGD family: one loop, and what differs between the papers' definitions.

Each definition that this literature calls "PGD-20" has a name of its own.

Shapes: B batch, C H W image, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import Tensor, nn

from bench.attacks.attack import COPIES, Attack, Definitions, Noise, Search, in_turn, is_correct
from bench.attacks.maximise import Keep, ModelMode, Objective, Start, check_choice, maximise
from bench.attacks.networks import gradient_source
from bench.errors import ConfigError
from bench.losses import cross_entropy, dlr, margin
from bench.threat import REFERENCE_EPS, Threat

Aim = Callable[[Tensor], Objective]
"""(n,) positions in the batch -> what a run increases on those images."""
Loss = Literal["ce", "margin", "dlr", "ce+margin"]
LOSSES = {
    "ce": (cross_entropy,),
    "margin": (margin,),
    "dlr": (dlr,),
    "ce+margin": (cross_entropy, margin),
}


class Ascent(Attack):
    """Base class of attacks that are runs of `maximise` within eps, one per objective.

    A subclass is a dataclass with the fields that vary and defines `aims`.
    """

    steps: int
    """Gradient steps per run."""
    relative_step: float
    """Step length, in units of eps."""
    restarts: int = 1
    start: Start = "uniform"
    keep: Keep = "first"
    model_mode: ModelMode = "eval"

    def __post_init__(self) -> None:
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)} is out of range: at least 1")
        if not self.relative_step > 0:
            raise ConfigError(f"relative_step = {self.relative_step} is out of range: above 0")
        for name, kinds in (("start", Start), ("keep", Keep), ("model_mode", ModelMode)):
            check_choice(name, getattr(self, name), kinds)

    def aims(self, model: nn.Module, x: Tensor, y: Tensor) -> Sequence[Aim]:
        """Return one objective per run."""
        raise NotImplementedError

    def step_size(self, threat: Threat) -> float | Callable[[int], float]:
        """Return the step length in pixels, or a function of the step."""
        return self.relative_step * threat.eps

    @property
    def search(self) -> Search:
        return "fp32" if self.model_mode == "eval" else "network"

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: Noise) -> Tensor:
        return self.ascend(gradient_source(model, self.search), x, y, threat, self.start, noise)

    def ascend(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        start: Start | Tensor,
        noise: Noise,
    ) -> Tensor:
        if len(x) == 0:
            return x.detach().clone()

        def run(aim: Aim, left: Tensor) -> Tensor:
            return maximise(
                aim(left),
                model,
                x[left],
                y[left],
                threat=threat,
                radius=threat.eps,
                steps=self.steps,
                step_size=self.step_size(threat),
                start=noise.start(start, x.detach(), threat)[left],
                keep=self.keep,
                model_mode=self.model_mode,
                objective_of=lambda rows: aim(left[rows]),
            )

        runs = [partial(run, aim) for aim in self.aims(model, x, y)]
        return in_turn(runs, model, x, y, self.model_mode)


@dataclass(frozen=True, kw_only=True)
class PGD(Ascent):
    """Projected gradient ascent on a loss, by signed steps (Madry et al., arXiv 1706.06083)."""

    steps: int
    relative_step: float
    loss: Loss = "ce"
    """Cross entropy, the unclamped margin max_{j != y} Z_j - Z_y, the difference of logits ratio,
    or the first half of the restarts on cross entropy and the second on the margin."""
    start: Start = "uniform"
    """Noise of the start; uniform is clipped to the pixel range before the first gradient."""
    restarts: int = 1
    """Runs from fresh noise; an image is broken if one of them breaks it."""
    keep: Keep = "last"
    """Which iterate is returned."""
    model_mode: ModelMode = "eval"
    """Mode of BatchNorm in the attack."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("loss", self.loss, Loss)
        if self.restarts % len(LOSSES[self.loss]):
            raise ConfigError(
                f"restarts = {self.restarts} cannot be shared evenly by the losses of "
                f"'{self.loss}'; use a multiple of {len(LOSSES[self.loss])}"
            )

    @property
    def passes(self) -> tuple[int, int]:
        return self.restarts * self.steps, self.restarts

    def aims(self, model: nn.Module, x: Tensor, y: Tensor) -> Sequence[Aim]:
        def aim(loss: Callable[[Tensor, Tensor], Tensor], left: Tensor) -> Objective:
            return lambda logits, y, _: loss(logits, y)

        losses = LOSSES[self.loss]
        n_runs = self.restarts // len(losses)
        return [partial(aim, loss) for loss in losses for _ in range(n_runs)]


@dataclass(frozen=True, kw_only=True)
class FastPGD(PGD):
    """PGD that searches on a chosen copy instead of one in the model's own dtype.

    Images that only the copy misclassifies are attacked further on the network, from where the
    copy left them.
    """

    search: Search = "bf16"
    """network, fp32 (a copy in the model's own dtype) or bf16."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("search", self.search, Search)
        if self.model_mode == "train" and self.search != "network":
            raise ConfigError(
                f"search = '{self.search}' needs model_mode = 'eval': a copy has no train mode; "
                "use search = 'network'"
            )

    @property
    def passes(self) -> tuple[int, int]:
        gradients, forwards = super().passes
        return gradients, forwards + (0 if self.search == "network" else 1)  # of the copy

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: Noise) -> Tensor:
        copy = gradient_source(model, self.search)
        x_adv = self.ascend(copy, x, y, threat, self.start, noise)
        if copy is not model and len(x) > 0:
            again = is_correct(model, x_adv, y) & ~is_correct(copy, x_adv, y)
            # from the same images a second run with the same loss repeats the first
            once = replace(self, restarts=len(LOSSES[self.loss]))
            x_adv[again] = once.ascend(model, x[again], y[again], threat, x_adv[again], Noise())
        return x_adv


@dataclass(frozen=True, kw_only=True)
class Clean(Attack):
    """No attack: a copy of the images."""

    @property
    def passes(self) -> tuple[int, int]:
        return 0, 1

    def craft(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: Noise) -> Tensor:
        return x.clone()


def relative(length: float, eps: float = REFERENCE_EPS) -> float:
    """A step length that a source states in pixels at its own eps, in units of eps."""
    return length / eps


_CAT_STEP = 1 / 5
DEFINITIONS: Definitions = {
    "clean": (Clean(), "no attack"),
    "fgsm": (
        PGD(steps=1, relative_step=1.0, start="zero"),
        "one step of eps on cross entropy, no random start (Goodfellow et al. 2015)",
    ),
    **{
        f"pgd-{n}": (
            PGD(steps=n, relative_step=_CAT_STEP),
            f"{n} steps of eps/5 on cross entropy, uniform start (CAT paper, section 4.2)",
        )
        for n in (10, 20, 50, 100, 500)
    },
    "pgd-20x10": (
        PGD(steps=20, relative_step=_CAT_STEP, restarts=10),
        "pgd-20 with ten restarts, each on the images that are left",
    ),
    "cw": (
        PGD(steps=20, relative_step=_CAT_STEP, loss="margin"),
        "C&W-inf as this literature means it: 20 steps of eps/5 on the unclamped margin, uniform "
        "start",
    ),
    "pgd-20-dlr": (
        PGD(steps=20, relative_step=_CAT_STEP, loss="dlr"),
        "20 steps of eps/5 on the DLR loss of AutoAttack, uniform start; from three classes on",
    ),
    **{
        f"pgd-20-fast{suffix}": (
            FastPGD(steps=20, relative_step=_CAT_STEP, keep="first", search=search),
            f"pgd-20 searched on {copy}, any iterate counts; what only the copy gets wrong is "
            "attacked further on the network (ours)",
        )
        for suffix, search, copy in COPIES
    },
    "pgd-20-cat-code": (
        PGD(steps=20, relative_step=relative(0.007, 0.03)),
        "CAT's released code: 20 steps of 0.007 at eps 0.03 on cross entropy, uniform start",
    ),
    "pgd-20-trades": (
        PGD(steps=20, relative_step=relative(0.003, 0.031), start="uniform-unclipped"),
        "TRADES' evaluation: 20 steps of 0.003 at eps 0.031 on cross entropy, uniform start, not "
        "clipped to the pixel range",
    ),
    "pgd-20-mart-wrn": (
        PGD(steps=20, relative_step=relative(0.0031, 0.031)),
        "MART's evaluation of WRN: 20 steps of 0.0031 at eps 0.031 on cross entropy, uniform start",
    ),
    "pgd-20-dart": (
        PGD(steps=20, relative_step=1 / 4),
        "Dynamic AT's evaluation: 20 steps of eps/4 on cross entropy, uniform start",
    ),
    "pgd-20-madry": (
        PGD(steps=20, relative_step=relative(2 / 255)),
        "Madry's challenge: 20 steps of 2/255 at eps 8/255 on cross entropy, uniform start",
    ),
    "pgd-20-rob": (
        PGD(steps=20, relative_step=2.5 / 20, start="zero", keep="best"),
        "MadryLab/robustness: 20 steps of 2.5 eps/20 on cross entropy, no random start, the best "
        "iterate",
    ),
    "pgd-50x10-fast": (
        PGD(steps=50, relative_step=relative(2 / 255), restarts=10),
        "Fast AT's evaluation: 50 steps of 2/255 at eps 8/255 on cross entropy, uniform start, ten "
        "restarts",
    ),
    "pgd-100x10-mma": (
        PGD(steps=100, relative_step=1 / 4, loss="ce+margin", restarts=10),
        "MMA's evaluation: 100 steps of eps/4, uniform start, ten restarts: five on cross entropy, "
        "then five on the unclamped margin",
    ),
    "pgd-plus": (
        PGD(
            steps=40,
            relative_step=relative(0.01, 0.031),
            start="uniform-unclipped",
            restarts=5,
            keep="first",
        ),
        "GAIR's PGD+: 40 steps of 0.01 at eps 0.031 on cross entropy, uniform start, not clipped "
        "to the pixel range, five restarts, any iterate counts",
    ),
}
