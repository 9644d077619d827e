"""One HTML page: what it is made of, and how it becomes one file.

The file needs no network and no JavaScript: pictures are data, and a content security policy allows nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Table:
    """Rows under a header; numbers are formatted by who makes the table."""

    header: tuple[str, ...]
    rows: Sequence[Sequence[object]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture as a data URL, with what it shows in words, and the numbers behind it."""

    source: str
    alt: str
    caption: str = ""
    width: int = 0
    height: int = 0
    numbers: Table | None = None


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, warnings, tables and pictures under it."""

    title: str
    text: Sequence[str] = ()
    warnings: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    commands: Sequence[str] = ()


@dataclass(frozen=True)
class Card:
    """One slide of a study: its thumbnail, its name and a few words."""

    picture: Picture | None
    title: str
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Page:
    """A complete report.

    Attributes
    ----------
    kind : str
        ``run``, ``slide`` or ``study``.
    title : str
    verdict : str
        The result in one sentence.
    sections : sequence of Section
    cards : sequence of Card
        Of a study: its slides.
    filters : dict, optional
        Of a study: what the sliders decide from, see `study_report`.
    """

    kind: str
    title: str
    verdict: str
    sections: Sequence[Section]
    cards: Sequence[Card] = ()
    filters: dict[str, Any] | None = None
    links: Sequence[tuple[str, str]] = field(default_factory=tuple)


def render(page: Page) -> str:
    """Return a page as HTML; the same page gives the same bytes."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    files = resources.files("wsivit.report") / "template"
    style = (files / "page.css").read_text(encoding="utf-8")
    script = (files / "filters.js").read_text(encoding="utf-8") if page.filters else ""
    environment = Environment(
        loader=PackageLoader("wsivit.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    if script:
        policy += f"; script-src {_hash(script)}"
    return environment.get_template("page.html").render(page=page, style=style, script=script, policy=policy)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def webp(pixels: NDArray[np.uint8] | Image.Image, quality: int = 80) -> tuple[str, int, int]:
    """Return a picture as a WebP data URL, with its width and height in pixels."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}", image.width, image.height


def photo(pixels: NDArray[np.uint8] | Image.Image, alt: str, caption: str = "", quality: int = 80) -> Picture:
    """Return pixels, uint8 (h, w, 3) or a Pillow image, as a picture of a page."""
    source, width, height = webp(pixels, quality)
    return Picture(source, alt, caption, width, height)
