"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import RecordError


def write_atomic(path: Path, content: bytes) -> None:
    """Write beside and rename, so that a kill or a full disk leaves the old file or none.

    Raises RecordError with the reason and what to do.
    """
    temporary = _written_beside(path, content)
    try:
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _not_written(path, error) from None


def check_writable(path: Path) -> None:
    """Raises RecordError where `write_atomic` would: to be asked before work of minutes."""
    if path.is_dir():
        raise _not_written(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    _written_beside(path, b"").unlink(missing_ok=True)


def _written_beside(path: Path, content: bytes) -> Path:
    """A file in the same folder."""
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
        "--results (or --reports, --out), then run the same command again"
    )


def write_json(path: Path, value: Any) -> None:
    """Readable JSON; NaN is refused, since a reader elsewhere could not parse it."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value in a JSON file; raises RecordError that names the file."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} is damaged or unreadable: {error}") from None


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The content of a compressed .npz file."""
    buffer = io.BytesIO()
    plain: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez_compressed(buffer, **plain)
    return buffer.getvalue()


def npz_arrays(content: bytes) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, by name: np.load's in a tenth of its time.

    Whoever has many thousands of them to read cannot have their headers parsed as Python each.
    Nothing is checked against the file's own checksums. Raises ValueError or BadZipFile where it
    is damaged, and ValueError for an array of objects.
    """
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        for member in file.infolist():
            arrays[member.filename.removesuffix(".npy")] = _array(_member(content, member))
    return arrays


def _member(content: bytes, member: zipfile.ZipInfo) -> bytes:
    """What is stored of one file of an archive, without the copies that a file object makes."""
    local = member.header_offset
    lengths = [int.from_bytes(content[at : at + 2], "little") for at in (local + 26, local + 28)]
    start = local + 30 + sum(lengths)
    stored = content[start : start + member.compress_size]
    try:
        return zlib.decompress(stored, -zlib.MAX_WBITS) if member.compress_type else stored
    except zlib.error as error:
        raise ValueError(f"{member.filename} cannot be unpacked: {error}") from None


def _array(stored: bytes) -> np.ndarray:
    if stored[6:8] != b"\x01\x00":  # a header of more than 64 kB, or in Unicode
        array: np.ndarray = np.lib.format.read_array(io.BytesIO(stored), allow_pickle=False)
        return array
    start = 10 + int.from_bytes(stored[8:10], "little")
    shape, fortran, dtype = _header(stored[:start])
    flat = np.frombuffer(stored, dtype, offset=start)
    return flat.reshape(shape, order="F" if fortran else "C").copy()


@lru_cache(maxsize=1024)
def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, type: records have few different ones."""
    file = io.BytesIO(head)
    np.lib.format.read_magic(file)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects is not read")
    return shape, fortran, dtype


def sha256(content: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def keep_aside(path: Path) -> Path:
    """Rename a damaged file, so that it is redone and can still be looked at."""
    aside = path.with_name(f"{path.name}.damaged")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged{number}")
    path.replace(aside)
    return aside
