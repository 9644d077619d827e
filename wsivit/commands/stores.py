"""``wsivit verify``."""

from __future__ import annotations

from wsivit import verify as _verify
from wsivit.cli import Report
from wsivit.commands.shared import documented_by
from wsivit.errors import StoreError


@documented_by(_verify)
def verify(store: str, *, slide: str | None = None, sample: int = 32) -> Report:
    problems = _verify(store, slide=slide, sample=sample)
    if problems:
        return Report("\n".join([f"{store}: {len(problems)} wrong", *problems]), StoreError.exit_code)
    return Report(f"{store}: sound")
