"""Two pictures in one: mixup and cutmix, in batches on the device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mix(pictures: Tensor, labels: Tensor, classes: int, *, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Mix each picture with another one of the batch.

    Parameters
    ----------
    pictures : Tensor of float (n, 3, h, w)
    labels : Tensor of int (n,)
    classes : int
    mixup, cutmix : float
        Parameter of the beta distribution that the share is drawn from; 0 is off. With both, each batch takes one.

    Returns
    -------
    Tensor, Tensor
        Pictures, and the share of each class (n, classes).
    """
    targets = F.one_hot(labels, classes).float()
    cut = cutmix > 0 and (mixup <= 0 or bool(torch.rand(()) < 0.5))
    strength = cutmix if cut else mixup
    if strength <= 0:
        return pictures, targets
    share = float(torch.distributions.Beta(strength, strength).sample())
    other = torch.randperm(len(pictures), device=pictures.device)
    if cut:
        pictures, share = _paste(pictures, other, share)
    else:
        pictures = torch.lerp(pictures[other], pictures, share)
    return pictures, torch.lerp(targets[other], targets, share)


def _paste(pictures: Tensor, other: Tensor, share: float) -> tuple[Tensor, float]:
    """Paste a box of the other picture over each; return the share that is left of it."""
    height, width = pictures.shape[-2:]
    side = (1 - share) ** 0.5
    y, x = (torch.rand(2) * torch.tensor([height, width])).tolist()
    top, bottom = (round(min(max(y + s * side * height / 2, 0), height)) for s in (-1, 1))
    left, right = (round(min(max(x + s * side * width / 2, 0), width)) for s in (-1, 1))
    mixed = pictures.clone()
    mixed[..., top:bottom, left:right] = pictures[other, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
