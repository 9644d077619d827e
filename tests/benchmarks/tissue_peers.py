"""Other people's classical tissue masks, run where they are installed: ``python tissue_peers.py VIEWS MASKS``.

Runs in an environment of its own, made by::

    python -m venv peers
    peers/bin/pip install --only-binary :all: numpy pillow scipy scikit-image opencv-python-headless
    peers/bin/pip install openslide-bin openslide-python
    peers/bin/pip install --no-deps histolab==0.7.0 tiatoolbox==2.1.3 hs2p==6.1.0

Each method gets the slide at the scale that it would read itself. histolab, TIAToolbox and hs2p run their own code
(the last two as single modules: their packages need torch and more). CLAM is no package and TRIDENT's licence forbids
copies: these two are re-implemented here from what they do, and named so.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import sysconfig
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from PIL import Image
from skimage.color import rgb2gray
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_holes, remove_small_objects

Mask = np.ndarray


def load(package: str, module: str, stubs: dict[str, dict[str, object]]) -> types.ModuleType:
    """Load one module of an installed package without the package's own imports."""
    for name, members in stubs.items():
        stub = types.ModuleType(name)
        stub.__dict__.update(members)
        sys.modules[name] = stub
    home = Path(sysconfig.get_path("purelib"), package)
    spec = importlib.util.spec_from_file_location(f"peer_{module.replace('/', '_')}", home / f"{module}.py")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def histolab_chain(view: np.ndarray, um: float) -> Mask:
    from histolab.filters.compositions import FiltersComposition
    from histolab.slide import Slide

    return np.asarray(FiltersComposition(Slide).tissue_mask_filters(Image.fromarray(view)))


def tiatoolbox_morphological(view: np.ndarray, um: float) -> Mask:
    stubs = {"tiatoolbox": {}, "tiatoolbox.utils": {}, "tiatoolbox.utils.misc": {"objective_power2mpp": float}}
    tissuemask = load("tiatoolbox", "tools/tissuemask", stubs)
    return tissuemask.MorphologicalMasker(mpp=um).fit_transform(view[None])[0]


def hs2p_default(method: str) -> Callable[[np.ndarray, float], Mask]:
    def segment(view: np.ndarray, um: float) -> Mask:
        stubs = {"hs2p": {}, "hs2p.configs": {"SegmentationConfig": object}}
        stubs["hs2p.configs.models"] = {"SegmentationConfig": object}
        segmentation = load("hs2p", "segmentation", stubs)
        config = SimpleNamespace(method=method, sthresh=8, sthresh_up=255, mthresh=7, close=4)
        return segmentation.segment_tissue_image(view, config=config) > 0

    return segment


def clam(otsu: bool) -> Callable[[np.ndarray, float], Mask]:
    """Re-implemented: median-blurred saturation over 8 (CLAM's default) or over Otsu's threshold, closed by 4 pixels.

    CLAM's area filter (100 reference patches of 512 pixels: 6.5 mm² at 0.5 microns per pixel) is left out: it drops
    whole biopsies.
    """

    def segment(view: np.ndarray, um: float) -> Mask:
        saturation = cv2.medianBlur(cv2.cvtColor(view, cv2.COLOR_RGB2HSV)[..., 1], 7)
        level = cv2.threshold(saturation, 0, 255, cv2.THRESH_OTSU)[0] if otsu else 8
        return cv2.morphologyEx((saturation > level).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((4, 4))) > 0

    return segment


def trident_otsu(view: np.ndarray, um: float) -> Mask:
    """Re-implemented: grey and black whitened, Otsu on luminance twice, specks under 60 and holes under 5000 pixels."""
    hsv = cv2.cvtColor(view, cv2.COLOR_RGB2HSV)
    hue, saturation, value = hsv[..., 0], hsv[..., 1], hsv[..., 2]
    padding = (view == 0).all(axis=2)
    dull = (hue <= 180) & (((saturation <= 10) & (value >= 70)) | (value <= 85)) | padding
    grey = 255 * rgb2gray(np.where(dull[..., None], 255, view).astype(np.uint8))
    if np.ptp(grey) == 0:
        return np.zeros(view.shape[:2], bool)
    first = remove_small_objects(grey < threshold_otsu(grey), max_size=60)
    grey = 255 * rgb2gray(np.where(first[..., None], view, 255).astype(np.uint8))
    if np.ptp(grey) == 0:
        return np.zeros(view.shape[:2], bool)
    return remove_small_holes(grey < threshold_otsu(grey), max_size=5000)


# name: (method, microns per pixel it would read at a level-0 scale of `mpp`)
PEERS: dict[str, tuple[Callable[[np.ndarray, float], Mask], Callable[[float], float]]] = {
    "CLAM, saturation > 8 (re-implemented)": (clam(False), lambda mpp: 64 * mpp),
    "CLAM, Otsu on saturation (re-implemented)": (clam(True), lambda mpp: 64 * mpp),
    "TRIDENT Otsu (re-implemented)": (trident_otsu, lambda mpp: 8.0),
    "hs2p 6.1 default (hsv)": (hs2p_default("hsv"), lambda mpp: 64 * mpp),
    "hs2p 6.1 otsu": (hs2p_default("otsu"), lambda mpp: 64 * mpp),
    "TIAToolbox 2.1 morphological": (tiatoolbox_morphological, lambda mpp: 8.0),
    "histolab 0.7, its own scale": (histolab_chain, lambda mpp: 32 * mpp),
    "histolab 0.7, 2000-px thumbnail": (histolab_chain, lambda mpp: 0.0),
}


def rescale(stored: np.lib.npyio.NpzFile, wanted: float) -> tuple[np.ndarray, float]:
    """Bring a view to the scale wanted, 0 for the 2000-pixel one; a slide with nothing finer is read as it is."""
    if not wanted:
        return stored["large"], float(stored["um"]) * max(stored["view"].shape) / max(stored["large"].shape)
    view, um = stored["view"], float(stored["um"])
    factor = max(1.0, wanted / um) if stored["mpp"] < 8 else 1.0
    size = (max(1, round(view.shape[1] / factor)), max(1, round(view.shape[0] / factor)))
    return np.asarray(Image.fromarray(view).resize(size, Image.Resampling.BOX)), um * factor


def main() -> None:
    views, masks = Path(sys.argv[1]), Path(sys.argv[2])
    masks.mkdir(exist_ok=True)
    for index, (method, scale) in enumerate(PEERS.values()):
        for path in sorted(views.glob("*.npz")):
            with np.load(path) as stored:
                view, um = rescale(stored, scale(float(stored["mpp"])))
            np.savez_compressed(masks / f"{index}-{path.stem}.npz", mask=np.asarray(method(view, um), bool))
    (masks / "names.json").write_text(json.dumps(list(PEERS)))


if __name__ == "__main__":
    main()
