"""DICOM levels that leave frames out: a finer level fills them; what no level holds was never scanned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from support.dicom_slides import TILE, instance, save
from support.slide_helpers import texture

import wsivit
from wsivit import TileOptions
from wsivit.errors import SlideError
from wsivit.slide.dicom import read_frames
from wsivit.store import Status

PICTURE = texture(1000, 800, 1, 0)
UID = "1.2.3.70"
Cells = list[tuple[int, int]]


def half(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    return np.rint(picture.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))).astype(np.uint8)


HALF = half(PICTURE)


def write(folder: Path, left_out: list[Cells | None]) -> Path:
    """A series of one level for each list of frames that it leaves out, as columns and rows."""
    picture = PICTURE
    for number, cells in enumerate(left_out):
        save(instance(picture, UID, mpp=0.5 * 2**number, left_out=cells), folder / f"{number}.dcm")
        picture = half(picture)
    return folder


def stored_places(file: Path) -> set[tuple[int, int]]:
    """Columns and rows of a file's frames as pydicom reads them."""
    dataset = pydicom.dcmread(file, stop_before_pixels=True)
    places = [frame.PlanePositionSlideSequence[0] for frame in dataset.PerFrameFunctionalGroupsSequence]
    return {
        (
            (place.ColumnPositionInTotalImagePixelMatrix - 1) // TILE,
            (place.RowPositionInTotalImagePixelMatrix - 1) // TILE,
        )
        for place in places
    }


def test_frames_that_a_level_leaves_out_come_from_the_finer_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cells = [(col, row) for row in range(4) for col in range(4) if rng.random() < 0.4]
    folder = write(tmp_path / "s", [[], cells])
    with wsivit.open_slide(folder) as slide:
        assert slide.info().filled_tiles == (0, len(cells)) and len(cells) > 3
        whole = slide.read(slide.plan(1.0), 0, 0, 500, 400)
    assert np.abs(whole.astype(int) - HALF).mean() < 3
    # What the file does hold is its own frames, as pydicom decodes them, not the finer level made smaller.
    dataset = pydicom.dcmread(folder / "1.dcm")
    for frame, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        place = groups.PlanePositionSlideSequence[0]
        x, y = place.ColumnPositionInTotalImagePixelMatrix - 1, place.RowPositionInTotalImagePixelMatrix - 1
        seen = whole[y : y + TILE, x : x + TILE].astype(int)
        expected = pydicom.pixels.pixel_array(dataset, index=frame)[: seen.shape[0], : seen.shape[1]]
        assert np.abs(seen - expected).mean() < 1
    done = wsivit.tile(folder, tmp_path / "store", TileOptions(mpp=1.0, tile_size=TILE, tissue="none"))
    assert set(done.store.status) <= {Status.OK, Status.PADDED} and done.store.parameters.filled == len(cells)


def test_what_no_level_holds_was_never_scanned(tmp_path: Path) -> None:
    below = [(2, 2), (3, 2), (2, 3), (3, 3)]  # the frames of level 0 under column 1, row 1 of level 1
    folder = write(tmp_path / "s", [[*below, (0, 0)], [(1, 1), (0, 0)]])
    how = {"tile_size": TILE, "tissue": "none"}
    coarse = wsivit.tile(folder, tmp_path / "coarse", TileOptions(mpp=1.0, **how)).store
    missing = np.flatnonzero(coarse.status == Status.MISSING)
    assert [(int(coarse.col[i]), int(coarse.row[i])) for i in missing] == [(1, 1)]
    # Three of the four frames under (0, 0) are there: the fourth stays white.
    tile = coarse[0].astype(int)
    assert (tile[: TILE // 2 - 1, : TILE // 2 - 1] == 255).all()
    assert np.abs(tile - HALF[:TILE, :TILE])[TILE // 2 + 1 :].mean() < 4
    fine = wsivit.tile(folder, tmp_path / "fine", TileOptions(mpp=0.5, **how)).store
    missing = np.flatnonzero(fine.status == Status.MISSING)
    assert {(int(fine.col[i]), int(fine.row[i])) for i in missing} == {*below, (0, 0)}


def test_a_level_without_any_frame_of_the_tissue_loses_none(tmp_path: Path) -> None:
    """The overview is read from the coarsest level, which holds one frame only."""
    everything = [(col, row) for row in range(2) for col in range(2) if (col, row) != (1, 1)]
    folder = write(tmp_path / "s", [None, None, everything])
    with wsivit.open_slide(folder) as slide:
        overview = slide.overview(2.0).astype(int)
        assert slide.filled_tiles(2).where.sum() == 3  # type: ignore[union-attr]
    assert np.abs(overview - half(HALF)).mean() < 4


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("implicit", [False, True])
def test_places_are_read_in_every_encoding(tmp_path: Path, undefined: bool, implicit: bool) -> None:
    cells = [(0, 0), (3, 1), (7, 6)]
    dataset = instance(PICTURE, UID, left_out=cells)
    path = Dataset()
    path.ICCProfile = bytes(2 << 20)  # stands before the places, and is larger than what a header takes
    dataset.OpticalPathSequence = [path]
    if undefined:
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            frame.is_undefined_length_sequence_item = True
            frame["PlanePositionSlideSequence"].is_undefined_length = True
        dataset["PerFrameFunctionalGroupsSequence"].is_undefined_length = True
    if implicit:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        dataset.PixelData = bytes(TILE * TILE * 3)
    file = save(dataset, tmp_path / "a.dcm")
    frames = read_frames(file)
    assert (frames.size, frames.tile) == ((1000, 800), (TILE, TILE))
    assert {(col, row) for row, col in np.argwhere(frames.stored).tolist()} == stored_places(file)
    assert frames.stored.sum() == 8 * 7 - 3


def test_a_level_tiled_in_full_leaves_nothing_out(tmp_path: Path) -> None:
    file = save(instance(PICTURE, UID), tmp_path / "a.dcm")
    assert read_frames(file).stored.all()


def test_a_file_that_does_not_say_where_its_frames_lie(tmp_path: Path) -> None:
    dataset = instance(PICTURE, UID, left_out=[(0, 0)])
    del dataset.TotalPixelMatrixColumns
    with pytest.raises(SlideError, match=r"a\.dcm: the DICOM file does not say where its frames lie"):
        read_frames(save(dataset, tmp_path / "a.dcm"))
    file = save(instance(PICTURE, UID, left_out=[(0, 0)]), tmp_path / "b.dcm")
    (tmp_path / "cut.dcm").write_bytes(file.read_bytes()[:2000])
    with pytest.raises(SlideError, match="where its frames lie"):
        read_frames(tmp_path / "cut.dcm")
