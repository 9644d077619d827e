"""``wsivit demo``."""

from __future__ import annotations

from typing import Annotated

from wsivit.cli.app import Report
from wsivit.cli.common import OUTPUT, QUIET, documented_by
from wsivit.demo import Demo
from wsivit.demo import demo as _demo


@documented_by(_demo)
def demo(
    *,
    output: Annotated[str, OUTPUT] = "wsivit-demo",
    slide: str | None = None,
    slide_mpp: float | None = None,
    size: int = 8192,
    quiet: Annotated[bool, QUIET] = False,
) -> Report:
    return Report(_tell_demo(_demo(output, slide=slide, slide_mpp=slide_mpp, size=size, progress=not quiet)))


def _tell_demo(done: Demo) -> str:
    lines = ["\n    ".join([f"$ {step.command}", *map(str, step.made)]) for step in done.steps]
    if done.accuracy is None:
        lines.append(
            "Look at the preview. To go on, draw regions in QuPath, export them as GeoJSON, and tile again with "
            "--annotations; then wsivit train, predict and heatmap, as the demo without --slide shows."
        )
    else:
        lines.append(
            f"On {done.tiles} tiles of the test slide that lie in a known region: "
            f"accuracy {done.accuracy:.3f}, AUROC {done.auroc:.3f}."
        )
    return "\n".join(lines)
