"""Samples, splits and the leakage audit."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.train_helpers import CLASSES, parameters, tissue, write_store

from wsivit.data.labelled_tiles import Samples, StoreSource, samples_from_stores
from wsivit.data.leakage import audit, check_leakage, count_overlaps, warnings_of
from wsivit.data.splits import LEFT_OUT, TEST, TRAIN, TUNE, Split, read_split, split_samples, write_split
from wsivit.errors import StoreMismatchError, UsageError


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three slides of two patients; the first has an unreadable tile."""
    folder = tmp_path_factory.mktemp("stores")
    return [
        write_store(folder, "a", unreadable=(5,), size=16, seed=0).path,
        write_store(folder, "b", size=16, seed=1).path,
        write_store(folder, "c", size=16, seed=2).path,
    ]


def all_of(stores: list[Path]) -> Samples:
    return samples_from_stores(
        [StoreSource(path, patient) for path, patient in zip(stores, "pqp", strict=False)], "region"
    )


def test_only_labelled_readable_tiles_are_taken(stores: list[Path]) -> None:
    samples = samples_from_stores(stores[:1], "region")
    assert samples.classes == CLASSES
    assert len(samples) == 16 * 8 - 3
    assert 5 not in samples.index
    assert samples.counts() == {"stroma": 62, "tumor": 63}


def test_a_batch_across_stores_is_each_tile_in_its_place(stores: list[Path]) -> None:
    samples = all_of(stores)
    chosen = np.random.default_rng(0).permutation(len(samples))[:20]
    pixels = samples.read(chosen)
    for place, i in enumerate(chosen):
        source = samples.sources[samples.source[i]]
        assert isinstance(source, StoreSource)
        assert np.array_equal(pixels[place], source.store[int(samples.index[i])])
    good, together = samples.read_skipping_unreadable(chosen)
    assert sorted(good) == sorted(chosen)
    assert np.array_equal(together, samples.read(good))
    again = pickle.loads(pickle.dumps(samples))
    assert np.array_equal(again.read(chosen), pixels)


def test_classes_are_united_by_name_not_by_code(tmp_path: Path) -> None:
    one = write_store(tmp_path, "one", size=16)
    two = write_store(tmp_path, "two", size=16)
    two.write_labels("region", np.zeros(len(two)), ["tumor"])
    one.write_labels("region", np.arange(len(one)) % 2, ["necrosis", "stroma"])
    samples = samples_from_stores([one.path, two.path], "region")
    assert samples.classes == ("necrosis", "stroma", "tumor")
    assert samples.counts() == {"necrosis": 64, "stroma": 64, "tumor": 128}
    assert set(samples.code[samples.source == 1]) == {2}


def test_what_cannot_be_learned_from_is_refused(tmp_path: Path, stores: list[Path]) -> None:
    with pytest.raises(UsageError, match="no tile store"):
        samples_from_stores([], "region")
    with pytest.raises(UsageError, match="no label 'grade'; it has 'region'"):
        samples_from_stores(stores, "grade")
    one = write_store(tmp_path, "one", size=16, codes=np.ones(128, np.int16))
    with pytest.raises(UsageError, match="all 128 labelled tiles of one are 'tumor'"):
        samples_from_stores([one.path], "region")
    none = write_store(tmp_path, "none", size=16, codes=np.full(128, -1, np.int16))
    with pytest.raises(UsageError, match="no tile of none has a value"):
        samples_from_stores([none.path], "region")
    other = write_store(tmp_path, "other", size=16, mpp=0.25)
    with pytest.raises(StoreMismatchError, match=r"other is at 0\.25 microns per pixel, a at 0\.5"):
        samples_from_stores([stores[0], other.path], "region")
    small = write_store(tmp_path, "small", size=8)
    with pytest.raises(StoreMismatchError, match="8 px"):
        samples_from_stores([stores[0], small.path], "region")


