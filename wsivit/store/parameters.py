"""What determines a store: the parameters it was made with, and the table of its tiles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import IntEnum
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import StoreError, shorten
from wsivit.slide import ReadPlan, TileGrid

FORMAT = 2


class Status(IntEnum):
    """What a tile's pixels are; never to be inferred from the pixels themselves."""

    OK = 0
    PADDED = 1
    UNREADABLE = 2
    MISSING = 4
    """Never scanned: nothing but what is transparent, or left out of the slide's file. (3 is a heatmap's own.)"""


NO_PIXEL_STATUSES = (Status.UNREADABLE, Status.MISSING)


@dataclass(frozen=True)
class StoreParameters:
    """Everything that determines the content of a store.

    Attributes
    ----------
    slide_id : str
    slide_path : str
        Where the slide was: its absolute path or URL. It and the next field may differ when a store is resumed.
    slide_relative_path : str
        The same from the store's folder; empty where one of them is at a URL.
    slide_fingerprint : str
        Of its content, not its name.
    slide_size : (int, int)
        Width and height in level-0 pixels.
    slide_mpp : (float, float)
        Microns per level-0 pixel, x and y.
    scale : dict
        The scale of the slide, with its sources.
    requested_mpp : float
    mpp : (float, float)
        What the tiles really have, x and y.
    plan : ReadPlan
    grid : TileGrid
    tissue : dict
        Parameters of the tissue mask.
    min_tissue : float
        Tissue fraction from which a tile is in the store.
    codec : {"jpeg", "zstd", "none"}
        "none": no pixels; they are read from the slide.
    quality : int
        JPEG quality of encoded tiles.
    encoding : {"copied", "encoded"}
        Whether the slide's own JPEG bytes are in the store, or the tiles were encoded.
    chunk : (int, int)
        Height and width of an inner chunk: the tile's, unless copied from smaller native tiles.
    shard_tiles : int
        Tiles per shard file.
    open_options : dict
        The options of ``open_slide`` that the slide was opened with.
    slide_bounds : (int, int, int, int)
        The part of the slide that was scanned, ``x, y, width, height`` in level-0 pixels; all zero: the whole slide.
    slide_sha256 : str
        Checksum of all bytes of the slide, where one was asked for; else empty.
    filled : int
        Native tiles below the store's tiles that the slide's file leaves out at the level read, and that a finer level
        fills.

    Raises
    ------
    StoreError
        For values that cannot make a store.
    """

    slide_id: str
    slide_path: str
    slide_fingerprint: str
    slide_size: tuple[int, int]
    slide_mpp: tuple[float, float]
    scale: dict[str, Any]
    requested_mpp: float
    mpp: tuple[float, float]
    plan: ReadPlan
    grid: TileGrid
    tissue: dict[str, Any]
    min_tissue: float
    codec: Literal["jpeg", "zstd", "none"] = "jpeg"
    quality: int = 90
    encoding: Literal["copied", "encoded"] = "encoded"
    chunk: tuple[int, int] = (0, 0)
    shard_tiles: int = 1024
    open_options: dict[str, Any] = field(default_factory=dict)
    slide_bounds: tuple[int, int, int, int] = (0, 0, 0, 0)
    slide_sha256: str = ""
    filled: int = 0
    slide_relative_path: str = ""

    def __post_init__(self) -> None:
        size = self.grid.tile_size
        if self.chunk == (0, 0):
            object.__setattr__(self, "chunk", (size, size))
        if self.codec not in ("jpeg", "zstd", "none"):
            raise StoreError(f"codec must be jpeg, zstd or none, not {self.codec!r}")
        if self.encoding not in ("copied", "encoded") or (self.encoding == "copied" and self.codec == "zstd"):
            raise StoreError(f"encoding {self.encoding!r} does not go with codec {self.codec!r}")
        if any(side < 1 or size % side for side in self.chunk):
            raise StoreError(f"chunks of {self.chunk} do not divide tiles of {size} x {size}")
        if self.shard_tiles < 1:
            raise StoreError(f"a shard must hold at least one tile, not {self.shard_tiles}")

    @property
    def chunks_per_tile(self) -> int:
        """Inner chunks that make up one tile."""
        return (self.grid.tile_size // self.chunk[0]) * (self.grid.tile_size // self.chunk[1])

    @property
    def downscale(self) -> str:
        """How the slide was brought to the scale of the tiles; empty where a level was used as it is."""
        return self.plan.downscale if self.plan.reduce > 1 else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values as they come back from JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from :meth:`to_dict`'s values.

        Raises
        ------
        StoreError
            When fields are missing or unknown: the store is of another version, or damaged.
        """
        # A field too many is refused as well: a newer version may give it a meaning that changes the others.
        names = {entry.name for entry in fields(cls)}
        missing, unknown = sorted(names - set(values)), sorted(set(values) - names)
        if missing or unknown:
            raise StoreError(
                f"store parameters do not fit this version of wsivit: missing {missing}, unknown {unknown};"
                " tile the slide again with --force, or use the wsivit that wrote it"
            )
        try:
            pairs = {name: tuple(values[name]) for name in ("slide_size", "slide_mpp", "mpp", "chunk", "slide_bounds")}
            plan, grid = ReadPlan(**values["plan"]), TileGrid(**values["grid"])
            return cls(**{**values, **pairs, "plan": plan, "grid": grid})
        except (TypeError, ValueError) as error:
            raise StoreError(f"store parameters make no sense: {error}") from error

    def differences(self, other: StoreParameters) -> list[str]:
        """Name each field in which another set of parameters would make another store, with both values."""
        mine, theirs = _flat(self.to_dict()), _flat(other.to_dict())
        return [
            f"{name}: {shorten(mine.get(name))} in the store, {shorten(theirs.get(name))} asked for"
            for name in dict.fromkeys([*mine, *theirs])
            if name not in ("slide_path", "slide_relative_path")
            and mine.get(name) != theirs.get(name)
            # A checksum is a check of the slide, and no part of the content.
            and not (name == "slide_sha256" and "" in (mine.get(name), theirs.get(name)))  # not asked for
        ]


def describe_mismatch(url: str, differences: list[str], root: Mapping[str, Any], wanted: StoreParameters) -> str:
    """Return how an existing store differs from the one asked for, and what to do."""
    existing, what = root["parameters"], "a store of other content"
    if existing["slide_fingerprint"] != wanted.slide_fingerprint:
        what = f"of another slide, {existing['slide_path']}, and not of {wanted.slide_path}"
    return f"{url} is {what} ({'; '.join(differences)}): write to another folder, or replace it with --force"


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested dictionaries to ``tissue.method``, so that differences have exact names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = _flat(value) if isinstance(value, dict) else None
        flat |= {name: value} if inner is None else {f"{name}.{key}": entry for key, entry in inner.items()}
    return flat


@dataclass
class TileTable:
    """The tiles of a store in reading order (row by row), as columns of equal length.

    Attributes
    ----------
    col, row : ndarray of int64 (n,)
        Place in the grid.
    x0, y0 : ndarray of int64 (n,)
        Top-left corner in level-0 pixels.
    tissue_fraction : ndarray of float32 (n,)
    status : ndarray of uint8 (n,)
        Values of :class:`Status`.
    """

    col: NDArray[np.int64]
    row: NDArray[np.int64]
    x0: NDArray[np.int64]
    y0: NDArray[np.int64]
    tissue_fraction: NDArray[np.float32]
    status: NDArray[np.uint8]

    def __post_init__(self) -> None:
        for name, dtype in COLUMNS.items():
            setattr(self, name, np.ascontiguousarray(getattr(self, name), dtype))
        shapes = {name: getattr(self, name).shape for name in COLUMNS}
        if len(set(shapes.values())) != 1 or self.col.ndim != 1:
            raise StoreError(f"the columns of a tile table must be of one length: {shapes}")

    def __len__(self) -> int:
        return len(self.col)

    @classmethod
    def from_grid(cls, grid: TileGrid, col: Any, row: Any, tissue_fraction: Any) -> Self:
        """Make the table of some cells of a grid; tiles that reach past the slide are ``padded``."""
        x0, y0 = grid.level0_xy(col, row)
        status = np.where(grid.padded(col, row), Status.PADDED, Status.OK)
        return cls(col, row, x0, y0, tissue_fraction, status)

    def digest(self) -> str:
        """sha256 of all columns but the status, which the writing may change: it says which tiles these are."""
        digest = hashlib.sha256()
        for name in COLUMNS:
            if name != "status":
                digest.update(getattr(self, name).tobytes())
        return digest.hexdigest()


COLUMNS: dict[str, str] = {
    "col": "<i8",
    "row": "<i8",
    "x0": "<i8",
    "y0": "<i8",
    "tissue_fraction": "<f4",
    "status": "u1",
}
