"""Spawned processes import the script that spawns them: without a main guard, each of them runs all of it again."""

from __future__ import annotations

import ast
import multiprocessing
import sys
import threading
from pathlib import Path

from wsivit.errors import UsageError


class MissingMainGuardError(UsageError, SystemExit):
    """A script starts processes outside of ``if __name__ == "__main__":``.

    It is a SystemExit as well, so that Python prints an uncaught one as the sentence that it is: a traceback adds
    nothing, and every process that runs the script again would print one.
    """

    def __init__(self, script: str) -> None:
        super().__init__(
            f"{script} starts worker processes, and each of them would run {script} from its first line again: put the "
            'code that starts them under `if __name__ == "__main__":`, or use workers=0'
        )
        self.code = str(self)


def require_main_guard() -> None:
    """Refuse to spawn processes from a script that each of them would run again.

    Raises
    ------
    MissingMainGuardError
        The running script is outside of its main guard, or this process is one that such a script has spawned.
    """
    # By this mark multiprocessing refuses to start processes from one that still imports the script.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise MissingMainGuardError(Path(sys.argv[0]).name)
    main = sys.modules["__main__"]
    name: str = getattr(getattr(main, "__spec__", None), "name", None) or ""
    path = getattr(main, "__file__", None)
    # Spawned processes import nothing for a notebook, a prompt or `python -m package`.
    if path is None or f".{name}".endswith(".__main__"):
        return
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and not (frame.f_globals is vars(main) and frame.f_code.co_name == "<module>"):
        frame = frame.f_back
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    if frame is not None and not _is_guarded(tree, frame.f_lineno):
        raise MissingMainGuardError(Path(path).name)


def _is_guarded(tree: ast.Module, line: int) -> bool:
    """Whether a line of a script is under a condition on ``__name__``, or after one that leaves other processes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and any(
            isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(node.test)
        ):
            leaves = any(isinstance(n, ast.NotEq) for n in ast.walk(node.test))  # if __name__ != "__main__": sys.exit()
            if node.lineno <= line and (leaves or line <= (node.end_lineno or line)):
                return True
    return False
