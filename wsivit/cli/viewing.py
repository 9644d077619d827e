"""``wsivit view``."""

from __future__ import annotations

import os
from typing import Annotated

from cyclopts import Parameter

from wsivit import view as _view
from wsivit.cli.app import Report
from wsivit.cli.common import FLAT, MANY, documented_by
from wsivit.ranges import Mpp
from wsivit.slide import JpegColor, Reader
from wsivit.viewer import ViewOptions

NO_BROWSER = Parameter(name="--no-browser", negative=(), help="Print the address, and open no browser.")


@documented_by(_view)
def view(
    sources: Annotated[list[str], MANY],
    *,
    annotations: str | None = None,
    no_browser: Annotated[bool, NO_BROWSER] = False,
    slide_mpp: Mpp | None = None,
    reader: Reader = "auto",
    jpeg_color: JpegColor = "auto",
    scene: str | None = None,
    options: Annotated[ViewOptions, FLAT] = ViewOptions(),
) -> Report:
    page = _view(
        sources,
        annotations=annotations,
        browser=not no_browser,
        slide_mpp=slide_mpp,
        reader=reader,
        jpeg_color=jpeg_color,
        scene=scene,
        options=options,
    )
    print(f"view     {page.url}", flush=True)
    if "SSH_CONNECTION" in os.environ:
        print(f"from another machine, first: ssh -L {page.port}:127.0.0.1:{page.port} THIS-MACHINE", flush=True)
    print("Ctrl-C ends it.", flush=True)
    page.wait()
    return Report("closed")
