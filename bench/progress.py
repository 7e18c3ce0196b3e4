"""Progress: bars with an ETA on a terminal, plain lines elsewhere, nothing if quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

PLAIN_SECONDS = 15.0
"""Time between two lines of one task without a terminal."""


class Task:
    """A task with a known number of units."""

    def __init__(
        self,
        reporter: Reporter,
        title: str,
        total: int,
        *,
        left: Callable[[], float | None] | None = None,
    ) -> None:
        """left: returns the seconds that are left, if known; default: at the pace so far."""
        self.title, self.total = title, total
        self.done, self.detail = 0, ""
        self._reporter = reporter
        self._start = self.shown = time.monotonic()
        self._done_at_start = 0
        self._left = left
        self.bar: TaskID | None = None

    def begin_at(self, done: int) -> None:
        """Start at `done`: the units that an earlier process finished."""
        self.done = self._done_at_start = done
        self.advance(0)

    def advance(self, n: int = 1, detail: str | None = None) -> None:
        """Count `n` more units; `detail` is a short text, shown until replaced."""
        self.done += n
        self.detail = self.detail if detail is None else detail
        self._reporter.show(self)

    @property
    def text(self) -> str:
        done = f" {self.done}/{self.total}" if self.total else ""
        return f"{self.title}{done} {self.detail}".rstrip()

    @property
    def left(self) -> str:
        """Return `3 min left`, or nothing if that is unknown."""
        seconds = None
        if self._left is not None:
            seconds = self._left()
        elif (done := self.done - self._done_at_start) > 0:
            seconds = (time.monotonic() - self._start) / done * (self.total - self.done)
        return "" if seconds is None else f"{duration(seconds)} left"


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
                TextColumn("{task.fields[left]}"),
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

    def failed(self, what: str, line: str, *, fixable: bool) -> None:
        """Print and remember that `what` failed, once, even if quiet.

        fixable: the user's input is at fault, not the program.
        """
        if what not in self.failures:
            self.failures[what] = line
            self.exit_code = 2 if fixable and self.exit_code != 1 else 1
            self._print(line)

    def show(self, task: Task) -> None:
        """Show a task: move its bar, or print a line now and then."""
        now = time.monotonic()
        if self.bars is not None:
            if task.bar is None:  # of unknown length, it moves to and fro
                task.bar = self.bars.add_task(task.title, total=None, detail="", left="")
            self.bars.update(
                task.bar,
                completed=task.done,
                total=task.total or None,
                detail=task.detail,
                left=task.left,
            )
        elif now - task.shown >= PLAIN_SECONDS:
            task.shown = now
            left = f", {task.left}" if task.left else ""
            self.say(f"{task.title}: {task.done}/{task.total}{left} {task.detail}")

    def hide(self, task: Task) -> None:
        if self.bars is not None and task.bar is not None:
            self.bars.remove_task(task.bar)
            task.bar = None

    @contextmanager
    def task(
        self, title: str, total: int, left: Callable[[], float | None] | None = None
    ) -> Iterator[Task]:
        task = Task(self, title, total, left=left)
        self.show(task)
        try:
            yield task
        finally:
            self.hide(task)


def duration(seconds: float) -> str:
    """Return a duration like `42 s`, `3 min`, `2.5 h` or `4.1 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
