"""The machine in words, and which hardware multiplies bf16."""

from pathlib import Path

import pytest
import torch

from bench import machine
from bench.machine import bf16_flags, has_fast_bf16, machine_text


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