def test_patients_stay_whole(stores: list[Path]) -> None:
    samples = all_of(stores)
    split = split_samples(samples)
    assert split.by == "patient"
    assert set(samples.patients.code[split.of(TRAIN)]).isdisjoint(samples.patients.code[split.of(TEST)])
    assert audit(samples, split) == []


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000), fraction=st.sampled_from([0.1, 0.2, 0.35, 0.5]), gap=st.integers(0, 2))
def test_regions_of_one_slide_keep_their_distance(stores: list[Path], seed: int, fraction: float, gap: int) -> None:
    assume(not (fraction == 0.5 and gap == 2))  # 16 x 8 tiles leave no room for both classes on both sides
    samples = samples_from_stores(stores[1:2], "region")
    split = split_samples(samples, fraction, by="region", seed=seed, gap=gap)
    train, held, out = (split.of(side) for side in (TRAIN, TEST, LEFT_OUT))
    assert len(train) + len(held) + len(out) == len(samples)
    store = samples.sources[0].store  # type: ignore[attr-defined]
    places = np.stack([store.col, store.row], axis=1)[samples.index]
    apart = np.abs(places[train][:, None] - places[held][None]).max(axis=2).min()
    assert apart > gap
    assert set(samples.code[train]) == set(samples.code[held]) == {0, 1}
    assert audit(samples, split) == []
    assert np.array_equal(split.side, split_samples(samples, fraction, by="region", seed=seed, gap=gap).side)


def test_held_out_part_is_about_what_was_asked_for(tmp_path: Path) -> None:
    samples = samples_from_stores([write_store(tmp_path, "s", columns=40, rows=30, size=8).path], "region")
    for fraction in (0.1, 0.2, 0.3):
        split = split_samples(samples, fraction)
        assert abs(len(split.of(TEST)) / len(samples) - fraction) < 0.07
        assert len(split.of(LEFT_OUT)) < 0.25 * len(samples)


def test_overlapping_tiles_of_one_slide_never_end_up_on_both_sides(tmp_path: Path) -> None:
    store = write_store(tmp_path, "o", columns=24, rows=16, size=16, overlap=8)
    samples = samples_from_stores([store.path], "region")
    split = split_samples(samples, gap=0)
    assert count_overlaps(samples, split.of(TRAIN), split.of(TEST)) == 0


def test_the_audit_catches_each_planted_leak(tmp_path: Path, stores: list[Path]) -> None:
    samples = all_of(stores)
    number = samples.source
    by_slide = Split(np.where(number == 0, TUNE, TRAIN).astype(np.int8), "planted", "slide")
    assert ["patient" in leak for leak in audit(samples, by_slide)] == [True]
    within = Split((np.arange(len(samples)) % 2).astype(np.int8), "planted", "file")
    assert [leak.split()[0] for leak in audit(samples, within)] == ["patient", "slide"]
    with pytest.raises(UsageError, match=r"leaks: patient p in train and tune.*--allow-leakage"):
        check_leakage(samples, by_slide)
    assert len(check_leakage(samples, by_slide, allow=True)) == 1

    # The same slide tiled twice, under two names, is one slide.
    store = write_store(tmp_path, "x", size=16)
    shifted = write_store(tmp_path, "y", size=16)
    both = samples_from_stores([store.path, shifted.path], "region")
    both.sources[1].fingerprint = both.sources[0].fingerprint
    twice = Split(both.source.astype(np.int8), "planted", "patient")
    assert [leak.split()[0] for leak in audit(both, twice)] == ["slide", "126"]


