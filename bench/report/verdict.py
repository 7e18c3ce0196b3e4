"""A comparison in words: one plain sentence, and a block for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from bench.listing import aligned
from bench.report.comparison import Comparison, Side
from bench.report.layout import title
from bench.report.scored import CLEAN
from bench.report.significance import LEVEL
from bench.report.units import percent


def sentence(comparison: Comparison) -> str:
    """Which is better on the same images, by how much, how sure, and by which test."""
    c = comparison
    first, second = c.first.label, c.second.label
    by = f"{_test(c)} {p_text(c.p)}{_corrected(c)}"
    if not c.significant:
        points = f"{percent(c.difference)} points [{percent(c.low)}, {percent(c.high)}]"
        return (
            f"{first} and {second} are not distinguishable {_where(c)}: a difference of {points}; "
            f"{by}: not significant at {percent(LEVEL, 0)}%."
        )
    better, low, high = "more", c.low, c.high
    if c.difference < 0:
        better, low, high = "less", -c.high, -c.low
    points = f"{percent(abs(c.difference))} points [{percent(low)}, {percent(high)}]"
    good = "accurate" if c.attacks == (CLEAN,) else "robust"
    return (
        f"{first} is {points} {better} {good} than {second} {_where(c)}; "
        f"{by}: significant at {percent(LEVEL, 0)}%."
    )


def block(comparison: Comparison) -> str:
    """The setting, a line for each of the two, and the sentence."""
    c = comparison
    figure = "clean accuracy" if c.attacks == (CLEAN,) else "robust accuracy"
    rows: list[tuple[str, ...]] = [("", "checkpoint", "seeds", f"{figure} (%)")]
    alone: tuple[int | None, int | None] = (None, None)
    if c.one_seed:
        rows[0] = (*rows[0], "images that it alone gets right")
        alone = (c.first_only, c.second_only)
    for side, only in zip((c.first, c.second), alone, strict=True):
        cells = (side.label, side.checkpoint, seeds_text(side), percent(side.accuracy))
        rows.append(cells if only is None else (*cells, str(only)))
    return f"{title(c.setting)}\n\n{aligned(rows)}\n\n{sentence(c)}"


def p_text(p: float) -> str:
    """`p = 0.04`, with as many digits as tell it from 5%; `p < 0.0001` for a smaller one."""
    if p < 1e-4:
        return "p < 0.0001"
    texts = (f"{p:.{digits}g}" for digits in range(2, 18))
    return f"p = {next(text for text in texts if (float(text) < LEVEL) == (p < LEVEL))}"


def listed(names: Sequence[str]) -> str:
    """`pgd-20, cw and autoattack`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def seeds_text(side: Side) -> str:
    """`0, 1`; a dash for a model from outside, whose seed nobody knows."""
    return ", ".join("-" if run.seed is None else str(run.seed) for run in side.runs)


def _where(c: Comparison) -> str:
    under = "without an attack" if c.attacks == (CLEAN,) else f"under {listed(c.attacks)}"
    images = f"{c.n} images" if c.n > 1 else "image"
    n_seeds = len(c.first.runs), len(c.second.runs)
    means = "" if c.one_seed else f" (means of {n_seeds[0]} and {n_seeds[1]} seeds)"
    return f"on the same {images} {under}{means}"


def _test(c: Comparison) -> str:
    return "exact McNemar" if c.one_seed else "exact sign-flip test of the images,"


def _corrected(c: Comparison) -> str:
    if c.p_holm is None or c.n_pairs == 1:
        return ""
    return f", after Holm's correction over {c.n_pairs} pairs {p_text(c.p_holm)}"
