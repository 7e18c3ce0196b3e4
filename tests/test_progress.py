"""Progress shows names as they are, whatever markup they would be elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench import progress
from bench.progress import Reporter

HOSTILE = ("[bold]mine[/bold]", "a [/] b", "[/red]", "{task.id}", "npz:[x](y).npz", ":warning:")


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    stream = Terminal()
    monkeypatch.setattr(
        progress,
        "Console",
        lambda stderr: Console(
            file=stream, force_terminal=True, width=200, color_system=None, legacy_windows=False
        ),
    )
    return stream


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bar_shows_the_title_and_the_detail_letter_for_letter(
    terminal: Terminal, name: str
) -> None:
    with Reporter() as reporter, reporter.task(f"train {name}", 3) as task:
        assert reporter.bars is not None
        task.advance(1, detail=f"loss of {name}")
        reporter.bars.refresh()
    assert f"train {name}" in terminal.getvalue()
    assert f"loss of {name}" in terminal.getvalue()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_line_beside_the_bars_is_shown_letter_for_letter(terminal: Terminal, name: str) -> None:
    with Reporter() as reporter:
        reporter.say(f"warning: {name} is odd")
    assert f"warning: {name} is odd" in terminal.getvalue()


@pytest.mark.parametrize("name", HOSTILE)
def test_without_a_terminal_too(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with Reporter() as reporter:
        reporter.say(f"warning: {name} is odd")
    assert capsys.readouterr().err == f"warning: {name} is odd\n"
