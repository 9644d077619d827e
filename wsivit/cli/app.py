"""The command line: ``wsivit VERB …``.

Each verb is the Python function of the same name, with the same options and defaults; this module finds it, calls it,
prints what it reports, and turns errors into one line and an exit code.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError

from wsivit import __version__
from wsivit.cli.settings import Settings
from wsivit.errors import OptionError, UsageError, WsivitError
from wsivit.io import scrub

if TYPE_CHECKING:
    from wsivit.cli.common import CommonOptions

VERBS = {
    "info": ("describe_slide:info", "Describe a slide, a store, a run or a cohort: scale, tiles, labels, results."),
    "explore": ("without_labels:explore", "Map stain, nuclei and texture of a slide, without labels or a model."),
    "tile": ("slides:tile", "Tile the tissue of slides into zarr stores at an exact scale."),
    "import": ("importing:import_tiles", "Import tiles, or features of them, that another tool has made."),
    "index": ("stores:index", "Write one table of the tiles of many stores, to train on a cohort."),
    "train": ("models:train", "Fine-tune a ViT or ResNet on labelled tiles of slides, or on folders of images."),
    "train-slides": ("models:train_slides", "Train a slide-level model on labels of patients, from stored features."),
    "evaluate": ("models:evaluate", "Evaluate a trained model on labelled data."),
    "compare": ("models:compare", "Compare two or more runs on the same data."),
    "predict": ("models:predict", "Run a trained model on stores or slides."),
    "features": ("encoding:features", "Keep what encoders make of the tiles of stores or slides."),
    "encoders": ("encoding:encoders", "List the patch encoders that are known by name, show or check one."),
    "heatmap": ("results:heatmap", "Draw a run's predictions over the slide, and export them."),
    "export": ("results:export", "Write a run's predictions in the format of another tool."),
    "aggregate": ("results:aggregate", "Aggregate tile scores into slide-level scores."),
    "view": ("viewing:view", "Look at slides, scores and labels in a browser."),
    "report": ("results:report", "Write one HTML page of a run, a slide or a study."),
    "run": ("studies:run_study", "Run a whole study from one file: tile, features, train, predict, heatmap, report."),
    "status": ("stores:status", "Show the progress of a cohort, slide by slide."),
    "relink": ("stores:relink", "Record where the slides of stores are, after either moved."),
    "verify": ("stores:verify", "Check stores against their journals and checksums."),
    "doctor": ("getting_started:doctor", "Check the installation: versions, readers, codecs, the machine."),
    "demo": ("getting_started:demo", "Tile, train, predict and draw a heatmap on two sample slides."),
}
"""Each verb, in the order of work: where its command is in `wsivit.cli`, and its line in the list of commands."""
EPILOGUE = (
    "wsivit help VERB describes a verb. Options also come from the environment (WSIVIT_TILE_MPP, or WSIVIT_MPP for "
    "every verb) and from a file (--config study.toml); the command line goes first, then the environment, then the "
    "file. "
    "Exit codes: 0 done, 1 doctor found something broken, 2 wrong use, 3 slide unreadable, 4 done but some tiles "
    "unreadable, 5 scale unknown, 6 refused by a limit, 7 cannot write, 8 store invalid, locked or "
    "mismatched, 130 interrupted."
)

_log = logging.getLogger("wsivit")


@dataclass(frozen=True)
class Report:
    """What a verb reports at its end, and its exit code."""

    text: str
    exit_code: int = 0


def build(called: Collection[str] = (), settings: Settings | None = None) -> App:
    """Make the command-line application.

    A verb's module is imported only when the verb is `called`: its help is then the docstring of its function.
    """
    app = App(
        name="wsivit",
        help="From whole-slide image to fine-tuned ViT or ResNet to heatmap, at exact physical scale.",
        help_epilogue=EPILOGUE,
        version=__version__,
        version_flags=["--version", "-V"],
        help_flags=["--help", "-h"],
        suppress_keyboard_interrupt=False,
        config=settings,
    )
    for order, (verb, (command, line)) in enumerate(VERBS.items()):
        app.command(f"wsivit.cli.{command}", name=verb, help=line, help_epilogue="", sort_key=order)
        if verb in called:
            app[verb].help = None
    app.register_install_completion_command(help="Install tab completion for bash, zsh, fish or PowerShell.")
    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper):  # names of files need not be text
        sys.stdout.reconfigure(errors="backslashreplace")
    _show_log()
    try:
        code = _run(words)
    except (WsivitError, OSError) as error:
        if "--debug" in words:
            raise
        if isinstance(error, OptionError):
            code = _fail(f"--{error.option.replace('_', '-')} {error.problem}", error.exit_code)
        elif isinstance(error, WsivitError):
            code = _fail(str(error), error.exit_code)
        else:
            code = _fail(f"{error.filename or 'output'}: {error.strerror or error}", 7)
    sys.exit(code)


def _run(words: list[str]) -> int:
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    verb, settings = [word for word in words[:1] if word in VERBS], Settings(VERBS)
    try:
        # Completion is of all commands, which are loaded for it.
        app = build(VERBS if "--install-completion" in words else verb, settings)
        command, bound, _ = app.parse_args(words or ["--help"], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise UsageError(f"{_plainly(error, words)}; see {' '.join(['wsivit', *verb])} --help") from None
    if verb and "common" in bound.signature.parameters:
        bound.apply_defaults()
        _apply(bound.arguments["common"], settings.origins)
    result = command(*bound.args, **bound.kwargs)
    if isinstance(result, Report):
        sys.stdout.write(result.text + "\n")
        return result.exit_code
    return 0


def _plainly(error: CycloptsError, words: Sequence[str]) -> str:
    """What is wrong with the words; one that should stand there is not called an option."""
    missing = re.search(r"parameter --([\w-]+) requires an argument", str(error))
    if missing and not any(word.startswith(f"--{missing[1]}") for word in words):
        return f"{missing[1].upper()} is missing"
    return str(error).rstrip("., ")


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"wsivit: {'warning: ' if record.levelno >= logging.WARNING else ''}{record.getMessage()}"


def _show_log() -> None:
    """Show the notes of the library on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain())
    _log.handlers[:] = [handler]
    _log.setLevel(logging.INFO)


def _apply(common: CommonOptions, origins: Sequence[str]) -> None:
    """Apply the options of every verb."""
    if common.quiet and common.verbose:
        raise UsageError("give --quiet or --verbose, not both")
    if common.quiet:
        _log.setLevel(logging.WARNING)
    if common.verbose:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", force=True)
        # The notes of wsivit go the way of the others, and get their time.
        _log.handlers.clear()
        for origin in origins:
            _log.info("%s", origin)
    if common.slide_root is not None:
        if not Path(common.slide_root).is_dir():
            raise UsageError(f"--slide-root {common.slide_root!r}: there is no such folder")
        from wsivit.store import SLIDE_ROOT  # not loaded for --help

        # An environment variable reaches the workers too.
        os.environ[SLIDE_ROOT] = str(Path(common.slide_root).absolute())


def _fail(message: str, code: int) -> int:
    sys.stderr.write("wsivit: " + " ".join(scrub(message).split()) + "\n")
    return code
