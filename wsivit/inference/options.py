"""How a model is run, and on which tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from wsivit.errors import UsageError
from wsivit.ranges import BatchSize, Mpp, Positive, TileSize, check_options

Precision: TypeAlias = Literal["auto", "fp32", "bf16", "fp16"]
Engine: TypeAlias = Literal["torch", "onnx", "onnx-int8"]


@dataclass(frozen=True)
class ScoringOptions:
    """How a model is run.

    Parameters
    ----------
    batch_size : int
        Tiles per step.
    device : str
        ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; several, with commas, share slides.
    precision : {"auto", "fp32", "bf16", "fp16"}
        Of the arithmetic. ``auto``: half on a GPU (bf16 where it has that), fp32 on the CPU.
    engine : {"torch", "onnx", "onnx-int8"}
        ``onnx`` runs on the CPU by ONNX Runtime, ``onnx-int8`` with 8-bit weights, and reports how well these agree.
    compile : bool
        Have torch compile the model: slow to start, then faster.
    tta : bool
        Score each tile in its eight flips and turns: the mean counts, and their spread is kept.
    """

    batch_size: BatchSize = 64
    device: str = "auto"
    precision: Precision = "auto"
    engine: Engine = "torch"
    compile: bool = False
    tta: bool = False

    def __post_init__(self) -> None:
        check_options(self)
        if self.engine != "torch" and (self.compile or self.precision not in ("auto", "fp32")):
            raise UsageError(f"engine {self.engine} has its own arithmetic: compile and precision are for torch")

    @property
    def int8(self) -> bool:
        """Whether the weights have 8 bits."""
        return self.engine == "onnx-int8"


@dataclass(frozen=True)
class PredictOptions(ScoringOptions):
    """How a model is run (as of `ScoringOptions`), and on which tiles.

    Parameters
    ----------
    mpp : float, optional
        Scale at which a slide is tiled, in microns per pixel. Default: the run's.
    tile_size : int, optional
        Side of the tiles of a slide, in pixels. Default: the run's.
    temperature : float, optional
        The logits are divided by it. Default: the run's. Existing predictions are changed without the model.
    weights : str, optional
        File or folder of the encoder's weights, for a run that is a head on its features (``train --encoder``).
    trust_torchscript : bool
        Run a TorchScript model: it is a program, which could do anything.
    allow_mismatch : bool
        Predict also where scale, tile size, classes or preprocessing differ from the run's; it is recorded.
    """

    mpp: Mpp | None = None
    tile_size: TileSize | None = None
    temperature: Positive | None = None
    weights: str | None = None
    trust_torchscript: bool = False
    allow_mismatch: bool = False
