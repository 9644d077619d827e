"""Small DICOM slides of known pixels, as scanners and archives write them."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from support.slide_helpers import encode

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pydicom probes optional decoders
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID, ImplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

WHOLE_SLIDE = UID("1.2.840.10008.5.1.4.1.1.77.1.6")
TILE = 128


def instance(
    picture: NDArray[np.uint8],
    series: str,
    *,
    mpp: float = 0.5,
    kind: str = "VOLUME",
    left_out: Collection[tuple[int, int]] | None = None,
) -> Dataset:
    """One level in JPEG frames of 128 x 128: all of them, or all but those in some columns and rows, last one first."""
    height, width = picture.shape[:2]
    padded = np.pad(picture, ((0, -height % TILE), (0, -width % TILE), (0, 0)), mode="edge")
    places = [(y, x) for y in range(0, height, TILE) for x in range(0, width, TILE)]
    if left_out is not None:
        places = [(y, x) for y, x in reversed(places) if (x // TILE, y // TILE) not in left_out]
    frames = [encode(padded[y : y + TILE, x : x + TILE], False, "444") for y, x in places]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.SOPClassUID, dataset.SOPInstanceUID = WHOLE_SLIDE, generate_uid()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.ImageType = ["ORIGINAL", "PRIMARY", kind, "NONE"]
    dataset.Modality, dataset.PatientID, dataset.StudyID = "SM", "X", "1"
    dataset.StudyDate, dataset.StudyTime, dataset.PatientName = "20200101", "000000", "X"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", series
    dataset.FrameOfReferenceUID = "1.2.3.4"
    dataset.Rows = dataset.Columns = TILE
    dataset.NumberOfFrames = len(frames)
    dataset.TotalPixelMatrixColumns, dataset.TotalPixelMatrixRows = width, height
    dataset.TotalPixelMatrixFocalPlanes = dataset.NumberOfOpticalPaths = 1
    dataset.DimensionOrganizationType = "TILED_FULL" if left_out is None else "TILED_SPARSE"
    if left_out is not None:
        dataset.PerFrameFunctionalGroupsSequence = [_frame_groups(x, y, mpp) for y, x in places]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "YBR_FULL_422", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    measures = Dataset()
    measures.PixelSpacing = [mpp / 1000, mpp / 1000]
    groups = Dataset()
    groups.PixelMeasuresSequence = [measures]
    dataset.SharedFunctionalGroupsSequence = [groups]
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].is_undefined_length = True
    return dataset


def _frame_groups(x: int, y: int, mpp: float) -> Dataset:
    """Where one frame lies, in pixels from 1 as the standard has it, and in millimetres."""
    place = Dataset()
    place.XOffsetInSlideCoordinateSystem, place.YOffsetInSlideCoordinateSystem = x * mpp / 1000, y * mpp / 1000
    place.ZOffsetInSlideCoordinateSystem = 0.0
    place.ColumnPositionInTotalImagePixelMatrix, place.RowPositionInTotalImagePixelMatrix = x + 1, y + 1
    content, path = Dataset(), Dataset()
    content.DimensionIndexValues, path.OpticalPathIdentifier = [x // TILE + 1, y // TILE + 1], "1"
    groups = Dataset()
    groups.FrameContentSequence, groups.PlanePositionSlideSequence = [content], [place]
    groups.OpticalPathIdentificationSequence = [path]
    return groups


def save(dataset: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def series(picture: NDArray[np.uint8], paths: Sequence[Path], uid: str) -> list[Path]:
    """Write a series: each further file holds every second pixel of the one before."""
    return [
        save(instance(np.ascontiguousarray(picture[:: 2**n, :: 2**n]), uid, mpp=0.5 * 2**n), path)
        for n, path in enumerate(paths)
    ]


def report(path: Path, uid: str) -> Path:
    """Write what lies beside slides in archives and is none: a file of another class, without pixels."""
    dataset = instance(np.zeros((TILE, TILE, 3), np.uint8), uid)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.88.33")
    del dataset.PixelData
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return save(dataset, path)
