"""The files in which other tools keep tiles and features: a reader for each, in the table at the end."""

from __future__ import annotations

import csv
import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import InputNotFoundError, UsageError
from wsivit.tiling.tile_file import TileFile


def read_tile_file(path: Path) -> TileFile:
    """Read the tiles of another tool.

    Raises
    ------
    InputNotFoundError
        The file, or one that belongs to it, does not exist.
    UsageError
        It is none of the forms that are known, is damaged, or holds no tiles.
    """
    read = _read_raw2features if path.is_dir() else _READERS.get(path.suffix.lower())
    if path.suffix.lower() in (".pt", ".pth"):
        raise UsageError(
            f"{path}: a .pt is a pickle, which can run any program, and holds no coordinates: give the .h5 next to it "
            "(TRIDENT, CLAM), or let slide2vec write npz (output format npz)"
        )
    if read is None:
        known = ", ".join(_READERS)
        raise UsageError(
            f"{path}: tile coordinates are {known} files, of TRIDENT, CLAM, STAMP, slide2vec, hs2p or WSInfer, or "
            "raw2features' folders"
        )
    try:
        digest = _digest(path)
        tiles = read(path)
    except FileNotFoundError as error:
        raise InputNotFoundError(f"{error.filename} is not there: {path} cannot be read without") from None
    except KeyError as error:
        raise UsageError(f"{path} holds no tile coordinates that are known: there is no {error.args[0]}") from None
    except UsageError:  # a ValueError too
        raise
    except (OSError, EOFError, ValueError, TypeError, ArithmeticError, csv.Error, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} cannot be read as tile coordinates: {error}") from None
    if len(tiles.xy) == 0:
        raise UsageError(f"{path} holds no tiles")
    return replace(tiles, file=path.name, sha256=digest)


def _digest(path: Path) -> str:
    """Return the sha256 of a file; of a folder, that of its files' in the order of their names."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    parts = sorted(part for part in path.rglob("*") if part.is_file())
    return hashlib.sha256("".join(map(_digest, parts)).encode()).hexdigest()


def _plain(values: Any) -> dict[str, Any]:
    """Attributes of H5 as plain values: numpy's scalars and bytes are none that JSON can hold."""
    plain = {}
    for key, value in dict(values).items():
        value = value.item() if isinstance(value, np.generic) else value
        plain[str(key)] = value.decode() if isinstance(value, bytes) else value
    return plain


def _read_h5(path: Path) -> TileFile:
    try:
        import h5py  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise UsageError('reading H5 needs h5py, which is not installed: pip install "wsivit[h5]"') from None
    with h5py.File(path) as file:
        if "coords" not in file:
            raise KeyError("coords")
        key = next((name for name in ("features", "feats") if name in file), None)
        coords, root = file["coords"][()], _plain(file.attrs)
        attrs = _plain(file["coords"].attrs)
        said = {} if key is None else _plain(file[key].attrs)
        values = None if key is None else file[key][()]
    # TRIDENT's files may have an axis for the slide.
    xy = np.asarray(coords[0] if coords.ndim == 3 and len(coords) == 1 else coords, np.float64)
    features: dict[str, NDArray[Any]] = {}
    if values is not None:
        features[str(said.get("encoder", root.get("extractor", "")))] = (
            values[0] if values.ndim == 3 and len(values) == 1 else values
        )
    fingerprint = said.get("encoder_fingerprint") or root.get("encoder_fingerprint")  # of `wsivit export`
    facts: dict[str, Any] = {"encoder_fingerprint": str(fingerprint)} if fingerprint else {}
    if key == "feats" or "tile_size_um" in root:
        return _stamp(xy, root, features, facts)
    if "patch_size_level0" in attrs:
        return _trident(xy, attrs, features, facts)
    if "patch_level" in attrs:
        return _clam(xy, attrs)
    if features:  # CLAM's own have no attributes
        return TileFile("CLAM H5", xy, features=features, facts=facts)
    raise KeyError("patch_size_level0 (TRIDENT) or patch_level (CLAM) among the attributes of coords")


