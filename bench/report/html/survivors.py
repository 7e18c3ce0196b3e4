"""Which attack broke which test image: packed bits for the page, counts for readers without it.

Legend: n images of the section.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bench.data import load_dataset
from bench.errors import ConfigError, DataError
from bench.report.accuracy import ImageOutcomes
from bench.report.html.leaderboard import LeaderboardRow, seed_name
from bench.report.rows import MOST, Section, TrainingOutcomes, core_first
from bench.report.titles import attack_title

MAX_BYTES = 400_000
"""Of packed outcomes per section; seeds after the first are left out beyond it."""
MAX_PIXELS = 300_000
"""Bytes of the thumbnails of a section."""
LIGHT = ("digits", "npz:")
"""Starts of the data sources that are read without torch and without a download."""
WRONG, OTHER, SURVIVES = "wrong without an attack", "only another attack", "survives every attack"


def attacks_of(section: Section, found: Sequence[LeaderboardRow]) -> list[str]:
    """Return the labels of the attacks, first those that the worst case joins."""
    labels = {label for entry in found for label in entry.row.labels}
    return sorted(labels, key=lambda label: (label not in section.worst_over, core_first(label)))


def fates(section: Section, attacks: Sequence[str]) -> list[str]:
    """Return what may become of an image, in the order in which it is decided."""
    joined = [attack for attack in attacks if attack in section.worst_over]
    broken = [f"broken by {attack_title(joined[0])}"] if joined else []
    broken += [f"not until {attack_title(attack)}" for attack in joined[1:]]
    other = [OTHER] if len(joined) < len(attacks) else []
    return [WRONG, *broken, *other, SURVIVES]


def inks(section: Section, attacks: Sequence[str]) -> list[str]:
    """Return for each of `fates` the end of its colour's name in page.css."""
    n_joined = sum(attack in section.worst_over for attack in attacks)
    other = ["other"] if n_joined < len(attacks) else []
    return [*(str(min(place, 3)) for place in range(1 + n_joined)), *other, "last"]


def fate_of(section: Section, attacks: Sequence[str], seed: TrainingOutcomes) -> np.ndarray:
    """Return (n,) the place of each image's fate in `fates`, -1 where it is unknown.

    No image survives without the outcome of each attack that the worst case joins.
    """
    joined = [attack for attack in attacks if attack in section.worst_over]
    n_fates = len(fates(section, attacks))
    decided = np.full(len(section.index), n_fates - 1)
    found = [(a, *_spread(seed.attacks.get(a), section.index)) for a in reversed(attacks)]
    for attack, _, known in found:
        if attack in joined:
            decided[~known] = -1
    for attack, right, known in found:
        place = 1 + joined.index(attack) if attack in joined else n_fates - 2
        decided[known & ~right] = place
    right, known = _spread(seed.clean, section.index)
    decided[known & ~right] = 0
    decided[~known] = -1
    return decided


def fate_counts(
    section: Section, found: Sequence[LeaderboardRow]
) -> list[tuple[LeaderboardRow, list[float | None]]]:
    """Return the share of images with each fate, mean over the seeds, of the drawn methods.

    None where a method lacks an attack that the fate is about.
    """
    attacks = attacks_of(section, found)
    joined = [attack for attack in attacks if attack in section.worst_over]
    others = [set(attacks) - set(joined)] if len(joined) < len(attacks) else []
    result = []
    for entry in _drawn(found) if len(section.index) else ():
        seeds = [fate_of(section, attacks, seed) for seed in entry.row.seeds]
        labels = set(entry.row.labels)
        made = [True, *(attack in labels for attack in joined)]
        made += [bool(labels & other) for other in others] + [labels.issuperset(joined)]
        shares = [
            float(np.mean([(seed == fate).mean() for seed in seeds])) for fate in range(len(made))
        ]
        result.append(
            (entry, [s if known else None for s, known in zip(shares, made, strict=True)])
        )
    return result


