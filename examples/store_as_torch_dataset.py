"""A tile store as a torch dataset: batches for a training loop of your own.

python store_as_torch_dataset.py slide.zarr region
"""

from __future__ import annotations

import sys

from torch.utils.data import DataLoader

from wsivit.data.augment import augmentation, normalise, resize
from wsivit.data.dataset import TileDataset


def main(store: str, label: str) -> None:
    dataset = TileDataset.from_stores([store], label)
    print(f"{len(dataset)} labelled tiles: {dataset.samples.counts()}")

    histology = augmentation("histology")
    for batch in DataLoader(dataset, batch_size=32, shuffle=True):
        pixels = batch["pixel_values"]  # uint8 (32, 3, size, size), as stored
        pictures = histology(resize(pixels, 224))  # float, 0 to 1: here, or on the GPU
        inputs = normalise(pictures, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        print(f"a batch of {tuple(inputs.shape)} with the classes {batch['labels'].tolist()}")
        break


if __name__ == "__main__":
    main(*sys.argv[1:])
