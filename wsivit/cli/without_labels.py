"""``wsivit explore``."""

from __future__ import annotations

from typing import Annotated

from wsivit import explore as _explore
from wsivit.cli.app import Report
from wsivit.cli.common import FLAT, CommonOptions, OpenOptions, documented_by
from wsivit.explore import ExploreOptions
from wsivit.store import TileStore


@documented_by(_explore)
def explore(
    source: str,
    *,
    output: str = ".",
    options: Annotated[ExploreOptions, FLAT] = ExploreOptions(),  # noqa: B008 - frozen
    open_options: Annotated[OpenOptions, FLAT] = OpenOptions(),
    common: Annotated[CommonOptions, FLAT] = CommonOptions(),
) -> Report:
    opened = TileStore(source) if TileStore.is_store(source) else open_options.open(source)
    found = _explore(opened, output, options=options, progress=common.progress)
    lines = [
        f"{len(found.x0)} tiles, {found.cluster.max()} clusters of colour and texture (no kinds of tissue)",
        f"hematoxylin {found.hematoxylin.mean():.3f}, eosin {found.eosin.mean():.3f}, in optical density",
        *([f"{found.nuclei_per_mm2.mean():,.0f} nuclei per mm² (estimate)"] if not found.warnings else found.warnings),
    ]
    return Report("\n".join([*lines, f"wrote    {found.picture}", f"wrote    {found.table}"]))
