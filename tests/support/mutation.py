"""Small mistakes in the library's own code, one at a time: whether the tests of that code notice.

The operators are cosmic-ray's, and one more that leaves a statement out. What only changes annotations, docstrings or
messages is no mistake.
"""

from __future__ import annotations

import ast
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
STORE, STORE_CHECKS = "tests/store/test_store.py", "tests/store/test_store_checks.py"
SLIDE, HOLES = "tests/slide/test_slide.py", "tests/slide/test_holes.py"
EXPORT, ALIGNMENT = "tests/heatmap/test_export.py", "tests/heatmap/test_export_alignment.py"
TARGETS = {
    "store/reader.py": [STORE, STORE_CHECKS, "tests/store/test_store_verify.py"],
    "store/writer.py": [STORE, STORE_CHECKS, "tests/store/test_store_kill.py"],
    "store/shard.py": [STORE, STORE_CHECKS],
    "store/verify.py": ["tests/store/test_store_verify.py", STORE_CHECKS],
    "store/columns.py": ["tests/store/test_store_columns.py", STORE, STORE_CHECKS],
    "slide/grid.py": ["tests/slide/test_grid.py", SLIDE],
    "slide/read_plan.py": ["tests/slide/test_grid.py", SLIDE],
    "slide/reading.py": [SLIDE, "tests/slide/test_slide_native.py"],
    "slide/scale.py": ["tests/slide/test_scale.py"],
    "slide/holes.py": [HOLES, "tests/slide/test_dicom_sparse.py", "tests/slide/test_strips.py"],
    "slide/overview.py": [HOLES, SLIDE],
    "slide/dicom.py": ["tests/slide/test_dicom_sparse.py", "tests/slide/test_dicom.py"],
    "slide/series.py": ["tests/slide/test_strips.py", "tests/slide/test_series.py"],
    "data/leakage.py": ["tests/data/test_data.py", "tests/data/test_loading.py"],
    "evaluation/metrics.py": ["tests/evaluation/test_metrics.py", "tests/evaluation/test_evaluate.py"],
    "heatmap/score_map.py": ["tests/heatmap/test_score_map.py", "tests/heatmap/test_heatmap.py"],
    "heatmap/export.py": [EXPORT, ALIGNMENT],
    "heatmap/geojson.py": [EXPORT, ALIGNMENT],
    "heatmap/ome_images.py": [EXPORT, ALIGNMENT],
    "heatmap/tile_tables.py": [EXPORT, ALIGNMENT],
}
"""Modules, and the tests that stand for each."""

_ARITHMETIC = ("Add_Sub", "Sub_Add", "Mul_FloorDiv", "FloorDiv_Mul", "Div_Mul", "Mod_Add", "BitAnd_BitOr")
_COMPARISONS = ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_GtE", "Is_IsNot", "IsNot_Is")
FAMILIES = {
    "arithmetic": [f"core/ReplaceBinaryOperator_{name}" for name in _ARITHMETIC],
    "comparison": [f"core/ReplaceComparisonOperator_{name}" for name in _COMPARISONS],
    "logic": ["core/ReplaceAndWithOr", "core/ReplaceOrWithAnd", "core/AddNot", "core/ReplaceUnaryOperator_Delete_Not"],
    "number": ["core/NumberReplacer"],
    "flow": ["core/ReplaceBreakWithContinue", "core/ReplaceContinueWithBreak", "core/ZeroIterationForLoop"],
    "value": ["core/ReplaceTrueWithFalse", "core/ReplaceFalseWithTrue"],
    "left out": [],
}


@dataclass(frozen=True)
class Mutant:
    """One mistake: in which module, and the lines before and after."""

    module: str
    before: str
    after: str
    code: str

    def __str__(self) -> str:
        return f"{self.module}: {self.before}  ->  {self.after}"


