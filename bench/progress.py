"""Progress: bars with an ETA on a terminal, plain lines elsewhere, nothing if quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench.errors import BenchError

PLAIN_SECONDS = 15.0
"""Time between two lines of one task without a terminal."""


class Task:
    """A task with a known number of units."""

    def __init__(self, reporter: Reporter, title: str, total: int) -> None:
        self.title, self.total = title, total
        self.done, self.detail = 0, ""
        self._reporter = reporter
        self._start = self._said = time.monotonic()
        self._done_at_start = 0
        self.bar = reporter.bars.add_task(title, total=total, detail="") if reporter.bars else None

    def begin_at(self, done: int) -> None:
        """Start at `done`: the units that an earlier process finished."""
        self.done = self._done_at_start = done
        self.advance(0)

    def advance(self, n: int = 1, detail: str | None = None) -> None:
        """Count `n` more units; `detail` is a short text, shown until replaced."""
        self.done += n
        self.detail = self.detail if detail is None else detail
        bars, now = self._reporter.bars, time.monotonic()
        if bars is not None and self.bar is not None:
            bars.update(self.bar, completed=self.done, detail=self.detail)
        elif now - self._said >= PLAIN_SECONDS:
            self._said, left = now, ""
            if (done := self.done - self._done_at_start) > 0:
                left = f", {duration((now - self._start) / done * (self.total - self.done))} left"
            self._reporter.say(f"{self.title}: {self.done}/{self.total}{left} {self.detail}")


class Reporter:
    """Shows progress and remembers failures; a context manager."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.failures: dict[str, str] = {}
        """Run or evaluation -> why it failed, in one line."""
        self.exit_code = 0
        """2 if users can fix every failure, 1 otherwise."""
        self.console = Console(stderr=True)
        self.bars: Progress | None = None
        if not quiet and self.console.is_terminal:
            self.bars = Progress(
                TextColumn("{task.description}", markup=False),  # a name may hold brackets
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[detail]}", markup=False),
                console=self.console,
                transient=True,
            )

    def __enter__(self) -> Reporter:
        if self.bars is not None:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars is not None:
            self.bars.stop()

    def say(self, text: str) -> None:
        if not self.quiet:
            self._print(text)

    def _print(self, text: str) -> None:
        if self.bars is not None:
            self.console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)
        else:
            print(text.rstrip(), file=sys.stderr, flush=True)

    def failed(self, what: str, line: str, error: BaseException) -> None:
        """Print and remember that `what` failed, once, even if quiet."""
        if what not in self.failures:
            self.failures[what] = line
            is_mendable = isinstance(error, BenchError) and self.exit_code != 1
            self.exit_code = 2 if is_mendable else 1
            self._print(line)

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Task]:
        task = Task(self, title, total)
        try:
            yield task
        finally:
            if self.bars is not None and task.bar is not None:
                self.bars.remove_task(task.bar)


def duration(seconds: float) -> str:
    """Return a duration like `42 s`, `3 min`, `2.5 h` or `4.1 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
