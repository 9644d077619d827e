"""Other compressions, NDPI stripes and remote files through the native reader."""

from __future__ import annotations

import io
import re
from pathlib import Path

import fsspec
import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from support.slide_helpers import damage, texture, write_jpeg_slide

from wsivit import open_slide
from wsivit.errors import RemoteError, SlideError, SlideNotFoundError
from wsivit.io.byte_source import LocalFile
from wsivit.slide import TileFailure
from wsivit.slide.jpeg import Normaliser, join_stripes, read_header
from wsivit.slide.jpeg_levels import decode_jpeg
from wsivit.slide.readers.native import NativeBackend

PICTURE = texture(700, 500)
SMOOTH = texture(700, 500, grain=2)


def write(path: Path, picture: np.ndarray = PICTURE, **options: object) -> Path:
    options = {"tile": (128, 128), "photometric": "rgb", "metadata": None} | options
    scale = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, picture, **options, **scale)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("compression", "byteorder"),
    [(None, "<"), ("lzw", "<"), ("deflate", ">"), ("zstd", "<"), ("packbits", ">"), ("webp", "<"), ("jpeg2000", ">")],
)
def test_lossless_tiles_come_back_bit_for_bit(tmp_path: Path, compression: str | None, byteorder: str) -> None:
    args = {"level": 100, "lossless": True} if compression == "webp" else None
    path = write(tmp_path / "a.tif", compression=compression, compressionargs=args, byteorder=byteorder)
    with open_slide(path) as slide:
        assert slide.reader == "native", slide.reader_reason
        assert slide.levels[0].compression == (compression or "none")
        np.testing.assert_array_equal(slide.read(slide.plan(0.5), 0, 0, 700, 500), PICTURE)
        assert slide.native_tiles(0) is None


def test_a_predictor_and_alpha_are_undone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", compression="deflate", predictor=True)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(slide.plan(0.5), 0, 0, 700, 500), PICTURE)
    rgba = np.dstack([PICTURE, np.full((500, 700), 255, np.uint8)])
    rgba[:150, :200, 3] = 0
    path = write(tmp_path / "b.tif", rgba, compression="lzw", extrasamples=["unassalpha"])
    expected = PICTURE.copy()
    expected[:150, :200] = 255
    with open_slide(path, reader="native") as slide:
        np.testing.assert_array_equal(slide.read(slide.plan(0.5), 0, 0, 700, 500), expected)


@pytest.mark.parametrize("compression", ["deflate", "jpeg2000", "webp"])
def test_damage_is_seen_in_every_codec(tmp_path: Path, compression: str) -> None:
    path = write(tmp_path / "a.tif", compression=compression)
    damage(path, 8, "zeros")
    with open_slide(path) as slide:
        bad, good = slide.read_tiles(slide.plan(0.5), 64, [256, 0], [128, 0])
    assert isinstance(bad, TileFailure)
    assert "tile (2, 1)" in bad.reason
    assert isinstance(good, np.ndarray)


def test_jpeg2000_is_reduced_by_wavelets_without_a_shift(tmp_path: Path) -> None:
    from tests.slide.test_slide import area_reference, shift

    args = {"reversible": False, "level": 60}
    path = write(tmp_path / "a.tif", SMOOTH, compression="jpeg2000", compressionargs=args)
    with open_slide(path) as slide:
        full = slide.read(slide.plan(0.5), 0, 0, 700, 500)
        assert slide.plan(1.0).reduce == 1  # as it is, a wavelet's low band would lie a quarter pixel off
        for mpp, reduce in ((1.7, 2), (3.4, 4), (0.9, 1)):
            plan = slide.plan(mpp, tolerance=0)
            assert plan.reduce == reduce
            whole = slide.read(plan, 0, 0, plan.width, plan.height)
            factor = plan.downsample_x
            box = (0, 0, plan.width * factor, plan.height * factor)
            assert shift(whole, area_reference(full, box, (plan.width, plan.height))) < 0.03, mpp


