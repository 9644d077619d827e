"""Augmentation of training pictures, on the device in batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsivit.errors import UsageError

Augmentation: TypeAlias = Literal["histology", "natural", "none"]

_DENSITIES = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
STAINS = (_DENSITIES / np.linalg.norm(_DENSITIES, axis=1, keepdims=True)).tolist()
"""Optical density per channel of haematoxylin, eosin and DAB (Ruifrok and Johnston), of length 1."""
UNMIXING = np.linalg.inv(STAINS).tolist()
"""From densities per channel to amounts of the three."""


def augmentation(name: str) -> Callable[[Tensor], Tensor]:
    """Return the function for a name; float (n, 3, s, s) in 0-1 in and out, on any device.

    ``histology``: tissue has no up, so flips and quarter turns; stains differ, so jitter in the stains' own space;
    slight scale, focus and brightness. ``natural``: flips left to right, crops, colour. ``none``.
    """
    known: dict[str, Callable[[Tensor], Tensor]] = {
        "histology": histology,
        "natural": natural,
        "none": lambda pictures: pictures,
    }
    if name not in known:
        raise UsageError(f"augmentation must be one of {', '.join(known)}, not {name!r}")
    return known[name]


def histology(pictures: Tensor) -> Tensor:
    """Flip and turn, jitter the stains, and change brightness, scale and focus a little."""
    pictures = turn(pictures)
    pictures = zoom(pictures, 0.9, 1.1)
    pictures = blur(pictures, 0.2)
    pictures = stain_jitter(pictures, 0.2)
    return brightness(pictures, 0.08).clamp(0, 1)


def natural(pictures: Tensor) -> Tensor:
    """Crop and flip left to right, and change brightness and saturation."""
    flip = torch.rand(len(pictures), 1, 1, 1, device=pictures.device) < 0.5
    pictures = torch.where(flip, pictures.flip(-1), pictures)
    pictures = zoom(pictures, 0.6, 1.0)
    grey = pictures.mean(1, keepdim=True)
    return brightness(torch.lerp(grey, pictures, _uniform(pictures, 0.7, 1.3)), 0.2).clamp(0, 1)


def turn(pictures: Tensor) -> Tensor:
    """Apply one of the eight flips and quarter turns to each picture."""
    # Two flips and one transposition, each applied or not. No index is computed, so that nothing waits for a GPU.
    coins = torch.rand(3, len(pictures), 1, 1, 1, device=pictures.device) < 0.5
    pictures = torch.where(coins[0], pictures.flip(-1), pictures)
    pictures = torch.where(coins[1], pictures.flip(-2), pictures)
    return torch.where(coins[2], pictures.transpose(-2, -1), pictures)


def view(pictures: Tensor, code: int) -> Tensor:
    """Show pictures in one of their eight flips and quarter turns, 0 to 7; 0 is as they are."""
    turned = torch.rot90(pictures, code % 4, (-2, -1))
    return turned.flip(-1) if code >= 4 else turned


def zoom(pictures: Tensor, low: float, high: float) -> Tensor:
    """Show between `low` and `high` of each picture's side, at a random place, mirrored where it reaches past."""
    n = len(pictures)
    side = _uniform(pictures, low, high).view(n)
    shift = (torch.rand(n, 2, device=pictures.device) * 2 - 1) * (1 - side).abs()[:, None]
    theta = torch.zeros(n, 2, 3, device=pictures.device)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)


def blur(pictures: Tensor, chance: float) -> Tensor:
    """Put some pictures slightly out of focus, by a 3 x 3 binomial filter."""
    line = pictures.new_tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line).expand(pictures.shape[1], 1, 3, 3)
    chosen = torch.rand(len(pictures), device=pictures.device) < chance
    sharp = F.pad(pictures[chosen], (1, 1, 1, 1), mode="reflect")
    blurred = pictures.clone()
    blurred[chosen] = F.conv2d(sharp, kernel, groups=pictures.shape[1])
    return blurred


def stain_jitter(pictures: Tensor, strength: float) -> Tensor:
    """Scale and shift the amount of each stain by up to `strength`, as another batch of dye would."""
    density = -torch.log(pictures.clamp(min=1 / 255))
    amounts = torch.einsum("nchw,cs->nshw", density, pictures.new_tensor(UNMIXING))
    shape = (len(pictures), 3, 1, 1)
    scale = 1 + strength * (torch.rand(shape, device=pictures.device) * 2 - 1)
    shift = strength * (torch.rand(shape, device=pictures.device) * 2 - 1)
    return torch.exp(-torch.einsum("nshw,sc->nchw", amounts * scale + shift, pictures.new_tensor(STAINS)))


def brightness(pictures: Tensor, strength: float) -> Tensor:
    """Multiply each picture by a factor within `strength` of 1."""
    return pictures * _uniform(pictures, 1 - strength, 1 + strength)


def _uniform(pictures: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(len(pictures), 1, 1, 1, device=pictures.device)
