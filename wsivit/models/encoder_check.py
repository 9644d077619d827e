"""Whether vectors or weights from elsewhere are an encoder's, by eight pictures; and by which other rule if not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsivit.errors import UsageError
from wsivit.io import replacing
from wsivit.models.encoders import Encoder, Pooling, encoder
from wsivit.models.run_folder import Interpolation

if TYPE_CHECKING:
    from torch import nn

PROBES, SIDE = 8, 320
"""How many pictures, and their side in pixels: a size of no encoder, so that each rule of resizing shows."""
_CLOSE = 0.02
"""Share of a vector's length by which it may differ: half precision and other resizers stay well below."""
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".torch")
"""Endings of files with weights."""
_NORMALISATIONS = {
    "ImageNet's mean and deviation": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mean and deviation of 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "CLIP's mean and deviation": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "H-optimus' mean and deviation": ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)),
}


@dataclass(frozen=True)
class EncoderCheck:
    """What vectors of the probe pictures say.

    Attributes
    ----------
    encoder : str
    what : {"vectors", "weights"}
        What was checked.
    matches : bool
        Whether they are what the registry's rule gives.
    difference : float
        Length of the difference from that, as a share of the vectors' length; inf where the lengths differ.
    variant : str
        The rule that they agree with where it is another; empty where there is none.
    """

    encoder: str
    matches: bool
    difference: float
    variant: str
    what: Literal["vectors", "weights"] = "vectors"

    def __str__(self) -> str:
        if self.matches:
            return f"these are {self.what} of {self.encoder} (difference {self.difference:.2g})"
        if self.variant:
            return f"not {self.encoder} by its rule (difference {self.difference:.2g}), but with {self.variant}"
        return f"not {self.encoder}, by no rule that is known (difference {self.difference:.2g})"


