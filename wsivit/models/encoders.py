"""The registry of patch encoders: what a name means, so that the same name is the same vector. No torch."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any, Literal, Self, TypeAlias, get_args

from wsivit.errors import UsageError
from wsivit.models.run_folder import Interpolation, Preprocessing

Pooling: TypeAlias = Literal["cls", "cls+mean", "mean", "own", "tokens"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


@dataclass(frozen=True)
class Encoder:
    """A patch encoder of the registry.

    Attributes
    ----------
    name : str
    aliases : tuple of str
        Other names in use for it.
    hub, revision, file, sha256 : str
        Repository, commit and file of its weights, and their checksum; empty where they are not known.
    pickle : bool
        Whether that file is a pickle which may be converted once its checksum is right.
    library : {"timm", "transformers", ""}
        Who builds the network; empty where it is `refused`.
    architecture : str
        Name in timm, class in transformers.
    arguments : dict
        What makes the architecture this network.
    image_size : int
        Side of its input, in pixels.
    resize : int or None
        Side that tiles are resized to before the centre is cropped, in pixels; None: `image_size`, nothing is cropped.
    mpp : float or None
        Microns per pixel of the tiles it was made for; None where nobody says.
    mean, std : tuple of float
        Per channel, of values in 0-1.
    interpolation : str
    precision : {"fp32", "fp16"}
        In which its authors run it.
    pooling : {"cls", "cls+mean", "mean", "own", "tokens"}
        What of its output is the vector.
    registers : int
        Register tokens, which are in no mean.
    dim : int
        Length of the vector by its own `pooling`.
    licence : str
    gated : bool
        Whether access must be asked for.
    note : str
        What public tools or its own documents disagree about.
    refused : str
        Why it cannot be run here; empty where it can.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation
    image_size: int
    pooling: Pooling
    dim: int
    licence: str
    precision: Literal["fp32", "fp16"] = "fp32"
    aliases: tuple[str, ...] = ()
    hub: str = ""
    revision: str = ""
    file: str = ""
    sha256: str = ""
    pickle: bool = False
    library: Literal["timm", "transformers", ""] = ""
    architecture: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    resize: int | None = None
    mpp: float | None = None
    registers: int = 0
    gated: bool = False
    note: str = ""
    refused: str = ""

    @classmethod
    def from_dict(cls, name: str, values: dict[str, Any]) -> Self:
        """Make an encoder of its table in the registry."""
        given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(name=name, **given)

    @property
    def column_name(self) -> str:
        """Name of its features in a store: a name means one thing, so another pooling has another name."""
        own = encoders().get(self.name)
        changed = own is not None and own.pooling != self.pooling
        return f"{self.name}-{self.pooling}".replace("+", "-") if changed else self.name

    @property
    def tile_size(self) -> int:
        """Side of the tiles that it takes without resampling, in pixels."""
        return self.resize or self.image_size

    @property
    def preprocessing(self) -> Preprocessing:
        """How tiles become its input."""
        # torchvision's CenterCrop, which all its users crop with, rounds half a pixel to the even one.
        crop: Literal["round", "none"] = "round" if self.resize else "none"
        return Preprocessing(
            self.image_size, self.mean, self.std, interpolation=self.interpolation, resize=self.resize, crop=crop
        )

    @property
    def url(self) -> str:
        """Where its weights, and access to them, are to be had; empty where that is not known."""
        return f"https://huggingface.co/{self.hub}" if self.hub else ""

    def width(self, pooling: Pooling) -> int:
        """Return the length of the vector (of each token's, for ``tokens``) by a pooling."""
        single = self.dim // 2 if self.pooling == "cls+mean" else self.dim
        return 2 * single if pooling == "cls+mean" else single

    def with_pooling(self, pooling: Pooling | None) -> Self:
        """Return the encoder with another pooling.

        Raises
        ------
        UsageError
            There is no such pooling, or the network has no tokens to pool.
        """
        if pooling is None or pooling == self.pooling:
            return self
        if pooling not in POOLINGS:
            raise UsageError(f"pooling must be one of {', '.join(POOLINGS)}, not {pooling!r}")
        if self.pooling == "own" or pooling == "own":
            raise UsageError(f"encoder {self.name}: its pooling is {self.pooling}, and it has no other")
        return replace(self, pooling=pooling, dim=self.width(pooling))

    def fingerprint(self, weights_sha256: str) -> str:
        """Return the identity of vectors: which weights, what was fed to them, what was kept of the output."""
        parts: dict[str, Any] = {"weights": weights_sha256, "preprocessing": asdict(self.preprocessing)}
        parts |= {"pooling": self.pooling, "registers": self.registers}
        return "sha256:" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def encoders() -> dict[str, Encoder]:
    """Return every encoder of the registry by its name, in the order of the alphabet."""
    text = (resources.files("wsivit.models") / "encoders.toml").read_text(encoding="utf-8")
    return {name: Encoder.from_dict(name, values) for name, values in sorted(tomllib.loads(text).items())}


def find_encoder(name: str) -> Encoder | None:
    """Return the encoder of a name, however it is written; None where no encoder has that name.

    Case, dashes, underscores, dots and spaces do not count, and its repository on the hub is a name as well.
    """
    wanted = _plain(name)
    return next((e for e in encoders().values() if wanted in map(_plain, (e.name, *e.aliases, e.hub or e.name))), None)


def encoder(name: str) -> Encoder:
    """Return the encoder of a name, however it is written.

    Raises
    ------
    UsageError
        No encoder has that name; the nearest ones are named.
    """
    if (known := find_encoder(name)) is not None:
        return known
    names = {_plain(spelling): e.name for e in encoders().values() for spelling in (e.name, *e.aliases)}
    close = dict.fromkeys(names[plain] for plain in difflib.get_close_matches(_plain(name), names, 4, 0.5))
    nearest = f"; the nearest are {', '.join(close)}" if close else ""
    raise UsageError(f"unknown encoder {name!r}{nearest}; `wsivit encoders` lists all {len(encoders())}")


def _plain(name: str) -> str:
    return re.sub(r"[-_. ]", "", name.lower()).removeprefix("hfhub:")
