"""A store in an S3-compatible object store, on a server of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

moto_server = pytest.importorskip("moto.server", reason="moto is not installed")
pytest.importorskip("s3fs", reason="s3fs is not installed")

# In a process of its own: clients of s3fs that zarr opened are closed by nobody, which is a warning at the end.
CLIENT = """
import sys
from pathlib import Path
import numpy as np
import s3fs
from support.store_helpers import N
from test_store_columns import url_store

s3fs.S3FileSystem().mkdir("wsivit-tests")
url_store("s3://wsivit-tests/slides/a.zarr", Path(sys.argv[1]), np.random.default_rng(0).random((N, 3), np.float32))
print(*s3fs.S3FileSystem().ls("wsivit-tests/slides/a.zarr/tiles"))
"""


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_a_store_in_s3(endpoint: str, tmp_path: Path) -> None:
    environment = os.environ | {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, tmp_path], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "wsivit-tests/slides/a.zarr/tiles/c.4.0.0.0" in done.stdout.split()
