"""Every kind of data, as samples with the split they came with."""

from __future__ import annotations

import json
import logging
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.train_helpers import tissue, write_store

from wsivit.data.image_sources import image_defect
from wsivit.data.labelled_tiles import Samples
from wsivit.data.leakage import audit, warnings_of
from wsivit.data.loading import load_samples
from wsivit.data.splits import TEST, TRAIN, TUNE, Split, official_split, read_split, split_samples, with_tune_part
from wsivit.errors import LimitError, UnreadableTilesError, UsageError


def picture(path: Path, kind: int, seed: int, size: tuple[int, int] = (60, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = tissue(kind, max(size), np.random.default_rng(seed))[: size[1], : size[0]]
    Image.fromarray(pixels).save(path, quality=95)


def image_folder(root: Path, parts: dict[str, int]) -> Path:
    """``<part>/<class>/<n>.jpg``; a part named "" leaves the level out."""
    for number, (part, n) in enumerate(parts.items()):
        for kind, name in enumerate(("few", "many")):
            for i in range(n):
                picture(root / part / name / f"{i}.jpg", kind, 100 * number + i)
    return root


def sides(samples: Samples) -> dict[int, int]:
    assert samples.side is not None
    return {int(s): int((samples.side == s).sum()) for s in np.unique(samples.side)}


def test_an_image_folder_keeps_its_own_split(tmp_path: Path) -> None:
    samples = load_samples([image_folder(tmp_path / "set", {"train": 5, "val": 2, "test": 3})], side=32)
    assert samples.classes == ("few", "many")
    assert sides(samples) == {TRAIN: 10, TUNE: 4, TEST: 6}
    split = official_split(samples)
    assert np.array_equal(split.side, samples.side)
    assert audit(samples, split) == []


def test_without_a_validation_part_one_is_taken_of_training_never_of_test(tmp_path: Path) -> None:
    samples = load_samples([image_folder(tmp_path / "set", {"train": 10, "test": 4})], side=32)
    split = with_tune_part(samples, official_split(samples))
    assert len(split.of(TEST)) == 8 and np.array_equal(split.of(TEST), np.flatnonzero(samples.side == TEST))
    assert len(split.of(TUNE)) == 4
    assert samples.take(split.of(TUNE)).counts() == {"few": 2, "many": 2}


def test_one_level_of_classes_is_split_by_picture(tmp_path: Path) -> None:
    samples = load_samples([image_folder(tmp_path / "set", {"": 10})], side=32)
    assert samples.side is None
    split = split_samples(samples)
    assert len(split.of(TEST)) == 4 and split.by == "patient"
    assert audit(samples, split) == []


def test_what_chooses_is_of_other_patients_where_there_are_enough_and_says_so_where_not(tmp_path: Path) -> None:
    for i in range(6):
        write_store(tmp_path, f"s{i}", columns=12, rows=8, size=8, seed=i)
    table = tmp_path / "cohort.csv"

    def split_of(patients: str) -> tuple[Samples, Split]:
        table.write_text("slide,patient\n" + "".join(f"s{i},{name}\n" for i, name in enumerate(patients)))
        samples = load_samples([table], "region")
        return samples, with_tune_part(samples, split_samples(samples))

    samples, split = split_of("abcdef")
    of = [set(samples.patients.code[split.of(side)].tolist()) for side in (TRAIN, TUNE, TEST)]
    assert of[0] | of[1] | of[2] == set(range(6)) and sum(map(len, of)) == 6
    assert split.warnings == () and split.by_region == () and audit(samples, split) == []

    samples, split = split_of("aaabbb")  # one patient is held out, and the other has three slides
    of = [set(samples.slides.code[split.of(side)].tolist()) for side in (TRAIN, TUNE, TEST)]
    assert [len(slides) for slides in of] == [2, 1, 3] and not of[0] & of[1]
    assert "too few patients" in split.warnings[0] and "other slides of patients" in split.warnings[0]
    assert warnings_of(samples, split)[0] == split.warnings[0]
    assert audit(samples, split) == [], "on purpose; but nothing of the test part's patient is elsewhere"


@pytest.mark.parametrize("name", ["val", "test"])
def test_the_part_that_a_split_holds_out_is_reported_and_chooses_nothing(tmp_path: Path, name: str) -> None:
    samples = load_samples([image_folder(tmp_path / "set", {"train": 10, name: 4})], side=32)
    split = with_tune_part(samples, official_split(samples))
    assert np.array_equal(split.side == TEST, samples.side != TRAIN)
    assert set(split.of(TUNE)) <= set(np.flatnonzero(samples.side == TRAIN)) and len(split.of(TUNE)) == 4


def test_pictures_are_squares_of_their_middle(tmp_path: Path) -> None:
    path = tmp_path / "set" / "a" / "wide.png"
    path.parent.mkdir(parents=True)
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 200
    Image.fromarray(pixels).save(path)
    picture(tmp_path / "set" / "b" / "x.jpg", 0, 0)
    samples = load_samples([tmp_path / "set"], side=20)
    assert np.array_equal(samples.read([0])[0, :, 1:-1], np.full((20, 18, 3), 200, np.uint8))
    assert list(samples.items()) == ["a/wide.png", "b/x.jpg"]


def test_food101_in_torchvisions_layout_with_its_official_split(tmp_path: Path) -> None:
    names = {"apple_pie": range(6), "sushi": range(6)}
    for code, (name, numbers) in enumerate(names.items()):
        for i in numbers:
            picture(tmp_path / "food-101" / "images" / name / f"{i}.jpg", code, i)
    meta = tmp_path / "food-101" / "meta"
    meta.mkdir()
    (meta / "train.json").write_text(json.dumps({name: [f"{name}/{i}" for i in range(4)] for name in names}))
    (meta / "test.txt").write_text("\n".join(f"{name}/{i}" for name in names for i in (4, 5)) + "\n")
    for given in (tmp_path / "food-101", tmp_path):
        samples = load_samples([given], side=32)
        assert samples.classes == ("apple_pie", "sushi")
        assert sides(samples) == {TRAIN: 8, TEST: 4}
    tested = set(samples.take(samples.side == TEST).items())
    assert tested == {f"images/{name}/{i}.jpg" for name in names for i in (4, 5)}


def test_a_folder_in_the_hubs_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features
    from datasets import Image as ImageFeature

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["normal", "tumour"])})
    rng = np.random.default_rng(0)
    parts = {
        part: Dataset.from_dict(
            {"image": [Image.fromarray(tissue(i % 2, 32, rng)) for i in range(n)], "label": [i % 2 for i in range(n)]},
            features=features,
        )
        for part, n in (("train", 8), ("validation", 4), ("test", 6))
    }
    folder = tmp_path / "PatchCamelyon"
    (folder / "data").mkdir(parents=True)
    for part, dataset in DatasetDict(parts).items():
        dataset.to_parquet(folder / "data" / f"{part}-00000-of-00001.parquet")
    samples = load_samples([f"hf:{folder}"], side=32)
    assert samples.classes == ("normal", "tumour")
    assert sides(samples) == {TRAIN: 8, TUNE: 4, TEST: 6}
    assert {source.id for source in samples.sources} == {
        "PatchCamelyon/train", "PatchCamelyon/validation", "PatchCamelyon/test",
    }  # fmt: skip
    place = int(np.flatnonzero(samples.side == TEST)[3])
    assert np.array_equal(samples.read([place])[0], np.asarray(parts["test"][3]["image"]))


