"""Slides through every reader: what they say of themselves, where pixels lie, and what is refused."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.slide_helpers import (
    damage,
    read_ruler,
    ruler_level,
    set_photometric,
    texture,
    write_jpeg_slide,
)

from wsivit import open_slide
from wsivit.errors import LimitError, ScaleError, SlideError, SlideNotFoundError, UnreadableTilesError, UsageError
from wsivit.slide import Slide, TileFailure, info
from wsivit.slide.readers.openslide import _facts as openslide_facts
from wsivit.slide.reading import Request, read_rectangles

PICTURE = texture(700, 500)
DESCRIPTION = "Aperio Image Library v1\r\n700x500|AppMag = 20|MPP = 0.4990|User = jane|Date = 01/02/03"


@pytest.fixture
def slide_path(tmp_path: Path) -> Path:
    return write_jpeg_slide(tmp_path / "a slide.svs", PICTURE, description=DESCRIPTION, tables=True)


# --- what a slide says of itself


def test_info_says_everything_and_keeps_private_values_back(slide_path: Path) -> None:
    found = info(slide_path)
    assert (found.format, found.reader, found.dimensions) == ("aperio", "native", (700, 500))
    assert found.id == "a_slide-" + found.id[-8:]
    assert (found.tile_size, found.compression, found.objective) == ((128, 128), "jpeg", 20.0)
    assert found.scale is not None
    assert (found.scale.mpp_x, found.scale.source, found.scale_error) == (0.499, "aperio.MPP", None)
    assert {"aperio.User", "aperio.Date"} <= set(found.private)
    assert set(found.private.values()) == {None}
    assert "jane" not in json.dumps(asdict(found))
    assert info(slide_path, private=True).private["aperio.User"] == "jane"


def test_control_characters_of_private_values_are_escaped(tmp_path: Path) -> None:
    path = write_jpeg_slide(tmp_path / "a.svs", PICTURE, description=DESCRIPTION + "|Title = x\x1b[2Jy")
    assert info(path, private=True).private["aperio.Title"] == "x\\x1b[2Jy"


def test_a_given_scale_is_recorded_and_a_missing_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PICTURE, tile=(128, 128), compression="jpeg", photometric="rgb", metadata=None)
    with open_slide(path) as slide:
        with pytest.raises(ScaleError, match=r"a\.tif.*tiff\.Resolution.*--slide-mpp"):
            slide.plan(0.5)
        assert slide.info().scale_error
        assert slide.thumbnail(100).shape == (71, 100, 3)
    with open_slide(path, mpp=0.25) as slide:
        assert (slide.scale.mpp_x, slide.scale.source) == (0.25, "given")
        with pytest.raises(ScaleError, match=r"a\.tif.*finer than the slide"):
            slide.plan(0.1)
    assert info(path, slide_mpp=0.5).scale.confidence == "given"  # type: ignore[union-attr]


def test_magenta_glass_is_pointed_out_and_never_guessed_away(tmp_path: Path) -> None:
    glass = np.full((256, 256, 3), 243, np.uint8)
    path = write_jpeg_slide(tmp_path / "a.tif", glass, rgb=True, subsampling="444")
    assert info(path).warnings == ()
    set_photometric(path, 6)
    assert "--jpeg-color" in info(path).warnings[0]
    assert info(path, jpeg_color="rgb").warnings == ()


def test_the_fingerprint_is_of_the_content(slide_path: Path, tmp_path: Path) -> None:
    other = Path(shutil.copy(slide_path, tmp_path / "renamed.svs"))
    with open_slide(slide_path) as a, open_slide(other) as b:
        assert a.fingerprint == b.fingerprint
        assert a.fingerprint.startswith("sha256:")
        before = b.fingerprint
    damage(other, 3, "half")
    with open_slide(other) as b:
        assert b.fingerprint != before


# --- where pixels lie


@pytest.mark.parametrize(
    "sizes",
    [
        [(19999, 640), (5000, 160), (1249, 40)],  # downsamples 3.9998 and 16.012 along x
        [(21332, 640), (1333, 40)],  # 16.003
    ],
)
def test_a_printed_ruler_lies_where_it_says_over_the_whole_width(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    full = sizes[0]
    path = tmp_path / "ruler.tif"
    with tifffile.TiffWriter(path) as tiff:
        for width, height in sizes:
            plane = ruler_level(width, height, full[0] / width, full[1] / height, full)
            tiff.write(
                plane,
                tile=(256, 256),
                compression="jpeg",
                compressionargs={"level": 95},
                photometric="rgb",
                subfiletype=int(width != full[0]),
                metadata=None,
            )
    for mpp0, mpp, tolerance, size in (
        (0.2738, 0.2738, 0.02, 256),
        (0.2738, 0.3125, 0.02, 256),
        (0.2738, 0.4545, 0.0, 256),
        (0.25, 0.5, 0.02, 256),
        (0.25, 1.0, 0.02, 128),
        (0.25, 1.0, 0.0, 128),
        (0.25, 3.7, 0.02, 32),
        (0.25, 4.0, 0.02, 32),
    ):
        with open_slide(path, mpp=mpp0) as slide:
            assert slide.reader == "native", slide.reader_reason
            plan = slide.plan(mpp, tolerance=tolerance)
            last = plan.width - size - 8  # the last JPEG block rings
            x = np.append(np.arange(0, last, size), last)
            y = np.full(len(x), plan.height - size)
            downsample = (plan.downsample_x, plan.downsample_y)
            for at, tile in zip(x.tolist(), slide.read_tiles(plan, size, x, y), strict=True):
                assert not isinstance(tile, TileFailure)
                expected = (at * plan.downsample_x, (plan.height - size) * plan.downsample_y)
                off_x, off_y, off_sum = read_ruler(tile, downsample, full, expected)
                assert abs(off_x) < 0.25 * plan.downsample_x, (mpp, at)
                assert abs(off_y) < 0.25 * plan.downsample_y, (mpp, at)
                assert abs(off_sum) < 128, (mpp, at)  # half a wave: it is that wave and no other


def area_mean(lines: np.ndarray, start: float, stop: float, n: int) -> np.ndarray:
    """Exact area average along the first axis, in float64."""
    edges = np.linspace(start, stop, n + 1)
    total = np.concatenate([np.zeros((1, *lines.shape[1:])), np.cumsum(lines.astype(float), axis=0)])
    whole = np.minimum(edges.astype(int), len(lines) - 1)
    upto = total[whole] + (edges - whole)[:, None, None] * lines[whole]
    return np.diff(upto, axis=0) * n / (stop - start)


def area_reference(picture: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    rows = area_mean(picture, box[1], box[3], size[1])
    return area_mean(rows.swapaxes(0, 1), box[0], box[2], size[0]).swapaxes(0, 1)


def shift(picture: np.ndarray, reference: np.ndarray) -> float:
    """Sub-pixel displacement, the larger of x and y, by least squares on the reference's gradient."""
    a, b = picture.astype(float).mean(2), reference.mean(2)
    along_y, along_x = np.gradient(b)
    inner = np.s_[4:-4, 4:-4]
    slopes = np.stack([along_x[inner].ravel(), along_y[inner].ravel()], axis=1)
    return float(np.abs(np.linalg.lstsq(slopes, (a - b)[inner].ravel(), rcond=None)[0]).max())


