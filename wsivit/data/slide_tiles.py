"""Slides as data: each becomes a store of coordinates, and its pixels are read from the slide. No torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wsivit.errors import UsageError
from wsivit.slide import JpegColor, Reader, open_slide
from wsivit.tiling import TileOptions, find_annotations, tile


@dataclass(frozen=True)
class SlideOptions:
    """How slides that are given as data are read.

    Parameters
    ----------
    mpp : float, optional
        Scale of the tiles, in microns per pixel. Slides are tiled at it; of stores only those at it are taken.
        Default: for slides 0.5, or that of the run; of stores all, which must have one scale.
    tile_size : int, optional
        Side of the tiles, in pixels, likewise. Default: for slides 256, or that of the run.
    slide_mpp : float, optional
        Microns per pixel of the slides themselves, where their files do not say or are wrong.
    reader : {"auto", "native", "openslide", "tiffslide", "image"}
        Which reader opens slides; auto takes the fastest that reads them rightly.
    jpeg_color : {"auto", "rgb", "ycbcr"}
        What the slides' JPEG tiles hold, where they are labelled wrongly.
    scene : str, optional
        Which picture of files that hold several, by number or name as info lists them (also --series); default: the
        largest that is a slide.
    """

    mpp: float | None = None
    tile_size: int | None = None
    slide_mpp: float | None = None
    reader: Reader = "auto"
    jpeg_color: JpegColor = "auto"
    scene: str | None = None

    def __post_init__(self) -> None:
        for name in ("mpp", "tile_size", "slide_mpp"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"{name} must be above 0, not {value}")


@dataclass(frozen=True)
class SlideTiler:
    """Makes a store of coordinates of each slide that comes up.

    Parameters
    ----------
    folder : Path
        Where the stores go.
    options : SlideOptions
    mpp : float
        Scale where the options name none, in microns per pixel.
    tile_size : int
        Likewise, in pixels.
    """

    folder: Path
    options: SlideOptions = SlideOptions()
    mpp: float = TileOptions.mpp
    tile_size: int = TileOptions.tile_size

    def store(
        self,
        slide: str | os.PathLike[str],
        annotations: str | os.PathLike[str] | None = None,
        slide_mpp: float | None = None,
    ) -> Path:
        """Tile one slide without its pixels, or find it done; return its store.

        Parameters
        ----------
        slide : path
        annotations : path, optional
            Default: those that lie beside the slide, if there are any.
        slide_mpp : float, optional
            Of this slide; instead of that of the options.
        """
        chosen = self.options
        how = TileOptions(mpp=chosen.mpp or self.mpp, tile_size=chosen.tile_size or self.tile_size, codec="none")
        scale = slide_mpp or chosen.slide_mpp
        view = partial(open_slide, reader=chosen.reader, jpeg_color=chosen.jpeg_color, scene=chosen.scene)
        with view(slide, mpp=scale) as opened:
            done = tile(opened, self.folder, how, annotations=annotations or find_annotations(slide))
        return done.store.path