@pytest.mark.parametrize("compression", [33003, 33005])
def test_both_of_aperios_jpeg2000(tmp_path: Path, compression: int) -> None:
    stored = PICTURE if compression == 33005 else np.asarray(Image.fromarray(PICTURE).convert("YCbCr"))
    padded = np.pad(stored, ((0, 12), (0, 68), (0, 0)))
    codes = (
        imagecodecs.jpeg2k_encode(padded[y : y + 256, x : x + 256].copy(), level=0, codecformat="J2K", mct=False)
        for y in (0, 256)
        for x in (0, 256, 512)
    )
    path = tmp_path / "a.svs"
    description = "Aperio Image Library v1\r\n700x500|AppMag = 20|MPP = 0.5"
    options = {"shape": PICTURE.shape, "dtype": np.uint8, "tile": (256, 256), "compression": "jpeg2000"}
    tifffile.imwrite(path, codes, photometric="rgb", description=description, metadata=None, software="", **options)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["Compression"].overwrite(compression)
    with open_slide(path) as slide, open_slide(path, reader="openslide") as other:
        assert slide.reader == "native", slide.reader_reason
        plan = slide.plan(0.5)
        pixels = slide.read(plan, 0, 0, 700, 500)
        assert np.abs(pixels.astype(int) - other.read(plan, 0, 0, 700, 500)).max() <= 1
        assert np.abs(pixels.astype(int) - PICTURE).mean() < 1.5


def test_real_jpeg2000_and_ndpi_equal_openslide(real_slide) -> None:  # type: ignore[no-untyped-def]
    for name, level_places in (
        ("tcga-cr-7395-01a-01-ts1.svs", [(0, 1900, 1700)]),
        ("test3-TRITC-2-560.ndpi", [(0, 200, 3300), (1, 1024, 1800), (3, 0, 300)]),
    ):
        path = real_slide(name)
        with open_slide(path, mpp=0.25) as slide, openslide.OpenSlide(path) as other:
            assert slide.reader == "native", slide.reader_reason
            for level, x, y in level_places:
                plan = slide.plan(0.25 * slide.levels[level].downsample_x)
                assert (plan.level, plan.native) == (level, True)
                ratio = round(slide.levels[level].downsample_x)
                expected = other.read_region((x * ratio, y * ratio), level, (400, 300)).convert("RGB")
                np.testing.assert_array_equal(slide.read(plan, x, y, 400, 300), np.asarray(expected))


def test_ndpi_is_reduced_in_the_dct_domain(real_slide) -> None:  # type: ignore[no-untyped-def]
    with open_slide(real_slide("test3-TRITC-2-560.ndpi"), mpp=0.25) as slide:
        assert slide.levels[0].reductions == (1, 2, 4, 8)
        full = slide._backend.block(0, 0, 13, 1)
        half = slide._backend.block(0, 0, 13, 2)
        assert full is not None and half is not None
        mean = full.reshape(128, 2, -1, 2, 3).mean((1, 3))
        assert np.abs(half - mean).mean() < 1
        assert slide.native_tiles(0) is None


@pytest.mark.parametrize("columns", [1, 2])
def test_joined_stripes_are_the_picture_that_they_were_cut_from(columns: int) -> None:
    picture = SMOOTH[:96, :256]
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", subsampling=0, restart_marker_blocks=32 // columns, quality=90)
    whole, width = file.getvalue(), 256 // columns
    head = read_header(whole)
    length = int.from_bytes(whole[head.scan + 2 : head.scan + 4], "big")
    header, scan = whole[: head.scan + 2 + length], whole[head.scan + 2 + length : -2]
    stripes = [part + scan[at:][:2] for part, at in zip(*cut_at_restarts(scan), strict=True)]
    stripes[-1] += b"\xff\xd9"
    frame = header.index(b"\xff\xc0") + 5
    header = header[:frame] + (8).to_bytes(2, "big") + width.to_bytes(2, "big") + header[frame + 4 :]
    header = Normaliser(None, False, width, 8).header(header)
    expected = np.asarray(Image.open(file))
    for column in range(columns):
        rows = stripes[column::columns][3:9]
        found = decode_jpeg(join_stripes(header, rows, 48), width, 48, 1)
        np.testing.assert_array_equal(found, expected[24:72, column * width : (column + 1) * width])


def cut_at_restarts(scan: bytes) -> tuple[list[bytes], list[int]]:
    """The parts between restart markers, and where each marker (or the end) stands."""
    places = [match.start() for match in re.finditer(b"\xff[\xd0-\xd7]", scan)] + [len(scan)]
    starts = [0, *(place + 2 for place in places[:-1])]
    return [scan[start:stop] for start, stop in zip(starts, places, strict=True)], places


