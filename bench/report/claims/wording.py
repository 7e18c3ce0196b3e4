"""Rules that several claims share, in words: claim.py holds them as functions."""

from __future__ import annotations

BETTER = "\u201cbetter\u201d, as stated above."
RATIO_BELOW = "\u201cratio\u201d, as stated above; the claimed side is below 1."
RATIO_ABOVE = "\u201cratio\u201d, as stated above; the claimed side is above 1."
SHARED = (
    "Rule \u201cbetter\u201d, of the first against the second: holds if the 95% interval of the "
    "difference is above 0 and Holm's corrected p is below 5%; does not hold if the interval is "
    "below 0 and p below 5%; otherwise not decidable.",
    "Rule \u201cratio\u201d, of a figure that every image has in both models: holds if the 95% "
    "interval of the median ratio (between two order statistics) is on the claimed side of 1 and "
    "Holm's corrected p (exact sign test over the images) is below 5%; does not hold if it is on "
    "the other side and p below 5%; otherwise not decidable.",
    "A claim holds if all its deciding comparisons hold and none lacks its records; it does not "
    "hold if one of them does not; otherwise it is not decidable.",
)
GIVEN_TRAININGS = "The verdict speaks of these trainings alone: another seed may differ."
