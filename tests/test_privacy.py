"""What a slide says of a patient, a person or a day comes out nowhere: planted strings, searched for in every byte."""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from support.cli_helpers import wsivit_
from support.slide_helpers import encode
from support.small_slides import tissue_picture
from support.train_helpers import CLASSES, make_run

import wsivit
from wsivit.heatmap import Format
from wsivit.store import TileStore
from wsivit.tiling import TileOptions, tile

SIZE, TILE = (640, 512), 128
PLANTED = re.compile(rb"Zq[a-z]+qZ", re.IGNORECASE)
LABEL, MACRO = (60, 255, 0), (0, 40, 255)
"""Colours of the images of label and glass: no tissue, no glass and no drawing has them."""


def plant(place: str) -> str:
    """A name for a place in a slide; it must not come out."""
    return f"Zq{place}qZ"


TEXT_TAGS = {
    "DocumentName": 269, "Make": 271, "Model": 272, "PageName": 285, "Software": 305, "DateTime": 306, "Artist": 315,
    "HostComputer": 316, "TargetPrinter": 337, "Copyright": 33432, "XMP": 700, "IPTC": 33723, "ICCProfile": 34675,
    "ImageID": 32781, "UniqueCameraModel": 50708, "SerialNumber": 50735, "Private": 65000,
}  # fmt: skip


def private_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """A JPEG tile with comments, EXIF, XMP and IPTC segments, and text after its end."""
    jpeg = encode(pixels, False, "420")
    exif = Image.Exif()
    exif[0x010E], exif[0x013B], exif[0x0132] = plant("exif"), plant("exifartist"), "2019:03:04 " + plant("exifdate")
    segments = [
        (0xFE, plant("comment").encode()),
        (0xE1, b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x>" + plant("xmp").encode() + b"</x>"),
        (0xED, b"Photoshop 3.0\0" + plant("photoshop").encode()),
        (0xEF, plant("appfifteen").encode()),
    ]
    written = b"".join(bytes((0xFF, kind)) + (len(text) + 2).to_bytes(2, "big") + text for kind, text in segments)
    return jpeg[:2] + written + jpeg[2:] + plant("trailing").encode()


def write_private_slide(path: Path, description: str, *, ome: bool = False) -> Path:
    """A tiled JPEG slide with planted strings wherever text can stand, and images of label and glass beside it."""
    width, height = SIZE
    picture = tissue_picture(width, height, seed=3)
    tiles = (
        private_jpeg(np.ascontiguousarray(picture[y : y + TILE, x : x + TILE]))
        for y in range(0, height, TILE)
        for x in range(0, width, TILE)
    )
    tags = [(code, 2, 0, plant(name), True) for name, code in TEXT_TAGS.items()]
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            tiles, shape=picture.shape, dtype=np.uint8, tile=(TILE, TILE), photometric="ycbcr", subsampling=(2, 2),
            compression="jpeg", description=description, metadata=None, software=False, extratags=tags,
            resolution=(20000, 20000), resolutionunit="CENTIMETER",
        )  # fmt: skip
        for name, colour in (("label", LABEL), ("macro", MACRO)) if not ome else ():
            image = np.full((90, 120, 3), colour, np.uint8)
            text = f"Aperio Image Library v12\r\n{name} 120x90|{plant(name)}"
            tiff.write(image, photometric="rgb", compression="lzw", description=text, metadata=None, software=False)
    return path


def aperio(path: Path) -> Path:
    fields = {
        key: plant(key.replace(" ", "").lower())
        for key in ("Patient", "User", "Title", "Filename", "ImageID", "ScanScope ID", "Slide", "Comment", "Case Note")
    }
    fields |= {"MPP": f"0.25 {plant('mpp')}", "AppMag": plant("appmag"), "Date": f"03/04/19 {plant('date')}"}
    told = "|".join(f"{key} = {value}" for key, value in fields.items())
    head = f"Aperio Image Library v12.0.15 \r\n640x512 [0,0 640x512] (128x128) JPEG/RGB Q=70 {plant('head')}"
    return write_private_slide(path, f"{head}|{told}")


