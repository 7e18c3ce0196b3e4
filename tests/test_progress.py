"""Progress shows names as they are, whatever markup they would be elsewhere."""

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
def test_titles_details_and_lines_are_shown_letter_for_letter(
    terminal: Terminal, name: str
) -> None:
    with Reporter() as reporter, reporter.task(f"train {name}", 3) as task:
        assert reporter.bars is not None
        task.advance(1, detail=f"loss of {name}")
        reporter.bars.refresh()
        reporter.say(f"warning: {name} is odd")
    for text in (f"train {name}", f"loss of {name}", f"warning: {name} is odd"):
        assert text in terminal.getvalue()


@pytest.mark.parametrize("name", HOSTILE)
def test_lines_without_a_terminal_are_too(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with Reporter() as reporter:
        reporter.say(f"warning: {name} is odd")
    assert capsys.readouterr().err == f"warning: {name} is odd\n"
