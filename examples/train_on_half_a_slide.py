"""One slide, no second one yet: learn from its upper part, and measure and draw the lower part.

    python train_on_half_a_slide.py [SLIDE REGIONS [MODEL]]

The figures tell whether the labels can be learned at all. How well the model does on another patient, they cannot.
"""

import csv
import sys
from pathlib import Path

import numpy as np

import wsivit

OUTPUT = Path("half")
GAP = 1  # tiles between the parts


def write_split(path: Path, store: wsivit.TileStore) -> None:
    """Top to bottom: 40 % of the labelled tiles to learn from, 15 % to choose the epoch, the rest to measure on."""
    labelled = store.label("region").codes >= 0
    first, second = np.quantile(store.row[labelled], [0.4, 0.55])
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["source", "item", "split"])
        for col, row in zip(store.col, store.row, strict=True):
            if row <= first:
                side = "train"
            elif first + GAP < row <= second:
                side = "validation"
            else:
                side = "test" if row > second + GAP else "left out"
            lines.writerow([store.parameters.slide_id, f"{col}/{row}", side])


def main() -> None:
    slide, regions, *model = sys.argv[1:] or ["train.tiff", "train.geojson"]
    store = wsivit.tile(slide, OUTPUT, wsivit.TileOptions(mpp=0.5, tile_size=64), annotations=regions).store
    write_split(OUTPUT / "split.csv", store)

    # With split_by="region" a slide may be on both sides, on purpose; overlapping tiles may not.
    tiny = {"epochs": 4, "image_size": 64, "batch_size": 16, "lr": 2e-3, "workers": 0, "pretrained": bool(model)}
    options = wsivit.TrainOptions(**tiny, split=str(OUTPUT / "split.csv"), split_by="region")
    run = wsivit.train(
        [store.path], label="region", model=(model or ["test_resnet"])[0], output=OUTPUT / "run", options=options
    )

    found = wsivit.evaluate(run.folder, [store.path], options=wsivit.EvaluateOptions(force=True))
    print(f"{found.n} tiles of the lower part: accuracy {found.metrics['accuracy']:.3f}, pictures in {found.folder}")
    wsivit.predict(run.folder, store)
    print(wsivit.heatmap(store, png=OUTPUT / "heatmap.png").png)


if __name__ == "__main__":
    main()
