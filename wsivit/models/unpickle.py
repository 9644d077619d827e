"""Make safetensors of a pickle, as ``python -m wsivit.models.unpickle FILE SHA256 OUTPUT``: a process for one file."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

NESTED = ("state_dict", "model", "teacher", "model_state_dict")
"""Keys under which training code keeps the weights."""


def main(path: str, sha256: str, output: str) -> None:
    """Convert the file, if it still has the checksum and holds nothing but named tensors."""
    import torch
    from safetensors.torch import save_file

    with Path(path).open("rb") as file:  # one handle, so that what is parsed is what was hashed
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            sys.exit("the file has changed since its checksum was taken")
        file.seek(0)
        try:
            held: Any = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            sys.exit(f"not a file of weights alone ({str(error).splitlines()[0]})")
    while isinstance(held, dict) and (nested := next((held[k] for k in NESTED if isinstance(held.get(k), dict)), None)):
        held = nested
    if not isinstance(held, dict) or not held or not all(isinstance(v, torch.Tensor) for v in held.values()):
        sys.exit("it holds something else than named tensors")
    save_file({str(name): value.detach().clone().contiguous() for name, value in held.items()}, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
