"""Which input a published model expects, read off its processor or its timm settings and proven on pictures.

The fields of a published processor say it in a dozen dialects (``crop_pct`` means three things in three families). So
they only give candidates, and one is taken where it makes of pictures of noise what the processor itself makes of them.
Where none does, the model is rejected: its scores would be wrong without a word.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsivit.errors import UsageError
from wsivit.models.model_input import model_input
from wsivit.models.run_folder import Interpolation, Preprocessing
from wsivit.models.weights import MODEL_LOAD_ERRORS

_log = logging.getLogger(__name__)

PROCESSOR = "preprocessor_config.json"
_PROCESSORS = (PROCESSOR, "processor_config.json")
_TOLERANCE = 4.0, 0.35
"""Grey levels that two libraries may differ by, at most and on average: each rounds to bytes in its own way."""
_INTERPOLATIONS: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
RESAMPLE: dict[str, int] = {name: code for code, name in _INTERPOLATIONS.items()}
"""Pillow's number of each interpolation, as processors have it."""
Transform: TypeAlias = Callable[[Image.Image], Tensor]


def processor_input(
    name: str, channels: int = 3, native: int | None = None, *, scored: bool = True
) -> Preprocessing | None:
    """Read how a transformers model's input is made, and prove it on pictures; None where it has no processor.

    Parameters
    ----------
    name : str
        A folder or hub id.
    channels : int
        That the model takes.
    native : int, optional
        Side of the model's input by its ``config.json``, for a processor that does not resize.
    scored : bool
        Whether the model's own scores are wanted. Else a processor that transformers cannot load, such as one with code
        of its own, counts as none: a new head can learn from other input.

    Raises
    ------
    UsageError
        It asks for something that cannot be honoured.
    """
    from transformers import AutoImageProcessor
    from transformers.utils.hub import cached_file

    if Path(name).is_dir():
        present = any((Path(name) / file).is_file() for file in _PROCESSORS)
    else:
        cached = (cached_file(name, file, _raise_exceptions_for_missing_entries=False) for file in _PROCESSORS)
        present = any(file is not None for file in cached)
    if not present:
        return None
    load: Any = AutoImageProcessor.from_pretrained  # untyped
    try:
        processor = load(name, trust_remote_code=False)
    except MODEL_LOAD_ERRORS as error:
        if not scored:
            return None
        raise _refusal(name, f"transformers cannot load it ({_first_line(error)})") from error

    def transform(picture: Image.Image) -> Tensor:
        made: Any = processor(picture, return_tensors="pt")["pixel_values"]
        return torch.as_tensor(made).float()

    return _proven(name, _candidates(processor, name, channels, native), transform)


def timm_input(name: str, settings: dict[str, Any]) -> Preprocessing:
    """Read how a timm model's input is made, and prove it on pictures.

    Parameters
    ----------
    name : str
    settings : dict
        Its ``pretrained_cfg``.

    Raises
    ------
    UsageError
        It asks for something that cannot be honoured.
    """
    from timm.data.config import resolve_data_config
    from timm.data.transforms_factory import create_transform

    try:
        resolve: Any = resolve_data_config  # untyped
        config = resolve(pretrained_cfg=settings)
        transform = create_transform(**config, is_training=False)
        channels, height, width = map(int, config["input_size"])
        _require_square(name, height, width)
        made = Preprocessing(
            height,
            _per_channel(config["mean"], channels),
            _per_channel(config["std"], channels),
            interpolation=config["interpolation"],
            resize=int(height / config["crop_pct"]),
            crop="round",
            channels=_channels(name, channels, flipped=False),
        )
    except UsageError:  # a ValueError that has its words already
        raise
    except (ValueError, TypeError, KeyError, ZeroDivisionError) as error:
        raise _refusal(name, str(error)) from error
    return _proven(name, [_simplest(made)], lambda picture: transform(picture)[None].float())


def published_preprocessing(name: str, config: Any, *, scored: bool) -> Preprocessing:
    """How a transformers model's input is made; where nothing says it, ImageNet's values, with a warning."""
    native = native_size(config)
    channels = int(getattr(config, "num_channels", 3))
    made = processor_input(name, channels, native, scored=scored)
    if made is not None:
        return made
    _log.warning(
        "model %s comes without a %s that can be read, so nothing says how its input is made: the mean and deviation "
        "of ImageNet are taken, and if it learned from others its scores are WRONG; put in the file of the model that "
        "it was trained from",
        name,
        PROCESSOR,
    )
    if channels == 1:
        return Preprocessing(native or 224, (0.449,), (0.226,), channels="L")  # their means over the channels
    return Preprocessing(native or 224)


def native_size(config: Any) -> int | None:
    """Side of a transformers model's input by its ``config.json``, in pixels; None where it does not say."""
    size = getattr(config, "image_size", None)
    size = size[0] if isinstance(size, list | tuple) else size
    return None if size is None else int(size)


# Processors ------------------------------------------------------------------------------------------


