"""Where the tissue is, from a low-power view of a slide. Pure on arrays."""

from wsivit.tissue.classes import Tissue, TissueClass
from wsivit.tissue.files import read_tissue, tissue_geojson
from wsivit.tissue.focus import blur_scores, sharpness
from wsivit.tissue.geometry import area_mm2, mask_polygons, polygons_mask, tissue_fractions
from wsivit.tissue.masks import OVERVIEW_MPP, find_tissue, qc_fractions, tissue_from_polygons

__all__ = [
    "OVERVIEW_MPP",
    "Tissue",
    "TissueClass",
    "area_mm2",
    "blur_scores",
    "find_tissue",
    "mask_polygons",
    "polygons_mask",
    "qc_fractions",
    "read_tissue",
    "sharpness",
    "tissue_fractions",
    "tissue_from_polygons",
    "tissue_geojson",
]