def _trident(
    xy: NDArray[np.float64], attrs: dict[str, Any], features: dict[str, NDArray[Any]], facts: dict[str, Any]
) -> TileFile:
    side0, overlap, tile_size = (
        float(attrs["patch_size_level0"]),
        int(attrs.get("overlap", 0)),
        int(attrs["patch_size"]),
    )
    own, target = attrs.get("level0_magnification"), attrs.get("target_magnification")
    if "overlap" not in attrs and tile_size == side0 and own and target:
        tile_size = round(side0 * target / own)  # raw2features writes the side at level 0 as the tile's size
    size = (int(attrs["level0_width"]), int(attrs["level0_height"])) if "level0_width" in attrs else None
    mpp = float(attrs["mpp"]) if "mpp" in attrs else None
    step0 = side0 - round(overlap * side0 / tile_size)
    return TileFile("TRIDENT H5", xy, side0, tile_size, overlap, mpp, step0, size, features=features, facts=facts)


def _clam(xy: NDArray[np.float64], attrs: dict[str, Any]) -> TileFile:
    tile_size, level = int(attrs["patch_size"]), int(attrs["patch_level"])
    # CLAM counts with a level's downsample cut to a whole number.
    side0 = tile_size * int(np.ravel(attrs.get("downsample", 1))[0]) if level else tile_size
    size = None
    if level == 0 and "level_dim" in attrs:
        width, height = np.ravel(attrs["level_dim"])
        size = (int(width), int(height))
    return TileFile("CLAM H5", xy, side0, tile_size, slide_size=size)


def _stamp(
    xy: NDArray[np.float64], root: dict[str, Any], features: dict[str, NDArray[Any]], facts: dict[str, Any]
) -> TileFile:
    if root.get("unit") != "um":
        raise ValueError(f"the unit of its coordinates is {root.get('unit', 'not said')}, expected was um")
    # Before version 2.1 the side in microns was called tile_size.
    side = float(root.get("tile_size_um", root.get("tile_size", 0)))
    if not side > 0:
        raise KeyError("tile_size_um")
    pixels = root.get("tile_size_px")
    tile_size = None if pixels is None else int(pixels)
    mpp = None if tile_size is None else side / tile_size
    return TileFile("STAMP H5", xy, side, tile_size, None, mpp, microns=True, features=features, facts=facts)


def _read_npz(path: Path) -> TileFile:
    document = _document(path)
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        held = {name: np.asarray(arrays[name]) for name in arrays.files}
    return _slide2vec(path, document, held) if "features" in held else _hs2p(document, held)


def _document(path: Path) -> dict[str, Any]:
    meta = path.with_name(path.name.removesuffix(path.suffix) + ".meta.json")
    document: dict[str, Any] = json.loads(meta.read_text(encoding="utf-8"))
    return document


def _hs2p(document: dict[str, Any], held: dict[str, NDArray[Any]]) -> TileFile:
    tiling, (width, height) = document["tiling"], document["slide"]["dimensions"]
    xy = np.stack([held["x"], held["y"]], axis=-1).astype(np.float64)
    fraction = np.asarray(held["tissue_fractions"], np.float32)
    tile_size = int(tiling["requested_tile_size_px"])
    side0, step0 = float(tiling["tile_size_lv0"]), float(tiling["step_px_lv0"])
    overlap = tile_size - round(tile_size * step0 / side0)
    return TileFile("hs2p npz", xy, side0, tile_size, overlap, None, step0, (int(width), int(height)), fraction)


