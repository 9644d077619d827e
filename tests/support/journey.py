"""The command line as a new user takes it, step by step, each with its output."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from support.cli_helpers import Done, run_cli
from support.small_slides import write_slide
from support.train_helpers import tissue

QUICK = "--no-pretrained --image-size 32 --epochs 1 --batch-size 16 --workers 0 --device cpu"
"""What makes a training take a second."""


def step(command: str, code: int = 0) -> Done:
    """Run ``wsivit …``; its exit code must be this one, and its errors one line each."""
    done = run_cli(*command.removeprefix("wsivit ").split())
    assert done.code == code, f"$ {command}\n{done.out}{done.err}"
    assert "Traceback" not in done.err
    return done


def draw_slide(path: Path, *, seed: int = 0, width: int = 640, height: int = 448, mpp: float | None = 0.5) -> Path:
    """Draw a slide: glass around tissue that is stroma in its left half and tumor in its right one."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 243, np.uint8)
    for kind, left in ((0, 64), (1, width // 2)):
        side = max(width // 2 - 64, height - 128)
        picture[64 : height - 64, left : left + width // 2 - 64] = tissue(kind, side, rng)[
            : height - 128, : width // 2 - 64
        ]
    return write_slide(path, picture, mpp=mpp)


def draw_regions(path: Path, *, width: int = 640, height: int = 448) -> Path:
    """Write what QuPath exports of two rectangles drawn on that slide."""
    features = []
    for name, x0, x1 in (("stroma", 64, width // 2), ("tumor", width // 2, width - 64)):
        ring = [[x0, 64], [x1, 64], [x1, height - 64], [x0, height - 64], [x0, 64]]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"objectType": "annotation", "classification": {"name": name}},
            }
        )
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path