def _drawn(found: Sequence[LeaderboardRow]) -> list[LeaderboardRow]:
    return [entry for entry in found if entry.row.seeds][:MOST]


def packed(section: Section, found: Sequence[LeaderboardRow]) -> dict[str, Any]:
    """Return the outcomes for the page; empty where nothing was attacked.

    A bit per image, the first image in the highest bit of the first byte; `known` only where an
    outcome is missing.
    """
    attacks, shown = attacks_of(section, found), _drawn(found)
    n = len(section.index)
    if not (attacks and shown and n):
        return {}
    size = -(-n // 8) * (1 + len(attacks)) * len(shown)
    n_seeds = max(1, MAX_BYTES // size)
    return {
        "n": n,
        "index": None if (section.index == np.arange(n)).all() else section.index.tolist(),
        "labels": _labels(section, shown),
        "attacks": [attack_title(attack) for attack in attacks],
        "joined": sum(attack in section.worst_over for attack in attacks),
        "fates": fates(section, attacks),
        "inks": inks(section, attacks),
        "methods": [
            {
                "name": entry.name,
                "seeds": [
                    {
                        "seed": seed_name(seed.run),
                        "clean": _bits(seed.clean, section.index),
                        "attacks": [
                            _bits(seed.attacks[a], section.index) if a in seed.attacks else None
                            for a in attacks
                        ],
                    }
                    for seed in entry.row.seeds[:n_seeds]
                ],
            }
            for entry in shown
        ],
        "thumbnails": thumbnails(section, shown),
    }


def _spread(outcomes: ImageOutcomes | None, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) which images of `index` are correct, and (n,) of which that is known."""
    right = np.zeros(len(index), bool)
    if outcomes is None:
        return right, right
    known = np.isin(index, outcomes.index, assume_unique=True)
    right[known] = outcomes.at(index[known])
    return right, known


def _bits(outcomes: ImageOutcomes, index: np.ndarray) -> dict[str, str]:
    right, known = _spread(outcomes, index)
    found = {"right": _base64(np.packbits(right).tobytes())}
    return found if known.all() else {**found, "known": _base64(np.packbits(known).tobytes())}


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _labels(section: Section, shown: Sequence[LeaderboardRow]) -> list[int] | None:
    """Return the classes of the images, if a record has them."""
    for evaluation in (e for entry in shown for e in entry.row.evaluations):
        if evaluation.label is not None and np.isin(section.index, evaluation.index).all():
            at = np.searchsorted(evaluation.index, section.index)
            return [int(label) for label in evaluation.label[at]]
    return None


def thumbnails(section: Section, shown: Sequence[LeaderboardRow]) -> dict[str, Any] | None:
    """Return the pixels of the first images; None where the data are not at hand.

    Only data that are the evaluated ones, by their checksum.
    """
    sources = dict.fromkeys(_sources(shown))
    if len(sources) != 1 or not (source := next(iter(sources))).startswith(LIGHT):
        return None
    try:
        data = load_dataset(source, download=False, trains=False)
    except (ConfigError, DataError):
        return None
    spec = shown[0].row.evaluations[0].spec
    images = data.test.take(np.arange(min(spec.n_examples, len(data.test))))
    pixels = getattr(images, "x", None)
    if pixels is None or pixels.dtype != np.uint8 or images.sha256 != spec.data_sha256:
        return None
    n = min(len(section.index), MAX_PIXELS // pixels[0].size)
    own = pixels[section.index[:n]]
    return {
        "n": n,
        "shape": list(own.shape[1:]),
        "white": round(1 / data.scale) if data.scale else 255,
        "pixels": _base64(own.tobytes()),
    }


def _sources(shown: Sequence[LeaderboardRow]) -> Iterator[str]:
    for entry in shown:
        for seed in entry.row.seeds:
            yield str(seed.run.provenance.get("dataset_source", ""))
