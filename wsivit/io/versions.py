"""Versions of the packages that results depend on: one list for stores, runs, clusters and the doctor."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

import wsivit

READING = ("numpy", "simplejpeg", "imagecodecs", "tifffile", "openslide-python", "openslide-bin")
"""What decodes and encodes pixels: the bytes of a store depend on these."""
LEARNING = ("python", "torch", "timm", "transformers", "numpy")
"""What a model computes with."""
NEEDED = (*READING, "zarr", "tiffslide", "pillow", *LEARNING[1:4], "torchvision", "accelerate", "safetensors")
"""What the doctor checks."""


def versions(packages: Iterable[str] = READING) -> dict[str, str]:
    """Return the versions of wsivit and of those packages that are installed; ``python`` is one of them."""
    numbers = {"wsivit": wsivit.__version__} | {name: installed_version(name) for name in packages}
    return {name: number for name, number in numbers.items() if number is not None}


def installed_version(package: str) -> str | None:
    """Return the version of a package, without importing it; None if it is not installed."""
    if package == "python":
        return platform.python_version()
    try:
        return version(package)
    except PackageNotFoundError:
        return None
