"""Every number of every verb with values that make no sense: one line that names the option, before any work."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from support.cli_helpers import Done, run_cli
from support.small_slides import tissue_picture, write_slide
from support.train_helpers import make_run, write_store

from wsivit.cli.app import VERBS, build
from wsivit.ranges import Range
from wsivit.store import Predictions, TileStore

HUGE = str(10**30)
NUMBERS = ("0", "-1", HUGE, "nan", "1.5")
# What each verb cannot do without; nothing of it exists.
WORDS = {
    "info": ["nowhere.svs"],
    "tile": ["nowhere.svs"],
    "explore": ["nowhere.svs"],
    "view": ["nowhere.svs"],
    "import": ["nowhere.csv", "nowhere.svs"],
    "index": ["nowhere.zarr"],
    "train": ["nowhere.zarr", "--model", "./nowhere", "-o", "run"],
    "train-slides": ["nowhere", "nowhere.csv", "--encoder", "uni", "--label", "x", "-o", "run"],
    "evaluate": ["./nowhere", "nowhere.zarr"],
    "compare": ["./nowhere", "--data", "nowhere.zarr"],
    "predict": ["./nowhere", "nowhere.zarr"],
    "features": ["nowhere.zarr", "--encoder", "./nowhere"],
    "heatmap": ["nowhere.zarr"],
    "export": ["nowhere.zarr", "csv"],
    "aggregate": ["nowhere.zarr"],
    "report": ["nowhere"],
    "status": ["nowhere"],
    "relink": ["nowhere.zarr", "nowhere"],
    "verify": ["nowhere.zarr"],
    "demo": [],
}


@cache
def arguments_of(verb: str) -> list[Any]:
    return [argument for argument in build(VERBS)[verb].assemble_argument_collection() if not argument.children]


def kinds(hint: Any) -> set[Any]:
    """The types of an option, without what is said about them."""
    if hasattr(hint, "__metadata__"):
        return kinds(hint.__origin__)
    return {kind for part in get_args(hint) for kind in kinds(part)} if get_args(hint) else {hint}


def ranges(hint: Any) -> list[Range]:
    """The ranges of an option's types."""
    own = [extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Range)]
    return own + [found for part in get_args(hint) for found in ranges(part)]


def numbers_of(verb: str) -> list[Any]:
    return [argument for argument in arguments_of(verb) if kinds(argument.hint) & {int, float}]


def is_one_line(done: Done, code: int) -> bool:
    return done.code == code and done.err.startswith("wsivit: ") and done.err.count("\n") == 1 and done.out == ""


def name_of(argument: Any) -> str:
    return f"{argument.name}.tumor" if dict in kinds(argument.hint) or "thresholds" in argument.name else argument.name


@pytest.mark.parametrize("verb", [verb for verb in VERBS if numbers_of(verb)])
def test_no_number_out_of_its_range_reaches_the_work(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for argument in numbers_of(verb):
        limits = ranges(argument.field_info.annotation)
        for text in NUMBERS:
            whole = float not in kinds(argument.hint)
            legal = not (whole and text in ("nan", "inf", "1.5")) and all(float(text) in limit for limit in limits)
            assert limits, f"{argument.name} has no range"
            # What a legal value does is the next test's.
            if not legal:
                done = run_cli(verb, *WORDS[verb], f"{name_of(argument)}={text}")
                assert is_one_line(done, 2), (argument.name, text, done)
                assert any(name in done.err for name in argument.names), (text, done)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", VERBS)
def test_an_empty_value_is_what_an_unset_variable_leaves_and_refused(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = [a for a in arguments_of(verb) if bool not in kinds(a.hint) and a.name.startswith("--")]
    for argument in named[::4]:
        done = run_cli(verb, *WORDS.get(verb, []), f"{name_of(argument)}=")
        assert is_one_line(done, 2), (argument.name, done)
        assert argument.name in done.err or "may" in done.err or "multiple" in done.err, done
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide, a store with labels and predictions, and a run."""
    folder = tmp_path_factory.mktemp("values")
    write_slide(folder / "s.tiff", tissue_picture(300, 300))
    store = TileStore(write_store(folder, "one", columns=4, rows=3).path)
    values = np.full((len(store), 2), 0.5, np.float32)
    store.write_predictions("other", Predictions(values, ("stroma", "tumor")))
    make_run(folder / "run")
    return folder


REAL = {
    "info": ["s.tiff"],
    "tile": ["s.tiff", "--tile-size", "64", "--force", "-o", "OUT"],
    "index": ["one.zarr", "--label", "region", "-o", "OUT/i.parquet"],
    "evaluate": ["run", "one.zarr", "--subset", "all", "--force", "--bootstrap-samples", "2", "-o", "OUT/e"],
    "predict": ["run", "one.zarr", "--force"],
    "heatmap": ["one.zarr", "--run", "other", "-o", "OUT"],
    "export": ["one.zarr", "csv", "--run", "other", "-o", "OUT/x.csv"],
    "aggregate": ["one.zarr", "--run", "other", "-o", "OUT/a.csv"],
    "verify": ["one.zarr"],
}


@pytest.mark.parametrize("verb", REAL)
def test_zero_works_where_it_is_in_the_range(
    verb: str, workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    words = [word.replace("OUT", str(tmp_path)) for word in REAL[verb]]
    for argument in numbers_of(verb):
        if all(0 in limit for limit in ranges(argument.field_info.annotation)):
            done = run_cli(verb, *words, f"{name_of(argument)}=0", "-q")
            assert done.code in (0, 4) or is_one_line(done, 2), (argument.name, done)