def _slide2vec(path: Path, document: dict[str, Any], held: dict[str, NDArray[Any]]) -> TileFile:
    """Read slide2vec's ``tile_embeddings/<slide>.npz``; its coordinates are hs2p's, in a file that it names."""
    named = Path(str(document["coordinates_npz_path"]))
    # A copied folder of results is complete as well: the file that belongs to it has its usual place.
    moved = path.parent.parent / "tiles" / named.name
    places = moved if moved.is_file() or not named.is_file() else named
    with places.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        coordinates = {name: np.asarray(arrays[name]) for name in arrays.files}
    tiles = _hs2p(_document(places), coordinates)
    index, values = coordinates["tile_index"], held["features"]
    wanted = held.get("tile_index")
    if wanted is None:  # slide2vec then writes one row per row of its coordinates
        wanted = index
    order = {int(number): row for row, number in enumerate(index)}
    if len(wanted) != len(values) or len(set(wanted.tolist())) != len(wanted) or not set(wanted.tolist()) <= set(order):
        raise ValueError(f"its {len(values)} vectors are not of the {len(index)} tiles in {places.name}")
    rows = [order[int(number)] for number in wanted]
    fraction = None if tiles.tissue_fraction is None else tiles.tissue_fraction[rows]
    return replace(
        tiles,
        form="slide2vec npz",
        xy=tiles.xy[rows],
        tissue_fraction=fraction,
        features={str(document.get("encoder_name", "")): values},
    )


def _read_csv(path: Path) -> TileFile:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [[float(row[name]) for name in ("minx", "miny", "width", "height")] for row in csv.DictReader(file)]
    frames = np.array(rows, np.float64).reshape(-1, 4)
    if len(frames) == 0:
        raise ValueError("there are no rows")
    if np.ptp(frames[:, 2:]) > 1:
        raise ValueError("its tiles are of several sizes, or not square")
    return TileFile("WSInfer CSV", frames[:, :2], float(frames[0, 2]))


def _read_parquet(path: Path) -> TileFile:
    """Read the table of ``wsivit export``: another tool's has no ``wsivit`` among its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None
    about = json.loads((table.schema.metadata or {})[b"wsivit"])
    xy = np.stack([table[name].to_numpy() for name in ("x0", "y0")], axis=-1).astype(np.float64)
    side0 = about["tile_size"] * about["mpp"][0] / about["slide_mpp"][0]
    features: dict[str, NDArray[Any]] = {}
    if "features" in table.column_names:
        column = table["features"].combine_chunks()
        features[str(about["encoder"])] = column.flatten().to_numpy().reshape(len(xy), -1)
    fingerprint = about.get("encoder_fingerprint")
    return TileFile(
        "wsivit parquet",
        xy,
        side0,
        int(about["tile_size"]),
        int(about["overlap"]),
        float(about["mpp"][0]),
        features=features,
        facts={"encoder_fingerprint": fingerprint} if fingerprint else {},
    )


def _read_raw2features(path: Path) -> TileFile:
    """Read a ``<slide>.embeddings.zarr`` of one grid."""
    import zarr

    try:
        root: Any = zarr.open_group(path, mode="r")
        names = sorted(root["grids"].group_keys()) if "grids" in root else []
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"not a zarr group ({error})") from None
    if len(names) != 1:
        held = f"it has {', '.join(names)}" if names else "it has none"
        raise UsageError(f"{path}: raw2features' folder of one grid was expected (grids/…), and {held}")
    grid = root[f"grids/{names[0]}"]
    header = grid.attrs["raw2features"]
    patching, source = header["patching"], header.get("source", {})
    side0, tile_size = float(patching["level0_patch"]), int(patching["patch_px"])
    step0 = float(patching.get("level0_step", side0))
    overlap = tile_size - round(tile_size * step0 / side0)
    dimensions = source.get("level_dimensions")
    size = (int(dimensions[0][0]), int(dimensions[0][1])) if dimensions else None
    features = {str(name): grid[f"features/{name}"][:] for name in grid["features"].array_keys()}
    models = header.get("models", {})
    weights = {name: models[name]["weights_sha256"] for name in features if models.get(name, {}).get("weights_sha256")}
    xy = np.asarray(grid["coords"][:], np.float64)
    return TileFile(
        "raw2features zarr",
        xy,
        side0,
        tile_size,
        overlap,
        None,
        step0,
        size,
        features=features,
        facts={"weights_sha256": weights} if weights else {},
    )


_READERS: dict[str, Callable[[Path], TileFile]] = {
    ".h5": _read_h5,
    ".hdf5": _read_h5,
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
