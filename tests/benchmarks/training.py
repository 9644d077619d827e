"""Feed a training: batches from a store against the same tiles kept otherwise, and steps with real data against none.

    python training.py STORE SLIDE [--workers 2] [--batches 40] [--model test_vit]

The store must hold copied or encoded JPEGs and be labelled. Every loader is a torch ``DataLoader`` with as many workers
and the same batches, in a process of its own; the CPU time of all its processes counts. The folder and the HDF5 file
hold the store's own JPEG bytes and are read with simplejpeg, the fastest there is; "folder, PIL" is what most training
scripts do. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from wsivit import TileStore
from wsivit.data.dataset import TileDataset

BATCH = 32
KINDS = ("wsivit", "folder", "folder, PIL", "HDF5", "OpenSlide")


class Kept(Dataset[torch.Tensor]):
    """The tiles of a store, kept in another way; handles are opened in the worker, as they must be."""

    def __init__(self, kind: str, scratch: Path, slide: str, store: TileStore) -> None:
        self.kind, self.scratch, self.slide = kind, scratch, slide
        self.size, self.tiles = store.grid.tile_size, store.readable.tolist()
        self.x0, self.y0, self.downsample = store.x0.tolist(), store.y0.tolist(), store.grid.downsample_x
        self.handle: Any = None

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, place: int) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.read(self.tiles[place]))).permute(2, 0, 1)

    def read(self, i: int) -> Any:
        if self.kind == "OpenSlide":
            return self._from_slide(i)
        if self.kind == "folder, PIL":
            from PIL import Image

            return np.array(Image.open(self.scratch / f"{i}.jpg").convert("RGB"))
        from simplejpeg import decode_jpeg

        return decode_jpeg(self._bytes(i))

    def _bytes(self, i: int) -> bytes:
        if self.kind == "folder":
            return (self.scratch / f"{i}.jpg").read_bytes()
        import h5py

        self.handle = self.handle or h5py.File(self.scratch / "tiles.h5")["jpeg"]
        data: bytes = self.handle[i].tobytes()
        return data

    def _from_slide(self, i: int) -> Any:
        import openslide

        self.handle = self.handle or openslide.OpenSlide(self.slide)
        level = self.handle.get_best_level_for_downsample(self.downsample * 1.01)
        side = round(self.size * self.downsample / self.handle.level_downsamples[level])
        region = self.handle.read_region((self.x0[i], self.y0[i]), level, (side, side)).convert("RGB")
        return np.array(region if side == self.size else region.resize((self.size, self.size)))


def copy_tiles(store: TileStore, folder: Path) -> None:
    """Write the tiles' JPEG bytes as files and as an HDF5 file."""
    import h5py

    from wsivit.store.codec import encode_jpeg

    whole = store.parameters.chunks_per_tile == 1
    with h5py.File(folder / "tiles.h5", "w") as file:
        column = file.create_dataset("jpeg", len(store), h5py.vlen_dtype(np.uint8))
        for i in store.readable.tolist():
            data = store.encoded(i)[0] if whole else encode_jpeg(store[i], 90)
            (folder / f"{i}.jpg").write_bytes(data)
            column[i] = np.frombuffer(data, np.uint8)


def time_loader(kind: str, options: argparse.Namespace) -> dict[str, float]:
    """Draw batches; tiles per second and per CPU-second."""
    store = TileStore(options.store)
    if kind == "wsivit":
        dataset: Any = TileDataset.from_stores([options.store], options.label)
    else:
        dataset = Kept(kind, Path(options.scratch), options.slide, store)
    torch.manual_seed(0)
    loader = DataLoader(
        dataset, BATCH, sampler=torch.randint(len(dataset), (BATCH * options.batches,)).tolist(),
        num_workers=options.workers,
    )  # fmt: skip
    begun, cpu = time.perf_counter(), _cpu()
    for batch in loader:
        pixels = batch["pixel_values"] if isinstance(batch, dict) else batch
        assert len(pixels) == BATCH
    del loader
    tiles = BATCH * options.batches
    return {"per_second": tiles / (time.perf_counter() - begun), "per_cpu_second": tiles / (_cpu() - cpu)}


def time_steps(options: argparse.Namespace, *, cached: bool) -> dict[str, float]:
    """Train with real data, or on one batch that is there already; tiles per second."""
    from transformers import TrainingArguments

    from wsivit.data.adapter import load_samples
    from wsivit.models import create_classifier, device_for
    from wsivit.trainer import Recipe, TileTrainer

    samples = load_samples([options.store], options.label)
    samples = samples.take(np.random.default_rng(0).integers(0, len(samples), BATCH * options.batches))
    dataset = TileDataset(samples)
    if cached:
        examples = dataset.__getitems__(list(range(BATCH)))
        dataset.__getitems__ = lambda chosen: examples[: len(chosen)]  # type: ignore[method-assign]
    device = device_for("auto")
    arguments = TrainingArguments(
        tempfile.mkdtemp(), per_device_train_batch_size=BATCH, num_train_epochs=1, use_cpu=device.type == "cpu",
        bf16=device.type == "cuda", dataloader_num_workers=0 if cached else options.workers, save_strategy="no",
        remove_unused_columns=False, label_names=["labels"], report_to="none", disable_tqdm=True,
    )  # fmt: skip
    classifier = create_classifier(options.model, samples.classes, pretrained=False, image_size=options.image_size)
    trainer = TileTrainer(classifier, Recipe(), arguments, dataset, dataset)
    done = trainer.train()
    memory = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0.0
    return {"per_second": len(samples) / done.metrics["train_runtime"], "gpu_gb": memory}


def _cpu() -> float:
    parts = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("slide")
    parser.add_argument("--label", default="region")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="test_vit")
    parser.add_argument("--image-size", type=int, default=None)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        steps = options.only in ("steps", "cached steps")
        found = (
            time_steps(options, cached=options.only == "cached steps") if steps else time_loader(options.only, options)
        )
        sys.stdout.write(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy_tiles(TileStore(options.store), Path(scratch))
        table = {kind: _median(kind, scratch, options.rounds) for kind in (*KINDS, "steps", "cached steps")}
    for kind in KINDS:
        row = table[kind]
        print(f"{kind:12} {row['per_second']:7.0f} tiles/s {row['per_cpu_second']:7.0f} tiles/CPU-s")
    real, cached = table["steps"]["per_second"], table["cached steps"]["per_second"]
    print(f"training {options.model}: {real:.0f} tiles/s, on one cached batch {cached:.0f}: ratio {real / cached:.2f}")
    if table["steps"]["gpu_gb"]:
        print(f"on {torch.cuda.get_device_name()}, {table['steps']['gpu_gb']:.1f} GB")


def _median(kind: str, scratch: str, rounds: int) -> dict[str, float]:
    found = []
    for _ in range(rounds):
        command = [sys.executable, __file__, *sys.argv[1:], "--only", kind, "--scratch", scratch]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return {key: float(np.median([one[key] for one in found])) for key in found[0]}


if __name__ == "__main__":
    main()
