"""Training histories as TensorBoard scalars, for `bench run --tensorboard DIR`. No torch yet."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ConfigError, RecordError
from bench.records.load import QUANTILES, load_history
from bench.records.run_folder import RunFolder
from bench.storage import check_writable

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Scalars = dict[str, float]


class HistoryScalars:
    """Writes each epoch of each run to FOLDER/<run_id>, once, whichever commands train it.

    Scalars have the names of history.jsonl, quantiles such as `radius_quantiles/0.5`. An epoch that
    was trained again with another outcome replaces the earlier one and what followed it.
    """

    def __init__(self, folder: Path) -> None:
        """Raise ConfigError without the package tensorboard, RecordError if unwritable."""
        if find_spec("tensorboard") is None:
            raise ConfigError(
                "--tensorboard needs the package tensorboard: pip install 'atbench[tensorboard]'"
            )
        check_writable(folder / "events")
        self.folder = folder
        self._written: dict[str, list[Scalars]] = {}
        self._seen: dict[str, tuple[int, int]] = {}
        self._writers: dict[str, SummaryWriter] = {}

    def update(self, run: RunFolder) -> None:
        """Write the epochs of a run's history.jsonl that are not in FOLDER yet."""
        try:
            stat = (run.path / "history.jsonl").stat()
            seen = stat.st_mtime_ns, stat.st_size
            if self._seen.get(run.run_id) == seen:
                return
            rows = [_scalars(row) for row in load_history(run.path)]
        except (OSError, RecordError):  # not there yet, or damaged, which the report says
            return
        self._seen[run.run_id] = seen
        if run.run_id not in self._written:
            self._written[run.run_id] = _read(self.folder / run.run_id)
        written = self._written[run.run_id]
        same = [old == new for old, new in zip(written, rows, strict=False)]
        if False in same:
            self.close(run)
            del written[same.index(False) :]
        if len(written) < len(rows):
            writer = self._writer(run.run_id, len(written))
            for epoch in range(len(written), len(rows)):
                for name, value in rows[epoch].items():
                    writer.add_scalar(name, value, epoch)
            writer.flush()
            written += rows[len(written) :]

    def _writer(self, run_id: str, first: int) -> SummaryWriter:
        if run_id not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            # hides what an earlier command wrote from this epoch on
            self._writers[run_id] = SummaryWriter(self.folder / run_id, purge_step=first)
        return self._writers[run_id]

    def close(self, run: RunFolder) -> None:
        """End the file of a run; a later update begins another."""
        if writer := self._writers.pop(run.run_id, None):
            writer.close()


def _scalars(row: Mapping[str, Any]) -> Scalars:
    """Return the numbers of an epoch by name, in the float32 that TensorBoard stores."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, list):
            found |= {f"{name}/{q:g}": v for q, v in zip(QUANTILES, value, strict=True)}
        elif name not in ("epoch", "n_val"):
            found[name] = value
    return {name: float(np.float32(value)) for name, value in found.items()}


def _read(folder: Path) -> list[Scalars]:
    """Return the epochs that a run's folder has scalars of."""
    if not folder.is_dir():
        return []
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    epochs: dict[int, Scalars] = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            epochs.setdefault(event.step, {})[name] = event.value
    return [epochs.get(epoch, {}) for epoch in range(max(epochs, default=-1) + 1)]
