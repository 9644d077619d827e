"""Write the table of encoders in ``models.md`` from the registry: ``python docs/make_model_list.py``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from wsivit import encoders

PAGE = Path(__file__).with_name("models.md")
MARKS = "<!-- encoders: python docs/make_model_list.py -->\n", "<!-- end of encoders -->\n"


def table() -> str:
    """Return one row for each encoder of the registry."""
    lines = ["| name | numbers | tile | scale | licence | weights |", "|---|---|---|---|---|---|"]
    for known in encoders().values():
        access = "not runnable here: import its features" if known.refused else "gated" if known.gated else "open"
        where = f"[{access}]({known.url})" if known.url else access
        scale = f"{known.mpp} µm/px" if known.mpp else "any"
        row = f"`{known.name}`", known.dim, f"{known.tile_size} px", scale, known.licence, where
        lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """Return the page with the table as it should be."""
    start, end = map(re.escape, MARKS)
    return re.sub(f"(?<={start}).*(?={end})", lambda _: table(), text, flags=re.DOTALL)


if __name__ == "__main__":
    fresh = page(PAGE.read_text(encoding="utf-8"))
    if sys.argv[1:] == ["-"]:
        sys.stdout.write(fresh)
    else:
        PAGE.write_text(fresh, encoding="utf-8")
