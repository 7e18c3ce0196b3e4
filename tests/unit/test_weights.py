"""Weights in and out: what loads, what is refused, and that a refusal changes nothing."""

import json
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
from bench.archs.state_dict import load_state
from bench.archs.weights import (
    network_bytes,
    open_weights,
    read_weights,
    save_weights,
    state_sha256,
)
from bench.errors import CheckpointError, ConfigError
from bench.storage import sha256
from tests.harness import raises_line


def cnn(seed: int, **others: Any) -> Arch:
    torch.manual_seed(seed)
    return archs.build("cnn", in_channels=1, **others)


@pytest.fixture
def source() -> dict[str, Tensor]:
    return dict(cnn(1).state_dict())


def prefixed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


def assert_same(model: nn.Module, source: dict[str, Tensor]) -> None:
    for value, expected in zip(model.state_dict().values(), source.values(), strict=True):
        assert torch.equal(value, expected)


def assert_loads(state: dict[str, Any], source: dict[str, Tensor]) -> None:
    model = cnn(2)
    load_state(model, state)
    assert_same(model, source)


def assert_refused(model: nn.Module, state: dict[Any, Any], *words: str) -> None:
    """With one line that holds these words; the model is unchanged."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with raises_line(CheckpointError, *words):
        load_state(model, state)
    assert_same(model, before)


PREFIXES = ("", "module.", "model.", "_orig_mod.", "module.model.", "module.attacker.model.")
PLACES = ("_orig_mod.module.", "1.", "backbone.encoder.", "1.module.")


@pytest.mark.parametrize("prefix", [*PREFIXES, *PLACES])
def test_wrappers_prefixes_and_places_in_another_network(
    prefix: str, source: dict[str, Tensor], tmp_path: Path
) -> None:
    assert_loads(prefixed(source, prefix), source)
    for key in ("state_dict", "model", "net", "model_state_dict"):
        more = {"epoch": 3, "acc": 0.5, "optimizer": {"lr": 0.1}}
        torch.save({key: prefixed(source, prefix), **more}, tmp_path / "w.pt")
        assert_loads(read_weights(tmp_path / "w.pt"), source)


def test_a_model_with_a_prefix_of_its_own(source: dict[str, Tensor]) -> None:
    compiled = torch.compile(cnn(2), backend="eager")
    assert isinstance(compiled, nn.Module)
    wrapped = nn.ModuleDict({"model": cnn(2)})
    for model in (compiled, wrapped, nn.Sequential(nn.Identity(), nn.DataParallel(cnn(2)))):
        load_state(model, prefixed(source, "module." if model is compiled else ""))
        assert_same(model, source)


def test_what_data_parallel_adds_is_dropped_wherever_it_stands(source: dict[str, Tensor]) -> None:
    mixed = prefixed(source, "module.")
    mixed["fc.bias"] = mixed.pop("module.fc.bias")
    assert_loads(mixed, source)
    inside = {name.replace("features.", "features.module."): t for name, t in source.items()}
    assert_loads(inside, source)


def test_a_part_of_a_network_is_not_taken_for_the_network(source: dict[str, Tensor]) -> None:
    both = prefixed(source, "first.") | prefixed(source, "second.")
    assert_refused(cnn(2), both, f"{2 * len(source) - 8} unexpected")
    assert_refused(nn.Linear(128, 10), source, "unexpected")


def test_bookkeeping_of_common_tools_counts_nothing(source: dict[str, Tensor]) -> None:
    profiled = {"total_ops": torch.zeros(1), "features.0.total_params": torch.zeros(1)}
    assert_loads(source | profiled, source)
    averaged = torch.optim.swa_utils.AveragedModel(cnn(1)).state_dict()
    assert "n_averaged" in averaged
    assert_loads(dict(averaged), source)
    old = {name: t for name, t in source.items() if "num_batches_tracked" not in name}
    load_state(model := cnn(2), prefixed(old, "module."))
    assert torch.equal(model.state_dict()["fc.bias"], source["fc.bias"])


@pytest.mark.parametrize("name", ["decay", "step", "num_updates"])
def test_what_is_learned_is_no_bookkeeping_whatever_its_name(name: str) -> None:
    model = nn.Linear(2, 2)
    model.register_parameter(name, nn.Parameter(torch.ones(3)))
    bare = {"module.weight": torch.zeros(2, 2), "module.bias": torch.zeros(2)}
    assert_refused(model, bare, f"1 missing: {name}")
    assert_refused(model, {**bare, f"module.{name}": torch.ones(4)}, "of another shape")
    load_state(model, {**bare, f"module.{name}": torch.ones(3)})


def test_what_torch_loads_by_its_strict_rules_is_loaded() -> None:
    class Renamed(nn.Linear):
        """A layer that reads its old names, as torch allows."""

        def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
            for name in ("weight", "bias"):
                if f"{prefix}old_{name}" in state:
                    state[prefix + name] = state.pop(f"{prefix}old_{name}")
            super()._load_from_state_dict(state, prefix, *rest)

    model = nn.Sequential(Renamed(2, 3))
    load_state(model, {"0.old_weight": torch.ones(3, 2), "0.old_bias": torch.ones(3)})
    assert all(bool((p == 1).all()) for p in model.parameters())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_second_copy_in_an_attacker_is_left_out(prefix: str, source: dict[str, Tensor]) -> None:
    """As the package `robustness` saves it; the copies are made unequal to see which one counts."""
    twice = prefixed(source, f"{prefix}model.")
    twice |= prefixed({k: v + 1 for k, v in source.items()}, f"{prefix}attacker.model.")
    assert_loads(twice, source)
    both = nn.ModuleDict({"model": cnn(2), "attacker": cnn(3)})
    load_state(both, {name.replace("attacker.model.", "attacker."): t for name, t in twice.items()})
    torch.testing.assert_close(both["attacker"].state_dict()["fc.bias"], source["fc.bias"] + 1)


def test_constants_may_be_left_out_and_nothing_else(source: dict[str, Tensor]) -> None:
    """Networks of a zoo hold a normalisation that the files of their weights lack."""
    for prefix in ("", "module.model."):
        model = cnn(2, mean=(0.5,), std=(0.2,))
        load_state(model, prefixed(source, prefix), constants=("mean", "std"))
        assert float(model.state_dict()["std"]) == pytest.approx(0.2)
        assert torch.equal(model.state_dict()["fc.bias"], source["fc.bias"])
    front = nn.ModuleDict({"normalize": nn.BatchNorm2d(1, affine=False), "model": cnn(2)})
    constants = [name for name in front.state_dict() if name.startswith("normalize.")]
    load_state(front, source, constants=constants)
    assert torch.equal(front.state_dict()["model.fc.bias"], source["fc.bias"])
    own = {**front.state_dict(), "normalize.running_mean": torch.ones(1)}
    load_state(front, own, constants=constants)
    assert float(front.state_dict()["normalize.running_mean"]) == 1
    del source["fc.bias"]
    with raises_line(CheckpointError, "1 missing: fc.bias"):
        load_state(front, source, constants=constants)


def test_the_dead_group_of_trades_is_dropped() -> None:
    with torch.device("meta"):
        model = archs.build("wrn-34-10")
    model.to_empty(device="cpu")
    live = {name: torch.full_like(value, 2) for name, value in model.state_dict().items()}
    dead = {name.replace("block1", "sub_block1"): torch.zeros(1) for name in live if "k1." in name}
    assert len(dead) > 50
    load_state(model, prefixed(live | dead, "module."))
    assert all((tensor == 2).all() for tensor in model.state_dict().values())
    other = {"sub_block2.bn1.bias": torch.zeros(1)}
    with raises_line(CheckpointError, "1 unexpected: sub_block2.bn1.bias"):
        load_state(model, live | other)


def test_what_does_not_fit_is_named(source: dict[str, Tensor]) -> None:
    n_needed = sum("num_batches_tracked" not in name for name in source)
    assert_refused(cnn(2), {}, f"{n_needed} missing: features.0.weight, ", ", ...")
    assert_refused(cnn(2), {**source, "epoch": 3}, "1 unexpected: epoch")
    assert_refused(cnn(2), {**source, 7: torch.zeros(1)}, "unexpected: 7")
    assert_refused(cnn(2), {**source, "fc.bias": [0.0] * 10}, "fc.bias (file list, model (10,))")
    normalised = cnn(2, mean=(0.5,), std=(0.2,))
    assert_refused(normalised, source, "call set_normalisation")
    assert_refused(cnn(2), normalised.state_dict(), "build with mean and std")
    del source["features.1.num_batches_tracked"], source["fc.bias"]
    source["fc.weight"], source["epoch"] = torch.zeros(100, 128), torch.tensor(3)
    shapes = "1 of another shape: fc.weight (file (100, 128), model (10, 128))"
    missing = "1 missing: fc.bias;"  # torch itself makes up num_batches_tracked
    assert_refused(cnn(2), source, "do not fit Cnn", missing, "1 unexpected: epoch", shapes)


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
        assert torch.equal(read[name], tensor)
    assert [file.name for file in path.parent.iterdir()] == ["best.safetensors"]


@pytest.mark.parametrize("zipped", [True, False])
def test_files_are_known_by_their_content(
    zipped: bool, source: dict[str, Tensor], tmp_path: Path
) -> None:
    content = {"state_dict": source, "epoch": 3, "best": 0.5}
    for name in ("checkpoint.pt", "torch.safetensors"):
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
        assert_loads(dict(read_weights(tmp_path / name)), source)
    for name in ("weights.pt", "weights.bin", "weights"):
        save_weights(cnn(1), tmp_path / name)
        assert_loads(dict(read_weights(tmp_path / name)), source)


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [
        ("state_dict", "swa_state_dict"),
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("unaveraged_model_state_dict", "ema.state_dict"),
    ],
)
def test_averaged_weights_are_preferred_with_a_note(
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
    with raises_line(ConfigError, "unknown key of ", f"'{raw}x'. Did you mean '{raw}'"):
        open_weights(path, f"{raw}x")


def test_of_several_networks_one_must_be_named(source: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "gan.pt"
    torch.save({"generator": source, "discriminator": source}, path)
    assert_unreadable(path, "name one of several with --weights FILE:KEY")
    assert open_weights(path, "generator").state.keys() == source.keys()
    for content in (
        {"whatever": source, "epoch": 3},
        {"state_dict": source, "avg_meter": {"loss": torch.zeros(1)}},
        {"state_dict": source, "ema": {"loss": torch.zeros(1)}},
    ):
        torch.save(content, path)
        assert read_weights(path).keys() == source.keys()


def test_the_digest_tells_states_apart_that_are_no_plain_tensors() -> None:
    assert state_sha256(cnn(1)) == sha256(network_bytes(cnn(1))) != state_sha256(cnn(2))
    digests = []
    for scale in (1, 2, 2):
        network = nn.Linear(3, 2)
        nn.init.ones_(network.weight)
        nn.init.ones_(network.bias)
        network.register_buffer("sparse", (scale * torch.eye(3)).to_sparse())
        digests.append(state_sha256(network))
    assert digests[0] != digests[1] == digests[2]
    with raises_line(CheckpointError, "has no values yet: call the network once"):
        state_sha256(nn.Sequential(nn.LazyLinear(3)))


def assert_unreadable(path: Path, *words: str) -> None:
    with raises_line(CheckpointError, str(path), *words):
        read_weights(path)


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize(
    "write",
    [
        lambda content, path: torch.save(content, path),
        lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
        lambda content, path: torch.save(content, path, pickle_protocol=4),
        lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)),
        lambda content, path: path.write_bytes(pickle.dumps(content, protocol=5)),
    ],
)
def test_a_pickle_that_needs_code_is_refused(
    write: Callable[[object, Path], None], tmp_path: Path
) -> None:
    path, touched = tmp_path / "evil.pt", tmp_path / "touched"
    write({"state_dict": {"w": torch.zeros(2)}, "args": Touch(touched)}, path)
    assert_unreadable(path, "could run code", "safetensors")
    assert not touched.exists()


@pytest.mark.parametrize("kept", [0, 5, 40, 0.3, 0.9, -1])
@pytest.mark.parametrize("kind", ["safetensors", "pt", "old.pt"])
def test_a_truncated_file(kind: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        save_weights(cnn(1), path)
    else:
        torch.save(cnn(1).state_dict(), path, _use_new_zipfile_serialization=kind == "pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])
    assert_unreadable(path, "damaged, cut short or no file of weights")


def looped() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"w": torch.zeros(2), "epoch": 3}, "holds epoch"),
        ({}, "holds no named tensors"),
        ([torch.zeros(2)], "holds no named tensors"),
        (torch.zeros(2), "holds no named tensors"),
        (looped(), "holds model"),
        (nn.Linear(2, 2), "it asks for torch.nn.modules.linear.Linear"),
    ],
    ids=range(6),
)
def test_a_file_without_a_state_dict(content: object, found: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pt")
    assert_unreadable(tmp_path / "other.pt", found)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_is_no_file_of_weights(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    assert_unreadable(path, "No such file")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 8]}})
    for content, words in (
        (b"<html><body>Sign in to continue</body></html>\n", "no file of weights"),
        (struct.pack("<Q", len(header)) + header.encode() + b"\0" * 8, "damaged"),
        (safetensors.torch.save({"w": torch.zeros(2)})[:-4], "damaged"),
    ):
        path.write_bytes(content)
        assert_unreadable(path, words)
    path.unlink()
    path.mkdir()
    assert_unreadable(path)
