"""A tile store without wsivit's reader: plain zarr, and what to look at.

    python store_in_plain_zarr.py [STORE]

Without a store, it tiles a small sample slide. Reading alone needs zarr and imagecodecs-zarr only (Python >= 3.12).
"""

import sys

import numpy as np
import zarr


def make_store() -> str:
    from wsivit import tile
    from wsivit.demo import write_sample_slide

    slide = write_sample_slide("sample", seed=3, size=1024).slide
    return str(tile(slide, "sample").store.path)


def main() -> None:
    group = zarr.open_group(sys.argv[1] if len(sys.argv) > 1 else make_store(), mode="r")
    print(group.tree())

    about = group.attrs["wsivit"]
    assert about["complete"], "it was not written to its end"
    print(f"{about['parameters']['slide_id']} at {about['parameters']['mpp'][0]:.4g} microns per pixel")

    # Only the status tells which tiles have pixels: zarr reads zeros for an unreadable or missing tile.
    values = group["status"].attrs["wsivit"]["values"]
    sound = np.flatnonzero(np.isin(group["status"][:], [values["ok"], values["padded"]]))
    richest = sound[np.argmax(group["tissue_fraction"][:][sound])]
    tile = group["tiles"][richest]
    x0, y0 = group["x0"][richest], group["y0"][richest]
    print(f"tile {richest} at level-0 pixel ({x0}, {y0}) has the mean colour {tile.mean(axis=(0, 1)).round()}")


if __name__ == "__main__":
    main()
