"""Tables of slides, as labs write them: whatever Excel makes of them is read, or refused with the line."""

from __future__ import annotations

import os
import re
from pathlib import Path

import fsspec
import pytest

from wsivit.errors import InputNotFoundError, UsageError
from wsivit.slide_list import find_slides, is_one_file, read_table


def table(folder: Path, text: str, encoding: str = "utf-8") -> str:
    (folder / "t.csv").write_bytes(text.encode(encoding))
    return str(folder / "t.csv")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_excel_writes_is_read(tmp_path: Path, delimiter: str, encoding: str) -> None:
    text = "Slide_ID,path,Case_ID,MPP,grade\nä,sub/a b.svs,P1,0.25,2\n\nb,,P2,,\n".replace(",", delimiter)
    first, second = read_table(table(tmp_path, text, encoding))
    assert (first.id, first.path, first.patient, first.mpp) == ("ä", f"{tmp_path}/sub/a b.svs", "P1", 0.25)
    assert first.values["grade"] == "2"
    assert (second.id, second.path, second.values["grade"], second.mpp, second.line) == ("b", "", "", None, 4)


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        ("", "utf-8", "empty"),
        ("path\n", "utf-8", "empty"),
        ("case,grade\nP1,2\n", "utf-8", "needs a column slide_id or path; it has case, grade"),
        ("path,note\na.svs,ok\nb.svs,Lüge\n", "latin-1", "line 3: not a readable CSV: it is not UTF-8"),
        ("path,case\na.svs,1\nb.svs,2,3\n", "utf-8", "line 3: has more cells"),
        ("path,case\na.svs,1\n ,2\n", "utf-8", "line 3: neither slide nor path"),
        ('path,case\n"a.svs,1\n', "utf-8", "not a readable CSV"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(tmp_path: Path, text: str, encoding: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_table(table(tmp_path, text, encoding))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("slide_id,path\na,a.svs\nb,b.svs\n,\n,\n", [2, 3]),
        ("slide_id,path\na,a.svs\n , \nb,b.svs\n", [2, 4]),
        ("sep=;\nslide_id;path\na;a.svs\nb;b.svs\n", [3, 4]),
        ('slide_id,path,note\na,a.svs,"two\nlines"\nb,b.svs,\n', [3, 4]),
        ("slide_id,path,,\na,a.svs,,\nb,b.svs,,\n", [2, 3]),
        ("slide_id,path\na,a.svs,\nb,b.svs,,\n", [2, 3]),
    ],
    ids=["emptied rows", "a blank row between", "sep=", "a quoted line break", "trailing columns", "trailing commas"],
)
def test_what_spreadsheets_leave_behind(tmp_path: Path, text: str, lines: list[int]) -> None:
    rows = read_table(table(tmp_path, text))
    assert [(row.id, row.path, row.line) for row in rows] == [
        ("a", f"{tmp_path}/a.svs", lines[0]),
        ("b", f"{tmp_path}/b.svs", lines[1]),
    ]


@pytest.mark.parametrize(
    ("header", "field"),
    [
        ("Slide ID", "id"),
        (" slide-id ", "id"),
        ("SlideID", "id"),
        ("File Name", "id"),
        ("filename", "id"),
        ("Slide Path", "path"),
        ("FilePath", "path"),
        ("MPP", "mpp"),
        ("Slide MPP", "mpp"),
        ("Patient ID", "patient"),
        ("Case-ID", "patient"),
        ("Annotations", "annotations"),
    ],
)
def test_columns_are_named_as_people_write_them(tmp_path: Path, header: str, field: str) -> None:
    other = "slide_id" if field != "id" else "note"
    (row,) = read_table(table(tmp_path, f"{other},{header}\nx,0.25\n"))
    value = getattr(row, field)
    assert value == {"mpp": 0.25, "path": f"{tmp_path}/0.25", "annotations": f"{tmp_path}/0.25"}.get(field, "0.25")
    assert row.values == {other: "x", header.strip(): "0.25"}


def test_two_columns_of_one_meaning(tmp_path: Path) -> None:
    (row,) = read_table(table(tmp_path, "filename,slide_id\nwrong,right\n"))
    assert row.id == "right"
    with pytest.raises(UsageError, match="columns 'Slide ID' and 'slide_id' are the same"):
        read_table(table(tmp_path, "Slide ID,slide_id\na,b\n"))


@pytest.mark.parametrize(
    ("text", "mpp"),
    [("0,499", 0.499), ("0.25", 0.25), ("NaN", None), ("nan", None), ("", None), ("n/a", None), ("-", None)],
)
def test_scales_of_a_table(tmp_path: Path, text: str, mpp: float | None) -> None:
    (row,) = read_table(table(tmp_path, f"slide_id;path;mpp\na;a.svs;{text}\n"))
    assert row.mpp == mpp


@pytest.mark.parametrize("text", ["0", "-1", "inf", "1,234,5", "half", "0,5 um"])
def test_what_is_no_scale_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"line 2: .* is no scale"):
        read_table(table(tmp_path, f"slide_id;path;mpp\na;a.svs;{text}\n"))


