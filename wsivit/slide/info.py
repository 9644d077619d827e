"""What a slide says of itself, and what in it could name a patient."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from wsivit.errors import ScaleError
from wsivit.slide.backend import OtherPicture, Pixels, SlideFacts
from wsivit.slide.read_plan import Level
from wsivit.slide.scale import ScaleSource, SlideScale, resolve_scale

_PRIVATE = re.compile(
    r"date|time|user|name|patient|person|birth|operator|artist|barcode|label|title|comment|description|serial|s/n"
    r"|scanscope id|imageid|\bid\b|uid|accession|study|series|institution|physician|slideid|host|copyright|reference",
    re.IGNORECASE,
)
_HARMLESS = re.compile(
    r"resolution|photometric|SOPClassUID|TransferSyntaxUID|ImplementationClassUID|exposure|^openslide\.(associated|level)",
    re.IGNORECASE,
)

_PICTURE_NAME = re.compile(
    r"((scene|series|image|picture|slide|scan|region|scanregion|area|position|pyramid|main|baseline|overview|thumbnail"
    r"|label|macro|barcode|resolution|level|roi|tissue|he|h&e|\d{1,3})[\s#:_.-]*)+",
    re.IGNORECASE,
)
"""Words that programs give pictures for names."""
_LONGEST_NAME = 40
_LOOK = 256  # pixels along the longer side are enough to tell the commonest colour


@dataclass(frozen=True)
class SlideInfo:
    """A slide in plain values, ready for JSON by `dataclasses.asdict`.

    Attributes
    ----------
    path, id, format, reader, reader_reason, fingerprint : str
    dimensions : tuple of int
        Width and height of level 0.
    levels : tuple of Level
    bounds : tuple of int
        ``x, y, width, height`` of the region that is not empty.
    scale : SlideScale or None
    scale_error : str or None
        Why there is no scale.
    scale_sources : tuple of ScaleSource
        Everything that speaks of the scale, usable or not.
    objective : float or None
        Nominal magnification that the slide states.
    tile_size : tuple of int or None
    compression : str or None
        Of level 0.
    filled_tiles : tuple of int
        Of each level, how many native tiles the file leaves out there and a finer level fills.
    warnings : tuple of str
        What looks wrong in the pixels, and which large pictures of the file are not read.
    private : dict
        What is there that could name a patient or a place: names of metadata and of images (``"image: label"``);
        values only where asked for.
    scene : int or None
        Number of the picture that is read, where the file holds several that could be the slide.
    others : tuple of OtherPicture
        The file's other pictures, with the number that `scene` takes.
    """

    path: str
    id: str
    format: str
    reader: str
    reader_reason: str
    fingerprint: str
    dimensions: tuple[int, int]
    levels: tuple[Level, ...]
    bounds: tuple[int, int, int, int]
    scale: SlideScale | None
    scale_error: str | None
    scale_sources: tuple[ScaleSource, ...]
    objective: float | None
    tile_size: tuple[int, int] | None
    compression: str | None
    filled_tiles: tuple[int, ...]
    warnings: tuple[str, ...]
    private: dict[str, str | None]
    scene: int | None = None
    others: tuple[OtherPicture, ...] = ()


def resolve_or_explain(
    sources: tuple[ScaleSource, ...], given: float | None, vendor: str
) -> tuple[SlideScale | None, str | None]:
    """Return the verdict, or None and why there is none."""
    try:
        return resolve_scale(sources, given=given, vendor=vendor), None
    except ScaleError as error:
        return None, str(error)


def objective(sources: tuple[ScaleSource, ...]) -> float | None:
    """The nominal magnification, from the first source that states one."""
    powers = (source.mpp_x for source in sources if source.note.startswith("objective ") and source.mpp_x)
    return next((10 / mpp for mpp in powers), None)


def color_warnings(view: Pixels) -> tuple[str, ...]:
    """Say so where most of a bright slide is one strong colour: glass is white or grey, so its label is wrong."""
    step = max(1, max(view.shape) // _LOOK)
    coarse = (view[::step, ::step] >> 4).reshape(-1, 3).astype(np.int64)
    counts = np.bincount(coarse @ np.array([256, 16, 1]))
    red, green, blue = (int(counts.argmax()) >> shift & 15 for shift in (8, 4, 0))
    strong = max(red, green, blue) >= 12 and max(red, green, blue) - min(red, green, blue) >= 5
    if counts.max() < 0.1 * len(coarse) or not strong:
        return ()
    color = f"#{red * 17:02x}{green * 17:02x}{blue * 17:02x}"
    return (f"the commonest colour is {color}, no colour of glass: if it looks wrong, try --jpeg-color rgb or ycbcr",)


def private_items(facts: SlideFacts, values: bool) -> dict[str, str | None]:
    """Metadata and images that could name a patient, a person or a place; their values only if asked for.

    Control characters are escaped, so that a slide cannot write to a terminal what it likes.
    """
    found = {name: _escaped(text) if values else None for name, text in _private_texts(facts.properties).items()}
    images: dict[str, str | None] = {
        f"image: {_escaped(name)}": None for name in facts.associated if name != "thumbnail"
    }
    return found | images


def harmless_name(name: str) -> str:
    """A picture's name, or nothing where a person may have written it: it may be a patient's."""
    return name if len(name) <= _LONGEST_NAME and _PICTURE_NAME.fullmatch(name) else ""


def shown_pictures(facts: SlideFacts, private: bool) -> tuple[OtherPicture, ...]:
    """The file's other pictures, with the names that can be shown."""
    return tuple(
        replace(other, name=_escaped(other.name) if private else harmless_name(other.name)) for other in facts.others
    )


def _private_texts(properties: Mapping[str, str]) -> dict[str, str]:
    chosen = {
        key: text for key, text in properties.items() if text and _PRIVATE.search(key) and not _HARMLESS.search(key)
    }
    return {_escaped(key): text for key, text in sorted(chosen.items())}


def _escaped(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
