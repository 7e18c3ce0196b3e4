"""Weights in and out: what loads, what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from bench import archs
from bench.archs.arch import Arch
from bench.archs.fitting import load_state
from bench.archs.weights import (
    network_bytes,
    open_weights,
    read_weights,
    save_weights,
    state_sha256,
)
from bench.errors import CheckpointError, ConfigError, RecordError
from bench.storage import sha256


def cnn(seed: int) -> Arch:
    torch.manual_seed(seed)
    return archs.build("cnn", in_channels=1)


@pytest.fixture
def source() -> dict[str, Tensor]:
    return dict(cnn(1).state_dict())


def assert_loads(state: dict[str, Any], source: dict[str, Tensor]) -> None:
    model = cnn(2)
    load_state(model, state)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, source[name], rtol=0, atol=0)


def refused(model: nn.Module, state: dict[str, Any]) -> str:
    """The error's one line; the model must be as it was."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_state(model, state)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("key", ["state_dict", "model", "net", "model_state_dict"])
def test_wrappers(key: str, source: dict[str, Tensor]) -> None:
    assert_loads({key: source, "epoch": 3, "optimizer": {"lr": 0.1}}, source)


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "model.", "_orig_mod.", "module.model.", "module.attacker.model.",
     "_orig_mod.module."],
)  # fmt: skip
def test_prefixes(prefix: str, source: dict[str, Tensor]) -> None:
    prefixed = {prefix + name: tensor for name, tensor in source.items()}
    assert_loads(prefixed, source)
    assert_loads({"net": prefixed, "acc": 0.5}, source)


def test_what_data_parallel_adds_is_dropped_wherever_it_stands(source: dict[str, Tensor]) -> None:
    mixed = {f"module.{name}": tensor for name, tensor in source.items()}
    mixed["fc.bias"] = mixed.pop("module.fc.bias")
    assert_loads(mixed, source)
    inside = {name.replace("features.", "features.module."): t for name, t in source.items()}
    assert_loads(inside, source)
    parallel = nn.Sequential(nn.Identity(), nn.DataParallel(cnn(2)))
    load_state(parallel, source)
    assert torch.equal(parallel.state_dict()["1.module.fc.bias"], source["fc.bias"])


@pytest.mark.parametrize("prefix", ["1.", "backbone.encoder.", "1.module."])
def test_the_place_of_a_network_in_another_is_found(prefix: str, source: dict[str, Tensor]) -> None:
    assert_loads({prefix + name: tensor for name, tensor in source.items()}, source)
    placed = nn.Sequential(nn.Identity(), cnn(2))
    load_state(placed, source)
    torch.testing.assert_close(placed.state_dict()["1.fc.bias"], source["fc.bias"])


def test_a_part_of_a_network_is_not_taken_for_the_network(source: dict[str, Tensor]) -> None:
    both = {f"first.{name}": t for name, t in source.items()}
    both |= {f"second.{name}": t for name, t in source.items()}
    assert f"{2 * len(source) - 8} unexpected" in refused(cnn(2), both)
    head = nn.Linear(128, 10)
    assert "unexpected" in refused(head, dict(source))


def test_bookkeeping_of_common_tools_counts_nothing(source: dict[str, Tensor]) -> None:
    profiled = {**source, "total_ops": torch.zeros(1), "features.0.total_params": torch.zeros(1)}
    assert_loads(profiled, source)
    averaged = torch.optim.swa_utils.AveragedModel(cnn(1)).state_dict()
    assert "n_averaged" in averaged
    assert_loads(dict(averaged), source)
    old = {name: t for name, t in source.items() if "num_batches_tracked" not in name}
    model = cnn(2)
    load_state(model, {f"module.{name}": tensor for name, tensor in old.items()})
    assert torch.equal(model.state_dict()["fc.bias"], source["fc.bias"])


@pytest.mark.parametrize("name", ["decay", "step", "num_updates"])
def test_what_is_learned_is_no_bookkeeping_whatever_its_name(name: str) -> None:
    def network() -> nn.Module:
        model = nn.Linear(2, 2)
        model.register_parameter(name, nn.Parameter(torch.ones(3)))
        return model

    bare = {"module.weight": torch.zeros(2, 2), "module.bias": torch.zeros(2)}
    assert f"1 missing: {name}" in refused(network(), bare)
    assert "of another shape" in refused(network(), {**bare, f"module.{name}": torch.ones(4)})
    load_state(network(), {**bare, f"module.{name}": torch.ones(3)})


