"""How a slide displays itself in a notebook: a small picture and what it is."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

from PIL import Image

from wsivit.errors import ScaleError, SlideError

if TYPE_CHECKING:
    from wsivit.slide.slide import Slide

_SIDE = 320  # pixels


def slide_html(slide: Slide) -> str:
    """Return a slide as HTML with its picture inside; no label, name or date of the file."""
    try:
        scale = f"{slide.mpp:.4g} µm per pixel"
    except ScaleError:
        scale = "unknown; give it with mpp="
    sizes = ", ".join(f"{width} x {height}" for width, height in slide.level_dimensions)
    rows = {"format": slide.format, "scale": scale, "levels": sizes, "reader": slide.reader}
    if slide.warnings:
        rows["warnings"] = "; ".join(slide.warnings)
    cells = "".join(f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in rows.items())
    try:
        data = io.BytesIO()
        Image.fromarray(slide.thumbnail(_SIDE)).save(data, "JPEG", quality=80)
        picture = f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}">'
    except SlideError as error:
        picture = f"<p>{escape(str(error))}</p>"
    return f"<div><b>{escape(slide.id)}</b><br>{picture}<table>{cells}</table></div>"
