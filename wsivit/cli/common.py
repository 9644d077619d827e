"""What the commands have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeVar

from cyclopts import Parameter

from wsivit.cli.app import Report
from wsivit.slide import MAX_PIXELS, JpegColor, Reader, Slide, open_slide

Command = TypeVar("Command", bound=Callable[..., Report])
FLAT = Parameter(name="*")
FLAG = Parameter(negative=())
MANY = Parameter(negative=(), consume_multiple=True)
OUTPUT = Parameter(alias="-o")
QUIET = Parameter(alias="-q", negative=(), help="No progress bar.")


@dataclass(frozen=True)
class OpenOptions:
    """How a slide is opened.

    Parameters
    ----------
    slide_mpp : float, optional
        Microns per pixel of the slide itself, where its file does not say or is wrong.
    reader : {"auto", "native", "openslide", "tiffslide", "image"}
        Which reader opens it; auto takes the fastest that reads it rightly.
    jpeg_color : {"auto", "rgb", "ycbcr"}
        What the slide's JPEG tiles hold, where it is labelled wrongly.
    scene : str, optional
        Which picture of a file that holds several, by number or name as info lists them (also --series); default: the
        largest that is a slide.
    max_pixels : int
        Refuse a slide of more pixels than this at its finest level.
    isolate : bool
        Decode in a process of its own with a limit on time and memory, so that a slide on which native code crashes or
        hangs takes nothing along. Done unasked where the slide's structure is odd.
    """

    slide_mpp: float | None = None
    reader: Reader = "auto"
    jpeg_color: JpegColor = "auto"
    scene: str | None = None
    max_pixels: int = MAX_PIXELS
    isolate: Annotated[bool, FLAG] = False

    def open(self, path: str) -> Slide:
        """Open a slide in this way."""
        how = asdict(self)
        return open_slide(path, mpp=how.pop("slide_mpp"), **how)


def documented_by(function: Callable[..., Any]) -> Callable[[Command], Command]:
    """Give a command the docstring of the library function that it calls."""

    def decorate(command: Command) -> Command:
        command.__doc__ = function.__doc__
        return command

    return decorate


def pair(pair: tuple[float | None, float | None] | None) -> str:
    if pair is None or None in pair:
        return "-"
    x, y = pair
    return f"{x:.4g}" if x == y else f"{x:.4g} x {y:.4g}"
