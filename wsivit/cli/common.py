"""What the commands have in common."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache, wraps
from inspect import get_annotations
from typing import Annotated, Any, TypeVar, cast, get_args, get_type_hints

from cyclopts import Group, Parameter, Token

from wsivit.cli.app import Report
from wsivit.ranges import MAGNIFICATIONS, Mpp, PixelLimit, check_options
from wsivit.slide import MAX_PIXELS, MICRONS_AT_1X, JpegColor, Reader, Slide, open_slide

Command = TypeVar("Command", bound=Callable[..., Report])
FLAT = Parameter(name="*")
FLAG = Parameter(negative=())
MANY = Parameter(negative=(), consume_multiple=True)
JSON = Parameter(name="--json", negative=(), help="Print JSON.")
GROUPS = {
    "Input": "LabelColumns study path slide sources store stores root labels data source coordinates cohort run runs "
    "label annotations sample name check",
    "Slide": "OpenOptions SlideOptions slide_mpp override_slide_mpp reader jpeg_color scene max_pixels subprocess "
    "private",
    "Scale and tissue": "TileOptions ImportOptions mpp mag tile_size",
    "Model": "model encoder pooling pretrained weights allow_other_weights allow_mismatch freeze image_size tta "
    "temperature trust_torchscript",
    "Training": "TrainOptions TrainSlidesOptions",
    "Split": "holdout split_by split folds repeats by_site folds_file fold seed allow_leakage allow_site_confounding",
    "Prediction": "PredictOptions FeaturesOptions explain",
    "Exploration": "ExploreOptions",
    "Evaluation": "CompareOptions EvaluateOptions alpha permutations bootstrap_samples",
    "Picture": "HeatmapOptions size",
    "Slide scores": "AggregateOptions top_k thresholds",
    "Page": "ViewOptions no_browser",
    "Report": "ReportOptions",
    "Hardware": "batch_size device precision engine compile workers gpu",
    "Output": "output force dry_run name png pictures form forms format formats codec quality sha256 report_to "
    "on_unreadable_tile as_json",
    "Many slides": "CohortOptions",
    "Every verb": "CommonOptions",
}
"""The sections of every verb's help, in order: the options in each; a class stands for those that no section names."""
_ALIASES = {
    "output": ("-o",),
    "quiet": ("-q",),
    "verbose": ("-v",),
    "mpp": ("--mag", "--magnification"),
    "tile_size": ("--patch-size",),
    "lr": ("--learning-rate",),
    "learning_rate": ("--lr",),
    "scene": ("--series",),
}
"""What other programs call an option."""
_SECTION_OF = {
    name: group
    for group, names in ((Group.create_ordered(title), names) for title, names in GROUPS.items())
    for name in names.split()
}


@dataclass(frozen=True)
class OpenOptions:
    """How a slide is opened.

    Parameters
    ----------
    slide_mpp : float, optional
        Microns per pixel of the slide itself, where its file does not say or is wrong. Of many slides it is that of
        those whose files do not say.
    override_slide_mpp : float, optional
        Microns per pixel of all slides, whatever their files say; the column mpp of a table goes first.
    reader : {"auto", "native", "openslide", "tiffslide", "image"}
        Which reader opens it; auto takes the fastest that reads it rightly.
    jpeg_color : {"auto", "rgb", "ycbcr"}
        What the slide's JPEG tiles hold, where it is labelled wrongly.
    scene : str, optional
        Which picture of a file that holds several, by number or name as info lists them (also --series); default: the
        largest that is a slide.
    max_pixels : int
        Refuse a slide of more pixels than this at its finest level.
    subprocess : bool
        Decode in a process of its own with a limit on time and memory, so that a slide on which native code crashes or
        hangs takes nothing along. Done unasked where the slide's structure is odd.
    """

    slide_mpp: Mpp | None = None
    override_slide_mpp: Mpp | None = None
    reader: Reader = "auto"
    jpeg_color: JpegColor = "auto"
    scene: str | None = None
    max_pixels: PixelLimit = MAX_PIXELS
    subprocess: Annotated[bool, FLAG] = False

    def __post_init__(self) -> None:
        check_options(self)

    def open(self, path: str) -> Slide:
        """Open a slide in this way."""
        how = self.keywords()
        return open_slide(path, mpp=how.pop("slide_mpp"), **how)

    def keywords(self) -> dict[str, Any]:
        """Return the options for one slide, of which either scale is the slide's."""
        how = asdict(self)
        override = how.pop("override_slide_mpp")
        return how if override is None else how | {"slide_mpp": override}


