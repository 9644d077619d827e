"""What messages advise works: each option they name exists, and following the advice gets further."""

from __future__ import annotations

import ast
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from support.small_slides import tissue_picture, write_slide
from support.train_helpers import make_run

import wsivit
from wsivit.cli.app import VERBS, build, main

PACKAGE = Path(wsivit.__file__).parent
OTHERS = {"--install-completion", "--version", "--shm-size", "--help", "--debug", "--slide-root"}
"""Options of other programs, and those of every verb."""


def advised() -> set[tuple[str, str]]:
    """Every option that a string of the library names, with the module; docstrings describe and do not advise."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docs = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and _documented(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                named = re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", node.value)
                found |= {(path.relative_to(PACKAGE).as_posix(), option) for option in named}
    return found


def _documented(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> bool:
    return bool(node.body) and isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)


def test_every_option_that_a_message_names_exists() -> None:
    app = build()
    options = {
        name for verb in VERBS for argument in app[verb].assemble_argument_collection() for name in argument.names
    }
    unknown = {entry for entry in advised() if entry[1] not in options | OTHERS}
    # Options whose short form is read in another place than the commands.
    assert {entry for entry in unknown if entry[1] != "--series"} == set()


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str]]]:
    logger = logging.getLogger("wsivit")
    handlers, level = [*logger.handlers], logger.level

    def run(*words: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words)])
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out + err

    yield run
    logger.handlers[:], logger.level = handlers, level


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_slide(tmp_path / "s.tiff", tissue_picture(400, 300))


Command = Callable[..., tuple[int, str]]


def test_another_scale_of_a_store_force(command: Command, slide: Path, tmp_path: Path) -> None:
    tile = ("tile", slide, "-o", tmp_path, "--tile-size", 64, "-q")
    assert command(*tile)[0] == 0
    code, text = command(*tile, "--mpp", 1.0)
    assert code == 8 and "--force" in text
    assert command(*tile, "--mpp", 1.0, "--force")[0] == 0


@pytest.mark.parametrize("damage", ["format", "parameters", "bytes"])
def test_a_store_of_another_version_or_damaged_force(
    damage: str, command: Command, slide: Path, tmp_path: Path
) -> None:
    tile = ("tile", slide, "-o", tmp_path, "--tile-size", 64, "-q")
    assert command(*tile)[0] == 0
    document = json.loads((tmp_path / "s.zarr" / "zarr.json").read_text())
    ours = document["attributes"]["wsivit"]
    if damage == "format":
        ours["format"] = 99
    elif damage == "parameters":
        ours["parameters"]["new"] = 1
    else:
        ours["tiles"] += 1
    (tmp_path / "s.zarr" / "zarr.json").write_text(json.dumps(document))
    code, text = command(*tile)
    assert code == 8 and "--force" in text
    assert command(*tile, "--force")[0] == 0
    assert command("verify", tmp_path / "s.zarr")[0] == 0


def test_no_scale_slide_mpp(command: Command, tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "s.tiff", tissue_picture(400, 300), mpp=None)
    code, text = command("tile", slide, "-o", tmp_path, "-q")
    assert code == 5 and "0.05 to 20, with --slide-mpp" in text
    assert command("tile", slide, "-o", tmp_path, "-q", "--slide-mpp", 0.5)[0] == 0


def test_no_tiles_tissue_none(command: Command, tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "s.tiff", np.full((300, 400, 3), 243, np.uint8))
    code, text = command("tile", slide, "-o", tmp_path / "a", "--tile-size", 64, "-q")
    assert code == 0 and "NO TILES" in text and "--tissue none" in text
    assert command("tile", slide, "-o", tmp_path / "b", "--tile-size", 64, "-q", "--tissue", "none")[1].startswith("3")


def test_too_many_pixels_max_pixels(command: Command, slide: Path, tmp_path: Path) -> None:
    code, text = command("tile", slide, "-o", tmp_path, "-q", "--max-pixels", 1000)
    assert code == 6 and "--max-pixels" in text
    assert command("tile", slide, "-o", tmp_path, "-q", "--max-pixels", 1_000_000)[0] == 0


def test_two_scenes_live_in_one_folder_scene(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "two.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for seed in (1, 2):
            size = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
            picture = tissue_picture(400 + 64 * seed, 300, seed)
            tiff.write(picture, tile=(128, 128), photometric="rgb", compression="zlib", metadata=size)
    code, text = command("tile", path, "-o", tmp_path, "--tile-size", 64, "-q")
    assert code == 0 and "--scene takes" in text, text
    assert command("tile", path, "-o", tmp_path, "--tile-size", 64, "-q", "--scene", 0)[0] == 0
    # The largest picture has the name of the file; another says which it is.
    assert {store.name for store in tmp_path.glob("*.zarr")} == {"two-scene0.zarr", "two.zarr"}


def test_a_store_of_a_slide_in_the_way_of_predict_force_or_output(
    command: Command, slide: Path, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run")
    predict = ("predict", run, slide, "-o", tmp_path, "-q", "--batch-size", 8)
    shutil.copytree(run, tmp_path / "other")
    metadata = json.loads((tmp_path / "other" / "wsivit.json").read_text())
    (tmp_path / "other" / "wsivit.json").write_text(json.dumps(metadata | {"tile_size": 64}))
    assert command(*predict)[0] == 0
    # Coordinates of other tiles, that an earlier run made: --force replaces them.
    other = ("predict", tmp_path / "other", *predict[2:])
    code, text = command(*other)
    assert code == 8 and "--force" in text
    assert command(*other, "--force")[0] == 0
    # Tiles with pixels are never replaced by coordinates: another folder is.
    assert command("tile", slide, "-o", tmp_path, "--tile-size", 96, "-q", "--force")[0] == 0
    code, text = command(*other, "--force")
    assert code == 8 and "--output" in text and "--force" not in text
    elsewhere = [tmp_path / "new" if word == tmp_path else word for word in other]
    assert command(*elsewhere)[0] == 0
    # Or the store itself, with --allow-mismatch for its other tiles.
    code, text = command("predict", run, tmp_path / "s.zarr", "-q", "--batch-size", 8)
    assert code == 8 and "--allow-mismatch" in text
    assert command("predict", run, tmp_path / "s.zarr", "-q", "--batch-size", 8, "--allow-mismatch")[0] == 0


def test_predictions_of_another_model_name_or_force(command: Command, slide: Path, tmp_path: Path) -> None:
    for seed, folder in enumerate(("a", "b")):
        make_run(tmp_path / folder / "run", seed=seed)
    predict = [("predict", tmp_path / folder / "run", slide, "-o", tmp_path, "-q") for folder in "ab"]
    assert command(*predict[0])[0] == 0
    code, text = command(*predict[1])
    assert code == 7 and "--name" in text and "--force" in text
    assert command(*predict[1], "--name", "second")[0] == 0
    assert command(*predict[1], "--force")[0] == 0


def test_failed_slides_retry_failed(command: Command, tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    write_slide(tmp_path / "slides" / "a.tiff", tissue_picture(400, 300), mpp=None)
    write_slide(tmp_path / "slides" / "b.tiff", tissue_picture(400, 300))
    tile = ("tile", tmp_path / "slides", "-o", tmp_path / "out", "--tile-size", 64, "-q")
    code, text = command(*tile)
    assert code == 5 and "--slide-mpp" in text
    code, text = command(*tile)
    assert "0 to do" in text and "--retry-failed" in text
    assert "1 to do" in command(*tile, "--retry-failed")[1]
    code, text = command(*tile, "--slide-mpp", 0.25)
    assert (code, "1 to do" in text) == (0, True)


def test_a_usage_error_suggests_no_overwriting(command: Command, slide: Path, tmp_path: Path) -> None:
    code, text = command("tile", slide, "-o", tmp_path, "--verbosely")
    assert code == 2
    assert "--force" not in text and "overwrite" not in text
