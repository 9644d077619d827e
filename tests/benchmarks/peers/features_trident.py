"""TRIDENT's feature loop on one slide: its patcher, data loader, encoder call and H5, written anew from its code.

    python features_trident.py SLIDE WORK DEVICE BATCH MPP

Per tile: ``read_region`` at the level that its patcher takes, ``convert("RGB")``, resized by PIL, the encoder's
transforms; a DataLoader with a worker per core; autocast where the precision is not float32; float32 features.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import openslide
import timm
import torch
from safetensors.torch import load_file
from timed import timed
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

SIDE = 224


class Patches(Dataset):
    """The tiles of a slide, opened by each worker for itself."""

    def __init__(self, path: str, places: np.ndarray, downsample: float) -> None:
        self.path, self.places, self.downsample, self.slide = path, places, downsample, None
        normalise = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.transforms = transforms.Compose([transforms.ToTensor(), normalise])

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Any:
        self.slide = self.slide or openslide.OpenSlide(self.path)
        level = self.slide.get_best_level_for_downsample(self.downsample * 1.01)
        side = round(SIDE * self.downsample / self.slide.level_downsamples[level])
        place = tuple(map(int, self.places[index]))
        picture = self.slide.read_region(place, level, (side, side)).convert("RGB")
        return self.transforms(picture.resize((SIDE, SIDE)) if side != SIDE else picture), place


def network_of(work: Path, device: str) -> torch.nn.Module:
    """The first network of the benchmark."""
    import json

    name = json.loads((work / "encoder-0/config.json").read_text())["architecture"]
    network = timm.create_model(name, num_classes=0).eval()
    network.load_state_dict(load_file(work / "encoder-0/model.safetensors"))
    return network.to(device)


def main(slide: str, work: Path, device: str, batch: int, mpp: float) -> None:
    with openslide.OpenSlide(slide) as opened:
        downsample = mpp / float(opened.properties[openslide.PROPERTY_NAME_MPP_X])
    network, places = network_of(work, device), np.load(work / "places.npy")
    half = device != "cpu"

    def run() -> int:
        features = []
        loader = DataLoader(Patches(slide, places, downsample), batch, num_workers=os.cpu_count() or 1, pin_memory=half)
        for pictures, _ in loader:
            with torch.inference_mode(), torch.autocast(torch.device(device).type, torch.bfloat16, enabled=half):
                features.append(network(pictures.to(device)).float().cpu().numpy())
        with h5py.File(work / "trident.h5", "w") as file:
            file["features"], file["coords"] = np.concatenate(features), places
        return len(places)

    with torch.inference_mode():
        network(torch.zeros(batch, 3, SIDE, SIDE, device=device))
    timed(run)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
