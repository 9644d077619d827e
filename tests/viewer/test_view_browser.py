"""The viewer's page in a real browser: places, values, keys, labels, and that it asks nobody else."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import center_of_mass
from support.cli_helpers import wsivit_
from support.heatmap_helpers import make_store
from support.small_slides import tissue_picture, write_slide
from support.viewer_helpers import Page, axe_problems, chromium, page_of

import wsivit
from wsivit.heatmap import read_heatmap_data
from wsivit.store import Predictions, TileStore
from wsivit.tiling import TileOptions

DISC, RADIUS = (1033, 421), 37


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of an odd scale with a blue disc, its store, and two runs."""
    folder = tmp_path_factory.mktemp("page")
    picture = tissue_picture(1494, 1118)
    y, x = np.mgrid[0:1118, 0:1494] + 0.5
    picture[(x - DISC[0]) ** 2 + (y - DISC[1]) ** 2 < RADIUS**2] = (0, 0, 255)
    write_averaged(folder / "s.tiff", picture, 0.3173)
    options = TileOptions(mpp=0.6346, tile_size=48, min_tissue=0.0)
    store = wsivit.tile(folder / "s.tiff", folder, options).store
    rng = np.random.default_rng(3)
    for run in ("first", "second"):
        p = rng.random((len(store), 1), np.float32)
        store.write_predictions(run, Predictions(np.hstack([1 - p, p]), ("normal", "tumor")))
    store.write_labels("truth", np.arange(len(store)) % 3 - 1, ("normal", "tumor"))
    return folder


def write_averaged(path: Path, picture: NDArray[np.uint8], mpp: float) -> None:
    """Write a slide whose second level is the mean of the first: content lies at the same place in both."""
    with tifffile.TiffWriter(path) as tiff:
        for level, pixels in enumerate((picture, np.asarray(Image.fromarray(picture).reduce(2)))):
            tiff.write(
                pixels, tile=(128, 128), photometric="rgb", compression="jpeg", subsampling=(2, 2), metadata=None,
                compressionargs={"level": 95, "outcolorspace": "YCBCR"}, subfiletype=min(level, 1),
                resolution=(1e4 / mpp / 2**level,) * 2, resolutionunit="CENTIMETER",
            )  # fmt: skip


@pytest.fixture
def page(driver: Any, folder: Path, tmp_path: Path) -> Iterator[Page]:
    """The page of a copy of the store, with its slide."""
    shutil.copytree(folder / "s.zarr", tmp_path / "s.zarr")
    with page_of(driver, tmp_path / "s.zarr") as page:
        yield page


def store_of(tmp_path: Path) -> TileStore:
    return TileStore(tmp_path / "s.zarr")