def ome(path: Path) -> Path:
    xml = f"""<?xml version="1.0" encoding="UTF-8"?>
<!-- {plant("remark")} --><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" Creator="{plant("creator")}">
<Experimenter ID="Experimenter:0" UserName="{plant("username")}" LastName="{plant("lastname")}"/>
<Image ID="Image:0" Name="{plant("imagename")}"><AcquisitionDate>2019-03-04T00:00:00</AcquisitionDate>
<Description>{plant("description")}</Description>
<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="640" SizeY="512" SizeC="3" SizeZ="1" SizeT="1"
 PhysicalSizeX="0.5" PhysicalSizeXUnit="µm" PhysicalSizeY="0.5" PhysicalSizeYUnit="µm">
<Channel ID="Channel:0" SamplesPerPixel="3" Name="{plant("channel")}"/><TiffData/></Pixels></Image></OME>"""
    return write_private_slide(path, xml.encode("ascii", "xmlcharrefreplace").decode(), ome=True)


def dicom(folder: Path, series: Path) -> Path:
    """The real series, with names and dates of a patient put into its elements."""
    folder.mkdir()
    for file in sorted(series.glob("*.dcm")):
        put = {0x0010: ("PN", "patientname"), 0x0020: ("LO", "patientid"), 0x4000: ("LT", "patientcomments")}
        (folder / file.name).write_bytes(with_elements(file.read_bytes(), 0x0010, put))
    return folder


def with_elements(data: bytes, group: int, texts: dict[int, tuple[str, str]]) -> bytes:
    """Put planted text elements of a group in the place of those that an explicit little-endian file has of it."""
    at, kept, done = 132, bytearray(data[:132]), False
    new = b"".join(
        group.to_bytes(2, "little") + element.to_bytes(2, "little") + kind.encode()
        + len(padded).to_bytes(2, "little") + padded
        for element, (kind, place) in sorted(texts.items())
        for padded in [plant(place).encode() + b" " * (len(plant(place)) % 2)]
    )  # fmt: skip
    while not done:
        here = int.from_bytes(data[at : at + 2], "little")
        if here > group:
            return bytes(kept + new + data[at:])
        long = data[at + 4 : at + 6] in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"UC", b"UR", b"OF")
        start = at + (12 if long else 8)
        length = int.from_bytes(data[at + 8 : at + 12] if long else data[at + 6 : at + 8], "little")
        assert length < 2**31, "sequences of unknown length come later"
        if here != group:
            kept += data[at : start + length]
        at = start + length
    raise AssertionError


# What came out


