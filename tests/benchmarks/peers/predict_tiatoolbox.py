"""TIAToolbox 2.1 on one slide: its ``PatchPredictor``, in a process that has imported it.

    python predict_tiatoolbox.py SLIDE ZOO DEVICE BATCH

Its own tissue mask, patches, data loader and zarr output, over OpenSlide. The network is the TorchScript file in its
model class, as its documentation has it for models of one's own; normalised in the forward pass.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from tiatoolbox.models.engine.patch_predictor import PatchPredictor
from tiatoolbox.models.models_abc import ModelABC
from tiatoolbox.wsicore.wsireader import OpenSlideWSIReader
from timed import timed


class Network(ModelABC):
    """The network of a folder of the WSInfer zoo."""

    def __init__(self, zoo: Path, config: dict[str, Any]) -> None:
        super().__init__()
        self.network = torch.jit.load(zoo / "torchscript_model.pt").eval().to(memory_format=torch.channels_last)
        normalise = config["transform"][-1]["arguments"]
        self.mean, self.std = (255 * torch.tensor(normalise[name])[:, None, None] for name in ("mean", "std"))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.network((pictures - self.mean.to(pictures.device)) / self.std.to(pictures.device)).softmax(1)

    @staticmethod
    def infer_batch(model: torch.nn.Module, batch_data: torch.Tensor, device: str = "cpu") -> np.ndarray:
        pictures = batch_data.to(device).permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            return model(pictures).cpu().numpy()


def main(slide: Path, zoo: Path, device: str, batch: int) -> None:
    config = json.loads((zoo / "config.json").read_text())
    workers, side = os.cpu_count() or 1, config["patch_size_pixels"]
    network = Network(zoo, config)
    Network.infer_batch(network, torch.zeros(batch, side, side, 3), device)
    predictor = PatchPredictor(network, batch_size=batch, num_workers=workers, device=device, verbose=False)

    def run() -> int:
        made = predictor.run(
            [OpenSlideWSIReader(slide)],
            patch_mode=False,
            patch_input_shape=(side, side),
            input_resolutions=[{"units": "mpp", "resolution": config["spacing_um_px"]}],
            save_dir=Path(tempfile.mkdtemp(dir=zoo.parent)) / "results",
            output_type="zarr",
            return_probabilities=True,
        )
        (results,) = made.values()
        return zarr.open(results, mode="r")["probabilities"].shape[0]

    timed(run)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