def test_nan_is_no_value(tmp_path: Path) -> None:
    (row,) = read_table(table(tmp_path, "slide_id,path,patient,label\na,a.svs,NaN,<NA>\n"))
    assert (row.patient, row.values["label"]) == ("", "")
    (row,) = read_table(table(tmp_path, "slide_id,path,label\na,a.svs,None\n"))
    assert row.values["label"] == "None"  # a class of that name


def test_a_slide_named_by_its_file(tmp_path: Path) -> None:
    touch(tmp_path, "s/001.svs", "002.svs")
    rows = read_table(table(tmp_path, "slide,label\ns/001.svs,a\n002.svs,b\n003.svs,c\nS04,d\n"))
    assert [(row.id, row.path.removeprefix(f"{tmp_path}/")) for row in rows] == [
        ("001", "s/001.svs"),
        ("002", "002.svs"),
        ("003", ""),
        ("S04", ""),
    ]
    (row,) = read_table(table(tmp_path, "slide_id,path\n001.svs,s\\001.svs\n"))
    assert (row.id, row.path) == ("001", f"{tmp_path}/s/001.svs")
    with pytest.raises(UsageError, match="line 4: no path of slide 003: add a column path"):
        find_slides([table(tmp_path, "slide,label\ns/001.svs,a\n002.svs,b\n003.svs,c\n")])


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_table(str(tmp_path / "no.csv"))


# Sources


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def named(root: Path, *sources: str | Path) -> dict[str, str]:
    """Paths relative to a folder, by id."""
    return {slide.id: str(Path(slide.source).relative_to(root)) for slide in find_slides([str(s) for s in sources])}


def test_a_folder_gives_each_slide_once_named_by_its_place(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.svs", "b/1.svs", "b/c/2.NDPI", "top.tiff", ".hidden/3.svs", "._top.tiff", "notes.txt", "m.png")
    touch(
        tmp_path,
        "mirax.mrxs",
        "mirax/Slidedat.ini",
        "mirax/Data0001.tif",
        "t.zarr/x.tiff",
        "out/.ledger/x",
        "out/h.tiff",
    )
    assert named(tmp_path, tmp_path) == {
        "t": "t.zarr", "mirax": "mirax.mrxs", "top": "top.tiff", "a__1": "a/1.svs", "b__1": "b/1.svs",
        "b__c__2": "b/c/2.NDPI",
    }  # fmt: skip


def test_dicom_series_are_slides(tmp_path: Path) -> None:
    def dicom(name: str, series: str) -> None:
        touch(tmp_path, name)
        (tmp_path / name).write_bytes(bytes(128) + b"DICM" + b"\x20\x00\x0e\x00UI\x08\x00" + series.encode())

    for name, series in (("one/a.dcm", "1.2.3.40"), ("one/b.dcm", "1.2.3.40"), ("two/a.dcm", "1.2.3.50")):
        dicom(name, series)
    for name, series in (("two/b.dcm", "1.2.3.60"), ("two/c.dcm", "1.2.3.50"), ("alone.dcm", "1.2.3.70")):
        dicom(name, series)
    found = {"one": "one", "two__a": "two/a.dcm", "two__b": "two/b.dcm", "alone": "alone.dcm"}
    assert named(tmp_path, tmp_path) == found
    assert named(tmp_path, tmp_path / "one") == {"one": "one"}
    assert is_one_file(str(tmp_path / "one"))
    assert not is_one_file(str(tmp_path / "two"))
    assert [is_one_file(f"s3://bucket/{name}") for name in ("few/", "few", "few/*.svs", "a.svs", "a.zarr")] == [
        *[False] * 3,
        *[True] * 2,
    ]


def test_globs_lists_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.svs", "a/2.svs", "b/1.svs", "b/x[1].svs")
    monkeypatch.chdir(tmp_path)
    assert named(tmp_path, "*/1.svs") == {"a__1": "a/1.svs", "b__1": "b/1.svs"}
    assert named(tmp_path, tmp_path / "**/*.svs").keys() >= {"a__1", "a__2", "b__1"}
    assert named(tmp_path, "a", "a/1.svs") == {"1": "a/1.svs", "2": "a/2.svs"}
    assert list(named(tmp_path, "b/x[1].svs").values()) == ["b/x[1].svs"]
    (tmp_path / "l.txt").write_text(f"# mine\n\na/1.svs\n{tmp_path}/b/1.svs\n")
    assert named(tmp_path, "l.txt") == {"a__1": "a/1.svs", "b__1": "b/1.svs"}


def test_names_never_clash_and_stay(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.svs", "a__x.svs", "y.svs", "Y.tiff", "with space.svs", "ü.svs")
    slides = find_slides([tmp_path])
    assert len({slide.id.lower() for slide in slides}) == 6
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", slide.id) for slide in slides)
    touch(tmp_path, "z.svs")
    first = {slide.path: slide.id for slide in find_slides([tmp_path])}
    assert first[f"{tmp_path}/z.svs"] == "z"
    touch(tmp_path, "z.tiff")  # would change the name of z.svs, were it not known
    again = {slide.path: slide.id for slide in find_slides([tmp_path], first)}
    assert {path: again[path] for path in first} == first
    assert again[f"{tmp_path}/z.tiff"].startswith("z-")


def test_names_that_we_gave_stay_in_our_own_tables(tmp_path: Path) -> None:
    touch(tmp_path, "h_.hidden.svs", f"{'d' * 90}/{'e' * 90}.svs", "x.svs.svs", "S1.1.svs", "S1.2.svs", "-o.svs")
    ids = {slide.path: slide.id for slide in find_slides([tmp_path])}
    lines = "".join(f"{name},{path}\n" for path, name in ids.items())
    assert {slide.path: slide.id for slide in find_slides([table(tmp_path, f"slide_id,path\n{lines}")])} == ids


def test_circles_of_links_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.svs")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert named(tmp_path, tmp_path) == {"a__1": "a/1.svs"}


def test_what_a_folder_holds_need_be_no_slide(tmp_path: Path) -> None:
    """It fails by itself, and not the others with it; what is named must be there."""
    folder = tmp_path / "a"
    touch(folder, "1.svs")
    (folder / "nowhere.svs").symlink_to("gone.svs")
    (folder / "loop.svs").symlink_to("loop.svs")
    os.mkfifo(folder / "pipe.dcm")
    os.mkfifo(folder / "pipe2.dcm")
    assert {*named(folder, folder)} == {"1", "nowhere", "loop", "pipe", "pipe2"}
    assert {*named(tmp_path, f"{tmp_path}/?")} >= {"a__nowhere", "a__loop"}
    with pytest.raises(InputNotFoundError, match=r"not there: .*nowhere\.svs"):
        find_slides([folder, folder / "nowhere.svs"])


def test_a_table_tells_what_it_knows(tmp_path: Path) -> None:
    touch(tmp_path, "s/1.svs", "s/2.svs", "r.geojson")
    text = "slide_id,path,patient,slide_mpp,annotations,grade\n"
    text += f"A 1,s/1.svs,P1,0.25,r.geojson,3\n,{tmp_path}/s/2.svs,P2,,,\n"
    first, second = find_slides([table(tmp_path, text)])
    assert first.id.startswith("A_1-")
    assert (first.path, first.mpp, first.patient) == (f"{tmp_path}/s/1.svs", 0.25, "P1")
    assert first.annotations == f"{tmp_path}/r.geojson"
    assert first.values["grade"] == "3"
    assert (second.id, second.mpp) == ("s__2", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path\n1.svs\n2.svs\n", "not there: .*2.svs"),
        ("path\n1.svs\nsub/../1.svs\n", "line 3: the same path as line 2"),
        ("slide_id,path\na,1.svs\nA,3.svs\n", "line 3: the same slide as line 2"),
        ("slide_id\na\n", "line 2: no path of slide a"),
        ("path,mpp\n1.svs,quarter\n", "line 2: 'quarter' is no scale"),
        ("path,annotations\n1.svs,no.geojson\n", "not there: .*no.geojson"),
    ],
)
def test_a_table_that_is_wrong_is_refused_before_any_work(tmp_path: Path, text: str, said: str) -> None:
    touch(tmp_path, "1.svs", "3.svs")
    with pytest.raises(UsageError, match=said):
        find_slides([table(tmp_path, text)])


@pytest.mark.parametrize("source", ["nowhere.svs", "no*.svs", "empty"])
def test_a_source_without_slides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=re.escape(source)):
        find_slides([source])