def probe_pictures() -> NDArray[np.uint8]:
    """Draw the pictures, uint8 (8, 320, 320, 3): always the same ones.

    They are noise at several sizes in the colours of H&E, from whole numbers alone, so that no version of a library
    draws others.
    """
    pictures = np.empty((PROBES, SIDE, SIDE, 3), np.uint8)
    for number in range(PROBES):
        total = np.zeros((SIDE, SIDE), np.int64)
        for octave, cell in enumerate((64, 16, 4, 1)):
            n = SIDE // cell
            seeds = np.arange(n * n, dtype=np.uint64) + np.uint64(1_000_003 * (7 * number + octave + 1))
            total += np.kron(_hashed(seeds).reshape(n, n) % 256, np.ones((cell, cell), np.int64)) * (4 - octave)
        stain = total // 10  # 0 to 255
        eosin, nuclei = np.int64(60 + 20 * (number % 3)), np.int64(90 + 10 * (number % 4))
        channels = [255 - stain * nuclei // 255, 255 - stain * (nuclei + eosin) // 255, 255 - stain * eosin // 255]
        pictures[number] = np.stack(channels, -1).clip(0, 255).astype(np.uint8)
    return pictures


def _hashed(seeds: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Mix integers (the finaliser of splitmix64)."""
    mixed = seeds * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(40)).astype(np.int64)


def write_probe_pictures(folder: str | os.PathLike[str]) -> list[Path]:
    """Write the pictures as ``probe-0.png`` to ``probe-7.png``, for another tool to make vectors of."""
    from PIL import Image

    paths = [Path(folder) / f"probe-{number}.png" for number in range(PROBES)]
    for path, picture in zip(paths, probe_pictures(), strict=True):
        with replacing(path) as temporary:
            Image.fromarray(picture).save(temporary, format="PNG")
    return paths


def check_encoder(
    name: str,
    file: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    allow_other_weights: bool = False,
) -> EncoderCheck:
    """Tell whether vectors of the probe pictures are an encoder's, or whether weights are.

    Parameters
    ----------
    name : str
        Of the encoder.
    file : path
        Vectors: ``.npy``, or ``.h5`` with ``features`` (or ``feats``), float (8, d), one per probe picture, in their
        order. Or weights: a file, or a folder in the form of a repository, whose own settings (``config.json``,
        ``preprocessor_config.json``) then say how its input is made and what is pooled.
    weights : path, optional
        Of the encoder, to compare with. Default: `file` where its checksum is the registry's, else the hub's.
    allow_other_weights : bool
        Whether `weights` may have another checksum than the registry's.

    Returns
    -------
    EncoderCheck

    Raises
    ------
    UsageError
        The file holds no such vectors, or is a pickle that the registry does not list; the encoder or its weights
        cannot be had.
    """
    from wsivit.models.open_encoder import open_encoder  # loads torch

    known, path = encoder(name), Path(file)
    if not path.is_dir() and path.suffix not in _WEIGHTS:
        given = _read(path)
        reference: Any = open_encoder(known, weights, allow_other_weights=allow_other_weights).load()
        return _compare(given, reference.model, known, "vectors")
    other = open_encoder(known, path, allow_other_weights=True)
    network: Any = other.load()
    given = _vectors(network.model, _own_rule(path, known))
    if other.spec.weights_registered and weights is None:
        return _compare(given, network.model, known, "weights")
    try:
        reference = open_encoder(known, weights, allow_other_weights=allow_other_weights).load()
    except UsageError as error:
        raise UsageError(f"{path}: its checksum is not the registry's, and nothing to compare with: {error}") from error
    return _compare(given, reference.model, known, "weights")


def _compare(
    given: NDArray[np.float64], model: nn.Module, known: Encoder, what: Literal["vectors", "weights"]
) -> EncoderCheck:
    apart = {rule: _difference(given, _vectors(model, variant)) for rule, variant in _variants(known)}
    ours = apart.pop("")
    nearest = min(apart, key=apart.__getitem__, default="")
    # A rule that is nearly the same (bilinear for bicubic) is within the tolerance as well: the nearest one counts.
    if ours <= _CLOSE and (not nearest or ours <= apart[nearest]):
        return EncoderCheck(known.name, True, ours, "", what)
    return EncoderCheck(known.name, False, ours, nearest if nearest and apart[nearest] <= _CLOSE else "", what)


def _own_rule(path: Path, known: Encoder) -> Encoder:
    """Return the encoder by the input rule and pooling of a folder's own settings; as it is where there are none."""
    from wsivit.models.model_names import CONFIG, read_config
    from wsivit.models.published_input import processor_input, timm_input

    if not (path / CONFIG).is_file():
        return known
    config = read_config(path)
    if "architecture" in config:
        made = timm_input(str(path), config.get("pretrained_cfg", {}))
        pooling = {"token": "cls", "avg": "mean"}.get(config.get("global_pool", ""))
        known = known.with_pooling(pooling) if pooling and known.pooling != "own" else known  # type: ignore[arg-type]
    else:
        processor = processor_input(str(path), native=known.image_size)
        if processor is None:
            return known
        made = processor
    return replace(
        known,
        image_size=made.image_size,
        resize=made.resize,
        interpolation=made.interpolation,
        mean=made.mean,
        std=made.std,
    )


def _variants(known: Encoder) -> Iterator[tuple[str, Encoder]]:
    """The rule of the registry, under no name, and every single departure from it that has been seen in use."""
    yield "", known
    if known.pooling != "own":
        poolings: tuple[Pooling, ...] = ("cls", "cls+mean", "mean")
        for pooling in poolings:
            changed = known.with_pooling(pooling)
            if pooling != known.pooling:
                yield f"pooling {pooling}", changed
            if known.registers and pooling != "cls":
                yield f"pooling {pooling} that counts the register tokens", replace(changed, registers=0)
    interpolations: tuple[Interpolation, ...] = ("bilinear", "bicubic")
    for interpolation in interpolations:
        if interpolation != known.interpolation:
            yield f"interpolation {interpolation}", replace(known, interpolation=interpolation)
    if known.resize:
        yield f"tiles resized to {known.image_size} px and not cropped", replace(known, resize=None)
    else:
        larger = round(known.image_size * 256 / 224)
        yield f"tiles resized to {larger} px and cropped to {known.image_size}", replace(known, resize=larger)
    for what, (mean, std) in _NORMALISATIONS.items():
        if (mean, std) != (known.mean, known.std):
            yield what, replace(known, mean=mean, std=std)


def _vectors(model: nn.Module, variant: Encoder) -> NDArray[np.float64]:
    import torch

    from wsivit.models.model_input import model_input
    from wsivit.models.open_encoder import PooledNetwork

    changed = PooledNetwork(model, variant.pooling, variant.registers)
    pixels = torch.from_numpy(probe_pictures()).permute(0, 3, 1, 2)
    with torch.inference_mode():
        made: NDArray[np.float64] = changed(model_input(pixels, variant.preprocessing)).double().numpy()
    return made


def _difference(given: NDArray[np.float64], ours: NDArray[np.float64]) -> float:
    if given.shape != ours.shape:
        return float("inf")
    return float((np.linalg.norm(given - ours, axis=1) / np.linalg.norm(ours, axis=1)).max())


def _read(path: Path) -> NDArray[np.float64]:
    try:
        if path.suffix in (".h5", ".hdf5"):
            import h5py  # type: ignore[import-untyped, unused-ignore]

            with h5py.File(path) as file:
                values = np.asarray(file["features" if "features" in file else "feats"], np.float64)
        else:
            values = np.asarray(np.load(path, allow_pickle=False), np.float64)
    except ImportError:
        raise UsageError('reading H5 needs h5py, which is not installed: pip install "wsivit[h5]"') from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: holds no vectors ({error}); give .npy, or .h5 with features") from error
    if values.ndim == 3 and values.shape[0] == 1:  # TRIDENT's files may have an axis for the slide
        values = values[0]
    if values.ndim != 2 or len(values) != PROBES or not np.isfinite(values).all():
        raise UsageError(
            f"{path}: expected {PROBES} vectors of finite numbers, one per probe picture; it has {values.shape}"
        )
    return values
