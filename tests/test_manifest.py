"""Tables of slides, as labs write them: whatever Excel makes of them is read, or refused with the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsivit.errors import UsageError
from wsivit.manifest import read_manifest


def table(folder: Path, text: str, encoding: str = "utf-8") -> str:
    (folder / "t.csv").write_bytes(text.encode(encoding))
    return str(folder / "t.csv")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_excel_writes_is_read(tmp_path: Path, delimiter: str, encoding: str) -> None:
    text = "Slide_ID,path,Case_ID,MPP,grade\nä,sub/a b.svs,P1,0.25,2\n\nb,,P2,,\n".replace(",", delimiter)
    first, second = read_manifest(table(tmp_path, text, encoding))
    assert (first.slide, first.path, first.patient, first.mpp) == ("ä", "sub/a b.svs", "P1", "0.25")
    assert first.values["grade"] == "2"
    assert (second.slide, second.path, second.values["grade"]) == ("b", "", "")


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
        read_manifest(table(tmp_path, text, encoding))


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_manifest(str(tmp_path / "no.csv"))