def test_food101_of_the_hub_keeps_its_official_split(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["apple_pie", "sushi"])})
    rng = np.random.default_rng(0)
    parts = {
        part: Dataset.from_dict(
            {"image": [Image.fromarray(tissue(i % 2, 32, rng)) for i in range(n)], "label": [i % 2 for i in range(n)]},
            features=features,
        )
        for part, n in (("train", 10), ("validation", 4))  # as the hub has it
    }
    asked = []
    monkeypatch.setattr("datasets.load_dataset", lambda name: asked.append(name) or DatasetDict(parts))
    samples = load_samples(["food101"], side=32)
    assert asked == ["ethz/food101"]
    assert sides(samples) == {TRAIN: 10, TEST: 4}
    split = with_tune_part(samples, official_split(samples))
    assert len(split.of(TEST)) == 4 and len(split.of(TUNE)) == 2 and len(split.of(TRAIN)) == 8


@pytest.mark.parametrize(("name", "side"), [("val", TUNE), ("valid", TUNE), ("validation", TUNE), ("test", TEST)])
def test_a_part_goes_by_any_of_its_names(tmp_path: Path, name: str, side: int) -> None:
    assert sides(load_samples([image_folder(tmp_path / "set", {"train": 2, name: 1})], side=32)) == {TRAIN: 4, side: 2}


