"""How a slide is opened and described: the checks, the reader, and what the user is told."""

from __future__ import annotations

import math
import os
from typing import Any

from wsivit.errors import LimitError
from wsivit.io import LocalFile, local_path
from wsivit.ranges import PixelLimit, check_option
from wsivit.slide.backend import Backend, JpegColor
from wsivit.slide.dicom import series_path
from wsivit.slide.metadata import SlideInfo
from wsivit.slide.preflight import MAX_PIXELS, check_pixel_limit, check_slide
from wsivit.slide.readers.isolated import IsolatedBackend
from wsivit.slide.select_reader import Reader, open_backend
from wsivit.slide.slide import Slide


def open_slide(
    path: str | os.PathLike[str],
    *,
    reader: Reader = "auto",
    mpp: float | None = None,
    missing_mpp: float | None = None,
    jpeg_color: JpegColor = "auto",
    scene: int | str | None = None,
    max_pixels: int = MAX_PIXELS,
    subprocess: bool = False,
) -> Slide:
    """Open a whole-slide image.

    Parameters
    ----------
    path : str or path-like
        A slide file, a folder with one DICOM series (or any file of it, or its DICOMDIR), or any URL that fsspec knows
        (``s3://…``, ``https://…``).
    reader : {"auto", "native", "openslide", "tiffslide", "image"}, optional
        ``"auto"`` takes the fastest that reads the slide correctly and says why in `Slide.reader_reason`; another
        choice is never silently replaced.
    mpp : float, optional
        Microns per level-0 pixel, instead of what the slide says or because it says nothing.
    missing_mpp : float, optional
        The same, but only where the slide says nothing usable: for many slides, of which most have their own scale.
    jpeg_color : {"auto", "rgb", "ycbcr"}, optional
        What JPEG tiles hold, for a slide that is labelled wrongly (its glass is magenta or salmon); ``"auto"``
        believes the slide.
    scene : int or str, optional
        Which picture of a file that holds several, by its number (from 0, as `info` lists them) or its name; default:
        the largest that is a slide.
    max_pixels : int, optional
        Refuse a slide of more pixels than this at its finest level.
    subprocess : bool, optional
        Decode in a subprocess with a limit on time (60 s a block) and memory (4 GiB), so that a slide on which native
        code crashes or hangs cannot crash this process. Enabled automatically for malformed files.

    Returns
    -------
    Slide

    Raises
    ------
    SlideNotFoundError
        If there is nothing at `path`.
    SlideError
        If no reader (or not the one asked for) reads it; the text says why of each.
    LimitError
        If it has more than `max_pixels` pixels.
    UsageError
        If the reader is unknown, `jpeg_color` cannot be applied by it, there is no such scene, or a folder holds
        several DICOM series.
    """
    check_option("reader", reader, Reader)
    check_option("jpeg_color", jpeg_color, JpegColor)
    check_option("max_pixels", max_pixels, PixelLimit)
    path = series_path(local_path(path))
    # Before any reader: on a bad file their native code crashes, hangs or invents pixels.
    source, anomalies = check_slide(path, max_pixels)
    backend: Backend
    layout = None
    if subprocess or (anomalies and isinstance(source, LocalFile)):
        backend = IsolatedBackend(path, reader, jpeg_color, max_pixels, scene)
        reason = f"{backend.reason}; in a process of its own: {anomalies[0] if anomalies else 'asked for'}"
    else:
        backend, reason, layout = open_backend(source, reader, jpeg_color, scene)
    slide = Slide(path, backend, reason, mpp, jpeg_color, layout)
    try:  # once more: only now is it known which picture is the slide
        check_pixel_limit(math.prod(slide.dimensions), max_pixels)
    except LimitError as error:
        slide.close()
        raise LimitError(f"{path}: {error}") from None
    if mpp is None and missing_mpp is not None and not slide.has_scale:
        return Slide(path, backend, reason, missing_mpp, jpeg_color, layout)
    return slide


def info(
    slide: str | os.PathLike[str],
    *,
    slide_mpp: float | None = None,
    reader: Reader = "auto",
    jpeg_color: JpegColor = "auto",
    scene: int | str | None = None,
    max_pixels: int = MAX_PIXELS,
    subprocess: bool = False,
    private: bool = False,
) -> SlideInfo:
    """Describe a slide: format, size, levels, scale and where it came from, and what in it could name a patient.

    Parameters
    ----------
    slide : str or path-like
        A slide file, or a folder with one DICOM series.
    slide_mpp : float, optional
        Microns per level-0 pixel, instead of what the slide says or because it says nothing.
    reader : {"auto", "native", "openslide", "tiffslide", "image"}, optional
        Which reader opens it.
    jpeg_color : {"auto", "rgb", "ycbcr"}, optional
        What its JPEG tiles hold, where it is labelled wrongly.
    scene : int or str, optional
        Which of the file's pictures, by number or name.
    max_pixels : int, optional
        Refuse a slide of more pixels than this.
    subprocess : bool, optional
        Decode in a subprocess; see `open_slide`.
    private : bool, optional
        Show the values of private items too, not only their names.

    Returns
    -------
    SlideInfo
    """
    options: dict[str, Any] = {"scene": scene, "max_pixels": max_pixels, "subprocess": subprocess}
    with open_slide(slide, reader=reader, mpp=slide_mpp, jpeg_color=jpeg_color, **options) as opened:
        return opened.info(private)
