"""Tiles as a model takes them, made on the device in batches, exactly as its `Preprocessing` says."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wsivit.errors import UsageError
from wsivit.models.run_folder import Preprocessing

_LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in one grey channel (ITU-R BT.601), as Pillow's mode L has them."""


def fit_tiles(pixels: Tensor, made: Preprocessing) -> Tensor:
    """Make RGB pictures of a model's input size, float (n, 3, s, s) in 0-1, of uint8 tiles (n, 3, h, w).

    Raises
    ------
    UsageError
        The model takes tiles of one size only (``do_resize`` is false), and these have another.
    """
    size, side = made.image_size, pixels.shape[-1]
    if made.channels == "L":
        pixels = _grey(pixels)
    if made.interpolation == "none":
        if side != size and made.crop == "none":
            raise UsageError(
                f"the model takes {size} px as they are (its processor does not resize), these have {side} px; "
                f"tile with --tile-size {size}"
            )
        pictures = pixels.float().div_(255)
    else:
        pictures = resize(pixels, made.resize or size, made.interpolation)
    margin = pictures.shape[-1] - size
    if margin < 0:
        before, after = -margin // 2, (1 - margin) // 2
        return F.pad(pictures, (before, after, before, after))
    first = round(margin / 2) if made.crop == "round" else margin // 2
    return pictures[..., first : first + size, first : first + size]


def _grey(pixels: Tensor) -> Tensor:
    """Take the colour out of uint8 pictures (n, 3, h, w), in whole numbers as Pillow does; still three channels."""
    shares = torch.tensor([19595, 38470, 7471], dtype=torch.int32, device=pixels.device)[:, None, None]
    grey = ((pixels.int() * shares).sum(1, keepdim=True) + 0x8000) >> 16
    return grey.to(torch.uint8).expand_as(pixels).contiguous()


def normalise_pictures(pictures: Tensor, made: Preprocessing) -> Tensor:
    """Turn RGB pictures in 0-1 (n, 3, s, s) into the channels and values that the model takes (n, c, s, s)."""
    if made.channels == "BGR":
        pictures = pictures.flip(1)
    elif made.channels == "L":
        pictures = (pictures * pictures.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    # Byte values times the scale, as fractions of 255 times 255 times the scale; 1 for nearly every model.
    factor = 255 * made.scale
    mean, std = (tuple(value / factor for value in values) for values in (made.mean, made.std))
    return normalise(pictures, mean, std)


def model_input(pixels: Tensor, made: Preprocessing) -> Tensor:
    """Make a model's input (n, c, s, s) of uint8 tiles (n, 3, h, w)."""
    return normalise_pictures(fit_tiles(pixels, made), made)


def blank_input(made: Preprocessing) -> Tensor:
    """Make input of one picture, all zeros (1, c, s, s), to try a network with."""
    return torch.zeros(1, made.channel_count, made.image_size, made.image_size)


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
