"""Seeds: one stream a purpose, the same everywhere, and none moves another."""

from __future__ import annotations

import hashlib

import pytest
import torch

from bench.method import TrainState
from bench.registry import get_method
from bench.seeding import generator_for, seed_for
from tests.harness import make_state, small_net


def test_the_rule_is_the_head_of_a_sha256() -> None:
    digest = hashlib.sha256(b"3\x1fattack\x1fpgd-20\x1f7").hexdigest()
    assert seed_for(3, "attack", "pgd-20", 7) == int(digest[:8], 16) % 2**31


@pytest.mark.parametrize(
    ("purpose", "seed"),
    [
        ((), 1609362278),
        (("autoattack", 0), 506128817),
        (("train", "start", 12), 1973892733),
    ],
)
def test_seeds_never_change(purpose: tuple[str | int, ...], seed: int) -> None:
    """Records hold results that were drawn with these."""
    assert seed_for(0, *purpose) == seed


def test_seeds_are_31_bits_and_distinct() -> None:
    seeds = [
        seed_for(run, purpose, number)
        for run in range(4)
        for purpose in ("start", "labels", "augment", "autoattack")
        for number in range(100)
    ]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 0
    assert 2**30 < max(seeds) < 2**31


def test_where_one_part_of_a_purpose_ends_matters() -> None:
    seeds = {seed_for(0, "ab", "c"), seed_for(0, "a", "bc"), seed_for(0, "abc"), seed_for(0, "")}
    assert len(seeds | {seed_for(0), seed_for(1, "1"), seed_for(11)}) == 7


def test_a_generator_draws_what_its_seed_says_and_leaves_the_global_one() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn = torch.rand(5, generator=generator_for(2, "train", "start", 3))
    assert torch.equal(torch.get_rng_state(), before)
    expected = torch.rand(
        5, generator=torch.Generator().manual_seed(seed_for(2, "train", "start", 3))
    )
    assert torch.equal(drawn, expected)


def state_at(batch_number: int, seed: int = 0) -> TrainState:
    state = make_state(get_method("natural"), small_net(), seed=seed)
    for _ in range(batch_number):
        state.next_batch()
    return state


def test_one_purpose_never_moves_another() -> None:
    state, other = state_at(0), state_at(0)
    torch.rand(100, generator=other.generator("labels"))
    start = torch.rand(4, generator=state.generator("start"))
    assert torch.equal(start, torch.rand(4, generator=other.generator("start")))
    assert not torch.equal(start, torch.rand(4, generator=state.generator("labels")))


def test_a_stream_goes_on_within_a_batch_and_starts_anew_in_the_next() -> None:
    state = state_at(0)
    first = torch.rand(4, generator=state.generator("start"))
    second = torch.rand(4, generator=state.generator("start"))
    state.scratch["label"] = first
    state.next_batch()
    assert state.scratch == {}
    third = torch.rand(4, generator=state.generator("start"))
    assert len({tuple(draw.tolist()) for draw in (first, second, third)}) == 3


def test_a_resumed_run_draws_what_an_uninterrupted_one_draws() -> None:
    state, resumed = state_at(0), state_at(0)
    for _ in range(3):
        torch.rand(4, generator=state.generator("start"))
        state.next_batch()
    resumed.batch_number = 3
    drawn = torch.rand(4, generator=state.generator("start"))
    assert torch.equal(drawn, torch.rand(4, generator=resumed.generator("start")))
    expected = torch.rand(4, generator=generator_for(0, "train", "start", 3))
    assert torch.equal(drawn, expected)
    assert not torch.equal(drawn, torch.rand(4, generator=state_at(3, seed=1).generator("start")))