@dataclass(frozen=True)
class CommonOptions:
    """Options of every verb.

    Parameters
    ----------
    quiet : bool
        No progress bar and no notes: only warnings and errors.
    verbose : bool
        Show which options come from a file or the environment, the time of each note, and notes of other libraries.
    debug : bool
        Show the traceback of an error.
    config : path, optional
        TOML file of options: a table for each verb, and above the tables options of all verbs.
    slide_root : path, optional
        Folder to search for slides that are not where their stores have them.
    """

    quiet: Annotated[bool, FLAG] = False
    verbose: Annotated[bool, FLAG] = False
    debug: Annotated[bool, FLAG] = False
    config: str | None = None
    slide_root: str | None = None

    @property
    def progress(self) -> bool:
        """Whether to show a progress bar."""
        return not self.quiet


def documented_by(function: Callable[..., Any]) -> Callable[[Command], Command]:
    """Give a command the docstring of the library function that it calls, and its options the sections of its help."""

    def decorate(command: Command) -> Command:
        command.__doc__ = function.__doc__
        return in_sections(command)

    return decorate


def in_sections(command: Command) -> Command:
    """Give the options of a command the sections of its help, and the command the options of every verb."""
    own, hints = inspect.signature(command), _hints(command)
    decorated = command
    if "common" not in own.parameters:
        # `wsivit.cli.app` applies them; a command that shows no progress has no use for them.
        decorated = cast(Command, wraps(command)(lambda *args, common, **options: command(*args, **options)))
        common = inspect.Parameter("common", inspect.Parameter.KEYWORD_ONLY, default=CommonOptions())
        decorated.__signature__ = own.replace(parameters=[*own.parameters.values(), common])  # type: ignore[attr-defined]
        hints["common"] = Annotated[CommonOptions, FLAT]
    decorated.__annotations__ = {name: _grouped(name, hint) for name, hint in hints.items()}
    return decorated


def _hints(annotated: object) -> dict[str, Any]:
    return get_type_hints(annotated, include_extras=True)


def _grouped(name: str, hint: Any, grouped: bool = True) -> Any:
    """Put a parameter of a command, or the fields of an options class, into their sections."""
    options = hint.__origin__ if hasattr(hint, "__metadata__") else hint
    if isinstance(options, type) and is_dataclass(options):
        name = options.__name__
        _group_fields(options)
    extra = [Parameter(alias=_ALIASES[name])] if name in _ALIASES else []
    if name == "mpp":
        extra.append(Parameter(converter=_to_mpp))
    if {int} == {getattr(kind, "__origin__", kind) for kind in get_args(hint) or (hint,)} & {int, float}:
        extra.append(Parameter(converter=_to_int))
    if name in _SECTION_OF and grouped:
        extra.append(Parameter(group=_SECTION_OF[name]))
    return Annotated[(hint, *extra)] if extra else hint


def _to_mpp(_: Any, tokens: Sequence[Token]) -> float:
    """Convert --mpp, or a magnification under one of the other names of that option."""
    (token,) = tokens
    value = float(token.value)
    # The name is "--mag" on the command line, "[mag]" from a file, "WSIVIT_TILE_MAG" from the environment.
    if not re.search(r"mag(nification)?\W*$", token.keyword or "", re.IGNORECASE):
        return value
    if value not in MAGNIFICATIONS:
        raise ValueError(f"a magnification is {MAGNIFICATIONS}, not {value}")
    return MICRONS_AT_1X / value


def _to_int(_: Any, tokens: Sequence[Token]) -> int:
    """Convert a whole number; cyclopts would round 1.5."""
    (token,) = tokens
    try:
        return int(token.value)
    except ValueError:
        raise ValueError(f"{token.value!r} is no whole number") from None


@cache
def _group_fields(options: type) -> None:
    # cyclopts reads annotations. The library's own classes have none for it: it does not know the command line.
    for owner in options.__mro__:
        if is_dataclass(owner):
            hints = _hints(owner)
            # Those of many slides stay together: workers there are processes, each for a slide.
            grouped = owner.__name__ != "CohortOptions"
            owner.__annotations__ |= {name: _grouped(name, hints[name], grouped) for name in get_annotations(owner)}
    # Those of __init__ are names, which may mean nothing in the module of a class that inherits them.
    options.__init__.__annotations__ |= _hints(options)  # type: ignore[misc]
