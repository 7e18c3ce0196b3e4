"""Seeds: one stream per purpose, the same everywhere, and none moves another."""

import hashlib

import pytest
import torch

from bench.method import TrainState
from bench.ranks import drawn
from bench.registry import get_method
from bench.seeding import generator_for, seed_for
from tests.harness import generator, make_state, small_net


@pytest.mark.parametrize(
    ("purpose", "seed"),
    [
        ((), 1609362278),
        (("autoattack", 0), 506128817),
        (("train", "start", 12), 1973892733),
    ],
)
def test_seeds_are_the_head_of_a_sha256_and_never_change(
    purpose: tuple[str | int, ...], seed: int
) -> None:
    """Records hold results that were drawn with these."""
    assert seed_for(0, *purpose) == seed
    digest = hashlib.sha256("\x1f".join(map(str, (0, *purpose))).encode()).hexdigest()
    assert seed == int(digest[:8], 16) % 2**31


def test_seeds_are_31_bits_and_distinct_also_by_where_a_part_of_a_purpose_ends() -> None:
    seeds = [
        *(seed_for(0, "ab", "c"), seed_for(0, "a", "bc"), seed_for(0, "abc"), seed_for(0, "")),
        *(seed_for(0), seed_for(1, "1"), seed_for(11)),
        *(
            seed_for(run, purpose, number)
            for run in range(4)
            for purpose in ("start", "labels", "augment", "autoattack")
            for number in range(100)
        ),
    ]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 0
    assert 2**30 < max(seeds) < 2**31


def draw(state: TrainState, purpose: str = "start") -> list[float]:
    stream = state.generator(purpose)
    found: list[float] = drawn(
        torch.empty(4), stream, lambda x, g: x.uniform_(generator=g)
    ).tolist()
    return found


def test_streams_of_a_training_depend_on_seed_purpose_and_batch_alone() -> None:
    """They continue within a batch and begin anew in the next, in a resumed run as well."""
    state, other, resumed = (make_state(get_method("natural"), small_net()) for _ in range(3))
    before = torch.get_rng_state()
    draw(other, "labels")
    first = draw(state)
    assert first == draw(other) != draw(state, "labels")
    assert draw(state) != first
    state.scratch["label"] = torch.zeros(1)
    for _ in range(3):
        state.next_batch()
    assert state.scratch == {}
    resumed.batch_number = 3
    third = draw(state)
    assert first != third == draw(resumed)
    seed = seed_for(0, "train", "start", 3)
    assert third == torch.rand(4, generator=generator(seed)).tolist()
    assert third == torch.rand(4, generator=generator_for(0, "train", "start", 3)).tolist()
    assert torch.equal(torch.get_rng_state(), before)
    assert third != draw(make_state(get_method("natural"), small_net(), seed=1))
