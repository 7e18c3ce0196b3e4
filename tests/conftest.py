"""One thread a process: the networks here are tiny, and threads side by side only wait."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported
