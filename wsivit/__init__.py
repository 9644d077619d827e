"""From whole-slide image to fine-tuned ViT or ResNet to heatmap, at exact physical scale.

The verbs are the same here and on the command line; each name below is loaded when it is first used, so that
``import wsivit`` stays quick and does not load torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "Cohort": "wsivit.cohort",
    "CohortOptions": "wsivit.cohort.options",
    "compare": "wsivit.compare",
    "demo": "wsivit.demo",
    "doctor": "wsivit.doctor",
    "evaluate": "wsivit.evaluate",
    "EvaluateOptions": "wsivit.evaluate",
    "export": "wsivit.export",
    "find_tissue": "wsivit.tissue",
    "heatmap": "wsivit.heatmap",
    "HeatmapOptions": "wsivit.export.options",
    "import_tiles": "wsivit.tiling",
    "ImportOptions": "wsivit.tiling",
    "index": "wsivit.data.index",
    "info": "wsivit.slide",
    "open_slide": "wsivit.slide",
    "predict": "wsivit.predict",
    "PredictOptions": "wsivit.predict",
    "score_slides": "wsivit.export",
    "Slide": "wsivit.slide",
    "SlideOptions": "wsivit.data.slides",
    "status": "wsivit.cohort",
    "tile": "wsivit.tiling",
    "TileGrid": "wsivit.grid",
    "TileOptions": "wsivit.tiling",
    "TileStore": "wsivit.store",
    "train": "wsivit.train",
    "TrainOptions": "wsivit.recipe",
    "verify": "wsivit.store.verify",
    "WsivitError": "wsivit.errors",
}
__all__ = sorted([*_HOME, "__version__"])

if TYPE_CHECKING:
    from wsivit.cohort import Cohort as Cohort
    from wsivit.cohort import status as status
    from wsivit.cohort.options import CohortOptions as CohortOptions
    from wsivit.compare import compare as compare
    from wsivit.data.index import index as index
    from wsivit.data.slides import SlideOptions as SlideOptions
    from wsivit.demo import demo as demo
    from wsivit.doctor import doctor as doctor
    from wsivit.errors import WsivitError as WsivitError
    from wsivit.evaluate import EvaluateOptions as EvaluateOptions
    from wsivit.evaluate import evaluate as evaluate
    from wsivit.export import export as export
    from wsivit.export import score_slides as score_slides
    from wsivit.export.options import HeatmapOptions as HeatmapOptions
    from wsivit.grid import TileGrid as TileGrid
    from wsivit.heatmap import heatmap as heatmap
    from wsivit.predict import PredictOptions as PredictOptions
    from wsivit.predict import predict as predict
    from wsivit.recipe import TrainOptions as TrainOptions
    from wsivit.slide import Slide as Slide
    from wsivit.slide import info as info
    from wsivit.slide import open_slide as open_slide
    from wsivit.store import TileStore as TileStore
    from wsivit.store.verify import verify as verify
    from wsivit.tiling import ImportOptions as ImportOptions
    from wsivit.tiling import TileOptions as TileOptions
    from wsivit.tiling import import_tiles as import_tiles
    from wsivit.tiling import tile as tile
    from wsivit.tissue import find_tissue as find_tissue
    from wsivit.train import train as train


class _Package(ModuleType):
    """The package, whose verbs are not hidden by the submodules of the same name (``wsivit.train`` is the verb)."""

    def __getattr__(self, name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module 'wsivit' has no attribute {name!r}")
        value = getattr(import_module(_HOME[name]), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        # The import system binds a submodule to its package: not where a verb has that name.
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return __all__


sys.modules[__name__].__class__ = _Package