@pytest.mark.parametrize(
    ("factor", "downscale", "error"),
    [
        (2.0, "dct", 0.5),  # 1/2 as it is
        (4.0, "dct", 0.5),  # 1/4
        (1.1, "dct", 0.4),  # every pixel decoded
        (1.45, "dct", 0.4),
        (2.15, "dct", 0.4),
        (2.9, "dct", 0.4),
        (3.1, "dct", 2.0),  # 1/2, resampled
        (5.0, "dct", 2.0),
        (6.5, "dct", 3.1),  # 1/4, resampled
        (9.0, "dct", 3.1),
        (12.5, "dct", 4.1),  # 1/8, resampled
        (2.0, "area", 0.51),
        (6.5, "area", 0.4),
        (1.3, "area", 0.4),
    ],
)
def test_reduced_pixels_agree_with_the_area_average(real_slide, factor: float, downscale, error: float) -> None:  # type: ignore[no-untyped-def]
    with open_slide(real_slide("CMU-1-Small-Region.svs")) as slide:
        full = slide.read(slide.plan(0.499), 900, 1700, 800, 1000)
        plan = slide.plan(0.499 * factor, tolerance=0, downscale=downscale)
        x, y, size = int(910 / factor) + 1, int(1710 / factor) + 1, int(600 / factor)
        tile = slide.read(plan, x, y, size, size)
    box = tuple(i * factor - start for i, start in ((x, 900), (y, 1700), (x + size, 900), (y + size, 1700)))
    reference = area_reference(full, box, (size, size))
    assert np.abs(tile - reference).mean() < error
    assert shift(tile, reference) < (0.02 if plan.reduce == 8 else 0.01)


@pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
def test_readers_that_cannot_reduce_average_exactly(slide_path: Path, reader) -> None:  # type: ignore[no-untyped-def]
    with open_slide(slide_path, reader=reader, mpp=0.5) as slide:
        full = slide.read(slide.plan(0.5), 0, 0, 700, 500)
        plan = slide.plan(2.0)
        assert (plan.reduce, plan.resampled, plan.width, plan.height) == (4, False, 175, 125)
        whole = slide.read(plan, 0, 0, 175, 125)
    assert np.abs(whole - area_reference(full, (0, 0, 700, 500), (175, 125))).max() < 0.51


class MiraxLike:
    """What OpenSlide says of a slide that was scanned in parts."""

    dimensions, level_count, level_dimensions = (1000, 800), 1, ((1000, 800),)
    associated_images: dict[str, object] = {"label": None}  # noqa: RUF012
    properties = {  # noqa: RUF012
        "openslide.vendor": "mirax",
        "openslide.background-color": "F0E1d2",
        "openslide.bounds-x": "100",
        "openslide.bounds-y": "50",
        "openslide.bounds-width": "700",
        "openslide.bounds-height": "600",
    }


def test_bounds_and_background_are_what_the_slide_says(slide_path: Path) -> None:
    facts = openslide_facts(MiraxLike())  # type: ignore[arg-type]
    assert (facts.bounds, facts.background) == ((100, 50, 700, 600), (240, 225, 210))
    assert (facts.format, facts.associated, facts.levels[0].reductions) == ("mirax", ("label",), (1, 2, 4, 8))
    with open_slide(slide_path) as slide:
        assert slide.bounds == (0, 0, 700, 500)
        slide._backend.facts = replace(slide._backend.facts, background=(240, 225, 210))  # type: ignore[misc]
        assert (slide.read(slide.plan(0.499), -5, 0, 5, 5) == (240, 225, 210)).all()


def test_outside_the_slide_is_background(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        plan = slide.plan(0.499)
        region = slide.read(plan, -20, 480, 760, 60)
        assert (region[:, :20] == 255).all()
        assert (region[20:] == 255).all()
        assert (region[:, 720:] == 255).all()
        np.testing.assert_array_equal(region[:20, 20:720], slide.read(plan, 0, 480, 700, 20))
        assert (slide.read(plan, 5000, 5000, 8, 8) == 255).all()
        coarse = slide.plan(1.3)
        edge = slide.read(coarse, coarse.width - 4, coarse.height - 4, 8, 8)
        assert (edge[4:] == 255).all()
        assert (edge[:4, :4] < 255).any()
        for wrong in ((0, 5), (5, 0)):
            with pytest.raises(UsageError, match="at least 1x1"):
                slide.read(plan, 0, 0, *wrong)
        assert list(slide.read_tiles(plan, 64, [], [])) == []


def test_an_overview_is_the_whole_slide_to_its_last_pixel(tmp_path: Path) -> None:
    slide_path = write_jpeg_slide(tmp_path / "a.svs", texture(700, 500, grain=0), description=DESCRIPTION)
    with open_slide(slide_path) as slide:
        full = slide.read(slide.plan(0.499), 0, 0, 700, 500)
        for view in (slide.overview(3.0), slide.overview(3.0, max_side=60), slide.thumbnail(97)):
            height, width = view.shape[:2]
            reference = area_reference(full, (0, 0, 700, 500), (width, height))
            assert np.abs(view - reference).mean() < 1.5
            assert shift(view, reference) < 0.02
        assert slide.overview(3.0).shape == (round(500 * 0.499 / 3), round(700 * 0.499 / 3), 3)
        assert slide.overview(0.01).shape == (500, 700, 3)
        assert slide.thumbnail(5000).shape == (500, 700, 3)
        with pytest.raises(UsageError):
            slide.overview(None)


def test_an_overview_looks_at_finer_levels_where_a_coarse_one_is_damaged(tmp_path: Path) -> None:
    path = write_jpeg_slide(tmp_path / "a.tif", texture(2048, 1536, grain=0), levels=(1, 4))
    with open_slide(path) as slide:
        whole = slide.read_overview(2.0)
        assert not whole.unreadable.any()
    damage(path, 5, "zeros", level=1)  # column 1, row 1 of 4 x 3: pixels 128 to 256 of the overview
    with open_slide(path) as slide:
        repaired = slide.read_overview(2.0)
        assert not repaired.unreadable.any()
        assert np.abs(repaired.pixels.astype(int) - whole.pixels).mean() < 3
    damage(path, 4 * 16 + 5, "zeros")  # level 0, below the same place: x 640 to 768, y 512 to 640
    with open_slide(path) as slide:
        holed = slide.read_overview(2.0)
    hole = holed.unreadable
    assert hole[130:158, 162:190].all()
    assert not hole[:96].any()
    assert not hole[200:].any()
    assert (holed.pixels[hole] == 255).all()


# --- readers


def test_auto_says_which_reader_and_why_and_a_choice_is_never_replaced(slide_path: Path, tmp_path: Path) -> None:
    reference = None
    for reader in ("auto", "native", "openslide", "tiffslide"):
        with open_slide(slide_path, reader=reader) as slide:  # type: ignore[arg-type]
            assert slide.reader == ("native" if reader == "auto" else reader)
            assert slide.reader_reason
            assert (slide.dimensions, slide.scale.mpp_x) == ((700, 500), 0.499)
            region = slide.read(slide.plan(0.6), 100, 100, 300, 200)
            reference = region if reference is None else reference
            np.testing.assert_array_equal(region, reference)
    png = tmp_path / "a.png"
    Image.fromarray(PICTURE).save(png)
    for reader in ("native", "openslide", "tiffslide"):
        with pytest.raises(SlideError, match=r"a\.png"):
            open_slide(png, reader=reader)  # type: ignore[arg-type]
    with open_slide(png) as slide:
        assert slide.reader == "image"
    with pytest.raises(UsageError, match="reader must be one of"):
        open_slide(png, reader="best")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="jpeg_color"):
        open_slide(png, jpeg_color="rgb")


