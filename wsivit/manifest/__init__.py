"""Which slides are meant: by path, folder, glob, list or table, each with a name of its own."""

from wsivit.manifest.sources import CohortSlide, find_slides, is_one_file, read_slides
from wsivit.manifest.table import Line, read_manifest

__all__ = ["CohortSlide", "Line", "find_slides", "is_one_file", "read_manifest", "read_slides"]
