"""Describe a slide, a store, a run folder or a cohort."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsivit.slide import MAX_PIXELS, JpegColor, Reader, Slide, SlideInfo
from wsivit.slide import info as slide_info

if TYPE_CHECKING:
    from wsivit.cohort.cohort_info import CohortInfo
    from wsivit.models import RunInfo
    from wsivit.store import StoreInfo, TileStore


def info(
    path: str | os.PathLike[str] | Slide | TileStore,
    *,
    slide_mpp: float | None = None,
    reader: Reader = "auto",
    jpeg_color: JpegColor = "auto",
    scene: int | str | None = None,
    max_pixels: int = MAX_PIXELS,
    subprocess: bool = False,
    private: bool = False,
) -> SlideInfo | StoreInfo | RunInfo | CohortInfo:
    """Describe a slide, a tile store, a run folder, or the output of a cohort.

    Of a slide: format, size, levels, scale and where it came from, and what in it could name a patient. Of a store:
    tiles by status, scale, labels, predictions, features, size. Of a run: model, classes, scale, data, results. Of a
    cohort: slides, how far each verb is, scales, tiles, labels.

    Parameters
    ----------
    path : str or path-like
        A slide file or a folder with one DICOM series; a store, a run folder or the output of a cohort, for which the
        other options make no difference.
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
    SlideInfo, StoreInfo, RunInfo or CohortInfo
        Each shows itself as text (``print``) and in a notebook.

    Raises
    ------
    SlideError
        If it is a slide that cannot be read.
    StoreError
        If it is a store or a run that is damaged.
    """
    if isinstance(path, Slide):
        return path.info(private)
    # What describes the others is loaded only for them: half of the library, for a question about a file.
    if not isinstance(path, str | os.PathLike):
        from wsivit.store import store_info

        return store_info(path)
    if _is_folder(path):
        from wsivit.cohort.cohort_info import cohort_info
        from wsivit.cohort.cohort_layout import CohortLayout
        from wsivit.models import CONTRACT, run_info
        from wsivit.store import TileStore, store_info

        if TileStore.is_store(path) or os.fspath(path).rstrip("/").endswith(".zarr"):
            return store_info(path)
        if (Path(path) / CONTRACT).is_file():
            return run_info(path)
        if CohortLayout(path).exists:
            return cohort_info(path)
    how: dict[str, Any] = {"scene": scene, "max_pixels": max_pixels, "subprocess": subprocess, "private": private}
    return slide_info(path, slide_mpp=slide_mpp, reader=reader, jpeg_color=jpeg_color, **how)


def _is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether something may be a store, run or cohort: a folder, or a URL without an extension but a store's."""
    text = os.fspath(path)
    if "://" not in text:
        return Path(text).is_dir()
    name = text.partition("?")[0].rstrip("/").rpartition("/")[2]
    return name.endswith(".zarr") or "." not in name