def test_a_split_is_a_file_that_can_be_reused_and_written_by_hand(tmp_path: Path, stores: list[Path]) -> None:
    samples = all_of(stores)
    split = split_samples(samples, by="region")
    write_split(tmp_path / "split.csv", samples, split)
    assert np.array_equal(read_split(tmp_path / "split.csv", samples).side, split.side)
    with (tmp_path / "split.csv").open() as file:
        assert next(csv.DictReader(file))["item"] == "1/0"
    (tmp_path / "hand.csv").write_text("source,item,split\na,,train\nb,,validation\nc,,train\nc,3/2,left out\n")
    hand = read_split(tmp_path / "hand.csv", samples)
    assert set(hand.side[samples.source == 1]) == {TUNE}
    assert (hand.side == LEFT_OUT).sum() == 1
    (tmp_path / "part.csv").write_text("source,item,split\na,,train\n")
    with pytest.raises(UsageError, match="says nothing about 252 pictures, the first is 1/0 of b"):
        read_split(tmp_path / "part.csv", samples)
    (tmp_path / "bad.csv").write_text("slide,side\na,train\n")
    with pytest.raises(UsageError, match="needs columns source, item, split"):
        read_split(tmp_path / "bad.csv", samples)


def test_impossible_splits_are_refused(tmp_path: Path, stores: list[Path]) -> None:
    samples = all_of(stores[:2])
    with pytest.raises(UsageError, match="at most"):
        split_samples(samples, 0.9)
    codes = np.full(128, -1, np.int16)
    codes[[20, 21]] = 0, 1
    few = samples_from_stores([write_store(tmp_path, "few", size=8, codes=codes).path], "region")
    with pytest.raises(UsageError, match="2 labelled tiles are too few"):
        split_samples(few)
    one_class_each = [
        write_store(tmp_path, name, size=8, codes=np.full(128, code, np.int16)).path
        for name, code in (("m", 0), ("n", 1))
    ]
    with pytest.raises(UsageError, match=r"patients per class: stroma in 1, tumor in 1"):
        split_samples(samples_from_stores(one_class_each, "region"), by="patient")


def test_near_duplicates_are_found_across_sides_and_empty_glass_is_not(tmp_path: Path) -> None:
    from wsivit.store import StoreWriter, TileStore, TileTable
    from wsivit.store.shard import encode_jpeg

    rng = np.random.default_rng(0)
    pictures = [tissue(i % 2, 48, rng) for i in range(20)]
    pictures[15] = np.clip(pictures[2].astype(int) + 6, 0, 255).astype(np.uint8)  # brighter, and compressed harder
    pictures[4] = pictures[16] = np.full((48, 48, 3), 240, np.uint8)
    made = parameters("dup", 20, 1, 48)
    col, row = made.grid.cells()
    with StoreWriter.open(tmp_path / "dup.zarr", made, TileTable.from_grid(made.grid, col, row, np.ones(20))) as writer:
        writer.write_shard(range(20), [encode_jpeg(p, 60 if i == 15 else 95) for i, p in enumerate(pictures)])
        writer.write_mask(np.ones((1, 20), bool), (48.0, 48.0))
        writer.write_thumbnail(np.zeros((1, 20, 3), np.uint8), (48.0, 48.0))
        writer.finish()
    TileStore(tmp_path / "dup.zarr").write_labels("region", np.arange(20) % 2, CLASSES)
    samples = samples_from_stores([tmp_path / "dup.zarr"], "region")
    side = np.where(np.arange(20) < 12, TRAIN, TUNE).astype(np.int8)
    assert warnings_of(samples, Split(side, "planted", "region", (TUNE,))) == [
        "1 tune tiles lie beside training ones: leave out those between them",
        "1 tune pictures are near duplicates of training ones: 15/0 and 2/0",
    ]


@pytest.mark.parametrize("what", ["site", "scanner"])
def test_a_label_that_follows_the_site_or_scanner_is_warned_of(tmp_path: Path, what: str) -> None:
    def cohort(sites: str) -> list[str]:
        found = []
        for i, site in enumerate(sites):
            name = f"{sites}{i}"
            store = write_store(tmp_path, name, columns=4, rows=2, size=8, codes=np.full(8, i % 2, np.int16))
            found.append(StoreSource(store.path, **{what: site}))
        samples = samples_from_stores(found, "region")
        return [w for w in warnings_of(samples, split_samples(samples, 0.5)) if f"learn the {what}" in w]

    assert ["V 1.00 over slides" in warning for warning in cohort("nsnsns")] == [True]
    assert cohort("nnssns") == []
