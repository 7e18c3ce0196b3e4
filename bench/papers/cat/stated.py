"""What the CAT paper states, from published.toml. Fractions."""

from __future__ import annotations

from bench.report.published import published

STATED = published("cat")
CAT = STATED.own
"""Registry names of the paper's own methods."""
TABLE_3 = STATED.table3
TABLE_1 = tuple((row["eps"], row["test"], row["train"]) for row in STATED.more["table1"]["rows"])
"""Training radius, test and train accuracy under attack at 0.01."""
TABLE_4 = tuple(
    (arch, {"CAT" if name == "cat" else name: value for name, value in row.items()})
    for arch, row in STATED.more["table4"].items()
    if arch != "note"
)
"""Network, and accuracy under transferred attacks by method."""
