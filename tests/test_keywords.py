"""Options as keywords: each field of an options class, by its name, instead of the object."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from support.small_slides import tissue_picture, write_slide

import wsivit
from wsivit._keywords import options_as_keywords
from wsivit.data import SlideOptions
from wsivit.errors import UsageError
from wsivit.tiling import TileOptions


@options_as_keywords
def verb(
    thing: str, options: TileOptions = TileOptions(), *, slides: SlideOptions = SlideOptions(), **keywords: Any
) -> tuple[str, TileOptions, SlideOptions]:
    return thing, options, slides


def test_a_keyword_is_the_field_of_its_class() -> None:
    assert verb("x") == ("x", TileOptions(), SlideOptions())
    assert verb("x", mpp=1.0, tile_size=64, scene="2") == (
        "x",
        TileOptions(mpp=1.0, tile_size=64),
        SlideOptions(scene="2"),
    )
    assert verb("x", TileOptions(mpp=2.0), scene="2")[1].mpp == 2.0


def test_object_and_keywords_of_one_class_do_not_go_together() -> None:
    with pytest.raises(UsageError, match=r"verb: give mpp in options=TileOptions\(…\) or as keywords, not both"):
        verb("x", TileOptions(tile_size=64), mpp=1.0)


def test_a_keyword_that_nothing_has_is_a_type_error_with_a_hint() -> None:
    with pytest.raises(TypeError, match=r"verb\(\) has no option 'tilesize'; did you mean 'tile_size'"):
        verb("x", tilesize=64)
    with pytest.raises(TypeError, match="missing"):
        verb(mpp=1.0)  # type: ignore[call-arg]


def test_values_are_checked_as_in_the_object() -> None:
    with pytest.raises(UsageError, match="mpp must be above 0"):
        verb("x", mpp=-1.0)


VERBS = ("tile", "train", "evaluate", "compare", "predict", "features", "heatmap", "export", "aggregate")


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_lists_its_options_where_notebooks_complete_them(name: str) -> None:
    listed = inspect.signature(getattr(wsivit, name)).parameters
    classes = [value.default for value in listed.values() if hasattr(value.default, "__dataclass_fields__")]
    assert classes
    for options in classes:
        assert {field.name for field in fields(options)} <= set(listed)
    assert "keywords" not in listed


def test_tile_as_people_guess_it(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "s.tiff", tissue_picture(500, 400))
    store = wsivit.tile(slide, tmp_path, mpp=1.0, tile_size=64).store
    assert (store.mpp, store.grid.tile_size) == (1.0, 64)
