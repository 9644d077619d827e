"""The command line: ``wsivit VERB …``.

Each verb is the Python function of the same name, with the same options and defaults; this module finds it, calls it,
prints what it reports, and turns errors into one line and an exit code.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from io import TextIOWrapper

from cyclopts import App, CycloptsError

from wsivit import __version__
from wsivit.errors import UsageError, WsivitError
from wsivit.io import scrub

VERBS = {
    "info": ("slides", "Show what a slide is: format, levels, scale and where it came from."),
    "tile": ("slides", "Tile a slide into a zarr store at an exact scale, where there is tissue."),
    "import_tiles": ("slides", "Make a store of the tiles that another tool has chosen."),
    "train": ("models", "Fine-tune a ViT or ResNet on labelled tiles of slides, or on folders of pictures."),
    "evaluate": ("models", "Measure a trained model on labelled data."),
    "compare": ("models", "Measure two or more runs on the same data."),
    "predict": ("models", "Run a trained model over a store or a slide."),
    "heatmap": ("results", "Draw a run's predictions over the slide, and export them."),
    "export": ("results", "Write a run's predictions in the form of another tool."),
    "aggregate": ("results", "Sum slides up in one table."),
    "status": ("cohorts", "Tell how far a cohort is, slide by slide."),
    "index": ("stores", "Write one table of the tiles of many stores, to train over a whole cohort."),
    "verify": ("stores", "Check a store against its journal and checksums."),
    "doctor": ("machine", "Check that all that is needed is there and works: readers, codecs, the machine."),
    "demo": ("tour", "Show the whole way on a sample slide: tile, train, predict, heatmap."),
}
"""Each verb, the module of `wsivit.cli` that it is in, and the line that lists it."""
_NAMES = {"import_tiles": "import"}  # which no function can be called
_ALIASES = {"--series": "--scene"}  # what other programs call a picture of a file of several
EPILOGUE = (
    "Exit codes: 0 done, 1 doctor found something broken, 2 wrong use, 3 slide unreadable, 4 done but some tiles "
    "unreadable, 5 scale unknown, 6 refused by a limit, 7 cannot write, 8 store invalid, locked or "
    "mismatched, 130 interrupted."
)


@dataclass(frozen=True)
class Report:
    """What a verb has to say at its end, and the exit code that goes with it."""

    text: str
    exit_code: int = 0


def build(called: Collection[str] = ()) -> App:
    """Make the command-line application.

    Verbs are listed with a line of their own and imported only when one is `called`; then its docstring speaks.
    """
    app = App(
        name="wsivit",
        help="From whole-slide image to fine-tuned ViT or ResNet to heatmap, at exact physical scale.",
        help_epilogue=EPILOGUE,
        version=__version__,
        help_flags=["--help", "-h"],
        suppress_keyboard_interrupt=False,
    )
    for verb, (module, help_text) in VERBS.items():
        name = name_of(verb)
        app.command(f"wsivit.cli.{module}:{verb}", name=name, help=help_text, help_epilogue="")
        if name in called:
            app[name].help = None
    return app


def name_of(verb: str) -> str:
    """Return what a verb is called on the command line."""
    return _NAMES.get(verb, verb.replace("_", "-"))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    if isinstance(sys.stdout, TextIOWrapper):  # names of files need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    _show_log()
    try:
        code = _run([_canonical(word) for word in words if word != "--debug"])
    except WsivitError as error:
        if debug:
            raise
        code = _fail(str(error), error.exit_code)
    except OSError as error:
        if debug:
            raise
        code = _fail(f"{error.filename or 'output'}: {error.strerror or error}", 7)
    sys.exit(code)


def _canonical(word: str) -> str:
    """An option under its first name."""
    option, sign, value = word.partition("=")
    return _ALIASES.get(option, option) + sign + value


def _run(words: list[str]) -> int:
    try:
        app = build(called=words[:1])
        result = app(words or ["--help"], exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        verb = [word for word in words[:1] if word in map(name_of, VERBS)]
        raise UsageError(f"{_plainly(error, words)}; see {' '.join(['wsivit', *verb])} --help") from None
    if isinstance(result, Report):
        sys.stdout.write(result.text + "\n")
        return result.exit_code
    return 0


def _plainly(error: CycloptsError, words: Sequence[str]) -> str:
    """What is wrong with the words; one that should stand there is not called an option."""
    missing = re.search(r"parameter --([\w-]+) requires an argument", str(error))
    if missing and not any(word.startswith(f"--{missing[1]}") for word in words):
        return f"{missing[1].upper()} is missing"
    return str(error).rstrip(".")


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"wsivit: {'warning: ' if record.levelno >= logging.WARNING else ''}{record.getMessage()}"


def _show_log() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain())
    logger = logging.getLogger("wsivit")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def _fail(message: str, code: int) -> int:
    sys.stderr.write("wsivit: " + " ".join(scrub(message).split()) + "\n")
    return code
