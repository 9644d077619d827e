"""wsivit, by its command line."""

from __future__ import annotations

import contextlib
import io
import json

from simple import MIN_TISSUE, QUALITY, Job, job, report

from wsivit.cli.app import main as wsivit


def main(job: Job) -> None:
    words = ["tile", job.slide, "--output", str(job.output), "--mpp", str(job.mpp), "--quiet"]
    words += ["--tile-size", str(job.tile_size), "--min-tissue", str(MIN_TISSUE), "--quality", str(QUALITY)]
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            wsivit(words)
    except SystemExit as end:
        if end.code:
            raise
    (column,) = job.output.glob("*.zarr/col/zarr.json")
    tiles = json.loads(column.read_text())["shape"][0]
    report(tiles, note=said.getvalue().splitlines()[0].partition("µm/px: ")[2])


if __name__ == "__main__":
    main(job())
