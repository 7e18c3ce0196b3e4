"""Atomic writes, JSON, .npz files, archives of finished work, checksums.

Nothing here runs code from a file: arrays of Python objects are refused.
"""

import errno
import hashlib
import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from bench.errors import RecordError, one_line

DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OverflowError),
    *(AttributeError, KeyError, TypeError, ValueError),
)
"""What Python raises for a zip file that is damaged, or holds something else than it should."""
FACTS, NPY = "facts.json", ".npy"


def write_atomic(path: Path, content: bytes) -> None:
    """Write to a temporary file and rename it: a kill or a full disk leaves the old file or none.

    Raises RecordError with the reason and what to do.
    """
    temporary = _temporary(path, content)
    try:
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _not_written(path, error) from None
    with suppress(OSError):  # not every file system can; the file is there
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # so that the new name outlives a loss of power
        finally:
            os.close(folder)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files below a folder, each whole, in this order; those that are there stay.

    Raises RecordError.
    """
    for name, content in files.items():
        path = folder / name
        if not (path.is_file() and path.read_bytes() == content):
            write_atomic(path, content)


def check_writable(path: Path) -> None:
    """Raise RecordError where `write_atomic` would; call it before minutes of work."""
    if path.is_dir():
        raise _not_written(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    _temporary(path, b"").unlink(missing_ok=True)


def open_lock(folder: Path) -> TextIO:
    """Return the open lock file of a folder, which is made; raises RecordError if it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / ".lock").open("a")
    except OSError as error:
        raise RecordError(
            f"cannot write {folder}: {error.strerror}; name another folder with --results"
        ) from None


def _temporary(path: Path, content: bytes) -> Path:
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".partial", delete=False
        ) as file:
            temporary = file.name
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise _not_written(path, error) from None
    return Path(temporary)


def _not_written(path: Path, error: OSError) -> RecordError:
    return RecordError(
        f"cannot write {path}: {error.strerror or error}. Free space or name another folder with "
        "--results (or --reports, --tensorboard, --out), then run the same command again"
    )


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Return indented JSON; refuses NaN, which other readers cannot parse."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} is damaged or unreadable: {error}") from None


class Entry(NamedTuple):
    """The facts and the arrays of an evaluation, a chunk or a measure."""

    facts: Mapping[str, Any]
    """Plain JSON."""
    arrays: Mapping[str, np.ndarray]


def pair_files(name: str, entry: Entry) -> dict[str, bytes]:
    """Return NAME.npz with the arrays, if any, then NAME.json with the facts and its hash.

    Write them in this order: the .json file marks the pair as complete.
    """
    content = npz_bytes(entry.arrays) if entry.arrays else None
    files = {} if content is None else {f"{name}.npz": content}
    checksum = None if content is None else sha256(content)
    return files | {f"{name}.json": json_bytes({**entry.facts, "npz_sha256": checksum})}