def test_sites_stay_whole(tmp_path: Path) -> None:
    for i in range(6):
        write_store(tmp_path, f"s{i}", columns=4, rows=2, size=8, seed=i)
    (tmp_path / "cohort.csv").write_text("slide,site\n" + "".join(f"s{i},{'abc'[i // 2]}\n" for i in range(6)))
    samples = load_samples([tmp_path / "cohort.csv"], "region")
    split = split_samples(samples, 0.33, by="site")
    sites = np.array([source.site for source in samples.sources])[samples.source]
    assert len(set(sites[split.of(TEST)])) == 1
    assert set(sites[split.of(TRAIN)]).isdisjoint(sites[split.of(TEST)])


def test_a_cohort_table_labels_whole_slides_and_names_patients(tmp_path: Path) -> None:
    for i, name in enumerate(("s1", "s2", "s3", "s4")):
        write_store(tmp_path, name, columns=4, rows=2, size=16, seed=i)
    (tmp_path / "cohort.csv").write_text(
        "slide_id,case_id,center,subtype,split\n"
        "s1,p1,north,lepidic,train\ns2,p1,north,lepidic,train\ns3,p2,south,solid,train\ns4,p3,south,,test\n"
    )
    by_slide = load_samples([tmp_path / "cohort.csv"], "subtype")
    assert [(source.id, source.patient, source.site) for source in by_slide.sources][:2] == [
        ("s1", "p1", "north"), ("s2", "p1", "north"),
    ]  # fmt: skip
    assert by_slide.counts() == {"lepidic": 16, "solid": 8}
    assert by_slide.patients.names == ("p1", "p2")
    by_tile = load_samples([tmp_path / "cohort.csv"], "region")
    assert by_tile.counts() == {"stroma": 12, "tumor": 12}
    assert sides(by_tile) == {TRAIN: 18, TEST: 6}


def test_a_patient_in_the_tables_training_and_test_part_is_caught(tmp_path: Path) -> None:
    for i, name in enumerate(("s1", "s2")):
        write_store(tmp_path, name, columns=12, rows=8, size=16, seed=i)
    (tmp_path / "cohort.csv").write_text("slide,patient,split\ns1,p,train\ns2,p,test\n")
    samples = load_samples([tmp_path / "cohort.csv"], "region")
    split = with_tune_part(samples, official_split(samples))
    assert "by region" in split.how and "other regions of patients" in split.warnings[0]
    assert audit(samples, split) == [f"patient p in {side} and test (1 in all)" for side in ("train", "tune")]


def test_a_cohort_that_cannot_be_used_names_the_line(tmp_path: Path) -> None:
    table = tmp_path / "cohort.csv"
    for text, message in (
        ("", "empty"),
        ("name\nx\n", "needs a column slide_id or path; it has name"),
        ("slide\ngone\n", r"which label\? \(--label\); its columns are slide"),
        ("slide,label\ngone,a\n", r"slide gone: .*gone\.zarr is neither a tile store nor a slide"),
        ("path,label\ncohort.csv,a\n", "slide cohort: .* is a slide: make a store of it"),
    ):
        table.write_text(text)
        with pytest.raises(UsageError, match=message):
            load_samples([table])
    write_store(tmp_path, "s", columns=4, rows=2, size=16)
    table.write_text("slide,split\ns,elsewhere\n")
    with pytest.raises(UsageError, match="split 'elsewhere' is none of train"):
        load_samples([table], "region")