def test_flat_images_of_every_usual_kind(tmp_path: Path) -> None:
    rgba = np.dstack([PICTURE, np.full((500, 700), 255, np.uint8)])
    rgba[:100, :, 3] = 0
    cases = {
        "rgb.png": PICTURE,
        "grey.png": PICTURE[..., 0],
        "alpha.png": rgba,
        "strips.tif": PICTURE,
        "grey.tif": PICTURE[..., 0],
    }
    for name, array in cases.items():
        path = tmp_path / name
        if name.endswith("png"):
            Image.fromarray(array).save(path, dpi=(25400, 25400))
        else:
            tifffile.imwrite(path, array, metadata=None, resolution=(10000, 10000), resolutionunit="CENTIMETER")
        with open_slide(path, reader="image") as slide:
            assert slide.scale.mpp_x == pytest.approx(1.0, rel=1e-3)
            found = slide.read(slide.plan(1.0), 0, 0, 700, 500)
        expected = PICTURE[..., :1].repeat(3, 2) if array.ndim == 2 else PICTURE.copy()
        if name == "alpha.png":
            expected[:100] = 255
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("array", "photometric"),
    [
        (PICTURE.astype(np.uint16) * 257, "rgb"),
        (PICTURE.astype(np.float32), "rgb"),
        (PICTURE[..., 0].astype(np.uint16), "minisblack"),
        (np.dstack([PICTURE, PICTURE[..., 0]]), "separated"),
    ],
)
def test_other_pixel_types_are_refused_by_name(tmp_path: Path, array: np.ndarray, photometric: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, tile=(128, 128), photometric=photometric, metadata=None)
    with pytest.raises(SlideError, match=r"a\.tif.*(16-bit|float|CMYK)"):
        open_slide(path)


def test_what_is_not_a_slide_is_refused_with_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(SlideNotFoundError, match=r"none\.svs"):
        open_slide(tmp_path / "none.svs")
    for content, words in (
        (b"", "0 bytes"),
        (b"<!DOCTYPE html><html>", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"just some text that is no slide at all", "no reader reads it"),
    ):
        path = tmp_path / "a.svs"
        path.write_bytes(content)
        with pytest.raises(SlideError, match=words):
            open_slide(path)
    with pytest.raises(SlideError, match="without DICOM"):
        open_slide(tmp_path)
    os.mkfifo(tmp_path / "pipe.svs")
    with pytest.raises(SlideError, match="regular file"):
        open_slide(tmp_path / "pipe.svs")