def read_pair(path: Path) -> Entry:
    """Return what `pair_files` stored; raises RecordError if it is damaged or does not match."""
    facts, stored = read_json(path), path.with_suffix(".npz")
    try:
        checksum = facts.pop("npz_sha256")
        content = stored.read_bytes() if checksum else b""
        if checksum and sha256(content) != checksum:
            raise RecordError(f"{stored} does not match its checksum in {path.name}")
        return Entry(facts, npz_arrays(content) if checksum else {})
    except (OSError, *DAMAGE) as error:
        raise RecordError(f"{path} is damaged: {one_line(error)}") from None


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def npz_arrays(content: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file by name, three times faster than np.load.

    A report reads thousands of these files; np.load parses each header as Python. Raises ValueError
    or BadZipFile for a damaged file, and ValueError for an array of objects.
    """
    arrays, name = {}, ""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        try:
            for name in file.namelist():
                arrays[name.removesuffix(NPY)] = _array(file.read(name))
        except DAMAGE as error:
            raise ValueError(f"{name} cannot be unpacked: {error}") from None
    return arrays


def write_archive(path: Path, entries: Mapping[str, Entry]) -> None:
    """Write entries to one .npz file, in order of their ids; the same entries give the same bytes.

    ID/facts.json holds the facts of an entry and the names of its arrays, ID/NAME.npy an array.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for entry_id, (facts, arrays) in sorted(entries.items()):
            text = json.dumps({**facts, "arrays": list(arrays)}, allow_nan=False)
            file.writestr(zipfile.ZipInfo(f"{entry_id}/{FACTS}"), text, zipfile.ZIP_DEFLATED)
            for name, array in arrays.items():
                stored = io.BytesIO()
                np.lib.format.write_array(stored, array, allow_pickle=False)
                place = zipfile.ZipInfo(f"{entry_id}/{name}{NPY}")
                file.writestr(place, stored.getvalue(), zipfile.ZIP_DEFLATED)
        file.comment = _listing(file)
    write_atomic(path, buffer.getvalue())


def read_archive(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Return the entries of an archive by id, and by id why the damaged ones cannot be read.

    Zip stores a checksum of every member, and the comment of the archive is one of their list.
    Empty without the file; raises RecordError if it is damaged as a whole.
    """
    entries, damaged, members = {}, {}, dict[str, list[str]]()
    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as file:
            if file.comment != _listing(file):
                damaged[""] = f"{path} is damaged: entries may be missing from it"
            for member in file.namelist():
                entry_id, _, name = member.partition("/")
                members.setdefault(entry_id, []).append(name)
            for entry_id, names in members.items():
                try:
                    entries[entry_id] = _entry(file, entry_id, names)
                except DAMAGE as error:
                    damaged[entry_id] = f"{path}: {entry_id} is damaged: {one_line(error)}"
    except FileNotFoundError:
        pass
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {one_line(error)}") from error
    except DAMAGE as error:
        raise RecordError(f"{path} is damaged: {one_line(error)}") from None
    return entries, damaged


def _listing(file: zipfile.ZipFile) -> bytes:
    members = [[member.filename, member.CRC] for member in file.infolist()]
    return sha256(json.dumps(members).encode()).encode()


def _entry(file: zipfile.ZipFile, entry_id: str, names: Sequence[str]) -> Entry:
    facts = json.loads(file.read(f"{entry_id}/{FACTS}"))
    arrays = {name: _array(file.read(f"{entry_id}/{name}{NPY}")) for name in facts.pop("arrays")}
    if len(names) != 1 + len(arrays):
        raise ValueError("it has other members than it names")
    return Entry(facts, arrays)


def archived(path: Path) -> frozenset[str]:
    """Return the ids of the undamaged entries of an archive; read again only if it changed."""
    try:
        stat = path.stat()
        return _archived(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)
    except (OSError, RecordError):
        return frozenset()


@lru_cache(maxsize=1024)
def _archived(path: Path, *version: int) -> frozenset[str]:
    return frozenset(read_archive(path)[0])


def mend_archive(path: Path) -> None:
    """Keep a damaged archive aside, and what is whole in it in its place.

    Raises RecordError for a file that cannot be read: it may be whole.
    """
    try:
        entries, damaged = read_archive(path)
    except RecordError as error:
        if isinstance(error.__cause__, OSError):
            raise
        quarantine(path)
        return
    if damaged:
        write_atomic(_aside(path), path.read_bytes())
        write_archive(path, entries)


def _array(stored: bytes) -> np.ndarray:
    if stored[6:8] != b"\x01\x00":  # a header above 64 kB, or in Unicode
        array: np.ndarray = np.lib.format.read_array(io.BytesIO(stored), allow_pickle=False)
        return array
    start = 10 + int.from_bytes(stored[8:10], "little")
    shape, fortran, dtype = _header(stored[:start])
    flat = np.frombuffer(stored, dtype, offset=start)
    return flat.reshape(shape, order="F" if fortran else "C").copy()


@lru_cache(maxsize=1024)
def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, Fortran order and type; cached, since records have few different headers."""
    file = io.BytesIO(head)
    np.lib.format.read_magic(file)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects is not read")
    return shape, fortran, dtype


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def quarantine(path: Path) -> Path:
    """Rename a damaged file, so that it is made again and can still be inspected."""
    return path.replace(_aside(path))


def _aside(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.damaged{number}") for number in chain([""], count(2)))
    return next(name for name in names if not name.exists())
