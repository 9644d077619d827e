"""The verb: what it writes, that colours mean what they say, and that bad input is told."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from matplotlib import colormaps
from PIL import Image
from support.heatmap_helpers import make_store

from wsivit.errors import OutputError, StoreError, UsageError
from wsivit.heatmap import HeatmapOptions, heatmap
from wsivit.store import Predictions, TileStore

SMALL = HeatmapOptions(size=400)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TileStore:
    return make_store(tmp_path_factory.mktemp("stores") / "S1.zarr", unreadable=[20])


def read_picture(path: Path) -> tuple[np.ndarray, dict]:
    """The part of a picture that shows the slide, and the frame that the file tells."""
    with Image.open(path) as image:
        frame = json.loads(image.text["wsivit"])
        page = np.asarray(image)
    top, left = frame["top"], frame["left"]
    return page[top : top + frame["height"], left : left + frame["width"]], frame


def test_everything_is_written_beside_the_store(store: TileStore) -> None:
    outputs = heatmap(store, options=SMALL)
    folder = store.path.parent
    assert outputs.class_name == "tumor"
    assert outputs.png == folder / "S1-run-1-tumor.png"
    assert outputs.files["geojson"] == folder / "S1-run-1-tiles.geojson"
    assert outputs.files["regions"] == folder / "S1-run-1-tumor-regions.geojson"
    assert outputs.files["ome-tiff"] == folder / "S1-run-1.ome.tif"
    assert all(path.is_file() for path in outputs.paths) and len(outputs.paths) == 4
    assert not list(folder.glob(".tmp*"))
    area = 4096 * 3072 * 0.25**2 / 1e6
    tumor = outputs.scores[1]
    assert tumor.class_name == "tumor" and tumor.mean == pytest.approx(0.5, abs=0.01)
    assert tumor.largest_focus_mm2 == pytest.approx(area / 2, abs=0.02)


def test_the_same_again_replaces_it_byte_for_byte(store: TileStore, tmp_path: Path) -> None:
    first = heatmap(store, output=tmp_path, options=SMALL)
    before = {path: path.read_bytes() for path in first.paths if path != first.files["ome-tiff"]}
    heatmap(store, output=tmp_path, options=SMALL)
    assert {path: path.read_bytes() for path in before} == before


def test_colours_are_absolute_and_where_they_belong(store: TileStore, tmp_path: Path) -> None:
    options = HeatmapOptions(size=512, alpha=1, interpolation="nearest")
    picture, frame = read_picture(heatmap(store, output=tmp_path, formats=["png"], options=options).png)
    assert frame["level0_per_pixel"] == [8, 8] and frame["class"] == "tumor"
    for x, y, p in [(100, 100, 0.9), (250, 300, 0.9), (262, 100, 0.1), (450, 350, 0.1)]:
        expected = np.round(np.array(colormaps["coolwarm"](np.float32(p))[:3]) * 255)
        np.testing.assert_allclose(picture[y, x], expected, atol=1)


def test_unpredicted_tissue_is_left_as_it_is_and_unreadable_tiles_are_hatched(tmp_path: Path) -> None:
    store = make_store(tmp_path / "S.zarr", unreadable=[5])
    found = store.predictions("run-1")
    found.probabilities[9] = np.nan
    store.write_predictions("run-1", found)
    picture, _ = read_picture(heatmap(store, formats=["png"], options=HeatmapOptions(size=512)).png)
    unpredicted = picture[8:20, 9 * 32 + 8 : 10 * 32 - 8]
    assert (unpredicted == (230, 190, 215)).all()
    hatched = picture[8:20, 5 * 32 + 8 : 6 * 32 - 8].reshape(-1, 3)
    assert {tuple(c) for c in np.unique(hatched, axis=0)} == {(60, 60, 60), (227, 207, 219)}


def test_class_can_be_chosen_and_the_main_one_is_not_normal(tmp_path: Path) -> None:
    one = HeatmapOptions(size=400, class_name="normal")
    store = make_store(tmp_path / "S.zarr")
    assert heatmap(store, formats=["png"], options=one).png.name == "S-run-1-normal.png"
    found = store.predictions("run-1")
    store.write_predictions("run-1", Predictions(found.probabilities, ("adenoma", "normal")))
    assert heatmap(store, formats=["png"], options=SMALL).class_name == "adenoma"


@pytest.mark.parametrize(("suffix", "kind"), [(".jpg", "JPEG"), (".webp", "WEBP"), (".png", "PNG")])
def test_picture_formats(store: TileStore, tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / "new" / f"x{suffix}"
    outputs = heatmap(str(store.path), png=path, output=tmp_path, formats=[], options=HeatmapOptions(size=300))
    assert outputs.paths == (path,)
    with Image.open(path) as image:
        assert image.format == kind


def test_the_store_may_be_far_from_its_slide(store: TileStore, tmp_path: Path) -> None:
    moved = shutil.copytree(store.path, tmp_path / "elsewhere" / "moved.zarr")
    assert heatmap(moved, options=SMALL).png.parent == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 1.5},
        {"threshold": float("nan")},
        {"alpha": -0.1},
        {"vmin": 0.5, "vmax": 0.5},
        {"size": 10},
        {"interpolation": "cubic"},
    ],
)
def test_options_out_of_range(options: dict) -> None:
    with pytest.raises(UsageError):
        HeatmapOptions(**options)


def test_bad_input_is_told(store: TileStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no finished predictions of run 'run-9'.*run-1"):
        heatmap(store, run="run-9")
    with pytest.raises(UsageError, match="no class 'cyst'; its classes are normal, tumor"):
        heatmap(store, options=HeatmapOptions(class_name="cyst"))
    with pytest.raises(UsageError, match="no colormap 'pink-ish'"):
        heatmap(store, options=HeatmapOptions(cmap="pink-ish"))
    with pytest.raises(UsageError, match="unknown export format pdf; choose from png"):
        heatmap(store, formats=["pdf"])  # type: ignore[list-item]
    with pytest.raises(UsageError, match=r"x\.pdf: a picture is written as"):
        heatmap(store, png=tmp_path / "x.pdf")
    with pytest.raises(StoreError):
        heatmap(tmp_path / "none.zarr")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        heatmap(store, output=tmp_path / "file" / "x")


def test_runs_are_listed_when_one_must_be_chosen(tmp_path: Path) -> None:
    store = make_store(tmp_path / "S.zarr")
    found = store.predictions("run-1")
    store.write_predictions("other", found)
    with pytest.raises(UsageError, match=r"several runs.*other, run-1"):
        heatmap(store)
    shutil.rmtree(store.path / "predictions" / "run-1")
    shutil.rmtree(store.path / "predictions" / "other")
    with pytest.raises(UsageError, match=r"no finished predictions.*wsivit predict"):
        heatmap(TileStore(store.path))


def test_predictions_that_were_broken_off_are_not_taken_for_whole(tmp_path: Path) -> None:
    store = make_store(tmp_path / "S.zarr")
    with store.predictions_writer("half", ("a", "b"), {}) as writer:
        tiles = next(iter(writer.pending()))
        writer.write(tiles, np.full((len(tiles), 2), 0.5, np.float32), None)
    with pytest.raises(UsageError, match=r"no finished predictions of run 'half'"):
        heatmap(store, run="half")


def test_the_picture_tells_how_many_tiles_were_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "S.zarr", unreadable=[3, 4])
    found = store.predictions("run-1")
    found.probabilities[100:] = np.nan
    store.write_predictions("run-1", found)
    told: list[str] = []
    monkeypatch.setattr("matplotlib.figure.Figure.text", lambda self, x, y, text, **_: told.append(text))
    heatmap(store, formats=["png"], options=SMALL)
    assert "98 of 192 tiles predicted" in told[-1] and "2 unreadable (hatched)" in told[-1]


@pytest.mark.parametrize(("value", "says"), [(np.nan, "no prediction"), (3.5, "no probabilities")])
def test_predictions_that_are_none(tmp_path: Path, value: float, says: str) -> None:
    store = make_store(tmp_path / "S.zarr")
    store.write_predictions("run-1", Predictions(np.full((len(store), 2), value, np.float32), ("a", "b")))
    with pytest.raises(StoreError, match=says):
        heatmap(store)


def test_ome_tiff_says_the_same_as_the_picture(store: TileStore, tmp_path: Path) -> None:
    path = heatmap(store, output=tmp_path, formats=["ome-tiff"]).paths[0]
    grid = tifffile.imread(path)
    assert grid.dtype == np.float32 and grid.shape == (5, 12, 16)
    np.testing.assert_allclose(grid[1, :, :8][np.isfinite(grid[1, :, :8])], 0.9)


def test_file_names_are_safe(tmp_path: Path) -> None:
    store = make_store(tmp_path / "S 1é.zarr", classes=("normal", "Tumor: Positive/…"))
    assert heatmap(store, formats=["png"], options=SMALL).png.name == "S_1é-run-1-Tumor_Positive.png"


def test_the_module_loads_neither_torch_nor_matplotlib() -> None:
    code = "import wsivit.heatmap.export, sys; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]