def test_an_object_store_is_a_folder_too() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("a/1.svs", "a/b/2.tiff", "a/out/.ledger/x", "a/out/x.tiff"):
        memory.pipe_file(f"/cohort/{name}", b"")
    try:
        found = {slide.id: slide.path for slide in find_slides(["memory://cohort"])}
        assert found == {"a__1": "memory://cohort/a/1.svs", "a__b__2": "memory://cohort/a/b/2.tiff"}
        assert [slide.id for slide in find_slides(["memory://cohort/a/*.svs"])] == ["1"]
    finally:
        memory.rm("/cohort", recursive=True)


def test_a_listing_that_fails_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is passed over at a URL because an answer was an error."""
    memory = fsspec.filesystem("memory")
    for name in ("a/1.svs", "b/2.svs", "b/c/3.svs", "b/c/3.zarr/zarr.json", "b/.hidden/4.svs"):
        memory.pipe(f"/listing/{name}", b"")
    look, seen = type(memory).ls, set()

    def failing(self: object, path: str, **options: object) -> object:
        if path not in seen:
            seen.add(path)
            raise ConnectionResetError("cut")
        return look(self, path, **options)

    monkeypatch.setattr(type(memory), "ls", failing)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    root = "memory://listing"
    found = [slide.source.removeprefix(f"{root}/") for slide in find_slides([f"{root}/"])]
    assert sorted(found) == ["a/1.svs", "b/2.svs", "b/c/3.svs", "b/c/3.zarr"]
    seen.clear()
    assert [slide.path for slide in find_slides([f"{root}/*/*.svs"])] == [f"{root}/a/1.svs", f"{root}/b/2.svs"]
    assert len(find_slides([f"{root}/**/*.svs"])) == 3