def _candidates(processor: Any, name: str, channels: int, native: int | None) -> Iterator[Preprocessing]:
    """Everything that a processor's fields may mean."""
    asked = _Fields(processor, name)
    mean, std, scale = asked.values(channels)
    made = Preprocessing(
        1, mean, std, scale, channels=_channels(name, channels, flipped=bool(asked("do_flip_channel_order")))
    )
    cut = asked.side("crop_size") if asked("do_center_crop") else None
    if not asked("do_resize"):
        if cut is None and native is None:
            raise _refusal(name, "it does not resize, and nothing says which size of input the model was made for")
        yield replace(
            made, image_size=cut or native or 0, interpolation="none", crop="none" if cut is None else "floor"
        )
        return
    resample = asked("resample")
    code = 2 if resample is None else int(resample)
    if code not in _INTERPOLATIONS:
        raise _refusal(name, f"it resizes by Pillow's filter {code}; known are {_INTERPOLATIONS}")
    made = replace(made, interpolation=_INTERPOLATIONS[code])
    side = asked.side("size")
    if side is None:
        raise _refusal(name, f"its size is {asked('size')}, not one side of a square")
    part = asked("crop_pct")
    for resize in dict.fromkeys([side, int(side / part) if part else side, int(256 / 224 * side)]):
        # Where nothing else is said of a cut, it is to the size asked for (ConvNeXT).
        yield _simplest(replace(made, image_size=cut or side, resize=resize, crop="floor"))


class _Fields:
    """The fields of a processor, also those that only its class says."""

    def __init__(self, processor: Any, name: str) -> None:
        self._processor, self._name = processor, name

    def __call__(self, field: str) -> Any:
        return getattr(self._processor, field, None)

    def side(self, field: str) -> int | None:
        """Side of a square; None where it is given in another way."""
        given = self(field)
        get = given.get if hasattr(given, "get") else lambda key: getattr(given, key, None)
        if isinstance(given, int):
            return given
        height, width, shortest = get("height"), get("width"), get("shortest_edge")
        if height and width:
            _require_square(self._name, height, width)
        found = shortest or height
        return int(found) if found else None

    def values(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...], float]:
        """Mean, standard deviation and scale of what is done to byte values, all of it."""
        scales, normalises = bool(self("do_rescale")), bool(self("do_normalize"))
        given_std = _per_channel(self("image_std") or 1.0, channels)
        mean = _per_channel(self("image_mean"), channels) if normalises else (0.0,) * channels
        std = given_std if normalises else (1.0,) * channels
        if scales and self("rescale_offset"):  # 1 is taken off before the mean is
            mean = tuple(value + 1 for value in mean)
        if self("include_top"):  # EfficientNet divides once more
            std = tuple(one * two for one, two in zip(std, given_std, strict=True))
        return mean, std, float(self("rescale_factor")) if scales else 1.0


# Both ------------------------------------------------------------------------------------------------


def _simplest(made: Preprocessing) -> Preprocessing:
    """Leave out a cut that cuts nothing."""
    return replace(made, resize=None, crop="none") if made.resize == made.image_size else made


def _channels(name: str, count: int, *, flipped: bool) -> Literal["RGB", "BGR", "L"]:
    if count not in (1, 3):
        raise _refusal(name, f"it takes {count} channels; tiles have red, green and blue")
    return "L" if count == 1 else "BGR" if flipped else "RGB"


def _per_channel(values: Any, count: int) -> tuple[float, ...]:
    listed = [values] if isinstance(values, int | float) else list(values)
    return tuple(map(float, listed * count if len(listed) == 1 else listed))


def _require_square(name: str, height: int, width: int) -> None:
    if height != width:
        raise _refusal(name, f"its input is {width} x {height}; tiles are squares")


def _refusal(name: str, why: str) -> UsageError:
    return UsageError(f"model {name}: its input cannot be made as its own processor makes it: {why}")


def _proven(name: str, candidates: Iterable[Preprocessing], transform: Transform) -> Preprocessing:
    """Return the candidate that does to pictures what the model's own transform does."""
    nearest = ""
    for candidate in candidates:
        difference = _difference(candidate, transform)
        if not difference:
            return candidate
        nearest = nearest or difference
    raise _refusal(name, nearest)


def _difference(candidate: Preprocessing, transform: Transform) -> str:
    """Say how the input made of pictures differs from the transform's own; empty where it does not."""
    # Noise, scaled up and down: no filter, crop or channel hides in it.
    size, rng = candidate.image_size, np.random.default_rng(0)
    sides = [size * 5 // 8, size * 4 // 3 + 5]
    if candidate.interpolation == "none":
        sides = [size + 37, size + 2] if candidate.crop != "none" else [size]
    for side in sides:
        pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
        picture = Image.fromarray(pixels)
        try:
            theirs = transform(picture.convert("L") if candidate.channels == "L" else picture)
        except MODEL_LOAD_ERRORS as error:
            return f"it cannot be run on a picture ({_first_line(error)})"
        ours = model_input(torch.from_numpy(pixels)[None].permute(0, 3, 1, 2), candidate)
        if theirs.shape != ours.shape:
            return f"it makes input of shape {tuple(theirs.shape)[1:]}, expected was {tuple(ours.shape)[1:]}"
        level = torch.tensor(candidate.std)[:, None, None].abs() / abs(candidate.scale)
        apart = (ours - theirs).abs() * level
        if not (apart.max() <= _TOLERANCE[0] and apart.mean() <= _TOLERANCE[1]):
            return f"pixels differ by {apart.mean():.1f} of 255 grey levels on average, so it does something more"
    return ""


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
