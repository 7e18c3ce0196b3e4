"""What the CAT paper states, from published.toml. Fractions."""

from bench.report.published import published

STATED = published("cat")
CAT = STATED.own
"""Registry names of the paper's own methods."""
TABLE_3 = STATED.table3
