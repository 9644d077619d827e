"""A small cohort in an object store that fails, cuts and stalls: nothing is lost, and the bytes are those of a folder.

The server is moto, in front of it a proxy that makes trouble. The work runs in a process of its own: clients of s3fs
are closed by nobody, which would be a warning here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.remote_helpers import Trouble, serving
from support.small_slides import tissue_picture, write_slide
from support.store_helpers import tree_digest

from wsivit import TileOptions, tile, verify

moto_server = pytest.importorskip("moto.server", reason="moto is not installed")
pytest.importorskip("s3fs", reason="s3fs is not installed")

CLIENT = """
import json, sys
from pathlib import Path
import fsspec
import wsivit
from wsivit.io import remote
from wsivit.io.remote import Remote
from wsivit.tiling import tiling_plan

remote._FIRST_WAIT = 0.02  # a quarter of all requests fail
tiling_plan._shard_tiles = lambda options: 16
folder, slides = Path(sys.argv[1]), sys.argv[2:]
system = fsspec.filesystem("s3")
bucket = Remote("s3://wsivit")
bucket._retry("", "make", lambda: system.mkdir("wsivit"))
found = {}
for name in slides:
    bucket.write(f"in/{name}", (folder / name).read_bytes())
    far = f"s3://wsivit/in/{name}"
    source, target = (far, "far") if name == slides[0] else (folder / name, "near")
    done = wsivit.tile(source, f"s3://wsivit/{target}", wsivit.TileOptions(tile_size=128))
    found[done.store.url] = len(done.failures)
far = f"s3://wsivit/in/{slides[0]}"
found["resumed"] = wsivit.tile(far, "s3://wsivit/far", wsivit.TileOptions(tile_size=128)).resumed
for target in ("near", "far"):
    for path in bucket._retry("", "find", lambda: system.find(f"wsivit/{target}")):
        key = path.removeprefix("wsivit/")
        # A request that stalled may reach the server after the lease was removed: such a lease expires.
        if key.endswith(".lock"):
            continue
        place = folder / "fetched" / key
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(bucket.read(key))
print(json.dumps(found))
"""


def test_a_cohort_through_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["s0.tiff", "s1.tiff"]
    for k, name in enumerate(names):
        write_slide(tmp_path / name, tissue_picture(1000 + 200 * k, 800, seed=k), tile=128)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        with serving(Trouble, target=f"{host}:{port}", slow=2.0) as proxy:
            found = work(tmp_path, f"http://{proxy.address}", names)
            assert len(proxy.requests) > 100
    finally:
        server.stop()
    assert found.pop("resumed") > 1
    assert found == {"s3://wsivit/far/s0.zarr": 0, "s3://wsivit/near/s1.zarr": 0}
    monkeypatch.setattr("wsivit.tiling.tiling_plan._shard_tiles", lambda options: 16)
    for name in names:
        tile(tmp_path / name, tmp_path / "local", TileOptions(tile_size=128))
    local, fetched = tree_digest(tmp_path / "local"), tmp_path / "fetched"
    assert tree_digest(fetched / "near") == {key: value for key, value in local.items() if key.startswith("s1")}
    # Read from S3 too, a store differs in what it says of its slide alone.
    far = tree_digest(fetched / "far")
    ours = {key: value for key, value in local.items() if key.startswith("s0")}
    assert {key for key in ours | far if ours.get(key) != far.get(key)} == {"s0.zarr/zarr.json"}
    places = (tmp_path / "local", fetched / "far")
    roots = [json.loads((place / "s0.zarr" / "zarr.json").read_text())["attributes"]["wsivit"] for place in places]
    paths = [root["parameters"].pop("slide_path") for root in roots]
    assert paths == [str(tmp_path / "s0.tiff"), "s3://wsivit/in/s0.tiff"]
    relative = [root["parameters"].pop("slide_relative_path") for root in roots]
    assert relative == ["../../s0.tiff", ""]
    # OpenSlide, which reads no URLs, names more sources of the same scale.
    assert [root["parameters"].pop("scale")["mpp_x"] for root in roots] == [0.5, 0.5]
    assert len({root.pop("checksum") for root in roots}) == 2
    assert roots[0] == roots[1]
    assert verify(fetched / "far" / "s0.zarr", slide=tmp_path / "s0.tiff") == []


def work(folder: Path, endpoint: str, names: list[str]) -> dict[str, int]:
    environment = os.environ | {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",  # all retries are ours
        "WSIVIT_REMOTE_TIMEOUT": "1",
    }
    command = [sys.executable, "-c", CLIENT, str(folder), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found
