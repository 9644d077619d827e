"""The zarr codec ``imagecodecs_jpeg``, also for Pythons where the package that defines it does not exist.

Name, configuration and decoding rule are those of the package ``imagecodecs-zarr`` (Python >= 3.12). wsivit offers the
name through the same ``zarr.codecs`` entry point, so that plain ``zarr.open`` reads a store wherever wsivit is
installed. Where another package offers the name as well, :data:`Jpeg` is that package's class.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Self

import imagecodecs
import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.registry import get_codec_class, register_codec

NAME = "imagecodecs_jpeg"


@dataclass(frozen=True)
class WsivitJpeg(ArrayBytesCodec):
    """JPEG as a zarr v3 array-to-bytes codec; every chunk is one complete JPEG.

    Parameters
    ----------
    level : int, optional
        Quality used when encoding.
    subsampling : str, optional
        Chroma subsampling used when encoding, e.g. ``"444"``.
    """

    is_fixed_size = False

    level: int | None = None
    subsampling: str | None = None

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Build from the metadata of an array; ValueError for a setting that stores of wsivit never have."""
        configuration = data.get("configuration") or {}
        foreign = sorted(set(configuration) - {"level", "subsampling"})
        if foreign:
            raise ValueError(
                f"wsivit's own {NAME} codec does not know {', '.join(foreign)}: install imagecodecs-zarr"
                " (Python >= 3.12)"
            )
        return cls(**configuration)

    def to_dict(self) -> dict[str, Any]:
        """Return the metadata of an array; unset settings are left out."""
        settings = {"level": self.level, "subsampling": self.subsampling}
        configuration = {key: value for key, value in settings.items() if value is not None}
        return {"name": NAME, "configuration": configuration} if configuration else {"name": NAME}

    # Newer versions of zarr call the `_sync` methods directly, without an event loop.
    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        pixels = imagecodecs.jpeg8_decode(chunk_bytes.to_bytes())
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels.reshape(chunk_spec.shape))

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        pixels = np.squeeze(chunk_array.as_numpy_array())
        encoded = imagecodecs.jpeg8_encode(pixels, level=self.level, subsampling=self.subsampling)
        return chunk_spec.prototype.buffer.from_bytes(encoded)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Not known before encoding."""
        raise NotImplementedError


# Two classes of one name would be two codecs to zarr: the other package's wins, as it is the one with a specification.
Jpeg: Any = next(
    (point.load() for point in entry_points(group="zarr.codecs", name=NAME) if not point.value.startswith("wsivit.")),
    WsivitJpeg,
)


def register() -> None:
    """Register the codec with zarr in this process, if it is not yet registered.

    Only needed where wsivit is on the path without being installed: zarr finds the entry point of an installed one.
    """
    try:
        get_codec_class(NAME)
    except (KeyError, ValueError):
        register_codec(NAME, Jpeg)
