"""Checks that what wsivit needs is installed and works: versions, self-tests of readers and codecs, the machine.

Versions are read without importing anything; each self-test writes a small picture or slide and reads it back.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
from numpy.typing import NDArray

from wsivit.errors import WsivitError
from wsivit.io import NEEDED, installed_version

State = Literal["ok", "missing", "broken", "note"]
_LITTLE = 2 << 30
_FAILURES = (ImportError, OSError, RuntimeError, ValueError, AttributeError, TypeError, KeyError)
"""What a library that is installed but does not work may raise."""


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes
    ----------
    kind : str
        ``"version"``, ``"reader"``, ``"codec"``, ``"store"``, ``"machine"`` or ``"extra"``.
    name : str
    state : {"ok", "missing", "broken", "note"}
        ``missing`` and ``broken`` are of what is needed; a ``note`` is good to know.
    text : str
        What the check saw, and for something broken what to do.
    """

    kind: str
    name: str
    state: State
    text: str


@dataclass(frozen=True)
class Diagnosis:
    """The results of all checks.

    Attributes
    ----------
    findings : tuple of Finding
    """

    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether everything that is needed is installed and works."""
        return not any(finding.state in ("missing", "broken") for finding in self.findings)


def doctor(*, gpu: bool = False) -> Diagnosis:
    """Check that what wsivit needs is installed and works: versions, readers, codecs, the machine.

    Each reader opens a small slide written for it, each codec encodes and decodes a small picture, a store is
    written and verified. Nothing is left behind.

    Parameters
    ----------
    gpu : bool
        Also load torch, which takes seconds, and say what GPU it sees and whether it computes.

    Returns
    -------
    Diagnosis
    """
    findings = [*_versions(), *_codecs(), *_slides_and_stores(), *_machine(), _gpu(gpu)]
    return Diagnosis((*findings, *_extras()))


def _versions() -> Iterator[Finding]:
    yield Finding("version", "python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in ("wsivit", *NEEDED):
        number = installed_version(name)
        text = f"not installed: pip install {name}" if number is None else number
        yield Finding("version", name, "missing" if number is None else "ok", text)


def _self_test(kind: str, name: str, test: Callable[[], str]) -> Finding:
    """Run a self-test; what it raises is what is broken."""
    try:
        return Finding(kind, name, "ok", test())
    except (*_FAILURES, WsivitError, AssertionError) as error:
        return Finding(kind, name, "broken", f"{type(error).__name__}: {' '.join(str(error).split())}")


def _picture() -> NDArray[np.uint8]:
    """Paint a smooth picture, uint8 (256, 256, 3), with no two pixels of a row alike."""
    y, x = np.mgrid[0:256, 0:256]
    return np.stack([x % 256, y % 256, (x + y) // 2 % 256], axis=2).astype(np.uint8)


def _near(decoded: NDArray[np.uint8], picture: NDArray[np.uint8], allowed: float) -> str:
    if decoded.shape != picture.shape:
        raise ValueError(f"gives {decoded.shape} where {picture.shape} was encoded")
    off = float(np.abs(decoded.astype(int) - picture).mean())
    if off > allowed:
        raise ValueError(f"decodes to another picture: {off:.1f} grey levels off")
    return f"encodes and decodes ({off:.1f} grey levels off)" if off else "encodes and decodes, without loss"


# Codecs


def _codecs() -> Iterator[Finding]:
    def jpeg() -> str:
        # Imported within the self-test: a library that does not load is what it is there to find.
        from wsivit.store import decode, encode_jpeg

        return _near(decode(encode_jpeg(_picture(), 95)), _picture(), 3)

    def zstd() -> str:
        from wsivit.store import decode, encode_zstd

        return _near(decode(encode_zstd(_picture()), (256, 256)), _picture(), 0)

    yield _self_test("codec", "JPEG (simplejpeg)", jpeg)
    yield _self_test("codec", "zstd (imagecodecs)", zstd)
    for name in ("jpeg8", "jpeg2k", "lzw", "zlib"):
        yield _self_test("codec", f"{name} (imagecodecs)", partial(_try_imagecodecs, name))
    yield _self_test("codec", "imagecodecs_jpeg (zarr)", _try_zarr_codec)


def _try_imagecodecs(name: str) -> str:
    import imagecodecs

    picture = _picture()
    if name in ("lzw", "zlib"):
        raw = getattr(imagecodecs, f"{name}_decode")(getattr(imagecodecs, f"{name}_encode")(picture.tobytes()))
        return _near(np.frombuffer(raw, np.uint8).reshape(picture.shape), picture, 0)
    return _near(getattr(imagecodecs, f"{name}_decode")(getattr(imagecodecs, f"{name}_encode")(picture)), picture, 5)


def _try_zarr_codec() -> str:
    import zarr

    from wsivit.store import Jpeg, register

    register()
    picture = _picture()[None]
    array = zarr.create_array({}, data=picture, chunks=picture.shape, serializer=Jpeg(level=95), compressors=None)
    return _near(np.asarray(array[...]), picture, 3)


# Readers, and a store


def _slides_and_stores() -> Iterator[Finding]:
    with tempfile.TemporaryDirectory(prefix="wsivit-doctor-") as folder:
        slide = Path(folder) / "slide.tiff"
        try:
            import tifffile

            tifffile.imwrite(
                slide,
                _picture(),
                tile=(128, 128),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 95},
                resolution=(20000, 20000),  # 0.5 µm/px
                resolutionunit="CENTIMETER",
                metadata=None,
            )
        except (*_FAILURES, WsivitError) as error:
            yield Finding("reader", "tifffile", "broken", f"cannot write a slide to read: {error}")
            return
        for reader in ("native", "openslide", "tiffslide"):
            yield _self_test("reader", reader, partial(_try_reader, slide, reader))
        yield _self_test("store", "write, read, verify", partial(_try_store, slide))


def _try_reader(path: Path, reader: str) -> str:
    from wsivit.slide import open_slide

    with open_slide(path, reader=reader) as slide:  # type: ignore[arg-type]
        decoded = slide.read(slide.plan(0.5), 0, 0, 256, 256)
        _near(decoded, _picture(), 4)
        return f"opens a slide and reads its pixels; {slide.scale.mpp_x:g} µm/px"


def _try_store(path: Path) -> str:
    from wsivit.slide import open_slide
    from wsivit.store import verify
    from wsivit.tiling import TileOptions, tile

    with open_slide(path) as slide:
        store = tile(slide, path.parent, TileOptions(tile_size=128, tissue="none")).store
        if problems := verify(store.url, slide=path):
            raise ValueError("; ".join(problems))
        _near(store.read([0])[0], _picture()[:128, :128], 4)
    return f"{len(store)} tiles, {store.parameters.encoding}"


# The machine


def _machine() -> Iterator[Finding]:
    memory = psutil.virtual_memory().total
    yield Finding("machine", "processors", "ok", f"{os.cpu_count()}, {memory / 2**30:.0f} GiB of memory")
    for name, folder in (("space here", Path.cwd()), ("temporary space", Path(tempfile.gettempdir()))):
        yield _space(name, folder)
    shared = Path("/dev/shm")
    if shared.is_dir():
        yield _space("shared memory", shared)
    from wsivit.io import Lock

    try:  # whether this folder can be written, and its file system has locks
        with Lock(Path.cwd() / f"wsivit-doctor-{os.getpid()}") as lock:
            of_kernel = lock.of_kernel
    except WsivitError as error:
        yield Finding("machine", "writing here", "note", str(error))
        return
    text = (
        f"two writers keep apart in {Path.cwd()}" if of_kernel else "none on this file system: files stand in for them"
    )
    yield Finding("machine", "locks here", "ok" if of_kernel else "note", text)


def _space(name: str, folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    little = " (little: training with workers, and stores, want more)" if free < _LITTLE else ""
    return Finding("machine", name, "note" if little else "ok", f"{free / 2**30:.1f} GiB free in {folder}{little}")


def _gpu(load_torch: bool) -> Finding:
    driver = Path("/dev/nvidiactl").exists()
    if not load_torch:
        text = "an NVIDIA driver is installed" if driver else "no NVIDIA driver"
        return Finding("machine", "GPU", "note", f"{text}; not tested, since loading torch takes seconds: --gpu does")

    def test() -> str:
        import torch

        from wsivit.models import device_for

        device = device_for("auto")
        total = float((torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)).sum())
        if total != 64.0**3:
            raise ValueError(f"{device} computes {total} where {64**3} is right")
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        return f"torch {torch.__version__} computes on {name}"

    return _self_test("machine", "GPU" if driver else "torch", test)


# Extras


def _extras() -> Iterator[Finding]:
    """What each optional extra would add, as the package's own metadata name them."""
    of: dict[str, list[str]] = {}
    for requirement in requires("wsivit") or []:
        name, _, condition = requirement.partition(";")
        if "extra ==" in condition and "test" not in condition:
            extra = condition.split("extra ==")[1].strip().strip("'\"")
            of.setdefault(extra, []).append(name.split(">")[0].split("[")[0].strip())
    for extra, names in of.items():
        missing = [n for n in names if installed_version(n) is None and find_spec(n.replace("-", "_")) is None]
        text = f"lacks {', '.join(missing)}: pip install 'wsivit[{extra}]'" if missing else ", ".join(names)
        yield Finding("extra", extra, "note" if missing else "ok", text)
