"""The machine in words, which hardware multiplies bf16, and what fp32 means."""

from pathlib import Path

import pytest
import torch
from torch import backends

from bench import machine
from bench.machine import (
    bf16_flags,
    exact_arithmetic,
    has_fast_bf16,
    machine_text,
    tf32_operations,
)


def test_flags_are_whole_words_of_the_flags_line(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("model name\t: amx_bf16\nflags\t\t: fpu amx_bf16x avx512_bf16\n")
    assert bf16_flags(file) == ("avx512_bf16",)
    assert bf16_flags(tmp_path / "absent") == ()


def test_a_processor_without_the_flags_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "bf16_flags", lambda: ())
    assert not has_fast_bf16(torch.device("cpu"))
    monkeypatch.setattr(machine, "bf16_flags", lambda: ("amx_bf16",))
    assert has_fast_bf16(torch.device("cpu"))
    assert not has_fast_bf16(torch.device("meta"))


@pytest.mark.parametrize(("capability", "fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_has_it_from_ampere_on(
    capability: tuple[int, int], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_fast_bf16(torch.device("cuda", 0)) is fast


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"device": "cpu", "processor": "AMD EPYC", "threads": 2}, "AMD EPYC, 2 threads"),
        ({"device": "cpu", "processor": "", "threads": 1}, "unnamed processor, 1 thread"),
        (
            {"device": "NVIDIA H200", "processor": "P", "threads": 16},
            "NVIDIA H200 (host: P, 16 threads)",
        ),
    ],
)
def test_a_machine_in_words(record: dict[str, object], text: str) -> None:
    assert machine_text(record) == text


GPU = torch.device("cuda")
BOTH = ["matrix products", "convolutions"]
SETTINGS = [
    ("pass", "pass", ["convolutions"]),
    ("backends.fp32_precision = 'tf32'", "backends.fp32_precision = 'none'", BOTH),
    ("backends.fp32_precision = 'ieee'", "backends.fp32_precision = 'none'", []),
    ("backends.cudnn.fp32_precision = 'tf32'", "backends.cudnn.fp32_precision = 'none'", BOTH),
    ("backends.cudnn.fp32_precision = 'ieee'", "backends.cudnn.fp32_precision = 'none'", []),
    (
        "backends.cuda.matmul.fp32_precision = 'tf32'",
        "backends.cuda.matmul.fp32_precision = 'none'",
        BOTH,
    ),
    (
        "backends.cudnn.conv.fp32_precision = 'ieee'",
        "backends.cudnn.conv.fp32_precision = 'tf32'",
        [],
    ),
    (
        "torch.set_float32_matmul_precision('medium')",
        "torch.set_float32_matmul_precision('highest')",
        BOTH,
    ),
    ("backends.cuda.matmul.allow_tf32 = True", "backends.cuda.matmul.allow_tf32 = False", BOTH),
    ("backends.cudnn.allow_tf32 = False", "backends.cudnn.allow_tf32 = True", []),
]
"""What a user or a model's file may have set, how it is undone, and what then is TF32 on a GPU.

In this order: the older names set the newer for good.
"""


def _flags() -> list[object]:
    name, _, owners = machine._fp32_flags()
    return [getattr(owner, name) for owner in owners]


@pytest.mark.parametrize(("setting", "undo", "in_tf32"), SETTINGS)
def test_exact_arithmetic_leaves_no_tf32_and_restores_what_was_set(
    setting: str, undo: str, in_tf32: list[str]
) -> None:
    if "fp32_precision" in setting and not hasattr(backends, "fp32_precision"):
        pytest.skip("this torch has the older names only")
    exec(setting)
    try:
        before = _flags()
        assert tf32_operations(GPU) == in_tf32
        with torch.autocast("cpu", dtype=torch.bfloat16), exact_arithmetic():
            assert tf32_operations(GPU) == []
            assert set(_flags()) <= {"ieee", False}
            assert torch.get_float32_matmul_precision()  # which compilers read
            assert torch.ones(2, 2).mm(torch.ones(2, 2)).dtype == torch.float32
        assert _flags() == before
        assert tf32_operations(torch.device("cpu")) == []
    finally:
        exec(undo)
    assert tf32_operations(GPU) == ["convolutions"]
    assert torch.get_float32_matmul_precision() == "highest"
