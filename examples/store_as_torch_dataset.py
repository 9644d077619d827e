"""A tile store as a torch dataset: batches for a training loop of your own.

    python store_as_torch_dataset.py [STORE LABEL]

Without a store, it tiles a small sample slide with its regions.
"""

import sys

from torch.utils.data import DataLoader

from wsivit.data.augment import augmentation
from wsivit.data.dataset import TileDataset
from wsivit.models.model_input import normalise, resize


def make_store() -> str:
    from wsivit import TileOptions, tile
    from wsivit.demo import write_sample_slide

    sample = write_sample_slide("sample", seed=3, size=2048)
    return str(tile(sample.slide, "sample", TileOptions(tile_size=128), annotations=sample.annotations).store.path)


def main() -> None:
    store, label = sys.argv[1:] if len(sys.argv) > 1 else (make_store(), "region")
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
    main()
