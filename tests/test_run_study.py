"""A whole study from one file, here and on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cli_helpers import run_cli
from support.small_slides import tissue_picture, write_slide

import wsivit
from wsivit.errors import UsageError
from wsivit.store import TileStore

STUDY = """
slides = "slides"
output = "study"
label = "region"
device = "cpu"

[tile]
mag = 20
tile_size = 64

[train]
model = "test_vit"
pretrained = false
image-size = 32
epochs = 1
workers = 0
batch_size = 16

[predict]
batch_size = 32

[heatmap]
format = ["geojson", "png"]
size = 300

[report]
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two slides, their annotations, a study, and its results."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "slides").mkdir()
    for seed, name in enumerate(("a", "b")):
        write_slide(folder / "slides" / f"{name}.tiff", tissue_picture(700, 640, seed))
        annotate(folder / "slides" / f"{name}.geojson", 700, 640)
    rows = [f"{name},slides/{name}.tiff,{name},slides/{name}.geojson" for name in ("a", "b")]
    (folder / "slides.csv").write_text("\n".join(["slide_id,path,patient,annotations", *rows, ""]))
    (folder / "study.toml").write_text(STUDY.replace('"slides"', '"slides.csv"'))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plan = run_cli("run", "study.toml", "--dry-run")
        assert plan.code == 0, plan.err
        assert "2 slides, 2 to do: 64 px at 0.5 microns per pixel" in plan.out
        assert [line.split()[0] for line in plan.out.splitlines()] == ["tile", "train", "predict", "heatmap", "report"]
        assert not (folder / "study").exists()
        done = run_cli("run", "study.toml")
        assert done.code == 0, done.err
        assert done.err.index("plan: tile") < done.err.index("plan: heatmap") < done.err.index("wsivit: tile")
    return folder


def annotate(path: Path, width: int, height: int) -> None:
    """Write QuPath's regions: stroma left, tumor right."""
    import json

    def box(name: str, x0: int, x1: int) -> dict[str, object]:
        ring = [[x0, 0], [x1, 0], [x1, height], [x0, height], [x0, 0]]
        return {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"classification": {"name": name}},
        }

    boxes = [box("stroma", 0, width // 2), box("tumor", width // 2, width)]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": boxes}))


def test_each_step_leaves_its_results(finished: Path) -> None:
    for name in ("a", "b"):
        store = TileStore(finished / "study" / "slides" / f"{name}.zarr")
        assert (store.parameters.requested_mpp, store.grid.tile_size) == (0.5, 64)
        assert len(store.predictions("region").probabilities) == len(store) > 0
    assert (finished / "study" / "runs" / "region" / "README.md").is_file()
    assert (finished / "study" / "report.html").is_file()
    assert len(list((finished / "study" / "heatmaps").glob("*.geojson"))) == 2


def test_a_finished_study_does_nothing_and_is_the_same_in_python(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    before = {path: path.stat().st_mtime_ns for path in (finished / "study").rglob("*.zarr/**/c*")}
    again = wsivit.run_study("study.toml")
    assert again.exit_code == 0
    assert "tile: 2 slides, 0 to do" in again.report()
    assert "train: done already" in again.report()
    assert "predict: 2 slides, 0 to do" in again.report()
    assert "heatmap: 2 slides, 0 to do" in again.report()
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("epochs = 1", "epochs = 2", "was trained in another way (epochs: 1 there, 2 asked for)"),
        ("epochs = 1", "epochs = 0", "epochs must be from 1"),
        ("epochs = 1", "epoch = 1", "[train] has no option epoch; did you mean epochs?"),
        ("device =", "devise =", "no step has an option devise; did you mean device?"),
        ("[heatmap]", "[heatmaps]", "there is no step heatmaps; did you mean heatmap?"),
        ('slides = "slides.csv"', "", "slides is missing"),
        ('model = "test_vit"', "", "[train] needs a model"),
        ("mag = 20", "mag = 20\nmpp = 0.5", "mpp is given twice"),
        ("mag = 20", "mag = 0", "a magnification is above 0"),
        ("tile_size = 64", "tile_size = 64.5", "tile_size must be a whole number"),
        ("size = 300", "size = 1", "size must be from 200"),
        ('["geojson", "png"]', '["geojson", "svg"]', "svg"),
    ],
)
def test_a_mistake_is_found_before_the_first_step(
    before: str, after: str, said: str, finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(finished)
    assert before in (finished / "study.toml").read_text()
    path = tmp_path / "changed.toml"
    path.write_text((finished / "study.toml").read_text().replace(before, after, 1))
    with pytest.raises(UsageError) as error:
        wsivit.run_study(path)
    assert said in str(error.value)
    assert str(error.value).startswith(str(path))
