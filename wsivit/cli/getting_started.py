"""``wsivit doctor`` and ``demo``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

from wsivit import doctor as _doctor
from wsivit.cli.app import Report
from wsivit.cli.common import FLAG, FLAT, JSON, CommonOptions, documented_by
from wsivit.demo import demo as _demo
from wsivit.ranges import Mpp, SampleSize


@documented_by(_doctor)
def doctor(*, gpu: Annotated[bool, FLAG] = False, as_json: Annotated[bool, JSON] = False) -> Report:
    diagnosis = _doctor(gpu=gpu)
    if as_json:
        text = json.dumps([asdict(finding) for finding in diagnosis.findings], indent=2)
    else:
        lines = [f"{f.state:8} {f.kind:8} {f.name}: {f.text}" for f in diagnosis.findings]
        bad = sum(finding.state in ("missing", "broken") for finding in diagnosis.findings)
        text = "\n".join(
            [*lines, "all that is needed works" if diagnosis.sound else f"{bad} missing or broken, see above"]
        )
    return Report(text, 0 if diagnosis.sound else 1)


@documented_by(_demo)
def demo(
    *,
    output: str = "wsivit-demo",
    slide: str | None = None,
    slide_mpp: Mpp | None = None,
    size: SampleSize = 8192,
    common: Annotated[CommonOptions, FLAT] = CommonOptions(),
) -> Report:
    result = _demo(output, slide=slide, slide_mpp=slide_mpp, size=size, progress=common.progress)
    lines = ["\n    ".join([f"$ {step.command}", *map(str, step.made)]) for step in result.steps]
    if result.accuracy is None:
        lines.append(
            "Look at the preview. For maps without labels: wsivit explore. "
            "To go on, draw regions in QuPath, export them as GeoJSON, and tile again with "
            "--annotations; then wsivit train, predict and heatmap, as the demo without --slide shows."
        )
    else:
        lines.append(
            f"On {result.tiles} tiles of the test slide that lie in a known region: "
            f"accuracy {result.accuracy:.3f}, AUROC {result.auroc:.3f}.\n"
            "This model knows drawn slides only: on a real slide its answers mean nothing; docs/models.md lists others."
        )
        lines.append(f"Look at it: wsivit view {result.folder / 'tiles'}")
    return Report("\n".join(lines))
