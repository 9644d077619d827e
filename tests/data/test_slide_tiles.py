"""Slides themselves, and stores without pixels, as training data."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.small_slides import write_slide
from support.train_helpers import CLASSES, tissue, write_store

from wsivit.data.dataset import TileDataset
from wsivit.data.labelled_tiles import StoreSource, samples_from_stores
from wsivit.data.loading import SlideOptions, SlideTiler, load_samples
from wsivit.errors import LimitError, StoreMismatchError, UnreadableTilesError, UsageError
from wsivit.evaluation import EvaluateOptions, evaluate
from wsivit.store import TileStore
from wsivit.tiling import TileOptions, tile
from wsivit.tiling.annotations import find_annotations
from wsivit.training.train import TrainOptions, train

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE = 48
QUICK = TrainOptions(pretrained=False, image_size=48, epochs=3, batch_size=16, lr=2e-3, workers=0, device="cpu")


def slide_with_regions(folder: Path, name: str, seed: int, *, mpp: float | None = 0.5, regions: bool = True) -> Path:
    """A slide of 18 x 12 tiles: stroma in the left half, tumour in the right one, as its GeoJSON says."""
    rng = np.random.default_rng(seed)
    rows = [np.hstack([tissue(int(col >= 9), SIDE, rng) for col in range(18)]) for _ in range(12)]
    path = write_slide(folder / f"{name}.tiff", np.vstack(rows), mpp=mpp, levels=1)
    if regions:
        features = [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [[[x, 0], [x + 432, 0], [x + 432, 576], [x, 576]]]},
                "properties": {"classification": {"name": kind}},
            }
            for kind, x in zip(CLASSES, (0, 432), strict=True)
        ]
        (folder / f"{name}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for seed, name in enumerate(("one", "two")):
        slide_with_regions(folder, name, seed)
    return folder


def tiler(folder: Path, **options: float) -> SlideTiler:
    return SlideTiler(folder / "tiles", SlideOptions(tile_size=SIDE, **options))  # type: ignore[arg-type]


def test_annotations_are_found_beside_the_slide(tmp_path: Path) -> None:
    assert find_annotations(tmp_path / "a.svs") is None
    for name in ("a.xml", "a.json", "a.geojson.gz"):
        (tmp_path / name).touch()
        assert find_annotations(tmp_path / "a.svs") == tmp_path / name
    (tmp_path / "series").mkdir()
    (tmp_path / "series.geojson").touch()
    assert find_annotations(tmp_path / "series") == tmp_path / "series.geojson"


def test_a_slide_gives_the_tiles_that_a_store_of_it_has(slides: Path, tmp_path: Path) -> None:
    samples = load_samples([slides / "one.tiff"], tiler=tiler(tmp_path))
    options = TileOptions(tile_size=SIDE, codec="zstd")
    store = tile(slides / "one.tiff", tmp_path / "pixels", options, annotations=slides / "one.geojson").store
    stored = samples_from_stores([store.path], "region")
    assert (samples.label, samples.mpp, samples.size, samples.classes) == ("region", 0.5, SIDE, CLASSES)
    assert list(samples.items()) == list(stored.items()) and np.array_equal(samples.code, stored.code)
    chosen = np.arange(0, len(samples), 7)
    assert np.array_equal(samples.read(chosen), stored.read(chosen))
    made = TileStore(tmp_path / "tiles" / "one.zarr")
    assert not made.has_pixels
    assert not list((tmp_path / "tiles" / "one.zarr").glob("tiles/c*"))


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_read_slides_that_this_process_has_opened(slides: Path, tmp_path: Path, workers: int) -> None:
    samples = load_samples([slides], tiler=tiler(tmp_path))
    wanted = torch.from_numpy(samples.read(np.arange(40))).permute(0, 3, 1, 2)
    loader = torch.utils.data.DataLoader(TileDataset(samples), 20, num_workers=workers)
    batches = [batch["pixel_values"] for _, batch in zip(range(2), loader, strict=False)]
    assert torch.equal(torch.cat(batches), wanted)


def test_train_on_slides_and_measure_on_a_slide(slides: Path, tmp_path: Path) -> None:
    one, two = slides / "one.tiff", slides / "two.tiff"
    at = SlideOptions(tile_size=SIDE)
    run = train([one], model="test_vit", output=tmp_path / "run", options=QUICK, slides=at)
    assert run.contract.tile_size == SIDE and run.contract.mpp == 0.5
    assert "/" not in json.dumps(run.contract.data)
    found = evaluate(tmp_path / "run", [two], options=EvaluateOptions(device="cpu", bootstrap_samples=20))
    assert found.n > 150 and found.metrics["accuracy"] > 0.8
    again = evaluate(
        tmp_path / "run", [one], output=tmp_path / "e", options=EvaluateOptions(device="cpu", bootstrap_samples=20)
    )
    assert again.n == sum(run.counts["test"].values()), "the tiles trained on are known again"


def test_a_cohort_of_slides_with_a_label_each(slides: Path, tmp_path: Path) -> None:
    unscaled = slide_with_regions(tmp_path, "three", 3, mpp=None, regions=False)
    (tmp_path / "cohort.csv").write_text(
        f"slide,path,case_id,scanner,label,mpp,annotations\n"
        f"one,{slides / 'one.tiff'},p1,A,high,,\ntwo,{slides / 'two.tiff'},p2,A,low,,\n"
        f"three,{unscaled.name},p3,B,low,0.5,{slides / 'one.geojson'}\nfour,gone.svs,p4,B,,,\n"
    )
    samples = load_samples([tmp_path / "cohort.csv"], tiler=tiler(tmp_path))
    assert samples.label == "label" and samples.classes == ("high", "low")
    assert [(s.id, s.patient, s.scanner) for s in samples.sources] == [
        ("one", "p1", "A"), ("two", "p2", "A"), ("three", "p3", "B"),
    ]  # fmt: skip
    assert samples.counts()["low"] == 2 * samples.counts()["high"]
    by_region = (tmp_path / "cohort.csv").read_text().replace("four,gone.svs,p4,B,,,\n", "")
    (tmp_path / "cohort.csv").write_text(by_region)
    assert load_samples([tmp_path / "cohort.csv"], "region", tiler=tiler(tmp_path)).classes == CLASSES


def test_slides_that_cannot_be_used_say_what_is_missing(tmp_path: Path) -> None:
    slide = slide_with_regions(tmp_path, "plain", 0, regions=False)
    with pytest.raises(UsageError, match="no annotations next to it"):
        load_samples([slide], tiler=tiler(tmp_path))
    with pytest.raises(UsageError, match="is no tile store; make a store of it with wsivit tile"):
        load_samples([slide])
    (tmp_path / "cohort.csv").write_text("slide,path,label,mpp\nplain,plain.tiff,a,fine\n")
    with pytest.raises(UsageError, match="line 2: 'fine' is no scale"):
        load_samples([tmp_path / "cohort.csv"], tiler=tiler(tmp_path))
    with pytest.raises(UsageError, match="mpp must be above 0"):
        SlideOptions(mpp=0)


def test_of_stores_of_two_scales_those_asked_for_are_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, size, mpp in (("a", 16, 0.5), ("b", 16, 1.0), ("c", 8, 0.5)):
        write_store(tmp_path, name, columns=4, rows=2, size=size, mpp=mpp)
    with pytest.raises(StoreMismatchError, match="--mpp"):
        load_samples([tmp_path / "a.zarr", tmp_path / "b.zarr"], "region")
    with pytest.raises(StoreMismatchError, match="--tile-size"):
        load_samples([tmp_path / "a.zarr", tmp_path / "c.zarr"], "region")
    for options, ids in (({"mpp": 1.0}, ["b"]), ({"mpp": 0.5, "tile_size": 8}, ["c"])):
        caplog.clear()
        chosen = SlideTiler(tmp_path, SlideOptions(**options))  # type: ignore[arg-type]
        assert [source.id for source in load_samples([tmp_path], "region", tiler=chosen).sources] == ids
        assert "2 of 3 stores have another scale or tile size and are left out" in caplog.text
    with pytest.raises(UsageError, match=r"none of the 3 stores has 2\.0 microns per pixel"):
        load_samples([tmp_path], "region", tiler=SlideTiler(tmp_path, SlideOptions(mpp=2.0)))


def test_two_slides_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    one, two = (write_store(folder, "s", columns=4, rows=2, size=16).path for folder in (tmp_path, tmp_path / "x"))
    with pytest.raises(UsageError, match="s was given 2 times"):
        load_samples([one, two], "region")


def broken_from(first: int) -> Callable[..., np.ndarray]:
    """Reading a store whose tiles from `first` on turn out unreadable."""
    whole = StoreSource.read

    def read(self: StoreSource, indices: object, threads: int | None = None, out: object = None) -> np.ndarray:
        if np.max(indices) >= first:
            raise UnreadableTilesError(f"tile {np.max(indices)}: its JPEG is damaged")
        return whole(self, indices, threads, out)  # type: ignore[arg-type]

    return read


def test_tiles_that_turn_out_unreadable_are_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = write_store(tmp_path, "s", columns=16, rows=8, size=16)
    samples = load_samples([store.path], "region")
    monkeypatch.setattr(StoreSource, "read", broken_from(126))
    with caplog.at_level(logging.WARNING):
        good, pixels = samples.read_skipping_unreadable([3, 125, 8])
    assert good.tolist() == [3, 8] and np.array_equal(pixels, samples.read([3, 8]))
    assert "left out: tile 126: its JPEG is damaged" in caplog.text
    dataset = TileDataset(samples)
    assert len(dataset.__getitems__([0, 125, 9])) == 2
    monkeypatch.setattr(StoreSource, "read", broken_from(100))
    with pytest.raises(LimitError, match=r"of the pictures turned out unreadable, more than 1% of 126: 4/6"):
        dataset.__getitems__(list(range(99, 126)))


def test_a_training_that_reads_too_much_damage_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_store(tmp_path, "s", columns=16, rows=8, size=48)
    monkeypatch.setattr(StoreSource, "read", broken_from(100))
    with pytest.raises(LimitError) as caught:
        options = replace(QUICK, workers=1, epochs=1)
        train([store.path], label="region", model="test_vit", output=tmp_path / "run", options=options)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
