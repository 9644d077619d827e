"""The package as it is imported: its names, its weight, its structure."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import wsivit
from wsivit.cli.app import VERBS

PACKAGE = Path(wsivit.__file__).parent
ORDER = [
    "_face",
    "errors",
    "ranges",
    "_keywords",
    "io",
    "slide",
    "tissue",
    "store",
    "slide_list",
    "tiling",
    "heatmap",
    "explore",
    "models",
    "data",
    "inference",
    "cohort",
    "evaluation",
    "training",
    "mil",
    "explain",
    "by_level",
    "viewer",
    "report",
    "run_study",
    "demo",
    "doctor",
    "cli",
    "__main__",
]
"""The packages and modules of the library; each imports only from those before it."""
HEAVY = {"torch", "timm", "transformers", "torchvision", "accelerate", "datasets"}
LIGHT = ORDER[: ORDER.index("models")]


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


@cache
def faces() -> dict[str, set[str]]:
    """What each package lists as public, from its stub."""
    return {
        stub.parent.relative_to(PACKAGE).as_posix(): set(re.findall(r"^from \S+ import (\w+)", stub.read_text(), re.M))
        for stub in PACKAGE.rglob("__init__.pyi")
    }


def home(module: str) -> str:
    """Name the package of the library that an import takes from; empty for other libraries."""
    parts = module.split(".")
    if parts[0] != "wsivit" or len(parts) == 1:
        return ""
    if len(parts) == 2:  # a public name of the library
        modules = re.findall(rf"^from \.(\w+) import {parts[1]} as", (PACKAGE / "__init__.pyi").read_text(), re.M)
        return modules[0] if modules else parts[1]
    return parts[1]


def test_every_public_name_is_there_and_documented() -> None:
    for name in wsivit.__all__:
        value = getattr(wsivit, name)
        assert name == "__version__" or value.__doc__, name
    assert set(wsivit.__all__) <= set(dir(wsivit))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="tyle"):
        wsivit.tyle  # noqa: B018


@pytest.mark.parametrize("order", [1, -1], ids=["forwards", "backwards"])
def test_no_public_name_is_hidden_by_a_submodule(order: int) -> None:
    modules = sorted(".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts) for p in PACKAGE.rglob("*.py"))
    modules = [m.removesuffix(".__init__") for m in modules if not m.endswith("__main__")][::order]
    code = f"""
import sys, types
from importlib import import_module
for name in {modules!r}: import_module(name)
faces = [m for n, m in sys.modules.items() if n.partition('.')[0] == 'wsivit' and hasattr(m, '__path__')]
for face in faces:
    for name in getattr(face, '__all__', ()):
        assert not isinstance(getattr(face, name), types.ModuleType), (face, name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("argument", ["import wsivit", "from wsivit.cli.app import build; build()"])
def test_import_loads_nothing_heavy(argument: str) -> None:
    code = f"{argument}\nimport sys; print(*(set(sys.modules) & {HEAVY | {'zarr', 'skimage', 'matplotlib'}!r}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def loaded_by(*verbs: str) -> set[str]:
    """Modules that the commands of some verbs load before they begin."""
    commands = [f"wsivit.cli.{VERBS[verb][0].partition(':')[0]}" for verb in verbs]
    code = f"from importlib import import_module\nfor name in {commands}: import_module(name)\n"
    code += "import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_commands_load_no_torch_until_it_is_needed() -> None:
    assert loaded_by(*VERBS) & HEAVY == set()


@pytest.mark.parametrize(
    ("verb", "most", "packages"),
    [
        ("info", 50, {"io", "slide", "cohort"}),
        ("tile", 105, {"io", "slide", "tissue", "store", "slide_list", "tiling", "cohort"}),
    ],
)
def test_a_small_command_loads_what_it_needs(verb: str, most: int, packages: set[str]) -> None:
    ours = {name for name in loaded_by(verb) if name.partition(".")[0] == "wsivit"}
    assert len(ours) <= most
    beside = {"_face", "_keywords", "errors", "ranges", "cli"}
    assert {name.split(".")[1] for name in ours if name.count(".")} - beside <= packages
    of_cohorts = {name for name in ours if name.startswith("wsivit.cohort.")}
    assert of_cohorts <= {"wsivit.cohort.options", "wsivit.cohort.info"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_data_flows_one_way(path: Path) -> None:
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if here == "__init__":
        return
    above = ORDER[: ORDER.index(here) + 1]
    used = {home(module) for module in imports(path, top_level=False)} - {"", "__version__"}
    assert used <= set(above), f"{path.name} imports from below: {used - set(above)}"
    if here in LIGHT:
        assert not {module.split(".")[0] for module in imports(path, top_level=False)} & HEAVY


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_packages_use_one_another_by_their_faces(path: Path) -> None:
    here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module in imports(path, top_level=False):
        parts = module.split(".")
        if parts[0] == "wsivit" and len(parts) > 2 and parts[1] != here:
            public = faces().get(parts[1])  # None: a module such as errors
            assert public is None or (len(parts) == 3 and parts[2] in public), f"{path.name} reaches into {module}"


def test_no_two_modules_share_a_name() -> None:
    names = [path.stem for path in PACKAGE.rglob("*.py") if path.stem not in ("__init__", "__main__", "options")]
    assert sorted(names) == sorted(set(names))
