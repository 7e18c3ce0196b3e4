"""The attacks on a model itself, by name: those of every module here that has `DEFINITIONS`.

So a new attack is one entry in such a dict, or one new file with a dict of its own.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from bench.attacks.attack import Definitions
from bench.attacks.pgd import DEFINITIONS as OF_PGD

BUILT_ON_THESE = ("definitions", "transfer")

DEFINITIONS: Definitions = dict(OF_PGD)
for _module in sorted(info.name for info in iter_modules([str(Path(__file__).parent)])):
    if _module not in BUILT_ON_THESE:
        _found = import_module(f"bench.attacks.{_module}")
        DEFINITIONS |= getattr(_found, "DEFINITIONS", {})
