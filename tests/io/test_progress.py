"""Progress bars: on a terminal, with a note behind them, and never in a file."""

from __future__ import annotations

import io

import pytest

from wsivit.io import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "show", "drawn"), [(Terminal, True, True), (Terminal, False, False), (io.StringIO, True, False)]
)
def test_a_bar_is_for_a_terminal(
    stream: type[io.StringIO], show: bool, drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = stream()
    monkeypatch.setattr("sys.stderr", text)
    with progress_bar(3, "tiling", "slide", show=show) as advance:
        advance(1)
        advance(2, "1,234 tiles")
    assert bool(text.getvalue()) == drawn
    if drawn:
        assert "tiling" in text.getvalue() and "3/3" in text.getvalue() and "1,234 tiles" in text.getvalue()