class Renamed(nn.Linear):
    """A layer that reads its old names, as torch allows."""

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("weight", "bias"):
            if f"{prefix}old_{name}" in state:
                state[prefix + name] = state.pop(f"{prefix}old_{name}")
        super()._load_from_state_dict(state, prefix, *rest)


def test_what_torch_loads_by_its_strict_rules_is_loaded() -> None:
    model = nn.Sequential(Renamed(2, 3))
    load_state(model, {"0.old_weight": torch.ones(3, 2), "0.old_bias": torch.ones(3)})
    assert all(bool((p == 1).all()) for p in model.parameters())


def test_a_model_with_a_prefix_of_its_own(source: dict[str, Tensor]) -> None:
    wrapped = nn.Sequential()
    wrapped.add_module("model", cnn(2))
    load_state(wrapped, source)
    compiled = torch.compile(cnn(3), backend="eager")
    assert isinstance(compiled, nn.Module)
    load_state(compiled, {f"module.{name}": tensor for name, tensor in source.items()})
    for model in (wrapped, compiled):
        for actual, expected in zip(model.state_dict().values(), source.values(), strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_second_copy_in_an_attacker_is_left_out(prefix: str, source: dict[str, Tensor]) -> None:
    """As the package `robustness` saves it; the copies are made unequal to see which one counts."""
    twice = {f"{prefix}model.{name}": tensor for name, tensor in source.items()}
    twice |= {f"{prefix}attacker.model.{name}": tensor + 1 for name, tensor in source.items()}
    assert_loads({"model": twice, "epoch": 3}, source)
    both = nn.ModuleDict({"model": cnn(2), "attacker": cnn(3)})
    load_state(both, {name.replace("attacker.model.", "attacker."): t for name, t in twice.items()})
    torch.testing.assert_close(both["attacker"].state_dict()["fc.bias"], source["fc.bias"] + 1)


def test_constants_may_be_left_out_and_nothing_else(source: dict[str, Tensor]) -> None:
    """Networks of a zoo hold a normalisation that the files of their weights lack."""
    for prefix in ("", "module.model."):
        model = archs.build("cnn", in_channels=1, mean=(0.5,), std=(0.2,))
        load_state(
            model, {prefix + name: t for name, t in source.items()}, constants=("mean", "std")
        )
        loaded = model.state_dict()
        assert float(loaded["std"]) == pytest.approx(0.2)
        torch.testing.assert_close(loaded["fc.bias"], source["fc.bias"], rtol=0, atol=0)
    front = nn.Sequential()
    front.add_module("normalize", nn.BatchNorm2d(1, affine=False))
    front.add_module("model", cnn(2))
    constants = [name for name in front.state_dict() if name.startswith("normalize.")]
    load_state(front, source, constants=constants)
    torch.testing.assert_close(front.state_dict()["model.fc.bias"], source["fc.bias"])
    own = {**front.state_dict(), "normalize.running_mean": torch.ones(1)}
    load_state(front, own, constants=constants)
    assert float(front.state_dict()["normalize.running_mean"]) == 1
    del source["fc.bias"]
    with pytest.raises(CheckpointError, match=r"1 missing: fc\.bias"):
        load_state(front, source, constants=constants)


def test_the_dead_group_of_trades_is_dropped() -> None:
    with torch.device("meta"):
        model = archs.build("wrn-34-10")
    model.to_empty(device="cpu")
    live = {name: torch.full_like(value, 2) for name, value in model.state_dict().items()}
    dead = {name.replace("block1", "sub_block1"): torch.zeros(1) for name in live if "k1." in name}
    assert len(dead) > 50
    both = {f"module.{name}": value for name, value in (live | dead).items()}
    load_state(model, both)
    assert all((tensor == 2).all() for tensor in model.state_dict().values())
    assert "1 unexpected: sub_block2.bn1.bias" in refused(
        model, live | {"sub_block2.bn1.bias": torch.zeros(1)}
    )


def test_what_does_not_fit_is_named(source: dict[str, Tensor]) -> None:
    del source["features.1.num_batches_tracked"], source["fc.bias"]
    source["fc.weight"] = torch.zeros(100, 128)
    source["epoch"] = torch.tensor(3)
    message = refused(cnn(2), source)
    assert "do not fit Cnn" in message
    assert "1 missing: fc.bias;" in message  # torch itself makes up num_batches_tracked
    assert "1 unexpected: epoch" in message
    assert "1 of another shape: fc.weight (file (100, 128), model (10, 128))" in message
    assert "check the arch" in message


def test_only_the_first_few_are_named(source: dict[str, Tensor]) -> None:
    message = refused(cnn(2), {})
    n_needed = sum("num_batches_tracked" not in name for name in source)
    assert f"{n_needed} missing: features.0.weight, " in message
    assert message.count("features.") == 3
    assert ", ..." in message


def test_a_value_that_is_no_tensor(source: dict[str, Tensor]) -> None:
    assert "1 unexpected: epoch" in refused(cnn(2), {**source, "epoch": 3})
    assert "fc.bias (file list, model (10,))" in refused(cnn(2), {**source, "fc.bias": [0.0] * 10})
    assert "unexpected: 7" in refused(cnn(2), {**source, 7: torch.zeros(1)})  # type: ignore[dict-item]


def test_normalisation_on_one_side_only(source: dict[str, Tensor]) -> None:
    normalised = archs.build("cnn", in_channels=1, mean=(0.5,), std=(0.2,))
    assert "call set_normalisation" in refused(normalised, source)
    assert "build with mean and std" in refused(cnn(2), dict(normalised.state_dict()))


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    """Also from channels_last weights, whose memory is not in the order of their shape."""
    model = archs.build("cnn", mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3))
    model(torch.rand(2, 3, 8, 8))
    model = model.to(memory_format=torch.channels_last)
    path = tmp_path / "deep" / "best.safetensors"
    save_weights(model, path)
    read = read_weights(path)
    assert read.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert read[name].dtype == tensor.dtype
        torch.testing.assert_close(read[name], tensor, rtol=0, atol=0, check_stride=False)
    assert [file.name for file in path.parent.iterdir()] == ["best.safetensors"]


