"""The definitions: each attack that is run on the model itself, by name, with its source.

Each definition that this literature calls "PGD-20" has a name of its own.
"""

from __future__ import annotations

from bench.attacks.attack import Attack, Search
from bench.attacks.autoattack import AutoAttackPart, cascade, fast_cascade
from bench.attacks.md import MD
from bench.attacks.multitargeted import MultiTargeted
from bench.attacks.pgd import PGD, Clean, PGDOn
from bench.threat import REFERENCE_EPS


def relative(length: float, eps: float = REFERENCE_EPS) -> float:
    """A step that a source gives in pixels at its own eps, in units of eps."""
    return length / eps


_CAT_STEP = 1 / 5
_COPIES: tuple[tuple[str, Search, str], ...] = (
    ("", "bf16", "a bf16 copy with folded BatchNorm"),
    ("-fp32", "fp32", "an fp32 copy with folded BatchNorm"),
)
"""End of a name, what is searched, and the same in words."""
DEFINITIONS: dict[str, tuple[Attack, str]] = {
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
            PGDOn(steps=20, relative_step=_CAT_STEP, keep="first", search=search),
            f"pgd-20 searched on {copy}, any iterate counts; what only the copy gets wrong is "
            "attacked further on the network (ours)",
        )
        for suffix, search, copy in _COPIES
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
    "multitargeted": (
        MultiTargeted(),
        "20 steps of eps/5 on Z_t - Z_y for each other class t, uniform start, one restart a "
        "class, any iterate counts (Gowal et al., arXiv 1910.09338, with steps of our own)",
    ),
    "multitargeted-dlr": (
        MultiTargeted(loss="dlr"),
        "multitargeted on the targeted DLR loss of AutoAttack; from four classes on",
    ),
    "md": (
        MD(),
        "margin decomposition: 20 steps on -Z_y in one run and on max_{j != y} Z_j in another, "
        "then 30 on the margin, each stage by a cosine from 2 eps down, uniform start, not "
        "clipped to the pixel range, any iterate counts (Ma et al., arXiv 2006.13726)",
    ),
    "autoattack": (
        cascade("standard"),
        "AutoAttack, standard version: apgd-ce, apgd-t, fab-t, square",
    ),
    "autoattack-plus": (cascade("plus"), "AutoAttack, plus version: six parts, five restarts"),
    "autoattack-rand": (cascade("rand"), "AutoAttack, rand version: two parts, 20 samples a step"),
    **{
        f"autoattack-fast{suffix}": (
            fast_cascade(search),
            f"AutoAttack's standard version searched on {copy}, then apgd-ce on the network itself "
            "for what survived (ours; not a standard AutoAttack result)",
        )
        for suffix, search, copy in _COPIES
    },
    **{
        part: (AutoAttackPart(part=part), f"AutoAttack's {part} alone, as in the standard version")
        for part in ("apgd-ce", "apgd-t", "fab-t", "square")
    },
}
