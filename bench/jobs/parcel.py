"""Files on their way from a worker to the results folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.storage import write_files


@dataclass(frozen=True)
class Parcel:
    """What to write and then to remove; names are relative to the run's folder."""

    written: Mapping[str, bytes] = field(default_factory=dict)
    """In this order: what marks a record as complete comes last."""
    removed: tuple[str, ...] = ()

    def apply(self, folder: Path) -> None:
        """A kill between two files leaves each whole or absent; raises RecordError."""
        write_files(folder, self.written)
        for name in self.removed:
            (folder / name).unlink(missing_ok=True)


class Mirror:
    """A folder in which a worker trains: what changed since the last look goes home."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen = self._listing()

    def changes(self) -> Parcel:
        now = self._listing()
        new = sorted(name for name, stamp in now.items() if self._seen.get(name) != stamp)
        gone = tuple(name for name in self._seen if name not in now)
        self._seen = now
        return Parcel({name: (self.folder / name).read_bytes() for name in new}, gone)

    def _listing(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in self.folder.iterdir():
            if not path.name.endswith(".partial"):
                stat = path.stat()
                found[path.name] = stat.st_mtime_ns, stat.st_size
        return found
