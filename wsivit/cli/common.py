"""What the commands have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from inspect import get_annotations
from typing import Annotated, Any, TypeVar, get_type_hints

from cyclopts import Group, Parameter

from wsivit.cli.app import Report
from wsivit.slide import MAX_PIXELS, JpegColor, Reader, Slide, open_slide

Command = TypeVar("Command", bound=Callable[..., Report])
FLAT = Parameter(name="*")
FLAG = Parameter(negative=())
MANY = Parameter(negative=(), consume_multiple=True)
OUTPUT = Parameter(alias="-o")
QUIET = Parameter(alias="-q", negative=(), help="No progress bar.")
JSON = Parameter(name="--json", negative=(), help="Print JSON.")
GROUPS = {
    "Input": "LabelColumns path slide sources store stores root study labels data source coordinates cohort run runs "
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
    "Output": "output force name png pictures form forms format formats codec quality sha256 report_to "
    "on_unreadable_tile as_json quiet",
    "Many slides": "CohortOptions",
}
"""The sections of every verb's help, in order: the options in each; a class stands for those that no section names."""
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

    slide_mpp: float | None = None
    override_slide_mpp: float | None = None
    reader: Reader = "auto"
    jpeg_color: JpegColor = "auto"
    scene: str | None = None
    max_pixels: int = MAX_PIXELS
    subprocess: Annotated[bool, FLAG] = False

    def open(self, path: str) -> Slide:
        """Open a slide in this way."""
        how = self.keywords()
        return open_slide(path, mpp=how.pop("slide_mpp"), **how)

    def keywords(self) -> dict[str, Any]:
        """Return the options for one slide, of which either scale is the slide's."""
        how = asdict(self)
        override = how.pop("override_slide_mpp")
        return how if override is None else how | {"slide_mpp": override}


def documented_by(function: Callable[..., Any]) -> Callable[[Command], Command]:
    """Give a command the docstring of the library function that it calls, and its options the sections of its help."""

    def decorate(command: Command) -> Command:
        command.__doc__ = function.__doc__
        return in_sections(command)

    return decorate


def in_sections(command: Command) -> Command:
    """Give the options of a command the sections of its help."""
    command.__annotations__ = {name: _grouped(name, hint) for name, hint in _hints(command).items()}
    return command


def _hints(annotated: object) -> dict[str, Any]:
    return get_type_hints(annotated, include_extras=True)


def _grouped(name: str, hint: Any) -> Any:
    """Put a parameter of a command, or the fields of an options class, into their sections."""
    options = hint.__origin__ if hasattr(hint, "__metadata__") else hint
    if isinstance(options, type) and is_dataclass(options):
        name = options.__name__
        if name != "CohortOptions":  # which stay together: workers there are processes, each for a slide
            _group_fields(options)
    return Annotated[hint, Parameter(group=_SECTION_OF[name])] if name in _SECTION_OF else hint


@cache
def _group_fields(options: type) -> None:
    # cyclopts reads annotations. The library's own classes have none for it: it does not know the command line.
    for owner in options.__mro__:
        if is_dataclass(owner):
            hints = _hints(owner)
            owner.__annotations__ |= {name: _grouped(name, hints[name]) for name in get_annotations(owner)}


def pair(pair: tuple[float | None, float | None] | None) -> str:
    if pair is None or None in pair:
        return "-"
    x, y = pair
    return f"{x:.4g}" if x == y else f"{x:.4g} x {y:.4g}"
