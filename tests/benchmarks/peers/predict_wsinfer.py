"""wsinfer 0.6 on one slide: the whole of ``wsinfer run``, in a process that has imported it.

    python predict_wsinfer.py SLIDE ZOO DEVICE BATCH

wsinfer loads its list of models from the Hub when it is imported, wanted or not; it is given an empty one. Its tissue
and tiles are its own, and are counted in its table. It takes the device that it finds.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import wsinfer_zoo.client
from timed import timed

wsinfer_zoo.client.load_registry = lambda *_: wsinfer_zoo.client.ModelRegistry({})
from wsinfer.cli.cli import cli  # noqa: E402  (only now: it asks for the list while it is imported)


def main(slide: Path, zoo: Path, batch: str) -> None:
    folder = Path(tempfile.mkdtemp(dir=zoo.parent))
    slides, results = folder / "slides", folder / "results"
    slides.mkdir()
    (slides / slide.name).symlink_to(slide.resolve())
    words = ["--backend", "openslide", "run", "--wsi-dir", slides, "--results-dir", results, "--batch-size", batch]
    words += ["--model-path", zoo / "torchscript_model.pt", "--config", zoo / "config.json", "--num-workers", "2"]

    def run() -> int:
        cli.main([*map(str, words)], standalone_mode=False)
        (table,) = (results / "model-outputs-csv").glob("*.csv")
        return len(table.read_text().splitlines()) - 1

    timed(run)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[4])