def blue_center(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Middle (x, y) of what is blue, in pixels from the corner."""
    red, green, blue = picture.astype(int).transpose(2, 0, 1)
    weight = np.clip((blue - np.maximum(red, green) - 60) / 130.0, 0, 1)
    y, x = center_of_mass(weight)
    return np.array([x + 0.5, y + 0.5])


@pytest.mark.parametrize("lost", [False, True], ids=["slide", "store alone"])
def test_a_disc_is_where_it_was_planted(lost: bool, driver: Any, folder: Path) -> None:
    """Its middle lies within one pixel of the screen at three zooms, also beside the middle of the view."""
    hidden = folder / "s.hidden"
    if lost:
        (folder / "s.tiff").rename(hidden)
    try:
        with page_of(driver, folder / "s.zarr") as page:
            assert ("not where it was" in page.text("notice")) == lost
            page.choose("layer-heat", False)
            for downsample in (0.61, 2.7, 4.4):
                x, y = DISC[0] - 60 * downsample, DISC[1] + 35 * downsample
                page.show(x, y, downsample)
                size = page.js("const {x, y} = wsivit.page.view.map.getSize(); return [x, y]")
                expected = np.array(size) / 2 + [60, -35]
                assert np.abs(blue_center(page.picture()) - expected).max() <= 1, downsample
            page.silent()
    finally:
        if lost:
            hidden.rename(folder / "s.tiff")


def test_cells_lie_over_their_tiles(page: Page, tmp_path: Path) -> None:
    """A tile that alone is over the threshold is coloured on the screen exactly where the store has it."""
    store = store_of(tmp_path)
    p = np.zeros((len(store), 2), np.float32)
    i = len(store) // 2 + 5
    p[:, 0], p[i] = 1, (0, 1)
    store.write_predictions("one", Predictions(p, ("normal", "tumor")))
    page.open("run=one&over=1&o-heat=1&on=heat&cmap=viridis")
    x0, y0, x1, y1 = store.grid.boxes0(store.col[i], store.row[i])[0]
    for downsample in (0.55, 1.9):
        page.show((x0 + x1) / 2 + 10, (y0 + y1) / 2 - 7, downsample)
        view = page.js("return wsivit.page.view.view")
        red, green, blue = page.picture().astype(int).transpose(2, 0, 1)
        y, x = np.nonzero((red > 230) & (green > 210) & (blue < 80))  # viridis at 1
        corner = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
        expected = (np.array([x0, y0, x1, y1]) - [view["x0"], view["y0"]] * 2) * view["scale"]
        assert np.abs(corner - expected).max() <= 2  # the outline takes a pixel of either side


def test_values_are_those_of_the_store(page: Page, tmp_path: Path) -> None:
    store = store_of(tmp_path)
    exact = store.predictions("first").probabilities
    for i in (3, len(store) // 2, len(store) - 20):
        x0, y0, x1, y1 = store.grid.boxes0(store.col[i], store.row[i])[0]
        page.show((x0 + x1) / 2, (y0 + y1) / 2, 1.5)
        page.point(x0 + 10, y0 + 10)
        said = page.text("values")
        assert f"tile {i} ·" in said
        for name, value in zip(("normal", "tumor"), exact[i], strict=True):
            assert np.float32(re.search(rf"{name} ([\d.e-]+)", said)[1]) == value  # type: ignore[index]
        place = re.search(r"([\d.]+) µm, ([\d.]+) µm", said)
        assert place is not None
        assert float(place[1]) == pytest.approx((x0 + 10) * 0.3173, abs=1)
        page.point(x0 + 10, y0 + 10, click=True)
        assert page.text("tile-title") == f"Tile {i}"
        opened = page.text("tile-content")
        assert f"first: tumor{np.format_float_positional(exact[i, 1], unique=True, trim='0')}" in opened
        assert f"Level-0 pixels{store.x0[i]}, {store.y0[i]}" in opened
    page.silent()


def test_the_threshold_shows_the_numbers_of_aggregate(driver: Any, tmp_path: Path) -> None:
    """Area, share and largest focus, at thresholds of the slider, with cells that reach past the slide."""
    rng = np.random.default_rng(2)
    store = make_store(tmp_path / "s.zarr", overlap=32, field=lambda x, y: rng.random(x.shape), unreadable=(7, 90))
    scores = read_heatmap_data(store).scores
    areas = scores.cell_areas(store.parameters.slide_mpp)
    known = areas[np.isfinite(scores.scores[..., 0])].sum()
    with page_of(driver, store.path) as page:
        for k in (100, 0, 113, 171, 200):
            page.choose("threshold", k)
            options = wsivit.AggregateOptions(threshold=k / 200, class_name="tumor")
            table = Path(str(wsivit.aggregate([store], tmp_path / "a.csv", options=options))).read_text().splitlines()
            row = dict(zip(table[0].split(","), table[1].split(","), strict=True))
            measured = page.js("return wsivit.page.measured")
            assert measured["share"] == pytest.approx(float(row["area_fraction"]), rel=1e-6)
            assert measured["focus"] == pytest.approx(float(row["largest_focus_mm2"]), rel=1e-6)
            assert measured["area"] == pytest.approx(known * float(row["area_fraction"]), rel=1e-6)
        page.silent()


def test_class_colours_and_threshold_change_without_a_request(page: Page) -> None:
    asked = "return performance.getEntriesByType('resource').length"
    page.wait("return wsivit.page.view.source.running.size === 0")
    before = page.js(asked)
    first = page.picture()
    pictures = [first]
    for name, value in (
        ("threshold", 20),
        ("mode", "class:normal"),
        ("cmap", "magma"),
        ("only-over", True),
        ("mode", "best"),
    ):
        page.choose(name, value)
        page.frame()
        pictures.append(page.picture())
        assert not np.array_equal(pictures[-1], pictures[-2]), name
    page.choose("mode", "uncertainty")
    assert page.js(asked) == before
    page.silent()


def test_an_address_shows_the_same_view_again(page: Page) -> None:
    page.show(700.5, 512.25, 1.75)
    for name, value in (
        ("threshold", 62),
        ("mode", "class:normal"),
        ("cmap", "cividis"),
        ("layer-outlines", True),
        ("smooth", True),
    ):
        page.choose(name, value)
    page.choose("opacity-heat", 0.8)
    page.js("return new Promise(done => setTimeout(done, 400))")
    address, picture = page.driver.current_url, page.picture()
    assert "token" not in address
    state = address.partition("#")[2]
    page.open(state)
    again = page.js("const {x0, y0, scale} = wsivit.page.view.view; return [...wsivit.page.view.center, 1 / scale]")
    assert again == pytest.approx([700.5, 512.25, 1.75], abs=1.0)
    assert page.element("threshold").get_attribute("value") == "62"
    assert np.abs(page.picture().astype(int) - picture).mean() < 1


def test_the_keyboard_is_enough(page: Page, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    for _ in range(40):
        page.keys(Keys.TAB)
        if page.js("return document.activeElement.id") == "map":
            break
    assert page.js("return document.activeElement.id") == "map"
    x, _, scale = page.js("return [...wsivit.page.view.center, wsivit.page.view.view.scale]")
    page.keys("+", "+", Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    page.wait(f"return wsivit.page.view.view.scale > {1.5 * scale} && wsivit.page.view.center[0] > {x + 20}")
    page.keys(Keys.ENTER)
    assert page.text("tile-title").startswith("Tile ")
    page.js("document.getElementById('list').focus()")
    page.choose("list", "strongest:tumor")
    page.js("document.getElementById('map').focus()")
    store = store_of(tmp_path)
    order = np.argsort(-store.predictions("first").probabilities[:, 1], kind="stable")
    for place, key in ((0, "j"), (1, "j"), (2, "j"), (1, "k")):
        page.keys(key)
        assert page.text("tile-title") == f"Tile {order[place]}"
        assert page.js("return wsivit.page.table.under(wsivit.page.view.center)") == order[place]
    page.keys("2")
    page.wait("return document.getElementById('label-state').textContent.includes('saved in')")
    assert np.flatnonzero(store.label("viewed").codes >= 0).tolist() == [order[1]]
    shown = page.js("return wsivit.page.heat.visible")
    page.keys("h")
    assert page.js("return wsivit.page.heat.visible") is not shown
    page.keys(".", ".")
    assert page.text("threshold-value").strip() == "0.510"
    page.keys("?")
    assert page.js("return document.getElementById('dialog').open")
    page.keys(Keys.ESCAPE)
    page.keys("g")
    page.keys("300, 200", Keys.ENTER)
    page.wait("const [x, y] = wsivit.page.view.center; return Math.hypot(x - 300, y - 200) < 2")
    page.silent()


def test_a_stroke_of_the_brush_arrives_in_the_store(page: Page, tmp_path: Path) -> None:
    store = store_of(tmp_path)
    stride = store.grid.stride0[0]
    col, row = 5, 6
    page.show((col + 2.5) * stride, (row + 0.5) * stride, 1)
    page.choose("brush", "3")
    page.choose("painting", True)
    page.js("wsivit.page.labelling.select(3)")  # artefact
    page.point((col + 0.5) * stride, (row + 0.5) * stride, drag=(round(2 * stride), 0))
    page.wait("return document.getElementById('label-state').textContent.includes('saved in')")
    column = store.label("viewed")
    painted = np.flatnonzero(column.codes >= 0)
    assert {column.classes[code] for code in column.codes[painted]} == {"artefact"}
    ends = {(c, r) for middle in (col, col + 2) for c in range(middle - 1, middle + 2) for r in range(row - 1, row + 2)}
    assert ends <= set(zip(store.col[painted], store.row[painted], strict=True))
    assert len(painted) <= 15
    assert (tmp_path / "s-viewed.geojson").exists()
    page.keys("u")
    page.wait("return document.getElementById('label-state').textContent.includes('undone')")
    assert not (store.label("viewed").codes >= 0).any()
    page.silent()


def test_two_pages_see_what_both_painted(page: Page, tmp_path: Path) -> None:
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    try:
        page.open()
        page.js("wsivit.page.labelling.dab(0, wsivit.page.table.middle(4))")
        page.wait("return document.getElementById('label-state').textContent.includes('saved in')")
        page.driver.switch_to.window(first)
        page.js("wsivit.page.labelling.dab(1, wsivit.page.table.middle(9))")
        page.wait("return wsivit.page.column.codes[4] >= 0 && wsivit.page.column.codes[9] >= 0")
    finally:
        for handle in page.driver.window_handles:
            if handle != first:
                page.driver.switch_to.window(handle)
                page.driver.close()
        page.driver.switch_to.window(first)
    column = store_of(tmp_path).label("viewed")
    assert {int(i): column.classes[column.codes[i]] for i in np.flatnonzero(column.codes >= 0)} == {
        4: "normal",
        9: "tumor",
    }


def test_two_runs_are_compared(page: Page) -> None:
    page.choose("compare-mode", "curtain")
    page.wait("return wsivit.page.otherRun?.run === 'second'")
    page.js("wsivit.page.view.fit()")
    page.frame()
    curtain = page.picture()
    page.choose("curtain", 1000)
    page.wait("return wsivit.page.heat.curtain === 1")
    page.frame()
    alone = page.picture()
    middle = alone.shape[1] // 2
    apart = np.abs(curtain.astype(int) - alone).max(axis=2)
    assert apart[:, : middle - 4].max() <= 3
    assert (apart[:, middle + 4 :] > 30).mean() > 0.1
    page.choose("compare-mode", "difference")
    page.wait("return wsivit.page.heat.compare === 'difference'")
    page.choose("list", "disagree")
    page.keys("j")
    assert page.text("tile-title").startswith("Tile ")
    page.choose("compare-mode", "linked")
    page.wait("return !!wsivit.page.other?.complete")
    page.show(800, 600, 1.2)
    assert page.js("return wsivit.page.other.center") == pytest.approx([800, 600], abs=1)
    page.silent()


def test_lists_hold_the_right_tiles(page: Page, tmp_path: Path) -> None:
    store = store_of(tmp_path)
    p, q = (store.predictions(run).probabilities for run in ("first", "second"))
    page.choose("compare-mode", "curtain")
    page.wait("return !!wsivit.page.otherRun")
    truth = store.label("truth").codes
    of_truth = np.take_along_axis(p, np.maximum(truth, 0)[:, None].astype(int), axis=1)[:, 0]
    wrong = np.where((truth >= 0) & (p.argmax(axis=1) != truth), p.max(axis=1) - of_truth, -1)
    expected = {
        "doubtful": -np.abs(p[:, 1] - 0.5),
        "disagree": np.abs(p - q).max(axis=1),
        "wrong:truth": wrong,
    }
    for name, value in expected.items():
        found = page.js("return wsivit.page.walk.find(arguments[0])", name)[:10]
        assert value[found] == pytest.approx(np.sort(value)[::-1][:10], abs=1e-6), name
    labelled = page.js("return wsivit.page.walk.find('label:truth:tumor')")
    assert sorted(labelled) == np.flatnonzero(truth == 1).tolist()[:1000]


def test_a_command_and_a_picture_can_be_taken_away(page: Page, tmp_path: Path) -> None:
    page.choose("threshold", 62)
    command = page.js("return wsivit.page.command()")
    assert command.startswith("wsivit heatmap s.zarr --run first --class-name tumor --threshold 0.31 ")
    done = wsivit_(*command.split()[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s.png").exists()
    script = """const done = arguments[0];
        wsivit.page.png().then(blob => blob.arrayBuffer()).then(bytes => done([...new Uint8Array(bytes)]))"""
    png = bytes(page.driver.execute_async_script(script))
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    assert picture.shape[1] == page.picture().shape[1]
    assert np.abs(picture[: page.picture().shape[0]].astype(int) - page.picture()).mean() < 1
    assert "setCenterPixelLocation" in page.js("return wsivit.page.place()")
    page.silent()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_screen_reader_can_read_it(scheme: str, page: Page) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        page.choose("list", "strongest:tumor")
        page.keys("j")
        assert axe_problems(page) == []
        page.keys("?")
        assert axe_problems(page) == []
    finally:
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_it_fits_a_tablet(page: Page) -> None:
    try:
        page.driver.set_window_size(600, 800)
        page.js("return new Promise(done => setTimeout(done, 200))")
        assert page.js("return document.documentElement.scrollWidth <= innerWidth")
        assert page.js("return document.getElementById('map').clientHeight") > 150
    finally:
        page.driver.set_window_size(1100, 700)


# Slides that are lost while the page is open


Harm = Callable[[Path], None]


def remove(slide: Path) -> None:
    slide.unlink()


def replace_slide(slide: Path) -> None:
    write_slide(slide.with_name("other.tiff"), tissue_picture(1494, 1118, seed=9), mpp=0.3173).replace(slide)


def spoil(slide: Path) -> None:
    size = slide.stat().st_size
    with slide.open("r+b") as file:
        file.seek(size // 4)
        file.write(bytes(size // 2))


@pytest.mark.parametrize("harm", [remove, replace_slide, spoil])
def test_a_slide_lost_while_open_goes_on_from_the_store(
    harm: Harm, driver: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsivit.viewer.viewed_slide._LOOK_AGAIN", 0.0)
    slide = Path(shutil.copy(folder / "s.tiff", tmp_path / "s.tiff"))
    store = wsivit.tile(slide, tmp_path, TileOptions(mpp=0.6346, tile_size=48, min_tissue=0.0)).store
    with page_of(driver, store.path) as page:
        page.choose("layer-outlines", False)
        harm(slide)
        page.js("wsivit.page.view.complete = false")
        page.show(DISC[0], DISC[1], 0.6)
        page.wait("return !document.getElementById('notice').hidden && wsivit.page.view.complete")
        assert "comes from the store" in page.text("notice")
        page.wait("return [...wsivit.page.view.source.tiles.values()].some(tile => tile.bitmap)")
        page.show(DISC[0], DISC[1], 0.6)  # the notice has taken some of the window
        size = page.js("const {x, y} = wsivit.page.view.map.getSize(); return [x, y]")
        assert np.abs(blue_center(page.picture()) - np.array(size) / 2).max() <= 1
        page.silent()
