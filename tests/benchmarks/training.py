"""Feed a training: batches from a store against the same tiles kept otherwise, and steps with real data against none.

    python tests/benchmarks/training.py SLIDE [--mpp 0.5] [--slide-mpp 1.0] [--json training.json]

The slide is tiled into a scratch folder with its left half labelled one way and its right half the other. Every loader
is a torch ``DataLoader`` with as many workers over the same random batches; they take turns, and the table has medians.
The CPU time of all processes counts. The folder and the HDF5 file hold the store's own JPEG bytes, and are decoded with
simplejpeg, the fastest there is; "folder, PIL" is what most training scripts do.

Steps are those of `wsivit train` (resize, augmentation, model, optimizer), once with real batches and once with one
batch that is there already. On a machine with a GPU the models are vit_base_patch16_224 and resnet50, in bf16; without
one, two that a CPU can train. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from wsivit import TileOptions, TileStore, open_slide, tile
from wsivit.data.dataset import TileDataset, collate

PEERS = ("folder", "HDF5", "folder, PIL", "OpenSlide")
Figures = dict[str, float]


class Kept(Dataset[torch.Tensor]):
    """The tiles of a store, kept in another way; handles are opened in the worker, as they must be."""

    def __init__(self, kind: str, folder: Path, slide: str, store: TileStore, tiles: list[int]) -> None:
        self.folder, self.slide, self.tiles, self.size = folder, slide, tiles, store.grid.tile_size
        self.x0, self.y0, self.downsample = store.x0.tolist(), store.y0.tolist(), store.grid.downsample_x
        readers = {"folder": self.file, "HDF5": self.hdf5, "folder, PIL": self.pil, "OpenSlide": self.openslide}
        self.read: Callable[[int], Any] = readers[kind]
        self.handle: Any = None

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, place: int) -> torch.Tensor:
        return torch.from_numpy(self.read(self.tiles[place]))

    def file(self, i: int) -> Any:
        from simplejpeg import decode_jpeg

        return decode_jpeg((self.folder / f"{i}.jpg").read_bytes())

    def hdf5(self, i: int) -> Any:
        import h5py
        from simplejpeg import decode_jpeg

        self.handle = self.handle or h5py.File(self.folder / "tiles.h5")["jpeg"]
        return decode_jpeg(self.handle[i].tobytes())

    def pil(self, i: int) -> Any:
        from PIL import Image

        return np.array(Image.open(self.folder / f"{i}.jpg").convert("RGB"))

    def openslide(self, i: int) -> Any:
        import openslide

        self.handle = self.handle or openslide.OpenSlide(self.slide)
        level = self.handle.get_best_level_for_downsample(self.downsample * 1.01)
        side = round(self.size * self.downsample / self.handle.level_downsamples[level])
        region = self.handle.read_region((self.x0[i], self.y0[i]), level, (side, side)).convert("RGB")
        return np.array(region if side == self.size else region.resize((self.size, self.size)))


def prepare(options: argparse.Namespace, folder: Path) -> TileStore:
    """Tile the slide, label its halves, and write its tiles' JPEG bytes as files and as an HDF5 file."""
    import h5py

    from wsivit.store.shard import encode_jpeg

    with open_slide(options.slide, mpp=options.slide_mpp) as slide:
        store = tile(slide, folder, TileOptions(mpp=options.mpp, tile_size=options.tile_size)).store
    store.write_labels("half", (store.x0 > np.median(store.x0)).astype(np.int16), ["left", "right"])
    whole = store.parameters.chunks_per_tile == 1
    with h5py.File(folder / "tiles.h5", "w") as file:
        column = file.create_dataset("jpeg", len(store), h5py.vlen_dtype(np.uint8))
        for i in store.readable.tolist():
            data = store.encoded(i)[0] if whole else encode_jpeg(store[i], 90)
            (folder / f"{i}.jpg").write_bytes(data)
            column[i] = np.frombuffer(data, np.uint8)
    return store


def time_loader(dataset: Dataset[Any], options: argparse.Namespace, collate_fn: Any = None) -> Figures:
    """Draw random batches; tiles per second and per CPU-second."""
    drawn = np.random.default_rng(0).integers(0, len(dataset), options.batch_size * options.batches)  # type: ignore[arg-type]
    begun, cpu = time.perf_counter(), cpu_seconds()
    loader = DataLoader(
        dataset, options.batch_size, sampler=drawn.tolist(), num_workers=options.workers, collate_fn=collate_fn
    )
    for batch in loader:
        pixels = batch["pixel_values"] if isinstance(batch, dict) else batch.permute(0, 3, 1, 2)
        assert pixels.shape[:2] == (options.batch_size, 3)
    del loader  # its workers end, and their CPU time counts
    return {
        "per_second": len(drawn) / (time.perf_counter() - begun),
        "per_cpu_second": len(drawn) / (cpu_seconds() - cpu),
    }


