"""Mask images of every form against areas that are known, and what is refused because it would have to be guessed."""

from __future__ import annotations

import io
import logging
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from support.small_slides import tissue_picture, write_slide

from wsivit.errors import LimitError, UsageError
from wsivit.tiling import TileOptions, tile
from wsivit.tissue import mask_images, read_tissue, tissue_file

HEIGHT, WIDTH = 240, 320
SIZE = (3200, 2400)

LABELS = np.zeros((HEIGHT, WIDTH), np.uint8)
LABELS[30:200, 20:150] = 1
LABELS[60:180, 170:301] = 2
LABELS[100:120, 40:60] = 0
TISSUE = LABELS > 0

Write = Callable[[Path, NDArray[Any]], None]


def picture(mode: str | None = None, **options: Any) -> Write:
    """Write by Pillow, as a picture of some mode."""
    return lambda path, labels: Image.fromarray(labels, mode).save(path, **options)


def palette(*colors: tuple[int, int, int], **options: Any) -> Write:
    def write(path: Path, labels: NDArray[Any]) -> None:
        image = Image.fromarray(labels, "P")
        image.putpalette([level for color in colors for level in color])
        image.save(path, **options)

    return write


def tiff(**options: Any) -> Write:
    return lambda path, labels: tifffile.imwrite(path, labels, **{"metadata": None, "photometric": 1, **options})


def write_png(path: Path, labels: NDArray[Any], bits: int, *, interlaced: bool = False) -> None:
    """Write grey of 1 to 8 bits (Pillow writes no others and nothing interlaced), by the specification."""
    passes = [labels]
    if interlaced:
        steps = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
        passes = [labels[top::down, left::right] for top, down, left, right in steps]
    compress, data = zlib.compressobj(1), b""
    for part in passes:
        ones = np.unpackbits(np.ascontiguousarray(part), axis=1).reshape(*part.shape, 8) if bits < 8 else None
        rows = part if ones is None else np.packbits(ones[..., 8 - bits :].reshape(len(part), -1), axis=1)
        data += b"".join(compress.compress(b"\0" + row.tobytes()) for row in rows)
    head = struct.pack(">IIBBBBB", labels.shape[1], len(labels), bits, 0, 0, 0, int(interlaced))
    chunks = ((b"IHDR", head), (b"IDAT", data + compress.flush()), (b"IEND", b""))
    body = (struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))


def colored(background: int, opacity: tuple[int, ...]) -> Callable[[NDArray[Any]], NDArray[np.uint8]]:
    """Paint labels 0, 1, 2 as a grey of that level, red and blue, with an opacity each."""
    colors = np.array([[background] * 3, [200, 0, 0], [0, 0, 9]], np.uint8)
    table = np.column_stack([colors, np.array(opacity, np.uint8)]) if opacity else colors
    return lambda labels: table[labels]


