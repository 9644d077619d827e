"""``wsivit doctor``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

from wsivit import doctor as _doctor
from wsivit.cli.app import Report
from wsivit.cli.common import FLAG, JSON, documented_by


@documented_by(_doctor)
def doctor(*, gpu: Annotated[bool, FLAG] = False, as_json: Annotated[bool, JSON] = False) -> Report:
    found = _doctor(gpu=gpu)
    if as_json:
        text = json.dumps([asdict(finding) for finding in found.findings], indent=2)
    else:
        lines = [f"{f.state:8} {f.kind:8} {f.name}: {f.text}" for f in found.findings]
        bad = sum(finding.state in ("missing", "broken") for finding in found.findings)
        text = "\n".join([*lines, "all that is needed works" if found.sound else f"{bad} missing or broken, see above"])
    return Report(text, 0 if found.sound else 1)