def draw(n: int, seed: int) -> Iterator[Mutant]:
    """Draw mutants, as many of each module and of each family as there are."""
    rng = random.Random(seed)
    modules, made, seen = list(TARGETS), 0, set[str]()
    possible = {module: _possible(module) for module in modules}
    while made < n and any(possible.values()):
        for module in rng.sample(modules, len(modules)):
            families = possible[module]
            mutant = None
            while families and mutant is None:
                family = rng.choice(list(families))
                places = families[family]
                mutant = _mutate(module, *places.pop(rng.randrange(len(places))))
                if not places:
                    del families[family]
                if mutant is not None and str(mutant) in seen:
                    mutant = None
            if mutant is not None and made < n:
                seen.add(str(mutant))
                made += 1
                yield mutant


def _possible(module: str) -> dict[str, list[tuple[str, int]]]:
    """For each family the operators and places that a module has."""
    import parso
    from cosmic_ray.ast import ast_nodes
    from cosmic_ray.plugins import get_operator

    code = (ROOT / "wsivit" / module).read_text()
    nodes = list(ast_nodes(parso.parse(code)))
    found: dict[str, list[tuple[str, int]]] = {}
    for family, operators in FAMILIES.items():
        for name in operators:
            operator = get_operator(name)()
            count = sum(len(list(operator.mutation_positions(node))) for node in nodes)
            found.setdefault(family, []).extend((name, place) for place in range(count))
    found["left out"] = [("", place) for place in range(len(_statements(ast.parse(code))))]
    return {family: places for family, places in found.items() if places}


def _statements(tree: ast.Module) -> list[ast.stmt]:
    """Statements of functions that can be left out: calls, errors, updates, and early returns."""
    found: list[ast.stmt] = []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
                kinds = (ast.Expr, ast.Raise, ast.AugAssign)
                if isinstance(node, kinds) and not docstring and node not in found:
                    found.append(node)
    return found


def _mutate(module: str, operator: str, place: int) -> Mutant | None:
    """Make one mistake; None where it is none."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    code = (ROOT / "wsivit" / module).read_text()
    tree = ast.parse(code)
    if operator:
        changed = mutate_code(code, get_operator(operator)(), place)
    else:
        statement = _statements(tree)[place]
        lines = code.splitlines(keepends=True)
        indent = " " * statement.col_offset
        lines[statement.lineno - 1 : statement.end_lineno] = [f"{indent}pass\n"]
        changed = "".join(lines)
    if not changed or _meaning(changed) in (None, _meaning(code)):
        return None
    old, new = code.splitlines(), changed.splitlines()
    first = next(i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    return Mutant(module, old[first].strip(), new[first].strip(), changed)


class _Bare(ast.NodeTransformer):
    """Takes out what no test must see: annotations, texts of messages, and the code's checks of itself."""

    def visit_keyword(self, node: ast.keyword) -> ast.AST | None:
        self.generic_visit(node)
        return None if node.arg in ("strict", "frozen") else node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.generic_visit(node)
        node.annotation = ast.Constant(0)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        node.returns = None
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return ast.Constant("")


def _meaning(code: str) -> str | None:
    try:
        return ast.dump(_Bare().visit(ast.parse(code)))
    except SyntaxError:
        return None


class Workplace:
    """A copy of the repository in which mutants are tried."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tree"
        for name in ("wsivit", "tests", "docs", "examples"):
            shutil.copytree(ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "CHANGELOG.md"):
            shutil.copy(ROOT / name, self.folder)

    def passes(self, tests: list[str], seconds: float) -> bool:
        """Whether the tests pass; one that takes far longer than it should does not."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
        how = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        try:
            ended = subprocess.run(
                [sys.executable, *how], cwd=self.folder, env=environment, capture_output=True, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            return False
        return ended.returncode == 0

    def survives(self, mutant: Mutant, seconds: float) -> bool:
        """Try a mutant; True where all tests of its module pass."""
        path = self.folder / "wsivit" / mutant.module
        original = path.read_text()
        path.write_text(mutant.code)
        try:
            return self.passes(TARGETS[mutant.module], seconds)
        finally:
            path.write_text(original)
