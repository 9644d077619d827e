"""slide2vec's feature loop on one slide: its dataset, data loader, encoder call and file, written anew from its code.

    python features_slide2vec.py SLIDE WORK DEVICE BATCH MPP

Its dataset opens the slide for every tile, reads at the spacing of a level, resizes by PIL and transforms; batches run
under autocast, and one file of tensors is written at the end. OpenSlide stands for its readers.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import torch
from features_trident import SIDE, Patches, network_of
from timed import timed
from torch.utils.data import DataLoader


class Tiles(Patches):
    """The same tiles, the slide opened for each."""

    def __getitem__(self, index: int) -> Any:
        self.slide = None
        return index, super().__getitem__(index)[0]


def main(slide: str, work: Path, device: str, batch: int, mpp: float) -> None:
    with openslide.OpenSlide(slide) as opened:
        downsample = mpp / float(opened.properties[openslide.PROPERTY_NAME_MPP_X])
    network, places = network_of(work, device), np.load(work / "places.npy")
    half = device != "cpu"

    def run() -> int:
        loader = DataLoader(Tiles(slide, places, downsample), batch, num_workers=os.cpu_count() or 1, pin_memory=half)
        features = None
        for indices, pictures in loader:
            with torch.inference_mode(), torch.autocast(torch.device(device).type, torch.float16, enabled=half):
                made = network(pictures.to(device, non_blocking=True)).cpu()
            features = torch.empty(len(places), made.shape[1], dtype=made.dtype) if features is None else features
            features[indices] = made
        torch.save(features, work / "slide2vec.pt")
        return len(places)

    with torch.inference_mode():
        network(torch.zeros(batch, 3, SIDE, SIDE, device=device))
    timed(run)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
