"""The package as it is imported: its names, its weight, its structure."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import wsivit

PACKAGE = Path(wsivit.__file__).parent
HOUSE = [
    "allocator", "credentials", "errors", "interrupt", "parallel", "pictures", "progress", "remote", "writing",
    "resolution", "grid", "slide", "tissue", "annotations", "preview", "store", "manifest", "tiling", "data", "runs",
    "safety", "weights", "models", "recipe", "metrics", "figures", "trainer", "train", "scoring", "evaluate", "compare",
    "predict", "aggregate", "export", "heatmap", "cohort", "sample", "demo", "doctor", "cli", "commands", "__main__",
]  # fmt: skip
HEAVY = {"torch", "timm", "transformers", "torchvision", "accelerate", "datasets"}
LIGHT = HOUSE[: HOUSE.index("data")]


def imports(path: Path, *, top_level: bool) -> set[str]:
    """Modules that a file imports, as dotted names; with `top_level` only what importing it loads."""
    found: set[str] = set()
    nodes = list(ast.parse(path.read_text()).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and top_level:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        nodes += list(ast.iter_child_nodes(node))
    return found


def room(module: str) -> str:
    """Name the room that a module, or a public name of the package, lives in."""
    home = wsivit._HOME.get(module.removeprefix("wsivit."), module)
    return home.split(".")[1] if home.startswith("wsivit.") else ""


def test_every_public_name_is_there_and_documented() -> None:
    for name in wsivit.__all__:
        value = getattr(wsivit, name)
        assert name == "__version__" or value.__doc__, name
    assert set(wsivit.__all__) <= set(dir(wsivit))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'tyle'"):
        wsivit.tyle  # noqa: B018


def test_verbs_are_not_hidden_by_the_submodules_of_the_same_name() -> None:
    code = "import wsivit.predict, wsivit.train, wsivit.heatmap, wsivit; assert callable(wsivit.predict)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("argument", ["import wsivit", "from wsivit.cli import build; build()"])
def test_import_loads_nothing_heavy(argument: str) -> None:
    code = f"{argument}\nimport sys; print(*(set(sys.modules) & {HEAVY | {'zarr', 'skimage', 'matplotlib'}!r}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_commands_load_no_torch_until_it_is_needed() -> None:
    code = "from wsivit.commands import demo, models, results, slides, stores"
    code += f"\nimport sys; print(*(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_data_flows_one_way(path: Path) -> None:
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if here == "__init__":
        return
    above = HOUSE[: HOUSE.index(here) + 1]
    used = {room(module) for module in imports(path, top_level=False)} - {"", "__version__"}
    assert used <= set(above), f"{path.name} imports from below: {used - set(above)}"
    if here in LIGHT:
        assert not {module.split(".")[0] for module in imports(path, top_level=False)} & HEAVY