@pytest.mark.parametrize(("name", "pipe"), [("a.dcm", "b"), ("a.mrxs", "a/Data0000.dat"), ("a.vms", "a.opt")])
def test_a_pipe_among_the_files_of_a_slide_is_not_waited_for(tmp_path: Path, name: str, pipe: str) -> None:
    (tmp_path / name).write_bytes(b"\1" * 128 + b"DICM" * name.endswith("dcm"))
    (tmp_path / pipe).parent.mkdir(exist_ok=True)
    with pytest.raises(SlideError, match="no reader reads it"):
        open_slide(tmp_path / name)
    os.mkfifo(tmp_path / pipe)
    with pytest.raises(SlideError, match=rf"{pipe} is not a regular file"):
        open_slide(tmp_path / name)


OTHER = """<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">
<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="256" SizeY="256" SizeC="3"
 SizeZ="1" SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5"><Channel ID="Channel:0" SamplesPerPixel="3"/>
<TiffData IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:2</UUID></TiffData></Pixels></Image></OME>"""


@pytest.mark.parametrize("reader", ["native", "openslide", "tiffslide"])
def test_another_file_that_a_slide_names_is_not_read(tmp_path: Path, reader) -> None:  # type: ignore[no-untyped-def]
    os.mkfifo(tmp_path / "pipe.tif")
    for name, value, text in (("b.tif", 30, None), ("a.ome.tif", 200, "b.tif"), ("p.ome.tif", 200, "pipe.tif")):
        how = {"tile": (128, 128), "photometric": "rgb", "compression": "zlib", "metadata": None}
        description = text and OTHER.format(name=text)
        tifffile.imwrite(tmp_path / name, np.full((256, 256, 3), value, np.uint8), description=description, **how)
    for name in ("a.ome.tif", "p.ome.tif"):
        with open_slide(tmp_path / name, reader=reader, mpp=0.5) as slide:
            assert (slide.read(slide.plan(0.5), 0, 0, 64, 64) == 200).all()


def test_openslide_goes_on_after_a_tile_that_cannot_be_read(slide_path: Path) -> None:
    damage(slide_path, 8, "zeros")
    x, y = (g.ravel() for g in np.meshgrid(np.arange(0, 700, 64), np.arange(0, 500, 64)))
    with open_slide(slide_path, reader="openslide") as slide:
        slide.threads = 3
        plan = slide.plan(0.499)
        results = list(slide.read_tiles(plan, 64, x, y))
        bad = {(int(a), int(b)) for a, b, tile in zip(x, y, results, strict=True) if isinstance(tile, TileFailure)}
        assert bad == {(a, b) for a in (256, 320) for b in (128, 192)}
        with pytest.raises(UnreadableTilesError):
            slide.read(plan, 256, 128, 8, 8)
        assert slide.read(plan, 0, 0, 64, 64).std() > 5


# --- processes and threads


def _read(slide: Slide, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    plan = slide.plan(0.6)
    return np.stack([slide.read(plan, *rng.integers(0, 300, 2).tolist(), 64, 64) for _ in range(10)])


@pytest.mark.parametrize("reader", ["native", "openslide", "tiffslide"])
def test_pickled_forked_and_threaded_slides_read_the_same(slide_path: Path, reader) -> None:  # type: ignore[no-untyped-def]
    with open_slide(slide_path, reader=reader, mpp=0.5) as slide:
        expected = [_read(slide, seed) for seed in range(4)]
        with pickle.loads(pickle.dumps(slide)) as copy:
            assert (copy.reader, copy.reader_reason, copy.open_options) == (
                reader,
                slide.reader_reason,
                slide.open_options,
            )
            np.testing.assert_array_equal(_read(copy, 0), expected[0])
        with ThreadPoolExecutor(4) as pool:
            np.testing.assert_array_equal(list(pool.map(lambda seed: _read(slide, seed), range(4))), expected)
    with open_slide(slide_path, reader=reader, mpp=0.5) as slide:
        _read(slide, 0)  # a handle is open when the process forks
        context = multiprocessing.get_context("fork")
        queues = [context.SimpleQueue() for _ in range(4)]

        def child(seed: int) -> None:
            queues[seed].put(_read(slide, seed).tobytes())

        children = [context.Process(target=child, args=(seed,)) for seed in range(4)]
        for process in children:
            process.start()
        for seed, process in enumerate(children):
            assert queues[seed].get() == expected[seed].tobytes()
            process.join()


def test_many_slides_leave_no_files_open(slide_path: Path) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    before = open_files()
    for reader in ("auto", "openslide", "tiffslide") * 15:
        with open_slide(slide_path, reader=reader) as slide:  # type: ignore[arg-type]
            slide.thumbnail(50)
    assert open_files() <= before + 2
    left = [open_slide(slide_path).thumbnail(50) for _ in range(15)]  # not closed, only forgotten
    assert len(left) == 15
    gc.collect()
    assert open_files() <= before + 2


@pytest.mark.parametrize("reader", ["native", "openslide", "tiffslide"])
def test_many_open_slides_hold_few_files_and_read_on(slide_path: Path, tmp_path: Path, reader) -> None:  # type: ignore[no-untyped-def]
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    before = len(list(Path("/proc/self/fd").iterdir()))
    slides, fill = [], [0, 3, 7, 100, 200]
    for number in range(40):
        path = tmp_path / f"{number}.svs"
        path.write_bytes(slide_path.read_bytes() + bytes(number))
        slides.append(open_slide(path, reader=reader, mpp=0.5))
    plan = slides[0].plan(0.5)
    expected = [slides[0].read(plan, x, x, 64, 64).tobytes() for x in fill]

    def check(turn: int) -> bool:
        slide = slides[turn * 7 % 40]
        return all(slide.read(plan, x, x, 64, 64).tobytes() == shown for x, shown in zip(fill, expected, strict=True))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(check, range(120)))
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 48
    for slide in slides:
        slide.close()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2


