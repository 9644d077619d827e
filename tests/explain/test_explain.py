"""Evidence: it sums to the logit, finds what was planted, and is drawn on one scale."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from sklearn.metrics import roc_auc_score
from support.patient_cohorts import draw, without_sync, write_slide, write_study

import wsivit
from wsivit.errors import StoreError, UsageError
from wsivit.explain import explain
from wsivit.heatmap import HeatmapOptions, export, heatmap
from wsivit.mil import LabelColumns, TrainSlidesOptions, predict_patients, train_slides
from wsivit.mil.aggregators import make_aggregator
from wsivit.mil.deletion import best_method, faithfulness
from wsivit.mil.tile_evidence import tile_evidence
from wsivit.store import TileStore, verify

pytestmark = pytest.mark.usefixtures("one_thread")
FOCUS = 6
"""Tiles of a new slide that are planted, of 64."""


@pytest.fixture(autouse=True, scope="module")
def fast_disk() -> Iterator[None]:
    with without_sync():
        yield


@pytest.fixture(scope="module", params=["linear", "abmil"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    study = write_study(folder / "study", 24, features=lambda _, positive, __, rng: draw(positive, rng, shift=4.0))
    options = TrainSlidesOptions(
        aggregator=request.param, folds=3, repeats=1, permutations=0, bootstrap_samples=2, epochs=12, hidden=8, lr=1e-2
    )
    columns = LabelColumns(label="msi")
    return train_slides(
        study.folder, study.write_labels(), encoder="enc", output=folder / "msi", columns=columns, options=options
    ).folder


@pytest.fixture
def slide(tmp_path: Path) -> TileStore:
    """A slide with a focus in its first tiles, and one tile without features."""
    features = draw(True, np.random.default_rng(3), tiles=64, focus=FOCUS / 64, shift=4.0)
    features[50] = np.nan
    return write_slide(tmp_path, "new", features)


def test_contributions_sum_to_the_logit_and_find_the_focus(run: Path, slide: TileStore) -> None:
    predicted = predict_patients(run, slide).patients[0]
    evidence = explain(run, slide)
    values = evidence.methods["contribution"]
    assert values.shape == (64, 1) and np.isnan(values[50]).all()
    assert np.nansum(values) == pytest.approx(predicted.logits["MSI"], abs=1e-4)
    known = np.isfinite(values[:, 0])
    truth = np.arange(64) < FOCUS
    assert roc_auc_score(truth[known], values[known, 0]) > 0.9
    assert values[:FOCUS].sum() > 0
    kept = TileStore(slide.path).evidence("msi")
    np.testing.assert_array_equal(kept.methods["contribution"], values)
    assert kept.classes == ("MSI",) and kept.attrs["shown"] == evidence.attrs["shown"]
    assert verify(slide.path) == []


def test_every_method_on_request(run: Path, slide: TileStore) -> None:
    methods = explain(run, slide, method="all").methods
    attends = json.loads((run / "wsivit.json").read_text())["aggregator"] == "abmil"
    assert set(methods) == {"contribution", "single", "gradients"} | ({"attention"} if attends else set())
    if attends:
        assert np.nansum(methods["attention"]) == pytest.approx(1, abs=1e-5)
    else:
        with pytest.raises(UsageError, match="a run of linear has no attention"):
            explain(run, slide, method="attention")
    with pytest.raises(UsageError, match="unknown method 'shap'"):
        explain(run, slide, method="shap")  # type: ignore[arg-type]


def test_map_is_in_logit_units_of_the_slide(run: Path, slide: TileStore, tmp_path: Path) -> None:
    evidence = explain(run, slide)
    drawn = heatmap(slide, run="msi", output=tmp_path / "maps", formats=["png", "geojson", "regions", "ome-tiff"])
    assert drawn.class_name == "MSI" and drawn.scores == ()
    # The map has each tile's contribution times the number of tiles: its mean is the logit.
    cells = tifffile.imread(drawn.files["ome-tiff"])
    cells = cells[0] if cells.ndim == 3 else cells
    assert np.nanmean(cells) == pytest.approx(evidence.attrs["logit"]["MSI"], abs=1e-3)
    tiles = json.loads(Path(drawn.files["geojson"]).read_text())["features"]
    measured = [tile["properties"]["measurements"]["MSI evidence (logit)"] for tile in tiles]
    np.testing.assert_allclose(np.mean(measured), evidence.attrs["logit"]["MSI"], atol=1e-3)
    regions = json.loads(Path(drawn.files["regions"]).read_text())
    assert regions["wsivit"]["evidence"] == evidence.attrs["shown"]
    assert {region["properties"]["name"] for region in regions["features"]} == {"MSI ≥ 2.5"}


def test_equal_evidence_has_equal_colours_in_every_picture(run: Path, slide: TileStore, tmp_path: Path) -> None:
    from wsivit.heatmap.evidence_data import LOGITS
    from wsivit.heatmap.export import read_map

    explain(run, slide)
    options = HeatmapOptions(threshold=0.2)
    fitted = read_map(slide, "msi", options).fit(options)
    assert (fitted.vmin, fitted.vmax, fitted.threshold) == (-LOGITS, LOGITS, 0.2 * LOGITS)
    with pytest.raises(UsageError, match="uncertainty holds probabilities"):
        export(slide, "uncertainty", tmp_path / "x.png", run="msi")
    with pytest.raises(UsageError, match=r"no evidence msi/lime; it has msi/"):
        heatmap(slide, run="msi/lime", output=tmp_path)


def test_python_predicts_and_explains_at_once(run: Path, slide: TileStore) -> None:
    store = wsivit.predict(run, slide, explain=True)
    assert store.evidence_runs == ["msi"] and store.slide_predictions == ["msi"]
    with pytest.raises(UsageError, match="only runs of patients"):
        wsivit.predict("resnet18", slide, explain=True)


def test_wrong_contributions_are_found(run: Path, slide: TileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(network: object, tiles: object, method: str) -> object:
        return tile_evidence(network, tiles, method) * 1.05  # type: ignore[arg-type, operator]

    monkeypatch.setattr(sys.modules["wsivit.explain.explain_slide"], "tile_evidence", wrong)
    with pytest.raises(StoreError, match="contributions sum to"):
        explain(run, slide)


def test_integrated_gradients_of_a_linear_model_are_its_contributions_without_the_bias() -> None:
    import torch

    network = make_aggregator("linear", 8, 2).eval()
    tiles = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float16)
    exact, gradients = (tile_evidence(network, tiles, method) for method in ("contribution", "gradients"))
    assert exact is not None and gradients is not None
    bias = network.last_layer()[1].detach() / 30
    np.testing.assert_allclose(gradients, torch.tensor(exact) - bias, atol=1e-5)


def test_faithful_evidence_is_told_from_a_random_one() -> None:
    import torch

    torch.manual_seed(0)
    network = make_aggregator("abmil", 8, 1, hidden=8, attention=4, dropout=0.0).eval()
    slides = [np.random.default_rng(k).normal(size=(60, 8)).astype(np.float16) for k in range(4)]
    scores = faithfulness(network, slides)
    assert scores["contribution"] > 0
    assert best_method({"contribution": 1.0, "gradients": 1.05, "attention": 9.0}) == "contribution"
    assert best_method({"contribution": 1.0, "gradients": 1.2}) == "gradients"
    assert best_method({}) == "contribution"
