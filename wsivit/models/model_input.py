"""A model's input: made of tiles on the device, in batches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wsivit.errors import UsageError
from wsivit.models.run_folder import Preprocessing

_LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in one grey channel (ITU-R BT.601), as Pillow's mode L has them."""


def fit_tiles(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Make RGB pictures of a model's input size, float (n, 3, s, s) in 0-1, of uint8 tiles (n, 3, h, w).

    Raises
    ------
    UsageError
        The model takes tiles of one size only (``do_resize`` is false), and these have another.
    """
    size, side = preprocessing.image_size, pixels.shape[-1]
    if preprocessing.channels == "L":
        # In whole numbers as Pillow does; still three channels.
        shares = torch.tensor([19595, 38470, 7471], dtype=torch.int32, device=pixels.device)[:, None, None]
        grey = ((pixels.int() * shares).sum(1, keepdim=True) + 0x8000) >> 16
        pixels = grey.to(torch.uint8).expand_as(pixels).contiguous()
    if preprocessing.interpolation == "none":
        if side != size and preprocessing.crop == "none":
            raise UsageError(
                f"the model takes {size} px as they are (its processor does not resize), these have {side} px; "
                f"tile with --tile-size {size}"
            )
        pictures = pixels.float().div_(255)
    else:
        pictures = resize(pixels, preprocessing.resize or size, preprocessing.interpolation)
    margin = pictures.shape[-1] - size
    if margin < 0:
        before, after = -margin // 2, (1 - margin) // 2
        return F.pad(pictures, (before, after, before, after))
    first = round(margin / 2) if preprocessing.crop == "round" else margin // 2
    return pictures[..., first : first + size, first : first + size]


def normalise_pictures(pictures: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Turn RGB pictures in 0-1 (n, 3, s, s) into the channels and values that the model takes (n, c, s, s)."""
    if preprocessing.channels == "BGR":
        pictures = pictures.flip(1)
    elif preprocessing.channels == "L":
        pictures = (pictures * pictures.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    # Pictures are in 0-1: their values times this are byte values times the scale; 1 for nearly every model.
    factor = 255 * preprocessing.scale
    mean, std = (tuple(value / factor for value in values) for values in (preprocessing.mean, preprocessing.std))
    return normalise(pictures, mean, std)


def model_input(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Make a model's input (n, c, s, s) of uint8 tiles (n, 3, h, w)."""
    return normalise_pictures(fit_tiles(pixels, preprocessing), preprocessing)


def blank_input(preprocessing: Preprocessing) -> Tensor:
    """Make input of one picture, all zeros (1, c, s, s), to try a network with."""
    return torch.zeros(1, preprocessing.channel_count, preprocessing.image_size, preprocessing.image_size)


def resize(pixels: Tensor, size: int, interpolation: str = "bilinear") -> Tensor:
    """Make float (n, 3, size, size) in 0-1 of uint8 pictures (n, 3, h, w): antialiased, rounded to whole bytes.

    Parameters
    ----------
    pixels : Tensor of uint8 (n, 3, h, w)
    size : int
    interpolation : {"bilinear", "bicubic", "lanczos", "nearest"}
    """
    if pixels.shape[-2:] == (size, size):
        return pixels.float().div_(255)
    # On the CPU torch resizes bytes several times faster than floats; elsewhere it knows floats, and no lanczos.
    whole = pixels.cpu() if interpolation == "lanczos" else pixels
    whole = whole if whole.device.type == "cpu" else whole.float()
    if interpolation == "nearest":
        resized = F.interpolate(whole, (size, size), mode="nearest-exact")
    else:
        resized = F.interpolate(whole, (size, size), mode=interpolation, antialias=True, align_corners=False)
    return resized.to(pixels.device).float().round_().clamp_(0, 255).div_(255)


def normalise(pictures: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Subtract the mean and divide by the standard deviation of each channel."""
    centre, spread = (pictures.new_tensor(values)[:, None, None] for values in (mean, std))
    return (pictures - centre).div_(spread)
