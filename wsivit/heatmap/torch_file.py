"""Features as a tensor that ``torch.load`` reads, as CLAM keeps them in ``pt_files``; written without torch.

A ``.pt`` file is a zip archive: a pickle that describes the tensor, and its bytes. The pickle names torch's own
functions only, so that ``torch.load(path, weights_only=True)`` takes it.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

from wsivit.heatmap.feature_bag import FeatureBag
from wsivit.io import replacing


def write_torch_file(bag: FeatureBag, path: Path) -> None:
    """Write the features as one tensor, float32 (n, d), in the order of the coordinates of the other forms.

    Raises
    ------
    UsageError
        If the store has no features.
    """
    # CLAM's networks are of float32, and would refuse half precision.
    values = bag.required_features.astype("<f4")
    entries = {
        "data.pkl": _pickled_tensor(*values.shape),
        "byteorder": b"little",
        "data/0": values.tobytes(),
        "version": b"3\n",
    }
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            # With one date for all, the same features give the same bytes.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)


def _pickled_tensor(rows: int, columns: int) -> bytes:
    """Pickle a call of torch's ``_rebuild_tensor_v2`` for a contiguous float32 tensor whose bytes are entry 0."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def number(value: int) -> bytes:
        return pickle.dumps(value, protocol=2)[2:-1]  # without the header and the stop

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(rows * columns)
    arguments = [
        storage + b"tQ",  # a persistent id, which the reader resolves to entry 0
        number(0),  # offset
        number(rows) + number(columns) + b"\x86",
        number(columns) + number(1) + b"\x86",  # strides
        b"\x89",  # no gradient
        b"ccollections\nOrderedDict\n)R",  # no hooks
    ]
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + b"".join(arguments) + b"tR."
