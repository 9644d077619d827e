"""Tables of patients: how they join a study, what task they are, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.patient_cohorts import Study

from wsivit.errors import UsageError
from wsivit.mil.nested_folds import make_folds, read_folds, write_folds
from wsivit.mil.patients import LabelColumns, Patient, PatientCohort, PatientSlide, read_patients


def cohort_of(n: int, positives: int, sites: int = 1) -> PatientCohort:
    patients = [
        Patient(f"p{k}", "yn"[k < positives], float(k < positives), f"site{k % sites}", (PatientSlide(f"s{k}", ""),))
        for k in range(n)
    ]
    return PatientCohort(tuple(patients), "binary", ("n", "y"), "label")


def read(study: Study, text: str, path: Path, **columns: str) -> PatientCohort:
    path.write_text(text)
    return read_patients(study.folder, path, LabelColumns(**columns))  # type: ignore[arg-type]


def test_patients_join_their_slides_whatever_the_spelling(study: Study, tmp_path: Path) -> None:
    text = (
        "Case ID;Slide Name;MSI status;Center\n"
        "A;S000.svs;MSI;north\nA;s001;MSI;north\nB;s002;MSS;south\nC;s003;;south\nD;missing;MSS;north\nE;s004;MSS;\n"
    )
    cohort = read(study, text, tmp_path / "labels.csv", label="MSI status")
    assert [(p.id, p.label, p.site, [s.id for s in p.slides]) for p in cohort.patients] == [
        ("A", "MSI", "north", ["s000", "s001"]),
        ("B", "MSS", "south", ["s002"]),
        ("E", "MSS", "", ["s004"]),
    ]
    assert (cohort.kind, cohort.classes) == ("binary", ("MSS", "MSI"))
    assert cohort.targets.tolist() == [1, 0, 0]
    why = {(left.kind, left.id): left.why for left in cohort.left_out}
    assert why["patient", "C"] == "no MSI status"
    assert why["slide", "missing"] == "in the table, but not in the study"
    assert why["patient", "D"] == "no slide in the study"
    assert why["slide", "s005"] == "no label in the table"
    assert ("slide", "s003") not in why  # whose patient is listed already


def test_parquet_is_read_as_csv_is(study: Study, tmp_path: Path) -> None:
    pd.DataFrame({"patient": [1, 2, 3], "slide": ["s000", "s001", "s002"], "grade": [1, 2, None]}).to_parquet(
        tmp_path / "labels.parquet"
    )
    cohort = read_patients(study.folder, tmp_path / "labels.parquet", LabelColumns(label="grade"))
    assert [(p.id, p.label) for p in cohort.patients] == [("1", "1"), ("2", "2")]


def rows(values: list[str], name: str = "label") -> str:
    return f"patient,slide,{name}\n" + "".join(f"p{k},s{k:03},{value}\n" for k, value in enumerate(values))


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        (["0", "1"] * 6, "binary", ("0", "1")),
        (["neg", "pos"] * 6, "binary", ("neg", "pos")),
        (["mut", "wild-type"] * 6, "binary", ("wild-type", "mut")),
        (["2", "10", "1"] * 4, "multiclass", ("1", "2", "10")),
        ([f"{k / 7:.3f}" for k in range(12)], "regression", ()),
    ],
)
def test_task_is_guessed(study: Study, tmp_path: Path, values: list[str], kind: str, classes: tuple[str, ...]) -> None:
    cohort = read(study, rows(values), tmp_path / "labels.csv", label="label")
    assert (cohort.kind, cohort.classes) == (kind, classes)


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("patient,slide,y\nA,s000,1\nA,s001,0\n", {"label": "y"}, "patient A has y '1' in line 2 and '0' in line 3"),
        ("patient,slide,y\nA,s000,1\nB,s000,0\n", {"label": "y"}, "slide s000 is of patient B here and of A"),
        ("patient,slide,y,site\nA,s000,1,x\nA,s001,1,z\n", {"label": "y"}, "patient A is of site 'x' and of 'z'"),
        ("patient,slide,y\nA,s000,1\nB,s001,1\n", {"label": "y"}, "every patient has y '1'"),
        ("patient,slide,y\nA,x,1\nB,z,0\n", {"label": "y"}, "such as s000"),
        ("patient,slide,y\nA,s000,1\n", {"label": "msi"}, "has no column 'msi'; it has patient, slide, y"),
        ("patient,slide,y\nA,s000,1\n", {}, "give --label"),
        ("label\n1\n", {"label": "label"}, "needs a column patient or slide_id"),
        (rows(["a", "b", "c"]), {"label": "label"}, "3 different values for 3 patients"),
        (rows(["a", "b"] * 3), {"label": "label", "task": "regression"}, "is 'a', which is no number"),
        ("patient,slide,t,e\nA,s000,0,1\n", {"time": "t", "event": "e"}, "times must be above 0"),
        ("patient,slide,t,e\nA,s000,5,2\n", {"time": "t", "event": "e"}, "events are 1 or 0"),
        ("patient,slide,t,e\nA,s000,5,0\nB,s001,4,0\n", {"time": "t", "event": "e"}, "no patient has an event"),
        ("patient,slide,t\nA,s000,5\n", {"time": "t"}, "--time and --event"),
    ],
)
def test_bad_tables(study: Study, tmp_path: Path, text: str, columns: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(study, text, tmp_path / "labels.csv", **columns)


def test_folds_are_nested_and_stratified() -> None:
    cohort = cohort_of(53, 20)
    folds = make_folds(cohort, 5, 2, seed=3)
    assert len(folds) == 10
    for repeat in (0, 1):
        tested = [fold.test for fold in folds if fold.repeat == repeat]
        np.testing.assert_array_equal(np.sort(np.concatenate(tested)), np.arange(53))
        assert {int(cohort.targets[part].sum()) for part in tested} == {4}
    for fold in folds:
        every = np.concatenate([fold.train, fold.tune, fold.test])
        np.testing.assert_array_equal(np.sort(every), np.arange(53))
        assert 0 < cohort.targets[fold.tune].sum() < len(fold.tune)
    assert not np.array_equal(folds[0].test, folds[5].test)


def test_sites_stay_whole_on_request() -> None:
    cohort = cohort_of(60, 30, sites=6)
    for fold in make_folds(cohort, 3, 1, by_site=True):
        here = {cohort.sites[place] for place in fold.test}
        assert not here & {cohort.sites[place] for place in fold.inner}


@pytest.mark.parametrize(("n", "positives", "message"), [(40, 9, "y has 9 patients, 5 folds need at least 10")])
def test_too_few_patients(n: int, positives: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_folds(cohort_of(n, positives), 5, 1)
    with pytest.raises(UsageError, match="2 sites cannot be kept whole in 5 folds"):
        make_folds(cohort_of(40, 20, sites=2), 5, 1, by_site=True)


def test_folds_come_back_from_their_file(tmp_path: Path) -> None:
    cohort = cohort_of(40, 20)
    folds = make_folds(cohort, 4, 2)
    write_folds(tmp_path, "folds.csv", cohort, folds)
    again, outside = read_folds(tmp_path / "folds.csv", cohort)
    assert not outside
    for one, other in zip(folds, again, strict=True):
        assert one.name == other.name
        for part in ("train", "tune", "test"):
            np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
    _, outside = read_folds(tmp_path / "folds.csv", cohort_of(41, 20))
    assert [left.id for left in outside] == ["p40"]
