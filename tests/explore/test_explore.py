"""Maps of a slide without labels: stains mixed by hand come apart, planted nuclei are counted, kinds are told apart."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.train_helpers import write_store

from wsivit.demo import paint, write_sample_slide
from wsivit.errors import UsageError
from wsivit.explore import ExploreOptions, explore
from wsivit.explore.stain_maps import STAINS, cluster, rim, spots, unmix
from wsivit.store import TileStore
from wsivit.tiling import TileOptions, tile

GLASS = np.array([244.0, 241.0, 246.0])


def stained(hematoxylin: NDArray[np.float64], eosin: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours by the law of Beer and Lambert of densities (…), uint8 (…, 3)."""
    unit = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
    density = hematoxylin[..., None] * unit[0] + eosin[..., None] * unit[1]
    return np.clip(np.rint((GLASS + 1) * 10**-density - 1), 0, 255).astype(np.uint8)


def test_densities_that_were_mixed_are_found_again() -> None:
    hematoxylin, eosin = np.meshgrid(np.linspace(0, 0.7, 15), np.linspace(0, 0.5, 11))
    found = unmix(stained(hematoxylin, eosin)[None], GLASS)[0]
    np.testing.assert_allclose(found[..., 0], hematoxylin, atol=0.02)
    np.testing.assert_allclose(found[..., 1], eosin, atol=0.02)
    np.testing.assert_allclose(found[..., 2], 0, atol=0.02)


@pytest.mark.parametrize("mpp", [0.75, 1.0, 1.25])
def test_planted_nuclei_are_counted_and_fibres_are_not(mpp: float) -> None:
    rng, side = np.random.default_rng(0), 160
    y, x = np.mgrid[:side, :side] * mpp
    lattice = np.stack(np.meshgrid(np.arange(12, 110, 14.0), np.arange(12, 110, 14.0)), axis=-1).reshape(-1, 2)
    centres = lattice + rng.uniform(-2, 2, lattice.shape)
    nuclei = np.zeros((side, side))
    for cx, cy in centres:
        nuclei = np.maximum(nuclei, 0.5 * (np.hypot(x - cx, y - cy) < 3.5))
    fibres = 0.08 + 0.03 * np.sin(x / 2)
    tiles = stained(np.stack([nuclei + 0.05, fibres]), np.full((2, side, side), 0.15))
    tiles = np.clip(tiles + rng.normal(0, 2, tiles.shape), 0, 255).astype(np.uint8)
    counted = spots(unmix(tiles, GLASS)[..., 0], mpp)
    assert (counted[:, 0] == 0).all()
    inside = (centres < (side - rim(mpp)) * mpp).all(axis=1).sum()
    assert inside * 0.97 <= len(counted) <= inside * 1.03


def test_clusters_are_the_kinds_that_there_are_whatever_the_seed() -> None:
    rng = np.random.default_rng(1)
    kind = rng.permutation(np.repeat([0, 1, 2], 40))
    numbers = np.array([[0.1, 0.5, 3], [0.3, 0.1, 8], [0.5, 0.9, 1]])[kind] + rng.normal(0, 0.02, (120, 3))
    for seed in (0, 1):
        np.testing.assert_array_equal(cluster(numbers.astype(np.float32), 3, seed), kind)
    assert cluster(np.ones((5, 2), np.float32), 4).max() == 0


Drawn = tuple[Path, TileStore, NDArray[np.float64]]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """A drawn slide, its tiles, and the nuclei per mm² that were drawn onto each."""
    folder, drawn = tmp_path_factory.mktemp("sample"), []
    original = paint._stamp_nuclei
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            paint,
            "_stamp_nuclei",
            lambda canvas, points, *rest: (drawn.append(points), original(canvas, points, *rest)),
        )
        paths = write_sample_slide(folder, seed=1, size=2048)
    store = tile(
        paths.slide, folder, TileOptions(mpp=1.0, tile_size=64, codec="none", tissue="none", min_tissue=0)
    ).store
    x, y = (np.concatenate(drawn) // 128).astype(int).T
    count = np.zeros((16, 16))
    np.add.at(count, (y, x), 1)
    return paths.slide, store, count[store.row, store.col] / 0.064**2


def test_the_map_of_nuclei_is_that_of_those_that_were_drawn(sample: Drawn, tmp_path: Path) -> None:
    slide, store, drawn = sample
    found = explore(slide, tmp_path, options=ExploreOptions(tile_size=64, clusters=4, tissue="none"))
    np.testing.assert_array_equal(found.x0, store.x0)
    assert np.corrcoef(found.nuclei_per_mm2, drawn)[0, 1] > 0.8
    assert 0.5 < found.nuclei_per_mm2.mean() / drawn.mean() < 1.2  # those that overlap are one spot
    assert np.corrcoef(found.hematoxylin, drawn)[0, 1] > 0.6  # the pen is dark too
    means = [drawn[found.cluster == k].mean() for k in range(1, found.cluster.max() + 1)]
    assert max(means) > 10 * max(min(means), 1)  # glass and crowded tissue are not in one cluster
    with found.table.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["cluster"]) for row in rows] == found.cluster.tolist()
    assert float(rows[3]["nuclei_per_mm2"]) == pytest.approx(found.nuclei_per_mm2[3], rel=1e-3)
    with Image.open(found.picture) as picture:
        assert min(picture.size) > 800
    assert {path.name for path in tmp_path.iterdir()} == {"sample-1-explore.png", "sample-1-explore.csv"}


def test_a_store_is_explored_as_it_is(sample: Drawn, tmp_path: Path) -> None:
    _, store, _ = sample
    found = explore(store.path, tmp_path, options=ExploreOptions(tile_size=64))
    assert len(found.x0) == len(store) and np.isfinite(found.nuclei_per_mm2).all()
    coarse = tile(sample[0], tmp_path / "coarse", TileOptions(mpp=4.0, tile_size=32, codec="none")).store
    found = explore(coarse, tmp_path / "coarse")
    assert np.isnan(found.nuclei_per_mm2).all() and "cannot be told apart" in found.warnings[0]


def test_what_cannot_be_explored_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path, "dark", columns=4, rows=3)
    dark = np.zeros((3, 4, 3), np.uint8)
    store.__dict__["thumbnail"] = (dark, (48.0, 48.0))
    with pytest.raises(UsageError, match=r"dark: the empty part of the slide is dark"):
        explore(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for name, value in (("clusters", 1), ("clusters", 11), ("tile_size", 0), ("mpp", 0), ("seed", -1)):
        with pytest.raises(UsageError):
            replace(ExploreOptions(), **{name: value})