def test_a_folder_of_stores_is_its_stores(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_store(tmp_path, name, columns=4, rows=2, size=16)
    assert [source.id for source in load_samples([tmp_path], "region").sources] == ["a", "b"]
    with pytest.raises(UsageError, match=r"which label\? .*it has region"):
        load_samples([tmp_path / "a.zarr"])


def test_a_damaged_picture_is_named_and_left_out_and_too_many_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = image_folder(tmp_path / "set", {"": 4})
    whole = (folder / "few" / "1.jpg").read_bytes()
    (folder / "few" / "1.jpg").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        assert len(load_samples([folder], side=32)) == 7
    assert "few/1.jpg (cut short)" in caplog.text
    (folder / "few" / "2.jpg").write_bytes(b"no picture at all")
    with pytest.raises(LimitError, match=r"2 of 8 pictures are damaged.*few/2\.jpg \(no picture\)"):
        load_samples([folder])
    samples = load_samples([image_folder(tmp_path / "other", {"": 2})], side=32)
    (tmp_path / "other" / "few" / "0.jpg").write_bytes(whole[:200])
    with pytest.raises(UnreadableTilesError, match=r"few/0\.jpg"):
        samples.read([0, 1])


def test_folds_are_a_partition(tmp_path: Path) -> None:
    samples = load_samples([write_store(tmp_path, "s", columns=24, rows=16, size=8).path], "region")
    held = [split_samples(samples, fold=(i, 4), seed=3).of(TEST) for i in (1, 2, 3, 4)]
    assert sorted(np.concatenate(held)) == list(range(len(samples)))
    with pytest.raises(UsageError, match="no part 5 of 4"):
        split_samples(samples, fold=(5, 4))


def test_a_file_may_split_regions_on_purpose(tmp_path: Path) -> None:
    store = write_store(tmp_path, "s", columns=8, rows=8, size=16)
    samples = load_samples([store.path], "region")
    lines = [f"s,{item},{'train' if int(item.split('/')[1]) < 4 else 'test'}" for item in samples.items()]
    (tmp_path / "halves.csv").write_text("\n".join(["source,item,split", *lines]) + "\n")
    assert [leak.split()[0] for leak in audit(samples, read_split(tmp_path / "halves.csv", samples))] == [
        "patient",
        "slide",
    ]
    split = read_split(tmp_path / "halves.csv", samples, "region")
    assert audit(samples, split) == []
    assert split.how == "read from halves.csv" and split.by_region == (TEST,)
    assert [w for w in warnings_of(samples, split) if "beside" in w] == [
        "8 test tiles lie beside training ones: leave out those between them"
    ]


def test_what_is_no_data_says_what_data_are(tmp_path: Path) -> None:
    for given, message in (
        ([], "no data"),
        ([tmp_path / "gone"], "no such store, slide, table, folder"),
        ([tmp_path], "neither tile stores, nor slides, nor pictures"),
    ):
        with pytest.raises(UsageError, match=message):
            load_samples(given, "region")  # type: ignore[arg-type]
    (tmp_path / "slide.svs").write_bytes(b"II*\0")
    with pytest.raises(UsageError, match="wsivit tile"):
        load_samples([tmp_path / "slide.svs"], "region")


# Pictures as other programs leave them


@pytest.mark.parametrize(("form", "colour"), [("png", False), ("tif", False), ("tif", True)])
def test_16_bits_are_scaled_by_the_range_of_the_type(tmp_path: Path, form: str, colour: bool) -> None:
    wanted = []
    for kind, name in enumerate(("few", "many")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(2):
            pixels = tissue(kind, 32, np.random.default_rng(i))
            pixels = pixels if colour else pixels[..., :1].repeat(3, axis=2)
            wanted.append(pixels)
            deep = pixels.astype(np.uint16) * 256 + 77
            write_deep(tmp_path / "set" / name / f"{i}.{form}", deep if colour else deep[..., 0])
    assert np.array_equal(load_samples([tmp_path / "set"], side=32).read(range(4)), wanted)


def write_deep(path: Path, pixels: np.ndarray) -> None:
    if path.suffix == ".png":
        Image.fromarray(pixels).save(path)
    else:
        tifffile.imwrite(path, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")


@pytest.mark.parametrize("colour", [False, True])
def test_12_bits_in_16_are_refused_and_a_dark_picture_among_others_is_not(tmp_path: Path, colour: bool) -> None:
    dark = np.full((32, 32, 3) if colour else (32, 32), 4095, np.uint16)
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        write_deep(tmp_path / "set" / name / "1.tif", dark)
    with pytest.raises(UsageError, match=r"set: 16-bit pictures that use at most 12 bits .* scale them to 8 bits"):
        load_samples([tmp_path / "set"], side=32)
    write_deep(tmp_path / "set" / "b" / "1.tif", dark + 1)
    assert load_samples([tmp_path / "set"], side=32).read(range(2)).max(axis=(1, 2, 3)).tolist() == [15, 16]


def test_values_without_a_range_are_named(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / "set" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        write_deep(tmp_path / "set" / "ab"[i % 2] / f"{i}.tif", np.full((32, 32), 0.5, np.float32))
    with pytest.raises(LimitError, match=r"4 of 4 pictures.*0\.tif \(values without a known range, mode F: convert it"):
        load_samples([tmp_path / "set"], side=32)


def turned_by_exif(pixels: np.ndarray, path: Path, orientation: int = 6) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif)


def test_exif_orientation_applies_to_folders_and_sets_of_the_hub_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features
    from datasets import Image as ImageFeature

    pixels = tissue(1, 48, np.random.default_rng(0))[:40]
    turned_by_exif(np.rot90(pixels), tmp_path / "set" / "a" / "1.png")  # 6: turn it by 90 degrees clockwise
    picture(tmp_path / "set" / "b" / "1.jpg", 0, 0, (900, 600))  # larger than it is read: decoded at half its size
    of_folder = load_samples([tmp_path / "set"], side=40)
    assert np.array_equal(of_folder.read([0])[0], pixels[:, 4:44])

    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["a", "b"])})
    files = [(tmp_path / "set" / name).read_bytes() for name in ("a/1.png", "b/1.jpg")]
    data = {"image": [{"bytes": file, "path": None} for file in files], "label": [0, 1]}
    parts = DatasetDict({"train": Dataset.from_dict(data, features=features)})
    monkeypatch.setattr("datasets.load_dataset", lambda name: parts)
    of_hub = load_samples(["hf:lab/set"], side=40)
    assert np.array_equal(of_hub.read([0, 1]), of_folder.read([0, 1]))


