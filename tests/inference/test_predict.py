"""Prediction: every tile gets its own score, unreadable ones none, and the run's contract holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from support.small_slides import tissue_picture, write_slide
from support.train_helpers import CLASSES, make_run, tissue, write_store

from wsivit.data.labelled_tiles import samples_from_stores
from wsivit.errors import (
    OutputExistsError,
    ScaleError,
    StoreError,
    StoreMismatchError,
    UnreadableTilesError,
    UsageError,
)
from wsivit.inference import ModelRunner, PredictOptions, Predictor, predict, softmax
from wsivit.models.classifier import create_classifier
from wsivit.models.classifier_folder import save_classifier
from wsivit.models.model_input import normalise, resize
from wsivit.models.run_folder import RunMetadata
from wsivit.slide import open_slide
from wsivit.store import TileStore
from wsivit.tiling import TileOptions, tile

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = PredictOptions(batch_size=10, device="cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "vit")


def test_each_tile_gets_what_the_model_says_of_it_alone(run: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path, "s", columns=6, rows=4, unreadable=(3, 17))
    found = predict(run, store, options=CPU).predictions("vit")
    assert found.classes == CLASSES
    assert found.logits is not None
    assert np.flatnonzero(np.isnan(found.probabilities).any(axis=1)).tolist() == [3, 17]
    assert np.isnan(found.logits[[3, 17]]).all()
    made, model = RunMetadata.read(run).preprocessing, create_classifier(str(run), CLASSES).model.eval()
    for i in (0, 4, 23):
        pixels = torch.from_numpy(store[i]).permute(2, 0, 1)[None]
        with torch.no_grad():
            logits = model(
                pixel_values=normalise(resize(pixels, 32, made.interpolation), (0.5,) * 3, (0.5,) * 3)
            ).logits[0]
        np.testing.assert_allclose(found.logits[i], logits, atol=1e-4)
        np.testing.assert_allclose(found.probabilities[i], logits.softmax(0), atol=1e-5)
    assert found.attrs["model_fingerprint"] == RunMetadata.read(run).model_fingerprint


def test_a_tile_copied_with_damage_inside_gets_no_score_and_is_not_learned_from(run: Path, tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "s.tiff", tissue_picture(240, 192), tile=48)
    with tifffile.TiffFile(slide) as tiff:
        end = tiff.pages[0].dataoffsets[7] + tiff.pages[0].databytecounts[7]
    with slide.open("r+b") as file:  # its structure is that of a whole JPEG
        file.seek(end - 12)
        file.write(bytes(10) + b"\xff\xd9")
    how = TileOptions(tile_size=48, tissue="none")
    copied = tile(slide, tmp_path, how)
    assert copied.origins.copied == 20 and not copied.failures
    with pytest.raises(UnreadableTilesError, match=r"tile 7 of .* is damaged in the slide, .*s\.tiff: .*Corrupt JPEG"):
        copied.store.read([6, 7])
    predicted = predict(run, copied.store, options=CPU)
    assert np.flatnonzero(np.isnan(predicted.predictions("vit").probabilities).any(axis=1)).tolist() == [7]
    copied.store.write_labels("side", np.arange(20) % 2, ["a", "b"])
    assert samples_from_stores([copied.store.path], "side").read_skipping_unreadable([6, 7, 8])[0].tolist() == [6, 8]
    assert list(tile(slide, tmp_path / "decoded", replace(how, codec="zstd")).failures) == [7]


def test_batches_do_not_matter(run: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path, "s", columns=6, rows=4, unreadable=(3,))
    for name, size in (("one", 1), ("all", 99)):
        predict(run, store.path, name=name, options=PredictOptions(batch_size=size, device="cpu"))
    one, every = (TileStore(store.path).predictions(name).probabilities for name in ("one", "all"))
    np.testing.assert_allclose(one, every, atol=1e-5)


def test_a_second_run_of_the_same_does_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = write_store(tmp_path, "s", columns=4, rows=2)
    predict(run, store.path, options=CPU)
    monkeypatch.setattr(Predictor, "runner", None)
    predict(run, store.path, options=CPU)


def test_what_was_killed_goes_on_after_the_last_whole_block(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsivit.store.column_writer.BLOCK", 16)
    whole = write_store(tmp_path, "whole", columns=10, rows=6, unreadable=(3, 40))
    wanted = predict(run, whole, options=CPU).predictions("vit")
    broken = write_store(tmp_path, "broken", columns=10, rows=6, unreadable=(3, 40))
    calls = []

    def begun(self: ModelRunner, tiles: torch.Tensor) -> torch.Tensor:
        if tiles.shape[-1] == 48:  # not the blank tile that tells the shape of what comes out
            calls.append(len(tiles))
            if len(calls) == 5:
                raise KeyboardInterrupt
        return begin(self, tiles)

    begin = ModelRunner.start
    with monkeypatch.context() as patch:
        patch.setattr(ModelRunner, "start", begun)
        with pytest.raises(KeyboardInterrupt):
            predict(run, broken, options=CPU)
        assert broken.runs == []
        found = predict(run, broken, options=CPU).predictions("vit")
    assert calls == [10, 5, 10, 6, 10, *[10, 5, 10, 2]], "the first two blocks of sixteen are not read again"
    np.testing.assert_array_equal(found.probabilities, wanted.probabilities)
    np.testing.assert_array_equal(found.logits, wanted.logits)


def test_what_was_killed_when_all_was_done_is_cleared_away(run: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path, "s", columns=4, rows=2)
    predict(run, store.path, options=CPU)
    names = sorted(path.name for path in tmp_path.rglob("*"))
    (tmp_path / ".s.zarr.predictions.vit.lock").write_text("")  # of a process that is no more
    (store.path / "predictions" / ".tmp-vit").mkdir()
    predict(run, store.path, options=CPU)
    assert sorted(path.name for path in tmp_path.rglob("*")) == names


def test_predictions_of_another_model_are_not_replaced_unasked(run: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path, "s", columns=4, rows=2)
    first = predict(run, store.path, options=CPU).predictions("vit").probabilities
    other = make_run(tmp_path / "vit", seed=1)
    with pytest.raises(OutputExistsError, match=r"'vit' by another model.*--name.*--force"):
        predict(other, store.path, options=CPU)
    assert predict(other, store.path, name="second", options=CPU).runs == ["second", "vit"]
    replaced = predict(other, store.path, options=CPU, force=True).predictions("vit").probabilities
    assert not np.allclose(first, replaced)


def test_force_predicts_again_what_the_same_model_predicted(run: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path, "s", columns=4, rows=2)
    first = predict(run, store.path, options=CPU).predictions("vit")
    store.write_predictions("vit", replace(first, probabilities=np.full_like(first.probabilities, 0.5)))
    assert (predict(run, store.path, options=CPU).predictions("vit").probabilities == 0.5).all()
    again = predict(run, store.path, options=CPU, force=True).predictions("vit").probabilities
    np.testing.assert_array_equal(again, first.probabilities)


def test_temperature_cools_the_probabilities_and_leaves_the_logits(tmp_path: Path) -> None:
    run = make_run(tmp_path / "cool", temperature=2.5)
    found = predict(run, write_store(tmp_path, "s", columns=4, rows=2).path, options=CPU).predictions("cool")
    assert found.logits is not None
    np.testing.assert_allclose(found.probabilities, torch.from_numpy(found.logits / 2.5).softmax(1), atol=1e-6)
    assert found.attrs["temperature"] == 2.5


def test_a_store_that_breaks_the_contract_is_refused_field_by_field(tmp_path: Path) -> None:
    run = make_run(tmp_path / "vit", mpp=0.25, tile_size=64)
    store = write_store(tmp_path, "s", columns=4, rows=2)
    with pytest.raises(StoreMismatchError) as error:
        predict(run, store.path, options=CPU)
    assert "scale: the model is for 0.25 microns per pixel, the store has 0.5" in str(error.value)
    assert "tile size: the model is for 64 px, the store has 48" in str(error.value)
    allowed = predict(run, store.path, options=replace(CPU, allow_mismatch=True)).predictions("vit")
    assert len(allowed.attrs["mismatch"]) == 2


def test_straight_from_a_slide_without_copying_pixels(run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [np.concatenate([tissue((x + y) % 2, 48, rng) for x in range(8)], axis=1) for y in range(6)]
    picture = np.concatenate(rows)
    with tifffile.TiffWriter(tmp_path / "slide.tif") as tiff:
        tiff.write(
            picture, tile=(48, 48), photometric="rgb", compression="zlib", metadata=None,
            resolution=(2e4, 2e4), resolutionunit="CENTIMETER",
        )  # fmt: skip
    store = predict(run, tmp_path / "slide.tif", output=tmp_path, options=CPU)
    assert store.path == tmp_path / "slide.zarr"
    assert not store.has_pixels
    found = store.predictions("vit").probabilities
    assert len(found) > 20 and not np.isnan(found).any()
    with open_slide(tmp_path / "slide.tif", mpp=1.0) as slide, pytest.raises(ScaleError):
        predict(run, slide, output=tmp_path / "other", options=CPU)
    i = len(found) // 2
    assert np.array_equal(store[i], picture[store.y0[i] : store.y0[i] + 48, store.x0[i] : store.x0[i] + 48])


def test_what_cannot_be_predicted_says_why(run: Path, tmp_path: Path) -> None:
    store = write_store(tmp_path, "s", columns=4, rows=2)
    with pytest.raises(StoreError, match="wsivit train makes one"):
        predict(tmp_path, store.path)
    with pytest.raises(StoreError):
        predict(run, tmp_path / "nothing.zarr")
    with pytest.raises(UsageError, match="batch_size"):
        PredictOptions(batch_size=0)
    with pytest.raises(UsageError, match=r"does not say the scale \(--mpp\)"):
        predict(make_run(tmp_path / "pictures", mpp=None), tmp_path / "slide.tif")
    tampered = make_run(tmp_path / "tampered")
    save_classifier(create_classifier("test_vit", CLASSES, pretrained=False, image_size=32), tampered)
    with pytest.raises(StoreMismatchError, match="weights are not those"):
        predict(tampered, store.path)


def test_softmax_keeps_rows_of_nan_and_survives_large_logits() -> None:
    made = softmax(np.array([[1000.0, 999.0], [np.nan, np.nan]], np.float32))
    np.testing.assert_allclose(made[0], [0.7310586, 0.2689414], rtol=1e-5)
    assert np.isnan(made[1]).all()
