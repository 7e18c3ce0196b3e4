"""Atomic writes, JSON, fast reading of .npz files, checksums."""

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
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import RecordError


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


def check_writable(path: Path) -> None:
    """Raise RecordError where `write_atomic` would; call it before minutes of work."""
    if path.is_dir():
        raise _not_written(path, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    _temporary(path, b"").unlink(missing_ok=True)


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
        "--results (or --reports, --out), then run the same command again"
    )


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON; refuses NaN, which other readers cannot parse."""
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} is damaged or unreadable: {error}") from None


def write_pair(path: Path, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to the .npz file next to `path`, then facts and its hash, as JSON, to `path`.

    The .json file marks the pair as complete. Without arrays only that is written.
    """
    content = npz_bytes(arrays) if arrays else None
    if content is not None:
        write_atomic(path.with_suffix(".npz"), content)
    write_json(path, {**facts, "npz_sha256": None if content is None else sha256(content)})


def paired_arrays(path: Path, npz_sha256: str) -> dict[str, np.ndarray]:
    """Return the arrays that `write_pair` wrote next to `path`; raises RecordError."""
    arrays = path.with_suffix(".npz")
    try:
        content = arrays.read_bytes()
        if sha256(content) != npz_sha256:
            raise RecordError(f"{arrays} does not match its checksum in {path.name}")
        return npz_arrays(content)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise RecordError(f"{arrays} is damaged: {error!r}") from None


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
                arrays[name.removesuffix(".npy")] = _array(file.read(name))
        except (
            zlib.error,
            EOFError,
            RuntimeError,
        ) as error:  # RuntimeError: flags of a damaged zip
            raise ValueError(f"{name} cannot be unpacked: {error}") from None
    return arrays


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
    names = (path.with_name(f"{path.name}.damaged{number}") for number in chain([""], count(2)))
    aside = next(name for name in names if not name.exists())
    return path.replace(aside)