def test_a_pass_can_be_left_early(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        tiles = slide.read_tiles(slide.plan(0.499), 32, np.arange(0, 600, 2), np.zeros(300, int))
        assert next(tiles).shape == (32, 32, 3)  # type: ignore[union-attr]
        tiles.close()  # type: ignore[attr-defined]


# --- the real slides


EXPECTED = {
    "CMU-1-Small-Region.svs": ("native", "aperio", (2220, 2967)),
    "cmu-1-small-region-dicom": ("openslide", "dicom", (2220, 2967)),
    "multiframe_camelyon_challenge_image.dcm": ("openslide", "dicom", (1152, 700)),
    "tcga-cr-7395-01a-01-ts1.svs": ("native", "aperio", (4443, 3567)),
    "test3-TRITC-2-560.ndpi": ("native", "hamamatsu", (3968, 4864)),
    "sarcoma-liver-10x.tiff": ("native", "generic-tiff", (10384, 8590)),
    "glycogenstorage-PASD.tiff": ("native", "generic-tiff", (15322, 12528)),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_real_slides_open_and_read(real_slide, name: str) -> None:  # type: ignore[no-untyped-def]
    with open_slide(real_slide(name), mpp=0.5) as slide:
        assert (slide.reader, slide.format, slide.dimensions) == EXPECTED[name]
        assert max(slide.thumbnail(200).shape) == 200
        plan = slide.plan(1.1)
        x, y = plan.width // 2, plan.height // 2
        tiles = list(slide.read_tiles(plan, 128, [x, x + 128], [y, y]))
        assert all(isinstance(tile, np.ndarray) and tile.max() > 20 for tile in tiles)
        assert len(slide.fingerprint) == 71


def test_dicom_frames_labelled_rgb_that_hold_ycbcr(real_slide) -> None:  # type: ignore[no-untyped-def]
    folder, original = real_slide("cmu-1-small-region-dicom"), real_slide("CMU-1-Small-Region.svs")
    with open_slide(folder, jpeg_color="ycbcr") as dicom, open_slide(original) as slide:
        plan = slide.plan(0.499)
        difference = dicom.read(plan, 900, 1400, 300, 300).astype(int) - slide.read(plan, 900, 1400, 300, 300)
        assert np.abs(difference).mean() < 12  # compressed again; 50 with the wrong colours
        assert not dicom.info().warnings
        with pytest.raises(UsageError, match="cannot be applied"):
            open_slide(folder, jpeg_color="rgb")


def test_rectangles_need_not_be_square(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        plan = slide.plan(0.499)
        corner = np.array([7], np.int64)
        (strip,) = read_rectangles(slide._backend, Request(plan, 650, 3, corner, corner))
        np.testing.assert_array_equal(strip, slide.read(plan, 7, 7, 650, 3))


@pytest.mark.parametrize("name", ["flat.png", "flat.tiff"])
def test_a_flat_picture_beyond_the_limit_is_a_limit_and_not_damage(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(PICTURE).save(tmp_path / name)
    monkeypatch.setattr("wsivit.slide.readers.image.MAX_PIXELS", 1000)
    with pytest.raises(LimitError, match=r"flat\.\w+: a flat image of 700x500 pixels does not fit"):
        open_slide(tmp_path / name, mpp=0.5, reader="image")
