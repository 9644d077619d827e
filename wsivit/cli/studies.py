"""``wsivit run``."""

from __future__ import annotations

from typing import Annotated

from wsivit import run_study as _run_study
from wsivit.cli.app import Report
from wsivit.cli.common import FLAG, FLAT, CommonOptions, documented_by


@documented_by(_run_study)
def run_study(
    study: str,
    *,
    dry_run: Annotated[bool, FLAG] = False,
    common: Annotated[CommonOptions, FLAT] = CommonOptions(),
) -> Report:
    result = _run_study(study, dry_run=dry_run, progress=common.progress)
    return Report(result.report(), result.exit_code)
