"""Options from the environment and from a file, and which goes first."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.cli_helpers import run_cli
from support.small_slides import tissue_picture, write_slide

from wsivit.cli.app import VERBS
from wsivit.store import TileStore

STUDY = """
label = "region"
run = "vit"
[tile]
mag = 5
tile-size = 64
min_tissue = 0.1
[predict]
batch_size = 8
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_slide(tmp_path / "s.tiff", tissue_picture(900, 800))
    (tmp_path / "study.toml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "environment", "mpp", "size"),
    [
        ([], {}, 2.0, 64),
        ([], {"WSIVIT_MPP": "1"}, 1.0, 64),
        ([], {"WSIVIT_MPP": "1", "WSIVIT_TILE_MPP": "4"}, 4.0, 64),
        ([], {"WSIVIT_MAG": "10", "WSIVIT_PATCH_SIZE": "32"}, 1.0, 32),
        (["--mpp", "0.5"], {"WSIVIT_MPP": "1"}, 0.5, 64),
        (["--magnification", "10", "--patch-size", "128"], {"WSIVIT_TILE_MPP": "4"}, 1.0, 128),
    ],
)
def test_the_command_line_goes_first_then_the_environment_then_the_file(
    words: list[str],
    environment: dict[str, str],
    mpp: float,
    size: int,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = run_cli("tile", "s.tiff", "--config", "study.toml", "-q", *words)
    assert done.code == 0, done.err
    store = TileStore(workplace / "s.zarr")
    assert (store.parameters.requested_mpp, store.grid.tile_size) == (mpp, size)
    assert store.parameters.min_tissue == 0.1


def test_the_environment_can_name_the_file_and_verbose_says_where_each_option_comes_from(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSIVIT_CONFIG", "study.toml")
    monkeypatch.setenv("WSIVIT_TILE_QUALITY", "80")
    done = run_cli("tile", "s.tiff", "-v")
    assert done.code == 0, done.err
    assert "--mpp = 5 (study.toml)" in done.err
    assert "--quality = 80 (WSIVIT_TILE_QUALITY)" in done.err
    assert TileStore("s.zarr").parameters.quality == 80


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("tile-size", "tile_sze", "study.toml: [tile] has no option tile_sze; did you mean tile_size?"),
        ("label =", "lable =", "study.toml: no verb has an option lable; did you mean label?"),
        ("[tile]", "[tyle]", "study.toml: there is no verb tyle; did you mean tile?"),
        ("[tile]", "[tile", "study.toml: is not TOML"),
        ("mag = 5", "mag = 0", "a magnification is above 0"),
        ("mag = 5", "mpp = nan", "--mpp must be above 0"),
        ("64", "0", "--tile-size must be from 1"),
        ("64", "1.5", "is no whole number"),
        ("64", '""', "--tile-size is empty"),
        ("64", "true", "[tile-size]"),
    ],
)
def test_mistakes_in_a_file_name_it_and_the_nearest_key(before: str, after: str, said: str, workplace: Path) -> None:
    (workplace / "study.toml").write_text(STUDY.replace(before, after, 1))
    done = run_cli("tile", "s.tiff", "--config", "study.toml")
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not (workplace / "s.zarr").exists()


def test_a_file_that_is_not_there_is_an_error(workplace: Path) -> None:
    done = run_cli("tile", "s.tiff", "--config", "nowhere.toml")
    assert (done.code, done.err) == (2, "wsivit: nowhere.toml: there is no such file\n")


def test_quiet_and_verbose_exclude_each_other() -> None:
    assert "not both" in run_cli("info", "nowhere.svs", "-q", "-v").err


def test_quiet_silences_notes_and_not_warnings(workplace: Path) -> None:
    words = ["tile", "s.tiff", "--mag", "1", "--tile-size", "256", "-o"]
    loud, quiet = run_cli(*words, "a"), run_cli(*words, "b", "-q")
    assert loud.code == quiet.code == 0
    assert "NO TILES" in quiet.err
    assert loud.out == quiet.out.replace("b/s", "a/s")


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_and_the_options_of_every_verb(verb: str) -> None:
    done = run_cli("help", verb)
    assert done.code == 0
    assert f"wsivit {verb}" in done.out
    for option in ("--quiet", "-q", "--verbose", "-v", "--debug", "--config", "--slide-root"):
        assert option in done.out
    assert ("--mpp" in done.out) == ("--magnification" in done.out) == ("--mag" in done.out)


def test_help_and_version() -> None:
    assert run_cli("help").out == run_cli("--help").out == run_cli().out
    assert run_cli("-V").out == run_cli("--version").out
    assert run_cli("help", "tyle").code == 2


def test_tab_completion_is_installed_and_completes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil
    import subprocess

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/bash")
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    done = run_cli("--install-completion", "--shell", "bash")
    assert done.code == 0, done.err
    (script,) = (tmp_path / ".local/share/bash-completion/completions").iterdir()
    complete = f"source {script}; COMP_WORDS=({{}}); COMP_CWORD={{}}; _wsivit; echo ${{{{COMPREPLY[@]}}}}"
    for words, place, expected in (("wsivit hea", 1, {"heatmap"}), ("wsivit tile --tile-s", 2, {"--tile-size"})):
        answer = subprocess.run(["bash", "-c", complete.format(words, place)], capture_output=True, text=True).stdout
        assert set(answer.split()) == expected
