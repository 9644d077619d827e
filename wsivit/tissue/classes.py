"""What a tissue mask is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

BoolMask: TypeAlias = NDArray[np.bool_]
FloatImage: TypeAlias = NDArray[np.float32]


class TissueClass(IntEnum):
    """What a pixel of the class map shows."""

    GLASS = 0
    TISSUE = 1
    FAT = 2
    PEN = 3
    FOLD = 4
    BLUR = 5
    DEBRIS = 6


@dataclass(frozen=True)
class Tissue:
    """Where the tissue of a slide is.

    Attributes
    ----------
    mask : bool ndarray, (h, w)
        Spans the whole slide; its scale is the slide's size over its shape.
    classes : uint8 ndarray, (h, w), or None
        A :class:`TissueClass` per pixel; None where the method knows no classes.
    parameters : dict
        Everything that made the mask, plain values for JSON.
    """

    mask: BoolMask
    classes: NDArray[np.uint8] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