def time_steps(store: TileStore, model: str, options: argparse.Namespace, *, cached: bool) -> Figures:
    """Train with real data, or on one batch that is there already; tiles per second."""
    from transformers import TrainingArguments

    from wsivit.data.loading import load_samples
    from wsivit.models.classifier import create_classifier
    from wsivit.models.network import device_for
    from wsivit.training import TileTrainer, TrainOptions

    samples = load_samples([store.path], "half")
    drawn = np.random.default_rng(0).integers(0, len(samples), options.batch_size * options.steps)
    dataset = TileDataset(samples.take(drawn))
    if cached:
        batch = dataset.__getitems__(list(range(options.batch_size)))
        dataset.__getitems__ = lambda chosen: batch  # type: ignore[method-assign]
    cuda = device_for("auto").type == "cuda"
    arguments = TrainingArguments(
        tempfile.mkdtemp(dir=options.scratch), per_device_train_batch_size=options.batch_size, num_train_epochs=1,
        use_cpu=not cuda, bf16=cuda, dataloader_num_workers=0 if cached else options.workers, save_strategy="no",
        dataloader_pin_memory=cuda, accelerator_config={"non_blocking": cuda}, remove_unused_columns=False,
        label_names=["labels"], report_to="none", disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    classifier = create_classifier(model, samples.classes, pretrained=False, image_size=options.image_size)
    trainer = TileTrainer(
        classifier,
        TrainOptions(pretrained=False, augment="histology", label_smoothing=0.0),
        arguments,
        dataset,
        dataset,
    )
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    done = trainer.train()
    memory = torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0
    return {"per_second": len(dataset) / done.metrics["train_runtime"], "gpu_gb": memory}


def cpu_seconds() -> float:
    parts = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Figures]:
    """Let all take turns; medians."""
    store = prepare(options, folder)
    ours = TileDataset.from_stores([store.path], "half")
    tiles = ours.samples.index.tolist()
    jobs: dict[str, Callable[[], Figures]] = {"wsivit": lambda: time_loader(ours, options, collate)}
    for kind in PEERS:
        kept = Kept(kind, folder, options.slide, store, tiles)
        jobs[kind] = lambda kept=kept: time_loader(kept, options)  # type: ignore[misc]
    for model in options.models:
        for cached in (False, True):
            name = f"{model}, one cached batch" if cached else model
            jobs[name] = lambda m=model, c=cached: time_steps(store, m, options, cached=c)  # type: ignore[misc]
    found: dict[str, list[Figures]] = defaultdict(list)
    for number in range(options.rounds + 1):
        for name, job in jobs.items():
            figures = job()
            if number:  # the first round warms up
                found[name].append(figures)
    return {name: {key: median(one[key] for one in rows) for key in rows[0]} for name, rows in found.items()}


def report(table: dict[str, Figures], options: argparse.Namespace) -> str:
    ours, best = table["wsivit"]["per_cpu_second"], max(table[k]["per_cpu_second"] for k in PEERS)
    lines = [f"{options.tile_size} px, batches of {options.batch_size}, {options.workers} workers: {machine()}", ""]
    lines += ["| batches from | tiles/s | tiles per CPU-second | wsivit is |", "|---|---|---|---|"]
    for kind in ("wsivit", *PEERS):
        row = table[kind]
        ratio = f"{ours / row['per_cpu_second']:.2f}"
        lines.append(f"| {kind} | {row['per_second']:,.0f} | {row['per_cpu_second']:,.0f} | {ratio} |")
    lines += ["", "| training | tiles/s | on one cached batch | ratio | GPU memory, GB |", "|---|---|---|---|---|"]
    for model in options.models:
        real, cached = table[model], table[f"{model}, one cached batch"]["per_second"]
        ratio, memory = real["per_second"] / cached, f"{real['gpu_gb']:.1f}" if real["gpu_gb"] else ""
        lines.append(f"| {model} | {real['per_second']:,.0f} | {cached:,.0f} | {ratio:.2f} | {memory} |")
    fed = min(table[m]["per_second"] / table[f"{m}, one cached batch"]["per_second"] for m in options.models)
    slide = ours / table["OpenSlide"]["per_cpu_second"]
    lines += ["", f"against the best other {ours / best:.2f}, against the slide {slide:.1f}, fed at {fed:.2f}"]
    return "\n".join(lines)


def machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {os.cpu_count()} cores, torch {torch.__version__}, bf16"
    return f"{os.cpu_count()} cores of {platform.machine()}, no GPU, torch {torch.__version__}"


def parse() -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide")
    parser.add_argument("--mpp", type=float, default=0.5)
    parser.add_argument("--tile-size", type=int, default=256)
    parser.add_argument("--slide-mpp", type=float)
    parser.add_argument("--workers", type=int, default=min(16, os.cpu_count() or 1) if cuda else 1)
    parser.add_argument("--batch-size", type=int, default=128 if cuda else 32)
    parser.add_argument("--batches", type=int, default=100 if cuda else 40)
    parser.add_argument("--steps", type=int, default=100 if cuda else 20)
    parser.add_argument("--rounds", type=int, default=3)
    gpu, cpu = ["vit_base_patch16_224", "resnet50"], ["test_vit", "test_resnet"]
    parser.add_argument("--models", nargs="+", default=gpu if cuda else cpu)
    parser.add_argument("--image-size", type=int, default=None if cuda else 128)
    parser.add_argument("--scratch", help="where to keep the tiles meanwhile")
    parser.add_argument("--json", help="write the figures there")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if not torch.cuda.is_available():  # the workers get cores of their own
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - options.workers))
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        table = measure(options, Path(folder))
    print(report(table, options))
    if options.json:
        Path(options.json).write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
