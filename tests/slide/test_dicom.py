"""DICOM slides as archives leave them: the same by a file, a folder, a DICOMDIR or a cohort; never another series."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from support.dicom_slides import instance, report, save, series
from support.slide_helpers import texture

from tests.cli.test_cli import wsivit_
from wsivit import TileStore, open_slide
from wsivit.errors import SlideError, UsageError
from wsivit.slide.dicom import read_header
from wsivit.slide_list import find_slides, is_one_file

A, B = texture(500, 400, 1, 0), texture(380, 300, 2, 0)
UID_A, UID_B = "1.2.3.40", "1.2.3.50"
LEVELS = {
    "plain": ["a/level-0.dcm", "a/level-1.dcm"],
    "without extension": ["a/IM0000", "a/IM0001"],
    "named by UID": ["a/1.2.276.0.0", "a/1.2.276.0.1"],
    "below": ["a/study/series/IM0000", "a/study/series/IM0001"],
}


def shows(path: Path | str, picture: np.ndarray) -> tuple[str, str, str]:
    """Check pixels and scale against the picture; id, path and fingerprint."""
    with open_slide(path) as slide:
        assert slide.dimensions == picture.shape[1::-1] and slide.scale.mpp_x == 0.5
        pixels = slide.read(slide.plan(0.5), 0, 0, *slide.dimensions).astype(int)
        assert np.abs(pixels - picture).mean() < 4
        return slide.id, slide.path, slide.info().fingerprint


def write_media(files: list[Path], folder: Path) -> None:
    """Copy files into a file set with its DICOMDIR, as written to a disc."""
    media = FileSet()
    for file in files:
        media.add(file)
    media.write(folder)
    media._stage["t"].cleanup()  # or its finalizer would warn, which fails the test


@pytest.mark.parametrize("names", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("dicomdir", ["none", "true", "not a file set"])
def test_a_file_a_folder_a_dicomdir_and_a_cohort_are_one_slide(tmp_path: Path, names: list[str], dicomdir: str) -> None:
    files = series(A, [tmp_path / name for name in names], UID_A)
    folder, given = tmp_path / "a", [tmp_path / "a", files[0].parent, *files]
    (files[0].parent / "._level-0.dcm").write_bytes(b"\0\5\x16\7" + bytes(200))
    report(files[0].parent / "report.dcm", "1.2.3.99")
    if dicomdir != "none":
        given.append(folder / "DICOMDIR")
        if dicomdir == "true":
            write_media(files, tmp_path / "media")
            (tmp_path / "media" / "DICOMDIR").rename(folder / "DICOMDIR")
        else:
            (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(64))
    assert len({shows(path, A) for path in given}) == 1
    found = [find_slides([path]) for path in given]
    assert {row.path for (row,) in found} == {str(files[0].parent)}
    assert all(is_one_file(str(path)) for path in (files[0].parent, *files))
    assert len(find_slides([f"{files[0].parent}/[!r]*", *given])) == 1


def test_a_file_set_on_media(tmp_path: Path) -> None:
    files = series(A, [tmp_path / "a.dcm"], UID_A) + series(B, [tmp_path / "b.dcm"], UID_B)
    write_media(files, tmp_path / "media")
    found = find_slides([tmp_path / "media" / "DICOMDIR"])
    assert found == find_slides([tmp_path / "media"]) and len(found) == 2
    sizes = []
    for row in found:
        with open_slide(row.path) as slide:
            sizes.append(slide.dimensions)
    assert sorted(sizes) == [(380, 300), (500, 400)]
    with pytest.raises(UsageError, match=r"2 DICOM series.*SE000000/IM000000 \(1 files\)"):
        open_slide(tmp_path / "media" / "DICOMDIR")


def test_several_series_of_a_folder_are_slides_of_their_own(tmp_path: Path) -> None:
    both = tmp_path / "both"
    for name, picture, uid in (("B", B, UID_B), ("A", A, UID_A)):
        series(picture, [both / f"{name}-{n}.dcm" for n in range(2)], uid)
    with pytest.raises(UsageError, match=r"2 DICOM series.*A-0\.dcm \(2 files\), B-0\.dcm \(2 files\)"):
        open_slide(both)
    assert [row.id for row in find_slides([both])] == ["A-0", "B-0"]
    for name, picture in (("A", A), ("B", B)):
        seen = {shows(both / f"{name}-{n}.dcm", picture) for n in range(2)}
        assert len(seen) == 1 and next(iter(seen))[0] == f"{name}-0"
    assert shows(both / "A-0.dcm", A)[2] != shows(both / "B-0.dcm", B)[2]
    table = tmp_path / "slides.csv"
    table.write_text("slide_id,path\nx,both/A-0.dcm\ny,both/A-1.dcm\n")
    with pytest.raises(UsageError, match="line 3: the same DICOM series as line 2"):
        find_slides([table])


def test_labels_and_reports_are_no_slides(tmp_path: Path) -> None:
    series(A, [tmp_path / "a/0.dcm", tmp_path / "a/1.dcm"], UID_A)
    save(instance(B, UID_B, kind="LABEL"), tmp_path / "a/label.dcm")
    report(tmp_path / "a/report", UID_B)
    assert shows(tmp_path / "a", A)[0] == "a"
    assert [row.id for row in find_slides([tmp_path])] == ["a"]
    save(instance(B, UID_B, kind="LABEL"), tmp_path / "b/label.dcm")
    with pytest.raises(SlideError, match="without DICOM slides"):
        open_slide(tmp_path / "b")


def test_a_dicom_series_and_other_slides_in_one_folder(tmp_path: Path) -> None:
    series(A, [tmp_path / "in/0.dcm", tmp_path / "in/1.dcm"], UID_A)
    (tmp_path / "in/x.svs").touch()
    (tmp_path / "in/broken.dcm").write_bytes(b"no DICOM")
    assert {row.id for row in find_slides([tmp_path / "in"])} == {"0", "broken", "x"}
    assert not is_one_file(str(tmp_path / "in"))


def test_the_series_of_a_nested_sequence_is_not_the_files_own(tmp_path: Path) -> None:
    """ReferencedSeriesSequence stands before the file's own series, and names others."""
    referenced = Dataset()
    referenced.SeriesInstanceUID = UID_B
    item = Dataset()
    item.ReferencedSOPInstanceUID = generate_uid()
    referenced.ReferencedInstanceSequence = [item]
    for explicit in (True, False):
        for undefined in (True, False):
            dataset = instance(B, UID_A)
            dataset.ReferencedSeriesSequence = [referenced]
            for element in (dataset["ReferencedSeriesSequence"], referenced["ReferencedInstanceSequence"]):
                element.is_undefined_length = undefined
            referenced.is_undefined_length_sequence_item = undefined
            del dataset.PixelData
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if explicit else ImplicitVRLittleEndian
            header = read_header(save(dataset, tmp_path / f"{explicit}-{undefined}"))
            assert header is not None and header.series == UID_A and header.is_slide


