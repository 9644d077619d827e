"""What a thing is, in named lines: as text for people, and as a table in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from wsivit.io.credentials import scrub


class Described:
    """A description that shows itself: `rows` as aligned lines, and as a table in notebooks."""

    def rows(self) -> Mapping[str, str]:
        """What there is to say, by what it is about, in order; lines of one entry are separated by newlines."""
        raise NotImplementedError

    def __str__(self) -> str:
        rows = {name: text for name, text in self.rows().items() if text}
        width = max(map(len, rows), default=0)
        return "\n".join(
            f"{name if number == 0 else '':{width}}  {line}".rstrip()
            for name, text in rows.items()
            for number, line in enumerate(text.splitlines())
        )

    def _repr_html_(self) -> str:
        cells = (
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            f"<td style='text-align:left'>{escape(scrub(text)).replace(chr(10), '<br>')}</td></tr>"
            for name, text in self.rows().items()
            if text
        )
        return f"<table>{''.join(cells)}</table>"


def format_bytes(size: float) -> str:
    """Return a size for people, in powers of 1000."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"


def x_by_y(pair: tuple[float | None, float | None] | None) -> str:
    """Return a value along x and y for people: once where both are the same, a dash where one is unknown."""
    if pair is None or None in pair:
        return "-"
    x, y = pair
    return f"{x:.4g}" if x == y else f"{x:.4g} x {y:.4g}"
