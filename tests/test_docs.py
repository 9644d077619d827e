"""README and docs: every code block runs, every command is described, the reference is what the commands say."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wsivit
from wsivit.cli.app import VERBS, build, main
from wsivit.demo import write_sample_slide

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NOT_RUN = re.compile(r"<!-- (not run: .+|test command|demo command) -->")


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and code of each block of a page that is to run."""
    text = page.read_text()
    for match in re.finditer(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        line_before = text[: match.start()].rstrip("\n").rpartition("\n")[2]
        if not NOT_RUN.fullmatch(line_before.strip()):
            yield match[1], match[2]


def runnable(page: Path) -> bool:
    return any(language in ("python", "bash") for language, _ in blocks(page))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two slides and regions that the pages speak of."""
    folder = tmp_path_factory.mktemp("samples")
    for name, seed in (("train", 1), ("test", 2)):
        write_sample_slide(folder, seed=seed, size=2048, name=name)
    return folder


@pytest.fixture
def workplace(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for file in samples.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_shell(code: str) -> None:
    binaries = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


def run_commands(code: str) -> None:
    """Run a block line by line: ``wsivit …`` in this process, which loads torch once for all, the rest in a shell."""
    for line in re.findall(r"^for .*?^done|^.+?$", code.replace("\\\n", " "), re.MULTILINE | re.DOTALL):
        for command in [line] if line.startswith("for ") else line.split(" && "):
            words = [] if command.startswith("for ") else shlex.split(command, comments=True)
            if words[:1] != ["wsivit"]:
                run_shell(command)
                continue
            with pytest.raises(SystemExit) as done:
                main(words[1:])
            assert done.value.code == 0, command


@pytest.mark.parametrize("page", [p for p in PAGES if runnable(p)], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_code_blocks_run(page: Path, workplace: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    for language, code in blocks(page):
        if language == "bash":
            run_commands(code)
        elif language == "toml":  # a file, whose name is in its first line
            Path(code.split()[1]).write_text(code)
        elif language == "python":
            exec(compile(code, page.name, "exec"), namespace)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.name)
def test_example_runs(example: Path, workplace: Path) -> None:
    run_shell(f"{shlex.quote(sys.executable)} {shlex.quote(str(example))}")


def test_cli_reference_is_what_the_commands_say() -> None:
    reference = (ROOT / "docs" / "cli.md").read_text()
    script = ROOT / "docs" / "make_cli_reference.py"
    fresh = subprocess.run([sys.executable, script, "-"], check=True, capture_output=True, text=True).stdout
    assert reference == fresh, "run: python docs/make_cli_reference.py"


def test_the_list_of_models_is_that_of_the_registry() -> None:
    script = ROOT / "docs" / "make_model_list.py"
    fresh = subprocess.run([sys.executable, script, "-"], check=True, capture_output=True, text=True).stdout
    assert (ROOT / "docs" / "models.md").read_text() == fresh, "run: python docs/make_model_list.py"


def test_every_verb_is_on_a_page_that_people_read() -> None:
    pages = "".join(page.read_text() for page in PAGES if page.name != "cli.md")
    assert [verb for verb in VERBS if f"wsivit {verb}" not in pages] == []
    assert set(VERBS) <= set(build())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith(("http://", "https://")) or (page.parent / target).exists(), target


def test_every_option_has_a_text_of_its_own() -> None:
    """Parameters documented together (``a, b : float``) would lose theirs to that of the group they are in."""
    for section in (ROOT / "docs" / "cli.md").read_text().split("\n## wsivit "):
        options = [line for line in section.splitlines() if line.startswith("* `-")]
        texts = [line.partition(": ")[2].partition(" *[")[0] for line in options]
        assert len(set(texts)) == len(texts), section.partition("\n")[0]


def test_the_api_reference_has_every_public_name() -> None:
    reference = (ROOT / "docs" / "api.md").read_text()
    documented = re.findall(r"^\.\. auto(?:function|class):: wsivit\.(\w+)$", reference, re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert set(wsivit.__all__) - {"WsivitError"} == set(documented)
    assert ".. automodule:: wsivit.errors" in reference


def test_troubleshooting_quotes_messages_that_exist() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    phrases = [phrase for cell in quoted for phrase in re.findall(r"`([^`]+)`", cell)]
    assert len(phrases) > 25
    strings = {
        node.value
        for module in (ROOT / "wsivit").rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert [
        phrase for phrase in phrases if phrase != "ledger.csv" and not any(phrase in text for text in strings)
    ] == []


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        ROOT / "docs",
        tmp_path / "site",
    ]
    done = subprocess.run([*command, "-d", tmp_path / "doctrees"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api.html").read_text()
    for name in ("wsivit.tile", "wsivit.TileStore", "wsivit.errors.ScaleError"):
        assert f'id="{name}"' in page
