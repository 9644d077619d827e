"""The verb: look at slides, tiles and scores in a browser."""

from __future__ import annotations

import html
import os
import sys
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from wsivit._keywords import options_as_keywords
from wsivit.errors import UsageError
from wsivit.ranges import Mpp, Range, check_option, check_options
from wsivit.slide import JpegColor, Reader
from wsivit.viewer.access import Access
from wsivit.viewer.server import Server
from wsivit.viewer.study import Study

_ANY_ADDRESS = ("0.0.0.0", "::", "")
_FRAME_HEIGHT = 640


@dataclass(frozen=True)
class ViewOptions:
    """How the viewer is served.

    Parameters
    ----------
    port : int
        Port of this machine; 0 for any that is free.
    host : str
        Address to listen at. Anything but this machine's own lets others reach the page, though only with its token,
        and unencrypted: a tunnel (``ssh -L``) is better.
    allow_host : tuple of str
        Further names by which the page may be called, such as that of a proxy.
    read_only : bool
        Nothing can be labelled.
    label : str
        Label column of the stores in which painted labels are kept.
    """

    port: Annotated[int, Range(0, 65_535)] = 0
    host: str = "127.0.0.1"
    allow_host: tuple[str, ...] = ()
    read_only: bool = False
    label: str = "viewed"

    def __post_init__(self) -> None:
        check_options(self)
        if not self.label.isidentifier() or not self.label.isascii():
            raise UsageError(f"--label must be a name of letters, digits and _, not {self.label!r}")


class View:
    """A page that is being served; ends with this process, or by `close`.

    Attributes
    ----------
    url : str
        Address of the page, with its token: whoever has it can look, and paint labels.
    port : int
    slides : int
        How many slides it shows.
    """

    def __init__(self, server: Server, url: str, slides: int) -> None:
        self._server, self.url, self.port, self.slides = server, url, server.port, slides

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<View of {self.slides} {'slide' if self.slides == 1 else 'slides'} at port {self.port}>"

    def _repr_html_(self) -> str:
        """Show the page in a notebook: below the notebook server's own address where there is a hub."""
        address = html.escape(_notebook_address(self.url, self.port), quote=True)
        style = f"width:100%;height:{_FRAME_HEIGHT}px;border:1px solid #999"
        return (
            f'<iframe src="{address}" style="{style}" title="wsivit view" allow="clipboard-write"></iframe>'
            f'<p><a href="{address}" target="_blank" rel="noopener">open in a tab</a></p>'
        )

    def wait(self) -> None:
        """Serve until the page is closed by `close`, or by Ctrl-C."""
        while not self._server.wait(0.5):
            pass

    def close(self) -> None:
        """Stop serving."""
        self._server.close()


@options_as_keywords
def view(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    annotations: str | os.PathLike[str] | None = None,
    browser: bool | None = None,
    slide_mpp: float | None = None,
    reader: Reader = "auto",
    jpeg_color: JpegColor = "auto",
    scene: int | str | None = None,
    options: ViewOptions = ViewOptions(),
    **keywords: Any,
) -> View:
    """Look at slides, tiles, scores and labels in a browser.

    A page is served on this machine alone, behind a token, until the process ends. Of one slide it shows the slide with
    heatmaps and labels over it; of many, a list to sort and filter. In a notebook the result displays itself.

    Parameters
    ----------
    sources : path, URL, or sequence of them
        Tile stores, slides, folders, globs, tables (.csv), and outputs of many slides.
    annotations : path, optional
        Regions drawn on the slide: GeoJSON of QuPath, XML of ASAP or ImageScope, annotations of HALO.
    browser : bool, optional
        Open the page in the default browser. Default: unless in a notebook.
    slide_mpp : float, optional
        Microns per pixel of slides without a store, where their files do not say.
    reader : {"auto", "native", "openslide", "tiffslide", "image"}
        Which reader opens slides without a store.
    jpeg_color : {"auto", "rgb", "ycbcr"}
        What their JPEG tiles hold, where they are labelled wrongly.
    scene : int or str, optional
        Which picture of a file that holds several.
    options : ViewOptions
        Port, address, label column.
    **keywords
        The fields of `options`, in its place.

    Returns
    -------
    View

    Raises
    ------
    UsageError
        If there is no slide.
    SlideError, StoreError
        If the only slide or store cannot be opened.
    OutputError
        If the port cannot be opened.
    """
    check_option("slide_mpp", slide_mpp, Mpp | None)
    many = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    opening = {"mpp": slide_mpp, "reader": reader, "jpeg_color": jpeg_color, "scene": scene}
    drawn = None if annotations is None else os.fspath(annotations)
    study = Study(many, options.label, drawn, opening)
    notebook = _in_notebook()
    names = options.allow_host if options.host in _ANY_ADDRESS else (options.host, *options.allow_host)
    access = Access.for_hosts(names, framed=notebook)
    server = Server(study, access, options.host, options.port, read_only=options.read_only)
    server.start()
    shown = "127.0.0.1" if options.host in _ANY_ADDRESS else options.host
    result = View(server, f"http://{shown}:{server.port}/?token={access.token}", len(study))
    if browser or (browser is None and not notebook):
        webbrowser.open(result.url)
    return result


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules


def _notebook_address(url: str, port: int) -> str:
    """Return where a notebook's page reaches the viewer: by the hub's proxy, or on this machine."""
    query = url.partition("?")[2]
    if prefix := os.environ.get("JUPYTERHUB_SERVICE_PREFIX"):
        return f"{prefix}proxy/{port}/?{query}"
    # Under the name that notebooks have: cookies of another site would not be sent in a frame.
    return f"http://localhost:{port}/?{query}"