def contents(path: Path) -> Iterator[bytes]:
    """Every way in which the bytes of a file can be read: as they are, and decompressed."""
    raw = path.read_bytes()
    yield raw
    if path.name.startswith("c.") and path.parent.name != "tiles":  # pixels hold no text
        yield imagecodecs.zstd_decode(raw[:-4])
    if path.suffix == ".png":
        at = 8
        while at < len(raw):
            length, kind = int.from_bytes(raw[at : at + 4], "big"), raw[at + 4 : at + 8]
            assert kind in (b"IHDR", b"IDAT", b"PLTE", b"pHYs", b"IEND", b"tRNS", b"tEXt", b"iTXt"), kind
            at += length + 12
        with Image.open(path) as picture:
            yield repr(picture.info).encode()
    if path.suffix in (".tif", ".tiff"):
        with tifffile.TiffFile(path) as tiff:
            for page in tiff.pages:
                yield b" ".join(str(tag.value).encode() for tag in page.tags)
    if path.suffix == ".h5":
        yield h5_content(path)
    for start in (match.start() for match in re.finditer(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]", raw)):
        try:
            yield zlib.decompressobj(47).decompress(raw[start : start + 65536], 65536)
        except zlib.error:
            continue


def h5_content(path: Path) -> bytes:
    h5py = pytest.importorskip("h5py")
    found: list[str] = []

    def visit(name: str, item: Any) -> None:
        found.append(name + repr(dict(item.attrs)) + (repr(item[...].tobytes()) if hasattr(item, "shape") else ""))

    with h5py.File(path) as file:
        found.append(repr(dict(file.attrs)))
        file.visititems(visit)
    return " ".join(found).encode()


def planted_in(data: bytes) -> set[bytes]:
    return {text for view in (data, data.replace(b"\0", b"")) for text in PLANTED.findall(view)}


def leaks(folder: Path) -> dict[str, set[bytes]]:
    """Planted strings in names and contents of everything below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        texts = planted_in(str(path.relative_to(folder)).encode())
        for content in contents(path) if path.is_file() else ():
            texts |= planted_in(content)
        if texts:
            found[str(path)] = texts
    return found


def shows(pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> bool:
    flat = pixels.reshape(-1, pixels.shape[-1])[:, :3].astype(int)
    return bool((np.abs(flat - colour).max(axis=1) < 40).any())


FORMATS: tuple[Format, ...] = (
    "png", "argmax", "side-by-side", "contact", "geojson", "regions", "overlay", "ome-tiff", "ome-zarr", "csv", "h5",
)  # fmt: skip
SLIDES: dict[str, Callable[[Path], Path]] = {
    "aperio": lambda folder: aperio(folder / "s.svs"),
    "ome": lambda folder: ome(folder / "s.ome.tiff"),
}


@pytest.fixture(params=[*SLIDES, "dicom"])
def slide(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    if request.param == "dicom":
        series = request.getfixturevalue("real_slide")("cmu-1-small-region-dicom")
        return dicom(tmp_path / "in" / "series", series)
    return SLIDES[request.param](tmp_path / "in")


def test_nothing_private_comes_out(
    slide: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="wsivit")
    assert planted_in(b"".join(file.read_bytes() for file in [slide, *slide.glob("*")] if file.is_file()))
    out = tmp_path / "out"
    (out / "pages").mkdir(parents=True)
    for codec, tile_size in (("jpeg", 96), ("jpeg", 128)):
        folder = out / f"{codec}-{tile_size}"
        options = TileOptions(mpp=0.5, tile_size=tile_size, codec=codec, min_tissue=0.0)  # type: ignore[arg-type]
        store = tile(slide, folder, options).store
        for colour in (LABEL, MACRO):
            assert not shows(store.read(store.readable), colour)
            assert not shows(store.thumbnail[0], colour)
    run = make_run(tmp_path / "run", tile_size=128)
    first = out / "jpeg-128" / f"{store.parameters.slide_id}.zarr"
    TileStore(first).write_labels("region", np.arange(len(TileStore(first))) % 2, CLASSES)
    wsivit.predict(run, first)
    small = wsivit.HeatmapOptions(size=400)
    made = wsivit.heatmap(first, output=out / "pages", formats=FORMATS, options=small)
    assert len(made.files) == len(FORMATS)
    wsivit.aggregate([first], out / "slides.csv")
    assert wsivit.verify(first, slide=slide) == []
    print(wsivit.info(slide), repr(wsivit.open_slide(slide)), repr(store))
    said = capfd.readouterr()
    assert leaks(out) == {}
    assert planted_in("".join([said.out, said.err, caplog.text]).encode()) == set()


def test_training_on_it_tells_nothing(tmp_path: Path) -> None:
    from wsivit.training.train import TrainOptions, train

    (tmp_path / "in").mkdir()
    store = tile(aperio(tmp_path / "in" / "s.svs"), tmp_path, TileOptions(mpp=0.5, tile_size=32, min_tissue=0.0)).store
    store.write_labels("region", (store.col >= 10).astype(np.int16), CLASSES)
    options = TrainOptions(pretrained=False, image_size=32, epochs=1, workers=0, device="cpu")
    train([store.path], label="region", model="test_vit", output=tmp_path / "out" / "run", options=options)
    assert leaks(tmp_path / "out") == {}


@pytest.mark.parametrize("kind", SLIDES)
def test_info_shows_them_only_when_asked(kind: str, tmp_path: Path) -> None:
    path = SLIDES[kind](tmp_path)
    for words in (["info", path], ["info", path, "--json"]):
        done = wsivit_(*words)
        assert done.returncode == 0, done.stderr
        assert planted_in((done.stdout + done.stderr).encode()) == set()
        assert planted_in(wsivit_(*words, "--private").stdout.encode())


def test_errors_tell_nothing_private(tmp_path: Path) -> None:
    path = aperio(tmp_path / "s.svs")
    whole = path.read_bytes()
    for cut in (len(whole) // 3, len(whole) - 2000, len(whole) - 400):
        (tmp_path / "cut.svs").write_bytes(whole[:cut])
        for words in (["info", "cut.svs"], ["tile", "cut.svs", "-q"], ["tile", "cut.svs", "--slide-mpp", "900", "-q"]):
            done = wsivit_(*words, cwd=tmp_path)
            assert planted_in((done.stdout + done.stderr).encode()) == set(), words


def test_control_characters_reach_no_terminal(tmp_path: Path) -> None:
    hostile = "\x1b]0;owned\x07\x1b[2J\r\x08\x7f"
    path = write_private_slide(
        tmp_path / "s.svs", f"Aperio Image Library\r\n640x512|MPP = 0.5|User = {hostile}|\x1b[31mKey = x|Title = a\nb"
    )
    for words in (["--private"], [], ["--private", "--json"]):
        said = wsivit_("info", path, *words)
        assert said.returncode == 0, said.stderr
        assert all(char.isprintable() or char == "\n" for char in said.stdout + said.stderr), words


# Names


HOSTILE_NAMES = [
    "../../etc/passwd", "a/b\\c.svs", "<script>alert(1)</script>.svs", "x" * 300 + ".svs", "x" * 299 + "y.svs",
    "名前.svs", "имя.svs", "a b.svs", "a_b.svs", "a\nb.svs", "-rf.svs", ".hidden.svs", "...", "con\x00.svs",
    "%2e%2e.svs",    "\u202egnp.svs", "a'b\"c`d$(e).svs",
]  # fmt: skip


def test_slide_ids_are_safe_and_unique() -> None:
    from wsivit.slide.identity import slide_id

    ids = [slide_id(name) for name in HOSTILE_NAMES]
    assert len(set(ids)) == len(ids)
    for made in ids:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}", made), made


def test_a_slide_of_the_same_name_is_refused_clearly(tmp_path: Path) -> None:
    for patient, seed in (("a", 0), ("b", 1)):
        (tmp_path / patient).mkdir()
        pixels = tissue_picture(*SIZE, seed=seed)
        tifffile.imwrite(
            tmp_path / patient / "s.tiff", pixels, tile=(128, 128), photometric="rgb", compression="jpeg",
            resolution=(20000, 20000), resolutionunit="CENTIMETER", metadata=None,
        )  # fmt: skip
    words = ["-o", tmp_path / "out", "-q"]
    assert wsivit_("tile", tmp_path / "a" / "s.tiff", *words).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    refused = wsivit_("tile", tmp_path / "b" / "s.tiff", *words)
    assert refused.returncode == 8
    assert "s.zarr is of another slide" in refused.stderr
    assert str(tmp_path / "a" / "s.tiff") in refused.stderr
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert wsivit_("tile", tmp_path / "b" / "s.tiff", "-o", tmp_path / "other", "-q").returncode == 0


def test_pictures_of_the_fixture_hold_what_is_searched_for(tmp_path: Path) -> None:
    """The search itself finds: in tiles as they are, in tags, in compressed chunks."""
    path = aperio(tmp_path / "s.svs")
    assert len(planted_in(path.read_bytes())) > 30
    (tmp_path / "c.0").write_bytes(imagecodecs.zstd_encode(plant("inside").encode()) + b"crc.")
    (tmp_path / "a.gz").write_bytes(b"\x00" + zlib.compress(plant("deflated").encode()))
    found = leaks(tmp_path)
    assert found[str(tmp_path / "c.0")] == {b"ZqinsideqZ"}
    assert found[str(tmp_path / "a.gz")] == {b"ZqdeflatedqZ"}
