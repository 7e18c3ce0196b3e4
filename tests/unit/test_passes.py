"""Passes are counted where they happen, whatever way a method calls the network."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from bench.archs import build
from bench.registry import get_method, list_methods
from bench.training.cost import Cost, passes


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [
        ("natural", 1, 1),
        ("madry", 11, 11),  # ten gradients, the update
        ("trades", 13, 12),  # and the clean target, the clean images
        ("cat-ce", 12, 11),  # and the success test
        ("fast", 2, 2),
        ("free", 8, 8),
        ("yopo", 5, 5),
    ],
)
def test_counts_by_hand(name: str, forward: int, backward: int) -> None:
    count = passes(get_method(name))
    assert (count.forward, count.backward) == (forward, backward)


def test_yopos_inner_steps_are_passes_of_the_first_layer() -> None:
    few, many = (passes(get_method("yopo", inner_steps=n)) for n in (1, 4))
    assert many.forward == few.forward
    assert many.first_layer == few.first_layer + 5 * 3


@pytest.mark.parametrize("name", list_methods())
def test_every_method_is_counted_twice_alike(name: str) -> None:
    one, two = passes(get_method(name)), passes(get_method(name))
    assert one == two
    assert one.forward >= one.backward >= 1


def test_more_steps_cost_more() -> None:
    madry = get_method("madry")
    assert passes(replace(madry, steps=4)).backward == 5  # type: ignore[type-var]


def test_only_what_is_inside_the_block_counts_and_copies_count_too() -> None:
    network = build("cnn", in_channels=1)
    cost = Cost()
    cost.watch(network, network.first_layer)
    x = torch.rand(3, 1, 8, 8)
    network(x).sum().backward()
    assert cost == Cost()
    with cost.counting():
        network(x).sum().backward()
        with torch.no_grad():
            network(x)
        copy.deepcopy(network)(x).sum().backward()
    assert (cost.forward, cost.backward, cost.first_layer) == (9, 6, 9)
