"""From a slide to a heatmap in Python: tile two slides, fine-tune on one, predict the other, draw it.

usage: python slide_to_heatmap.py [TRAIN_SLIDE TRAIN_REGIONS TEST_SLIDE]
"""

import sys
from pathlib import Path

import wsivit


def main(train_slide: str, regions: str, test_slide: str) -> None:
    folder = Path("slide-to-heatmap")
    options = wsivit.TileOptions(mpp=0.5, tile_size=128)

    learned = wsivit.tile(train_slide, folder, options, annotations=regions)
    print(len(learned.store), "tiles, labels:", learned.store.label("region").classes)

    # A name of timm or of the Hugging Face hub; here the smallest, from scratch, so that it takes seconds.
    recipe = wsivit.TrainOptions(epochs=2, image_size=96, lr=1e-3, pretrained=False)
    run = wsivit.train([learned.store.path], label="region", model="test_vit", output=folder / "run", options=recipe)
    print("test part:", run.test)

    # Straight from the slide: only coordinates and predictions are stored, no pixels.
    predicted = wsivit.predict(run.folder, test_slide, output=folder)
    made = wsivit.heatmap(predicted, png=folder / "heatmap.png")
    print("wrote", *made.paths)


if __name__ == "__main__":
    main(*(sys.argv[1:] or ("train.tiff", "train.geojson", "test.tiff")))