def test_files_of_other_systems_are_neither_pictures_nor_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = image_folder(tmp_path / "set", {"": 3})
    for name in ("few", "many"):
        for file in ("._0.jpg", "Thumbs.db", ".DS_Store", "desktop.ini", ".thumbnails/0.jpg", "@eaDir/0.jpg"):
            (root / name / file).parent.mkdir(exist_ok=True)
            (root / name / file).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(100))
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "0.jpg").write_bytes(b"\0\5\x16\7")
    with caplog.at_level(logging.WARNING):
        samples = load_samples([root], side=32)
    assert samples.counts() == {"few": 3, "many": 3} and not caplog.records


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_bytes_behind_the_end_of_a_picture_are_no_damage_but_a_missing_end_is(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    pixels = Image.fromarray(tissue(1, 64, np.random.default_rng(0)))
    thumbnail = BytesIO()
    pixels.resize((8, 8)).save(thumbnail, "JPEG")  # complete, with an end of its own, inside the header
    pixels.save(path, **({"exif": b"Exif\0\0" + thumbnail.getvalue()} if suffix == "jpg" else {}))
    whole = path.read_bytes()
    for end in (b"", bytes(512), b"ftypmp42" * 10_000):
        path.write_bytes(whole + end)
        assert image_defect(path) == ""
    for end in (b"", bytes(512)):
        path.write_bytes(whole[:-20] + end)
        assert image_defect(path) == "cut short"
