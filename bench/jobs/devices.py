"""Devices by name, as in `64xH100`, and the stated speed of those that nothing was measured on."""

import re
from dataclasses import dataclass

from bench.errors import ConfigError, unknown_name

PEAKS = {
    "V100": (15.7, 15.7),
    "T4": (8.1, 8.1),
    "A10": (62.5, 125),
    "A100": (156, 312),
    "L4": (60, 121),
    "L40S": (183, 366),
    "H100": (494, 989),
    "H200": (494, 989),
    "B200": (1100, 2200),
}
"""Peak TFLOP/s of dense products in NVIDIA's data sheets (SXM where there are several): TF32, in
which torch convolves fp32 (plain fp32 before Ampere), and bf16 (none before Ampere)."""
SHARE = 1 / 3
"""Share of the peak that convolutions reach. An A100 reaches 0.36 PFLOP in 3.09 s = 37% and, in a
standard training of ResNet-18, 32.3 PFLOP in 7 min = 25%, says github.com/KellerJordan/
cifar10-airbench; both in half precision."""
CPU = "cpu"


@dataclass(frozen=True)
class Devices:
    """A number of equal devices."""

    n: int
    name: str
    tflops: float | None = None
    """TFLOP/s that the user says convolutions reach."""

    @classmethod
    def parse(cls, text: str) -> "Devices":
        """Read `64xH100`, `H100`, `4xcpu` or `8xNAME:TFLOPS`; raises ConfigError."""
        found = re.fullmatch(r"(?:(\d+)x)?([A-Za-z][\w-]*)(?::(\d+(?:\.\d+)?))?", text.strip())
        if found is None or int(found[1] or 1) < 1 or float(found[3] or 1) <= 0:
            raise ConfigError(
                f"--devices {text}: write a number and a device, such as 64xH100, 8xA100 or 4xcpu"
            )
        known = {name.casefold(): name for name in (*PEAKS, CPU)}
        name = known.get(found[2].casefold(), found[2])
        return cls(int(found[1] or 1), name, float(found[3]) if found[3] else None)

    def __str__(self) -> str:
        return f"{self.n} x {self.name}"

    def named(self, device: str) -> bool:
        """Whether a record's device, such as `NVIDIA H100 80GB HBM3`, is one of these."""
        return self.name.casefold() in re.split(r"[\s-]+", device.casefold())

    def flops(self, precision: str) -> float:
        """Return the FLOP/s that convolutions are taken to reach; raises ConfigError if unknown."""
        if self.tflops is not None:
            return self.tflops * 1e12
        if self.name not in PEAKS:
            how = f"--devices {self.n}x{self.name}:TFLOPS, with what its convolutions reach"
            error = unknown_name("device", self.name, [*PEAKS, CPU])
            raise ConfigError(
                f"{error}. Of another, give the speed: {how}; or name by --results a folder with "
                "records made on it"
            )
        return SHARE * PEAKS[self.name][precision == "bf16"] * 1e12
