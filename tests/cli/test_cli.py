"""The command line, as a person meets it: a subprocess, its output, its exit code."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from support.cli_helpers import run_cli, wsivit_
from support.small_slides import tissue_picture, write_slide

import wsivit
from wsivit.cli.app import VERBS, build
from wsivit.models.run_folder import CONTRACT
from wsivit.store import TileStore

SHELL_ONLY = {"common", "as_json", "open_options", "many"}
"""Options that make sense on a command line only: `common` are those of every verb; `open_options` is how a slide is
opened, in Python `open_slide`;
`many` is how many slides are run, in Python `Cohort`."""
UNGROUPED = {"Parameters", "Arguments"}
LEDGER_ONLY = {"verify": {"output"}}
"""Options that one slide has no use for: where the ledger of many goes, if the verb writes nothing else."""
OF_MANY = {
    "tile": {"force"},
    "predict": {"force"},
    "features": {"force", "progress"},
    "view": {"browser", "no_browser"},
}
"""Options of Python that the command line has among those of `many`, and applies to one slide too."""
SEVERAL = {"encoders": ("encoders", "check_encoder"), "import": ("import_tiles", "import_features")}
"""Commands for what are several functions in Python."""
PYTHON_ONLY = {"keywords", "progress", "slide_mpp", "reader", "jpeg_color", "scene", "max_pixels", "subprocess"}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("cli") / "s.tiff", tissue_picture(900, 800))


@pytest.fixture(scope="module")
def store(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    done = wsivit_("tile", sample, "-o", folder, "--tile-size", 128, "--quiet")
    assert done.returncode == 0, done.stderr
    return folder / "s.zarr"


def command_of(verb: str) -> Any:
    module, function = VERBS[verb][0].split(":")
    return getattr(import_module(f"wsivit.cli.{module}"), function)


def flat(hints: dict[str, Any]) -> set[str]:
    """Names of parameters, with options dataclasses taken apart."""
    names = set()
    for name, hint in hints.items():
        kind = get_args(hint)[0] if get_args(hint) and is_dataclass(get_args(hint)[0]) else hint
        names |= {entry.name for entry in fields(kind)} if is_dataclass(kind) else {name}
    return names


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in SEVERAL])
def test_a_verb_is_the_same_in_python_and_on_the_command_line(verb: str) -> None:
    command = command_of(verb)
    function = getattr(wsivit, command.__name__)
    assert command.__doc__ == function.__doc__
    ours = inspect.signature(command).parameters
    theirs = inspect.signature(inspect.unwrap(function)).parameters  # as written: options are keywords in Python too
    assert (set(ours) - SHELL_ONLY - LEDGER_ONLY.get(verb, set())) ^ set(theirs) <= PYTHON_ONLY | OF_MANY.get(
        verb, set()
    )
    for name in set(ours) & set(theirs):
        assert ours[name].default == theirs[name].default, name


@pytest.mark.parametrize("verb", VERBS)
def test_help_tells_every_option(verb: str) -> None:
    done = run_cli(verb, "--help")
    assert done.code == 0, done.err
    hints = get_type_hints(command_of(verb), include_extras=True)
    hints.pop("return")
    for name in flat(hints) - {"as_json", "formats"}:
        assert name.replace("_", "-") in done.out.lower(), name


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_in_a_section_of_the_help(verb: str) -> None:
    arguments = build()[verb].assemble_argument_collection()
    assert [argument.name for argument in arguments if {g.name for g in argument.parameter.group} & UNGROUPED] == []


def test_commands_are_listed_in_the_order_of_work() -> None:
    listed = re.findall(r"^│ ([a-z][\w-]*) {2,}\w", wsivit_("--help").stdout, re.MULTILINE)
    assert listed == list(VERBS)


def test_info_in_words_and_json(sample: Path) -> None:
    words = wsivit_("info", sample).stdout
    assert "900 x 800" in words
    assert "0.5" in words
    found = json.loads(wsivit_("info", sample, "--json").stdout)
    assert found["dimensions"] == [900, 800]
    assert found["scale"]["mpp_x"] == pytest.approx(0.5)
    assert found["tile_size"] == [128, 128]


def test_tile_says_what_it_made(sample: Path, tmp_path: Path) -> None:
    done = wsivit_("tile", sample, "-o", tmp_path, "--mag", 10, "--tile-size", 64)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "s.zarr") in done.stdout
    assert done.stderr == ""  # no progress bar into a file
    tiles = TileStore(tmp_path / "s.zarr")
    assert f"{len(tiles)} decoded from level 1, JPEG quality 90" in done.stdout
    assert (tmp_path / "s-preview.png").read_bytes().startswith(b"\x89PNG")
    assert TileStore(tmp_path / "s.zarr").parameters.requested_mpp == 1.0


def test_verify_finds_a_flipped_bit(store: Path, tmp_path: Path) -> None:
    assert wsivit_("verify", store).returncode == 0
    copy = tmp_path / "s.zarr"
    subprocess.run(["cp", "-r", store, copy], check=True)
    shard = next((copy / "tiles").glob("c.*"))
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 1
    shard.write_bytes(raw)
    done = wsivit_("verify", copy)
    assert done.returncode == 8
    assert "tiles" in done.stdout
    # Several have a line each, and nothing is written without -o.
    assert [path.name for path in tmp_path.iterdir()] == ["s.zarr"]
    (tmp_path / "none.zarr").mkdir()
    many = wsivit_("verify", store, tmp_path, cwd=tmp_path)
    assert (many.returncode, many.stderr) == (8, "")
    first, second, third = many.stdout.splitlines()
    assert first == f"{store}: sound"
    assert "none.zarr is not a tile store" in second
    assert third.startswith((f"{copy}: 1 wrong: ", f"{copy}: 2 wrong: "))
    assert {path.name for path in tmp_path.iterdir()} == {"s.zarr", "none.zarr"}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["tile", "nowhere.svs"], 3, "nowhere.svs"),
        (["tile", "html.svs"], 3, "HTML"),
        (["tile", "empty.svs"], 3, "0 bytes"),
        (["info", "nowhere.svs"], 3, "nowhere.svs"),
        (["tile", "unscaled.tiff"], 5, "--slide-mpp"),
        (["tile", "s.tiff", "--mpp", "0.1"], 5, "0.5"),
        (["tile", "s.tiff", "--slide-mpp", "500", "--mpp", "600"], 5, "outside 0.05 to 20"),
        (["tile", "s.tiff", "--slide-mpp", "nan"], 2, "--slide-mpp must be above 0"),
        (["tile", "s.tiff", "--mpp", "1.0", "--mag", "20"], 2, "--mag specified multiple times"),
        (["tile", "s.tiff", "--tile-size", "0"], 2, "--tile-size must be from 1"),
        (["tile", "s.tiff", "--overlap", "256"], 2, "overlap"),
        (["tile", "s.tiff", "--min-tissue", "7"], 2, "--min-tissue must be from 0 to 1, not 7"),
        (["tile", "s.tiff", "--tile-size", "many"], 2, "--tile-size"),
        (["tile", "s.tiff", "--annotations", "no.geojson"], 2, "no.geojson"),
        (["tile", "s.tiff", "--annotations", "html.svs"], 2, "html.svs"),
        (["tile", "s.tiff", "-o", "html.svs"], 7, "html.svs: it is a file, not a folder"),
        (["tile"], 2, "SLIDE is missing; see wsivit tile --help"),
        (["tile", "s.tiff", "--mpp"], 2, "--mpp requires an argument"),
        (["tile", "s.tiff", "--mpp", "-1"], 2, "--mpp must be above 0"),
        (["tyle", "s.tiff"], 2, "see wsivit --help"),
        (["heatmap", "STORE"], 2, "prediction"),
        (["heatmap", "nowhere.zarr"], 8, "nowhere.zarr"),
        (["export", "STORE", "csv", "--alpha", "0.3"], 2, "alpha makes no difference to csv: leave it out"),
        (["verify", "html.svs"], 8, "html.svs"),
        (["verify", "STORE", "html.svs", "--slide", "s.tiff"], 2, "each with its own"),
        (["train", "STORE", "--label", "region", "--model", "vit_tiny_patch16_224", "-o", "run"], 2, "region"),
        (["predict", "norun", "STORE"], 2, "norun"),
        (["predict", "./norun", "STORE"], 2, "there is no model in ./norun: no such folder"),
        (["predict", "folder/rnu", "STORE"], 2, "folder has run"),
        (["predict", ".", "STORE"], 8, "wsivit train makes one"),
        (["predict", ".", "STORE", "--batch-size", "0"], 2, "--batch-size must be from 1"),
        (["predict", ".", "STORE", "--engine", "tpu"], 2, "--engine"),
    ],
)
def test_a_mistake_gives_one_clear_line_and_its_code(
    sample: Path,
    store: Path,
    tmp_path: Path,
    words: list[str],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "html.svs").write_text("<!DOCTYPE html><html><body>403 Forbidden</body></html>")
    (tmp_path / "empty.svs").touch()
    (tmp_path / "s.tiff").symlink_to(sample)
    (tmp_path / "folder" / "run").mkdir(parents=True)
    (tmp_path / "folder" / "run" / CONTRACT).touch()
    write_slide(tmp_path / "unscaled.tiff", tissue_picture(300, 300), mpp=None)
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    done = run_cli(*(str(store) if word == "STORE" else word for word in words))
    assert done.code == code, done.err
    assert said in done.err
    assert done.err.startswith("wsivit: ")
    assert done.err.count("\n") == 1
    assert done.out == ""
    assert before == {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in wsivit_("info", "nowhere.svs", "--debug").stderr


def test_an_existing_store_is_kept(sample: Path, store: Path) -> None:
    done = wsivit_("tile", sample, "-o", store.parent, "--tile-size", 64, "-q")
    assert done.returncode == 8
    assert "tile_size" in done.stderr
    assert TileStore(store).grid.tile_size == 128


def test_unreadable_tiles_are_listed_and_the_exit_code_says_so(sample: Path, tmp_path: Path) -> None:
    import tifffile

    raw = bytearray(sample.read_bytes())
    with tifffile.TiffFile(sample) as tiff:
        offset, count = tiff.pages[0].dataoffsets[28], tiff.pages[0].databytecounts[28]
    raw[offset : offset + count] = bytes(count)
    (tmp_path / "bad.tiff").write_bytes(raw)
    for again in (False, True):  # the second run finds it done, and says the same
        done = wsivit_("tile", tmp_path / "bad.tiff", "-o", tmp_path, "--tile-size", 128, "-q")
        assert done.returncode == 4, done.stderr
        assert "are unreadable" in done.stdout
        assert ("nothing to do" in done.stdout) == again


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_tiling_stops_with_one_line_and_goes_on(tmp_path: Path, stop: signal.Signals) -> None:
    rng = np.random.default_rng(0)
    path = write_slide(tmp_path / "big.tiff", rng.integers(0, 200, (3000, 3000, 3), np.uint8), levels=1)
    words = ["tile", path, "-o", tmp_path, "--tile-size", 32, "--tissue", "none", "--codec", "zstd", "-q"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "wsivit", *map(str, words)], env=environment, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "big.zarr" / "zarr.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(stop)
    _, said = process.communicate(timeout=20)
    if process.returncode == 0:
        pytest.skip("the tiling was done before it could be interrupted")
    # To a shell they are one; the second is how it ends where a busy machine does not answer within a second.
    assert process.returncode in (130, -stop), said
    assert said.count("\n") == 1
    assert wsivit_(*words).returncode == 0
    assert len(TileStore(tmp_path / "big.zarr")) == 94 * 94
