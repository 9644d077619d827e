"""Tile coordinates as other tools write them: TRIDENT's and CLAM's H5, hs2p's npz, WSInfer's CSV."""

from __future__ import annotations

import csv
import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import InputNotFoundError, UsageError


@dataclass(frozen=True)
class Coordinates:
    """The tiles of a file. What it does not say is None.

    Attributes
    ----------
    form : str
        Whose layout it is.
    xy : ndarray of float64, (n, 2)
        Top-left corners, in level-0 pixels.
    side0 : float
        Side of a tile, in level-0 pixels.
    tile_size, overlap : int or None
        In pixels of the tiles' own scale.
    mpp : float or None
        Microns per pixel of the tiles, where it is said exactly.
    step0 : float or None
        Distance of neighbouring tiles, in level-0 pixels.
    slide_size : (int, int) or None
        Width and height of level 0.
    tissue_fraction : ndarray of float32, (n,), or None
    """

    form: str
    xy: NDArray[np.float64]
    side0: float
    tile_size: int | None = None
    overlap: int | None = None
    mpp: float | None = None
    step0: float | None = None
    slide_size: tuple[int, int] | None = None
    tissue_fraction: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.xy.ndim != 2 or self.xy.shape[1] != 2:
            raise ValueError(f"coordinates are {self.xy.shape}, not (n, 2)")
        if not np.isfinite(self.xy).all():
            raise ValueError("not all coordinates are numbers")
        if self.tissue_fraction is not None and self.tissue_fraction.shape != (len(self.xy),):
            raise ValueError(f"{self.tissue_fraction.shape} tissue fractions for {len(self.xy)} tiles")
        if not (np.isfinite(self.side0) and self.side0 >= 1):
            raise ValueError(f"tiles of {self.side0} pixels")
        if self.step0 is not None and not 1 <= self.step0 <= self.side0:
            raise ValueError(f"tiles of {self.side0:g} pixels that are {self.step0:g} apart")


def read_coordinates(path: Path) -> tuple[Coordinates, dict[str, str]]:
    """Read tile coordinates, and what identifies their file: its form, name and sha256.

    Raises
    ------
    InputNotFoundError
        If it is not there.
    UsageError
        If it is none of the layouts, holds no tiles, or needs h5py, which is not installed.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise UsageError(f"{path}: coordinates are {', '.join(_READERS)} files, of TRIDENT, CLAM, hs2p or WSInfer")
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found = read(path)
    except UsageError:  # a ValueError too
        raise
    except FileNotFoundError as error:
        raise InputNotFoundError(f"{error.filename} is not there: {path} cannot be read without") from None
    except KeyError as error:
        raise UsageError(f"{path} holds no tile coordinates that are known: there is no {error.args[0]}") from None
    except (OSError, EOFError, ValueError, TypeError, ArithmeticError, csv.Error, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} cannot be read as tile coordinates: {error}") from None
    if len(found.xy) == 0:
        raise UsageError(f"{path} holds no tiles")
    return found, {"form": found.form, "file": path.name, "sha256": digest}


def _read_h5(path: Path) -> Coordinates:
    try:
        import h5py  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise UsageError('reading H5 needs h5py, which is not installed: pip install "wsivit[h5]"') from None
    with h5py.File(path) as file:
        if "coords" not in file:
            raise KeyError("coords")
        coords = file["coords"]
        read = _trident if "patch_size_level0" in coords.attrs else _clam
        return read(np.asarray(coords[()], np.float64), dict(coords.attrs))


def _trident(xy: NDArray[np.float64], told: Mapping[str, Any]) -> Coordinates:
    side0, tile_size, overlap = float(told["patch_size_level0"]), int(told["patch_size"]), int(told.get("overlap", 0))
    size = (int(told["level0_width"]), int(told["level0_height"])) if "level0_width" in told else None
    mpp = float(told["mpp"]) if "mpp" in told else None
    step0 = side0 - round(overlap * side0 / tile_size)
    return Coordinates("TRIDENT H5", xy, side0, tile_size, overlap, mpp, step0, size)


def _clam(xy: NDArray[np.float64], told: Mapping[str, Any]) -> Coordinates:
    tile_size, level = int(told["patch_size"]), int(told["patch_level"])
    # CLAM counts with a level's downsample cut to a whole number.
    side0 = tile_size * int(np.ravel(told.get("downsample", 1))[0]) if level else tile_size
    width, height = np.ravel(told["level_dim"]) if level == 0 and "level_dim" in told else (0, 0)
    size = (int(width), int(height)) if width else None
    return Coordinates("CLAM H5", xy, side0, tile_size, slide_size=size)


def _read_npz(path: Path) -> Coordinates:
    meta = path.with_name(path.name.removesuffix(path.suffix) + ".meta.json")
    document = json.loads(meta.read_text())
    told, (width, height) = document["tiling"], document["slide"]["dimensions"]
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        xy = np.stack([arrays["x"], arrays["y"]], axis=-1).astype(np.float64)
        fraction = np.asarray(arrays["tissue_fractions"], np.float32)
    tile_size = int(told["requested_tile_size_px"])
    side0, step0 = float(told["tile_size_lv0"]), float(told["step_px_lv0"])
    overlap = tile_size - round(tile_size * step0 / side0)
    return Coordinates("hs2p npz", xy, side0, tile_size, overlap, None, step0, (int(width), int(height)), fraction)


def _read_csv(path: Path) -> Coordinates:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [[float(row[name]) for name in ("minx", "miny", "width", "height")] for row in csv.DictReader(file)]
    frames = np.array(rows, np.float64).reshape(-1, 4)
    if len(frames) == 0:
        raise ValueError("there are no rows")
    if np.ptp(frames[:, 2:]) > 1:
        raise ValueError("its tiles are of several sizes, or not square")
    return Coordinates("WSInfer CSV", frames[:, :2], float(frames[0, 2]))


_READERS: dict[str, Callable[[Path], Coordinates]] = {
    ".h5": _read_h5,
    ".hdf5": _read_h5,
    ".npz": _read_npz,
    ".csv": _read_csv,
}