def sparse(path: Path, labels: NDArray[Any], **options: Any) -> None:
    """Write a tiled TIFF, and leave the tiles of background out of it."""
    tifffile.imwrite(path, labels, tile=(32, 32), photometric="minisblack", metadata=None, **options)
    with tifffile.TiffFile(path, mode="r+b") as file:
        tags = file.pages.first.tags
        counts, offsets = list(tags["TileByteCounts"].value), list(tags["TileOffsets"].value)
        for index in range(len(counts)):
            row, col = divmod(index, -(-labels.shape[1] // 32))
            if not labels[row * 32 : row * 32 + 32, col * 32 : col * 32 + 32].any():
                counts[index] = offsets[index] = 0
        assert 0 in counts
        tags["TileByteCounts"].overwrite(tuple(counts))
        tags["TileOffsets"].overwrite(tuple(offsets))


def pyramid(path: Path, labels: NDArray[Any]) -> None:
    """Write levels from small to large, as some converters do."""
    with tifffile.TiffWriter(path) as file:
        for step in (4, 2, 1):
            file.write(labels[::step, ::step], tile=(64, 64), compression="zlib", metadata=None, photometric=1)


INSTANCES = (np.arange(TISSUE.size).reshape(TISSUE.shape) % 60_000 * TISSUE + TISSUE).astype(np.uint16)
NO_DATA_255 = [(42113, "s", 0, "255", True)]  # as GDAL writes it
COLORMAP = np.arange(768, dtype=np.uint16).reshape(3, 256) * 80
TABLE_ON_BLACK = ((0, 0, 0), (255, 0, 0), (0, 90, 255))
TABLE_ON_WHITE = ((255, 255, 255), (255, 0, 0), (0, 90, 255))
FORMS: dict[str, tuple[str, Write, NDArray[Any]]] = {
    "labels 0 1 2": ("m.png", picture(), LABELS),
    "labels 0 100 255": ("m.bmp", picture(), np.array([0, 100, 255], np.uint8)[LABELS]),
    "gif": ("m.gif", palette(*TABLE_ON_BLACK), LABELS),
    "bilevel": ("m.png", picture(), TISSUE),
    "2 bits": ("m.png", lambda path, labels: write_png(path, labels, 2), LABELS),
    "4 bits": ("m.png", lambda path, labels: write_png(path, labels, 4), LABELS),
    "palette on black": ("m.png", palette(*TABLE_ON_BLACK), LABELS),
    "palette on white": ("m.png", palette(*TABLE_ON_WHITE), LABELS),
    "palette of black and white": ("m.png", palette((255, 255, 255), (0, 0, 0)), 1 - (LABELS > 0).astype(np.uint8)),
    "palette, clear background": ("m.png", palette(*TABLE_ON_WHITE, transparency=0), LABELS),
    "16-bit instances": ("m.png", picture(), INSTANCES),
    "16-bit below 256": ("m.png", picture(), LABELS.astype(np.uint16)),
    "32-bit instances": ("m.tif", tiff(tile=(64, 64), compression="zlib"), INSTANCES.astype(np.int32) * 1000),
    "float labels": ("m.tif", tiff(compression="zlib"), LABELS.astype(np.float32)),
    "colour on black": ("m.png", picture(), colored(0, ())(LABELS)),
    "colour, opaque": ("m.png", picture(), colored(0, (255, 255, 255))(LABELS)),
    "colour on clear": ("m.png", picture(), colored(255, (0, 255, 120))(LABELS)),
    "black on clear": ("m.png", picture(), np.dstack([LABELS * 0, TISSUE * np.uint8(255)])),
    "clear tiff": ("m.tif", tiff(photometric="rgb", extrasamples=["unassalpha"]), colored(255, (0, 255, 120))(LABELS)),
    "grey, clear": ("m.png", picture(), np.dstack([LABELS * 0 + 7, TISSUE * np.uint8(255)])),
    "tiff in one strip": ("m.tif", tiff(), LABELS),
    "tiff in planes": ("m.tif", tiff(photometric=2, planarconfig=2), np.stack([LABELS, LABELS * 0, LABELS])),
    "tiff, big-endian 16 bit": ("m.tif", tiff(byteorder=">"), INSTANCES),
    "tiff, bilevel": ("m.tif", lambda path, labels: tifffile.imwrite(path, labels, metadata=None), TISSUE),
    "tiff, group 4": ("m.tif", picture(compression="group4"), TISSUE),
    "tiff with a value for no data": ("m.tif", tiff(extratags=NO_DATA_255), LABELS + TISSUE - np.uint8(1)),
    "tiff palette": ("m.tif", tiff(photometric=3, colormap=COLORMAP), LABELS),
    "pyramid": ("m.tif", pyramid, LABELS),
    "sparse, raw": ("m.tif", sparse, LABELS),
    "sparse, deflate": ("m.tif", lambda path, labels: sparse(path, labels, compression="zlib"), LABELS),
    "sparse, lzw": ("m.tif", lambda path, labels: sparse(path, labels, compression="lzw", bigtiff=True), LABELS),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_everything_but_the_background_is_tissue(form: str, tmp_path: Path) -> None:
    name, write, labels = FORMS[form]
    write(tmp_path / name, labels)
    tissue = read_tissue(tmp_path / name, (30, 40), SIZE)
    assert np.array_equal(tissue.mask, TISSUE)
    assert tissue.parameters["method"] == "image" and "tissue" in tissue.parameters["rule"]
    assert tissue.parameters["image_size"] == [WIDTH, HEIGHT]


@pytest.mark.parametrize(
    "form", ["labels 0 1 2", "2 bits", "palette on white", "16-bit below 256", "float labels", "pyramid", "sparse, lzw"]
)
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_labels_are_chosen_by_their_stored_number(form: str, tmp_path: Path) -> None:
    name, write, labels = FORMS[form]
    write(tmp_path / name, labels)
    for chosen in ((1,), (2,), (1, 2), (2, 9)):
        tissue = read_tissue(tmp_path / name, (30, 40), SIZE, labels=chosen)
        assert np.array_equal(tissue.mask, np.isin(LABELS, chosen))
        assert tissue.parameters["labels"] == list(chosen) and tissue.parameters["values"] == [0, 1, 2]
    with pytest.raises(UsageError, match="no pixel has the label 7; there are 0, 1, 2"):
        read_tissue(tmp_path / name, (30, 40), SIZE, labels=(7,))


def test_the_numbers_of_instances_are_kept(tmp_path: Path) -> None:
    Image.fromarray(INSTANCES).save(tmp_path / "m.png")
    tissue = read_tissue(tmp_path / "m.png", (30, 40), SIZE, labels=(300, 301))
    assert np.array_equal(tissue.mask, np.isin(INSTANCES, (300, 301))) and tissue.mask.any()
    assert tissue.parameters["n_values"] == len(np.unique(INSTANCES)) and len(tissue.parameters["values"]) == 16


def test_half_of_the_brightest_is_the_rule_of_lossy_formats_only(tmp_path: Path) -> None:
    for name in ("m.jpg", "m.webp", "m.jp2"):
        Image.fromarray(TISSUE.astype(np.uint8) * 255).save(tmp_path / name, quality=60)
        tissue = read_tissue(tmp_path / name, (30, 40), SIZE)
        assert (tissue.mask != TISSUE).mean() < 0.01 and "half" in tissue.parameters["rule"]
    tifffile.imwrite(
        tmp_path / "m.tif", TISSUE.astype(np.uint8) * 255, tile=(64, 64), compression="jpeg", metadata=None
    )
    assert (read_tissue(tmp_path / "m.tif", (30, 40), SIZE).mask != TISSUE).mean() < 0.01
    with pytest.raises(UsageError, match="labels cannot be chosen in a lossy format"):
        read_tissue(tmp_path / "m.jpg", (30, 40), SIZE, labels=(1,))


@pytest.mark.parametrize(
    ("name", "write", "labels", "message"),
    [
        ("m.jpg", picture(quality=95), LABELS, "lossy format"),
        ("m.jpg", picture(quality=95), np.array([0, 120, 255], np.uint8)[LABELS], "lossy format"),
        ("m.png", palette((255, 255, 255), (0, 0, 0), (9, 9, 9)), LABELS, "either could be the background"),
        ("m.tif", tiff(photometric=0), (~TISSUE).astype(np.uint8) * 255, "0 or black could be the background"),
        ("m.tif", tiff(compression="zlib"), LABELS.astype(np.float32) / 3, "holds fractions"),
        ("m.tif", tiff(photometric="minisblack"), np.stack([LABELS, LABELS]), "holds 2 pictures"),
        ("m.tif", tiff(photometric="cielab"), colored(0, ())(LABELS), "cannot be read as a mask"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_what_would_be_a_guess_is_refused(
    tmp_path: Path, name: str, write: Write, labels: NDArray[Any], message: str
) -> None:
    write(tmp_path / name, labels)
    with pytest.raises(UsageError, match=rf"tissue mask .*{name}: .*{message}"):
        read_tissue(tmp_path / name, (30, 40), SIZE)


def test_labels_need_one_number_per_pixel(tmp_path: Path) -> None:
    Image.fromarray(colored(0, ())(LABELS)).save(tmp_path / "m.png")
    with pytest.raises(UsageError, match="labels cannot be chosen in colour"):
        read_tissue(tmp_path / "m.png", (30, 40), SIZE, labels=(1,))
    Image.fromarray(np.dstack([LABELS] * 3)).save(tmp_path / "m.png")  # grey, saved as colour
    assert np.array_equal(read_tissue(tmp_path / "m.png", (30, 40), SIZE, labels=(1,)).mask, LABELS == 1)
    (tmp_path / "m.json").write_text("{}")
    with pytest.raises(UsageError, match="have no labels"):
        read_tissue(tmp_path / "m.json", (30, 40), SIZE, labels=(1,))


@pytest.mark.parametrize("name", ["m.png", "m.tif", "zlib.tif"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_masks_are_no_empty_masks(tmp_path: Path, name: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH)).astype(np.uint8)
    file = io.BytesIO()
    if name == "m.png":
        Image.fromarray(noise).save(file, "PNG")
    else:
        compression = "zlib" if name == "zlib.tif" else None
        tifffile.imwrite(file, noise, tile=(32, 32), compression=compression, metadata=None)
    content = file.getvalue()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(UsageError, match=name):
        read_tissue(tmp_path / name, (30, 40), SIZE)


@pytest.mark.parametrize("form", ["png", "tiled", "one strip"])
def test_full_size_masks_take_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(mask_images, "MAX_SAMPLES", 1 << 20)
    labels = LABELS.repeat(50, 0).repeat(50, 1)  # 16,000 x 12,000: Pillow stops at 179 million pixels
    path = tmp_path / ("m.png" if form == "png" else "m.tif")
    if form == "png":
        write_png(path, labels, 8)
        with pytest.raises(Image.DecompressionBombError), Image.open(path):
            pass
    elif form == "one strip":
        tifffile.imwrite(path, labels, metadata=None)
    else:
        level = {"level": 1}
        tifffile.imwrite(path, labels, tile=(512, 512), compression="zlib", compressionargs=level, metadata=None)
    del labels
    tracemalloc.start()
    mask = read_tissue(path, (30, 40), (16000, 12000)).mask
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mask.shape == (887, 1182)
    assert mask.mean() == pytest.approx(TISSUE.mean(), abs=1e-3)
    assert peak < 40e6  # of 192 million pixels


def test_what_can_only_be_decoded_at_once_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_images, "MAX_PIECE", HEIGHT * WIDTH - 1)
    tifffile.imwrite(tmp_path / "m.tif", LABELS, compression="zlib", rowsperstrip=HEIGHT, metadata=None)
    with pytest.raises(LimitError, match=r"one compressed strip.*save it in tiles"):
        read_tissue(tmp_path / "m.tif", (30, 40), SIZE)
    Image.fromarray(LABELS).save(tmp_path / "m.bmp")
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 2 - 1)
    with pytest.raises(LimitError, match="save it as PNG"):
        read_tissue(tmp_path / "m.bmp", (30, 40), SIZE)


def test_interlaced_masks_are_read(tmp_path: Path) -> None:
    write_png(tmp_path / "m.png", LABELS, 8, interlaced=True)
    assert np.array_equal(read_tissue(tmp_path / "m.png", (30, 40), SIZE, labels=(2,)).mask, LABELS == 2)


@pytest.mark.parametrize(
    ("text", "file", "labels"),
    [
        ("mask.png", "mask.png", ()),
        ("mask.png:1,2", "mask.png", (1, 2)),
        ("mask.png:0", "mask.png", (0,)),
        ("folder/mask:3", "folder/mask", (3,)),
        (r"C:\masks\m.png", r"C:\masks\m.png", ()),
        (r"C:\masks\m.png:1,255", r"C:\masks\m.png", (1, 255)),
        ("C:/masks/m.tif:7", "C:/masks/m.tif", (7,)),
        ("10:30.png", "10:30.png", ()),
        ("10:30.png:2", "10:30.png", (2,)),
        ("a.png:1,x", "a.png:1,x", ()),
        ("a.png:", "a.png:", ()),
    ],
)
def test_labels_are_what_follows_the_last_colon(text: str, file: str, labels: tuple[int, ...]) -> None:
    assert tissue_file(text) == (Path(file), labels)


@pytest.mark.parametrize("method", ["auto", "otsu", "none", "magic"])
def test_methods_are_no_files(method: str) -> None:
    assert tissue_file(method) is None


def test_a_file_of_that_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("scan.png:1", "auto", "plain"):
        Path(name).touch()
    assert tissue_file("scan.png:1") == (Path("scan.png:1"), ())
    assert tissue_file("scan.png:1:2") == (Path("scan.png:1"), (2,))
    assert tissue_file("plain") == (Path("plain"), ())
    assert tissue_file("auto") is None and tissue_file("./auto") == (Path("auto"), ())


def test_tiles_are_those_of_the_labels_and_the_store_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    slide = write_slide(tmp_path / "s.tiff", tissue_picture(WIDTH * 5, HEIGHT * 5))
    mask = tmp_path / "10:30 mask.png"
    Image.fromarray(LABELS).save(mask)
    counts = {}
    for chosen in ("", ":2", ":1,2"):
        options = TileOptions(tile_size=50, codec="none", tissue=f"{mask}{chosen}", min_tissue=1.0)
        with caplog.at_level(logging.INFO, "wsivit"):
            store = tile(slide, tmp_path / f"out{chosen.replace(':', '-')}", options).store
        counts[chosen] = len(store)
        expected = "all but 0 is tissue" if not chosen else f"labels {chosen[1:].replace(',', ', ')} are tissue"
        assert store.parameters.tissue["rule"] == expected and expected in caplog.text
        assert store.parameters.tissue["file"] == mask.name
    # Tiles of 10 x 10 mask pixels, all of which are tissue.
    blocks = LABELS.reshape(24, 10, 32, 10).swapaxes(1, 2).reshape(24, 32, 100)
    assert counts == {
        "": (blocks > 0).all(axis=2).sum(),
        ":2": (blocks == 2).all(axis=2).sum(),
        ":1,2": (blocks > 0).all(axis=2).sum(),
    }