@pytest.mark.parametrize("length", [133, 140, 300, 500])
def test_cut_headers_are_no_series(tmp_path: Path, length: int) -> None:
    (file,) = series(A, [tmp_path / "a.dcm"], UID_A)
    (tmp_path / "cut").write_bytes(file.read_bytes()[:length])
    header = read_header(tmp_path / "cut")
    assert header is not None and not header.series
    (tmp_path / "deep").write_bytes(bytes(128) + b"DICM" + b"\x08\0\x15\x11SQ\0\0\xff\xff\xff\xff" * 1000)
    assert not read_header(tmp_path / "deep").is_slide  # type: ignore[union-attr]


def test_the_command_line_names_one_store(tmp_path: Path) -> None:
    files = series(A, [tmp_path / "s/IM0", tmp_path / "s/IM1"], UID_A)
    how = ("--tissue", "none", "--tile-size", 128, "--mpp", 0.5)
    for number, given in enumerate((files[1], tmp_path / "s")):
        out = tmp_path / f"out{number}"
        assert wsivit_("tile", given, "-o", out, *how).returncode == 0
        assert [path.name for path in out.glob("*.zarr")] == ["s.zarr"]
        assert len(TileStore(out / "s.zarr")) == 16
    seen = json.loads(wsivit_("info", files[0], "--json").stdout)
    assert (seen["id"], seen["dimensions"], seen["scale"]["mpp_x"]) == ("s", [500, 400], 0.5)