def test_a_write_that_fails_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.safetensors"
    save_weights(cnn(1), path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match="No space left on device"):
        save_weights(cnn(2), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_save(zipped: bool, source: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    content = {"state_dict": source, "epoch": 3, "best": 0.5}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    read = read_weights(path)
    assert read.keys() == source.keys()
    assert_loads(dict(read), source)


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [
        ("state_dict", "swa_state_dict"),
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("unaveraged_model_state_dict", "ema.state_dict"),
    ],
)
def test_averaged_weights_are_taken_before_raw_ones_and_it_is_said(
    raw: str, averaged: str, source: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "w.pt"
    other = {name: tensor + 1 for name, tensor in source.items()}
    outer, _, inner = averaged.partition(".")
    optimiser = {"state": {0: {"momentum_buffer": torch.zeros(1)}}, "param_groups": []}
    content = {raw: other, outer: {inner: source} if inner else source, "optimizer": optimiser}
    torch.save(content, path)
    found = open_weights(path)
    assert torch.equal(found.state["fc.bias"], source["fc.bias"])
    (note,) = found.notes
    assert f"{path} holds {raw}, {averaged}: {averaged} was loaded (averaged" in note
    assert f"--weights {path}:{raw} takes the other" in note
    chosen = open_weights(path, raw)
    assert torch.equal(chosen.state["fc.bias"], other["fc.bias"])
    assert chosen.notes == ()
    with pytest.raises(ConfigError, match=rf"unknown key of .*'{raw}x'. Did you mean '{raw}'"):
        open_weights(path, f"{raw}x")


@pytest.mark.parametrize("key", ["avg_meter", "ema"])
def test_what_is_called_averaged_and_is_no_network_is_not_taken(
    key: str, source: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "w.pt"
    torch.save({"state_dict": source, key: {"loss": torch.zeros(1)}}, path)
    assert read_weights(path).keys() == source.keys()


def test_of_several_networks_one_must_be_named(source: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "gan.pt"
    torch.save({"generator": source, "discriminator": source}, path)
    assert "name one of several with --weights FILE:KEY" in read_error(path)
    assert open_weights(path, "generator").state.keys() == source.keys()
    torch.save({"whatever": source, "epoch": 3}, path)
    assert read_weights(path).keys() == source.keys()


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "weights"])
def test_a_file_is_known_by_its_content(
    name: str, source: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / name
    save_weights(cnn(1), path)
    assert_loads(dict(read_weights(path)), source)
    other = tmp_path / "torch.safetensors"
    torch.save(source, other)
    assert_loads(dict(read_weights(other)), source)


def test_the_digest_tells_states_apart_that_are_no_plain_tensors() -> None:
    assert state_sha256(cnn(1)) == sha256(network_bytes(cnn(1))) != state_sha256(cnn(2))
    networks = [nn.Linear(3, 2), nn.Linear(3, 2)]
    for scale, network in enumerate(networks, 1):
        network.register_buffer("sparse", (scale * torch.eye(3)).to_sparse())
        with torch.no_grad():
            network.weight.fill_(1)
            network.bias.fill_(1)
    assert state_sha256(networks[0]) != state_sha256(networks[1])
    assert state_sha256(networks[0]) == state_sha256(networks[0])
    with pytest.raises(CheckpointError, match="has no values yet: call the network once"):
        state_sha256(nn.Sequential(nn.LazyLinear(3)))


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.target,)


def dump_plain(content: object, path: Path, protocol: int) -> None:
    path.write_bytes(pickle.dumps(content, protocol=protocol))


@pytest.mark.parametrize(
    "write",
    [
        lambda content, path: torch.save(content, path),
        lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
        lambda content, path: torch.save(content, path, pickle_protocol=4),
        lambda content, path: dump_plain(content, path, 2),
        lambda content, path: dump_plain(content, path, 5),
    ],
)
def test_a_pickle_that_needs_code_is_refused(
    write: Callable[[object, Path], None], tmp_path: Path
) -> None:
    path, touched = tmp_path / "evil.pt", tmp_path / "touched"
    write({"state_dict": {"w": torch.zeros(2)}, "args": Touch(touched)}, path)
    line = read_error(path)
    assert "could run code" in line
    assert "safetensors" in line
    assert not touched.exists()


def read_error(path: Path) -> str:
    """The one line of the error, which must name the file."""
    with pytest.raises(CheckpointError) as caught:
        read_weights(path)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


@pytest.mark.parametrize("kept", [0, 5, 40, 0.3, 0.9, -1])
@pytest.mark.parametrize("kind", ["safetensors", "pt", "old.pt"])
def test_a_truncated_file(kind: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        save_weights(cnn(1), path)
    else:
        state = cnn(1).state_dict()
        torch.save(state, path, _use_new_zipfile_serialization=kind == "pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])
    assert "damaged, cut short or no file of weights" in read_error(path)


def looped() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"w": torch.zeros(2), "epoch": 3}, "holds epoch"),
        ({"epoch": 3}, "holds epoch"),
        ({}, "holds no named tensors"),
        ([torch.zeros(2)], "holds no named tensors"),
        (torch.zeros(2), "holds no named tensors"),
        (looped(), "holds model"),
        (nn.Linear(2, 2), "it asks for torch.nn.modules.linear.Linear"),
    ],
    ids=range(7),
)
def test_a_file_without_a_state_dict(content: object, found: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pt")
    assert found in read_error(tmp_path / "other.pt")


def safetensors_with_a_wrong_header() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 8]}})
    return struct.pack("<Q", len(header)) + header.encode() + b"\0" * 8


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_is_no_file_of_weights(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    assert "No such file" in read_error(path)
    for content, words in (
        (b"<html><body>Sign in to continue</body></html>\n", "no file of weights"),
        (safetensors_with_a_wrong_header(), "damaged"),
        (safetensors.torch.save({"w": torch.zeros(2)})[:-4], "damaged"),
    ):
        path.write_bytes(content)
        assert words in read_error(path)
    path.unlink()
    path.mkdir()
    read_error(path)
