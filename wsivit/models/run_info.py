"""What is in a run folder: the model, what it learned from, what it reached."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wsivit.io import Described, format_bytes
from wsivit.models.run_folder import RunMetadata

_SIDES = ("train", "tune", "validation", "test")


@dataclass(frozen=True)
class RunInfo(Described):
    """What is in a run folder.

    Attributes
    ----------
    path : str
    done : bool
        Whether the training came to its end.
    model : str
        The name the model was made from.
    classes : tuple of str
        In the order of the probabilities.
    label : str
        What the classes are a value of.
    mpp : float or None
        Scale of the tiles, microns per pixel; None for pictures without one.
    tile_size, image_size : int
        Side of the tiles, and of the model's input, in pixels.
    sources : int
        Slides, or folders of pictures, that it learned from.
    pictures : dict of str to int
        Tiles on each side of the split.
    figures : dict of str to float
        Of the part that chose nothing; empty for a run of an earlier format, which had no such part.
    temperature : float
        The logits are divided by it.
    bytes : int
        Size of the folder.
    versions : dict of str to str
        Of the packages that it was made with.
    """

    path: str
    done: bool
    model: str
    classes: tuple[str, ...]
    label: str
    mpp: float | None
    tile_size: int
    image_size: int
    sources: int
    pictures: dict[str, int]
    figures: dict[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    bytes: int = 0
    versions: dict[str, str] = field(default_factory=dict)

    def rows(self) -> Mapping[str, str]:
        """See `Described`."""
        scale = f"{self.mpp:.4g} µm/px" if self.mpp else "no scale"
        return {
            "run": self.path + ("" if self.done else ": the training is not finished"),
            "model": f"{self.model}, input {self.image_size} px",
            "classes": f"{', '.join(self.classes)} (label {self.label})",
            "tiles": f"{self.tile_size} px at {scale}",
            "data": f"{self.sources} slides or folders: "
            + ", ".join(f"{count} {side}" for side, count in self.pictures.items() if count),
            "figures": ", ".join(f"{name} {value:.3f}" for name, value in self.figures.items()),
            "calibration": f"temperature {self.temperature:.3f}" if self.done else "",
            "size": format_bytes(self.bytes),
            "made by": ", ".join(f"{name} {number}" for name, number in self.versions.items()),
        }


def run_info(run: str | os.PathLike[str]) -> RunInfo:
    """Describe a run folder, finished or not; no model is loaded.

    Raises
    ------
    StoreError
        If the folder is no run, or is damaged.
    """
    metadata = RunMetadata.read(run)
    sides = {side: sum(int(source.get(side, 0)) for source in metadata.data) for side in _SIDES}
    return RunInfo(
        path=os.fspath(run),
        done=metadata.done,
        model=metadata.model,
        classes=metadata.classes,
        label=metadata.label,
        mpp=metadata.mpp,
        tile_size=metadata.tile_size,
        image_size=metadata.preprocessing.image_size,
        sources=len(metadata.data),
        pictures=sides,
        figures=metadata.figures.get("test", {}),
        temperature=metadata.temperature,
        bytes=sum(file.stat().st_size for file in Path(run).rglob("*") if file.is_file()),
        versions=metadata.versions,
    )
