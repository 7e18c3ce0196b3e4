"""What the paper says in numbers, and the part that each method plays in its claims.

Source of every value: arXiv 2002.06789v1; accuracies are fractions.
"""

from __future__ import annotations

from bench.report.published import CAT, REFERENCE, TABLE_3

NATURAL = "natural"
"""Training without an adversary."""
RIVALS = tuple(name for name in TABLE_3 if name not in (*CAT, NATURAL))
"""The adversarial training methods of Table 3 that CAT is compared with."""
FIXED_SOFT, ADAPTIVE_HARD, NATURAL_SOFT = "adv-ls", "adp-adv", "natural-ls"
"""Ablations: fixed radius with CAT's labels, CAT's radius with hard labels, labels alone."""
CAT_PLAIN = CAT[0]
"""Both parts together, on the loss of the ablations."""
RADIUS_PAIRS = ((ADAPTIVE_HARD, REFERENCE), (CAT_PLAIN, FIXED_SOFT))
"""With and without the adaptive radius, the labels being equal."""
LABEL_PAIRS = ((FIXED_SOFT, REFERENCE), (CAT_PLAIN, ADAPTIVE_HARD))
"""With and without the adaptive labels, the radius rule being equal."""
COMPLEXITY = (2.54, 3.53, 1.39)
"""Of training at the radii of Table 1, relative to CAT; of which network is unstated."""
SMALL = 0.01
"""A loss or gain up to here counts as none."""
STEPS_COST = 0.03
"""`About 2 points` may be up to 3."""
HIGH_TRAIN = 0.95
"""Train accuracy that still counts as high; the paper's lowest is 99.16%."""
FLAT = 0.05
"""A curve that loses no more than this from 0.05 to 0.07 counts as flat."""
LEVEL_SHARE = 0.9
"""Convergence: of the reference's best robust validation accuracy."""