def test_stripes_that_do_not_fit_together_are_refused() -> None:
    for stripes in ([b"\x01\x02\xff\xd0", None], [b"\x01\x02"], [b"\x01\xff\xda"]):
        with pytest.raises(ValueError, match="restart marker"):
            join_stripes(b"", stripes, 8)
    for data in (b"", b"\x00\x01", b"\xff\xd8\xff\xc0\x00\xff", b"\xff\xd8\x00\x00\x00\x00"):
        if data[:2] == b"\xff\xd8":
            with pytest.raises(ValueError, match="segment"):
                read_header(data)
        else:
            with pytest.raises(ValueError, match="start marker"):
                read_header(data)


# --- remote


@pytest.fixture
def remote(tmp_path: Path):  # type: ignore[no-untyped-def]
    system = fsspec.filesystem("memory")
    path = write_jpeg_slide(tmp_path / "a.tif", PICTURE, levels=(1, 2))
    system.pipe("/bucket/a.tif", path.read_bytes())
    yield path
    system.rm("/bucket", recursive=True)


@pytest.mark.parametrize("reader", ["native", "tiffslide"])
def test_a_remote_slide_reads_as_the_local_one(remote: Path, reader) -> None:  # type: ignore[no-untyped-def]
    with open_slide("memory://bucket/a.tif", reader=reader) as far, open_slide(remote) as near:
        assert (far.reader, far.id) == (reader, "a")
        assert far.fingerprint == near.fingerprint
        for mpp in (0.5, 0.7, 1.0):
            plan = near.plan(mpp)
            assert far.plan(mpp).level == plan.level
            np.testing.assert_array_equal(far.read(plan, 50, 40, 200, 150), near.read(plan, 50, 40, 200, 150))
    with open_slide("memory://bucket/a.tif") as far:
        assert far.reader == "native"
        assert "OpenSlide" in far.reader_reason


def test_remote_slides_that_are_not_there_or_not_slides(remote: Path) -> None:
    with pytest.raises(SlideNotFoundError, match="no such slide"):
        open_slide("memory://bucket/none.tif")
    with pytest.raises(RemoteError, match=r"nosuchprotocol.*fsspec cannot open it"):
        open_slide("nosuchprotocol://a.tif")
    fsspec.filesystem("memory").pipe("/bucket/b.tif", b"<html></html>")
    with pytest.raises(SlideError, match="HTML page"):
        open_slide("memory://bucket/b.tif")
    with pytest.raises(SlideError, match="local files only"):
        open_slide("memory://bucket/a.tif", reader="openslide")


# --- pyramids


def test_sub_directories_are_levels_and_other_pictures_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        options = {"tile": (128, 128), "compression": "deflate", "photometric": "rgb"}
        metadata = {"axes": "YXS", "PhysicalSizeX": 0.3, "PhysicalSizeY": 0.3, "PhysicalSizeXUnit": "µm"}
        tiff.write(PICTURE, subifds=2, metadata=metadata | {"PhysicalSizeYUnit": "µm"}, **options)
        tiff.write(PICTURE[::2, ::2], subfiletype=1, **options)
        tiff.write(PICTURE[::4, ::4], subfiletype=1, **options)
        tiff.write(PICTURE[:300, :300], **options)  # another picture: not of this shape
    with open_slide(path) as slide:
        assert (slide.reader, slide.format, slide.id) == ("native", "ome-tiff", "a")
        assert [level.width for level in slide.levels] == [700, 350, 175]
        assert (slide.scale.mpp_x, slide.scale.source) == (0.3, "ome.PhysicalSize")
        np.testing.assert_array_equal(slide.read(slide.plan(1.2), 0, 0, 175, 125), PICTURE[::4, ::4])


def test_the_native_reader_says_what_it_does_not_read(tmp_path: Path) -> None:
    rare = write(tmp_path / "a.tif", PICTURE, compression="lzma")
    with pytest.raises(SlideError, match="LZMA"):
        NativeBackend(LocalFile(rare))
    strips = write(tmp_path / "b.tif", tile=None)
    with pytest.raises(SlideError, match="not stored in tiles"):
        NativeBackend(LocalFile(strips))
