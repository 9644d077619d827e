"""The viewer's server: what it answers, to whom, and from where."""

from __future__ import annotations

import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from support.heatmap_helpers import make_store
from support.slide_helpers import damage
from support.small_slides import tissue_picture, write_slide
from support.viewer_helpers import Client, Reply, viewing
from test_privacy import LABEL, MACRO, aperio, planted_in, shows

import wsivit
from wsivit.errors import OutputError, UsageError
from wsivit.store import Predictions, TileStore
from wsivit.tiling import TileOptions
from wsivit.viewer import ViewOptions
from wsivit.viewer.decode_queue import DecodeQueue


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of an odd scale, and its store with predictions."""
    folder = tmp_path_factory.mktemp("view")
    write_slide(folder / "s.tiff", tissue_picture(1500, 1100), mpp=0.457, levels=2)
    store = wsivit.tile(folder / "s.tiff", folder, TileOptions(mpp=0.914, tile_size=96)).store
    p = np.random.default_rng(0).random((len(store), 1), np.float32)
    store.write_predictions("run-1", Predictions(np.hstack([1 - p, p]), ("normal", "tumor")))
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    with viewing(folder / "s.zarr") as client:
        yield client


def pixels(reply: Reply) -> np.ndarray:
    assert reply.status == 200, reply
    return np.asarray(Image.open(io.BytesIO(reply.body)).convert("RGB"))


# Pixels


def test_native_tiles_are_passed_on_as_the_slide_has_them(folder: Path, client: Client) -> None:
    about = client.ask(f"/slide/{client.key}").json
    native = wsivit.open_slide(folder / "s.tiff").native_tiles(0)
    assert native is not None
    assert about["levels"][0]["tile"] == [native.tile_width, native.tile_height]
    for col, row in ((3, 4), (0, 0), (11, 8)):
        reply = client.ask(f"/slide/{client.key}/tile/{about['pyramid']}/0/{col}/{row}")
        assert reply.body == native.jpeg(col, row)
    assert client.ask(f"/slide/{client.key}/tile/{about['pyramid']}/0/12/0").headers["X-Wsivit-Tile"] == "changed"


def test_every_level_shows_the_same_slide(folder: Path, client: Client) -> None:
    """Each level, put together from its tiles, is the slide at its scale: the reader's own overview is the oracle."""
    about = client.ask(f"/slide/{client.key}").json
    with wsivit.open_slide(folder / "s.tiff") as slide:
        whole = slide.read(slide.plan(slide.scale.mpp_x), 0, 0, *slide.dimensions)
    assert len(about["levels"]) == 2
    for number, level in enumerate(about["levels"]):
        (width, height), step = (level["width"], level["height"]), level["step"]
        assert np.allclose(np.array([width, height]) * level["downsample"], [1500, 1100])
        joined = np.zeros((height, width, 3), np.uint8)
        for row in range(-(-height // step[1])):
            for col in range(-(-width // step[0])):
                tile = pixels(client.ask(f"/slide/{client.key}/tile/{about['pyramid']}/{number}/{col}/{row}"))
                part = joined[row * step[1] :, col * step[0] :][: tile.shape[0], : tile.shape[1]]
                part[:] = tile[: part.shape[0], : part.shape[1]]
        expected = np.asarray(Image.fromarray(whole).resize((width, height), Image.Resampling.BOX))
        assert np.abs(joined.astype(int) - expected).mean() < 6


def test_a_slide_whose_levels_are_far_apart_gets_some_between(tmp_path: Path) -> None:
    picture = tissue_picture(2600, 2000)
    write_slide(tmp_path / "one.tiff", picture, levels=1)
    with viewing(tmp_path / "one.tiff") as client:
        about = client.ask(f"/slide/{client.key}").json
        assert [round(level["downsample"][0]) for level in about["levels"]] == [1, 2, 4]
        last = about["levels"][-1]
        tile = pixels(client.ask(f"/slide/{client.key}/tile/{about['pyramid']}/2/0/0"))
        assert tile.shape[:2] == (last["tile"][1], last["tile"][0])
        expected = np.asarray(Image.fromarray(picture).reduce(4))[: tile.shape[0], : tile.shape[1]]
        assert np.abs(tile[: expected.shape[0], : expected.shape[1]].astype(int) - expected).mean() < 5
        assert about["store"] is None
        assert about["mpp"] == [0.5, 0.5]


def test_a_store_without_its_slide_shows_its_tiles(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "s.zarr", tmp_path / "lost" / "s.zarr")
    store = TileStore(tmp_path / "lost" / "s.zarr")
    moved = folder / "s.tiff"
    hidden = moved.rename(tmp_path / "hidden")
    try:
        with viewing(store.path) as client:
            about = client.ask(f"/slide/{client.key}").json
            assert "not where it was" in about["notice"]
            name = f"/slide/{client.key}/tile/{about['pyramid']}"
            for i in (0, len(store) // 2):
                tile = pixels(client.ask(f"{name}/0/{store.col[i]}/{store.row[i]}"))
                assert np.abs(tile.astype(int) - store[i]).max() <= 3
            # Halved, four tiles and more are one; each lies where it belongs.
            level = about["levels"][1]
            assert level["downsample"] == [4.0, 4.0]
            many = level["step"][0] * 2 // 96
            i = int(np.flatnonzero((store.col % many == 1) & (store.row % many == 2))[0])
            joined = pixels(client.ask(f"{name}/1/{store.col[i] // many}/{store.row[i] // many}"))
            part = joined[96:144, 48:96]
            assert np.abs(part.astype(int) - np.asarray(Image.fromarray(store[i]).reduce(2))).mean() < 4
            assert client.ask(f"{name}/0/0/0").headers["X-Wsivit-Tile"] == "blank"
    finally:
        hidden.rename(moved)


def test_overlapping_tiles_are_shown_at_their_stride(tmp_path: Path) -> None:
    make_store(tmp_path / "o.zarr", overlap=32, pixels=True, size0=(1024, 1024))
    with viewing(tmp_path / "o.zarr") as client:
        level = client.ask(f"/slide/{client.key}").json["levels"][0]
        assert (level["tile"], level["step"], level["downsample"]) == ([128, 128], [96, 96], [2.0, 2.0])


def test_a_damaged_tile_is_said_to_be_unreadable(tmp_path: Path) -> None:
    write_slide(tmp_path / "d.tiff", tissue_picture(640, 512), levels=1)
    damage(tmp_path / "d.tiff", 6, "zeros")
    with viewing(tmp_path / "d.tiff") as client:
        pyramid = client.ask(f"/slide/{client.key}").json["pyramid"]
        states = [
            client.ask(f"/slide/{client.key}/tile/{pyramid}/0/{i % 5}/{i // 5}").headers.get("X-Wsivit-Tile", "ok")
            for i in range(20)
        ]
        assert states == ["ok"] * 6 + ["unreadable"] + ["ok"] * 13


def test_a_slide_replaced_while_open_is_noticed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsivit.viewer.viewed_slide._LOOK_AGAIN", 0.0)
    slide = Path(shutil.copy(folder / "s.tiff", tmp_path / "s.tiff"))
    store = wsivit.tile(slide, tmp_path, TileOptions(mpp=0.914, tile_size=96)).store
    with viewing(store.path) as client:
        before = client.ask(f"/slide/{client.key}").json
        slide.touch()  # another time, the same content
        assert client.ask(f"/slide/{client.key}").json["pyramid"] == before["pyramid"]
        write_slide(slide, tissue_picture(1500, 1100, seed=5), mpp=0.457)
        tile = client.ask(f"/slide/{client.key}/tile/{before['pyramid']}/0/3/4")
        assert (tile.status, tile.headers["X-Wsivit-Tile"]) == (204, "changed")
        after = client.ask(f"/slide/{client.key}").json
        assert after["pyramid"] != before["pyramid"]
        assert "replaced" in after["notice"]
        assert after["levels"][0]["tile"] == [96, 96]


# Scores


@pytest.mark.parametrize("overlap", [0, 32])
def test_thresholds_in_bytes_are_those_of_aggregate(overlap: int, tmp_path: Path) -> None:
    """A cell is over ``k / 200`` in the page exactly where it is for `aggregate`, at every threshold of the slider."""
    rng = np.random.default_rng(1)
    store = make_store(
        tmp_path / "s.zarr", overlap=overlap, field=lambda x, y: np.round(rng.random(x.shape) * 200) / 200
    )
    with viewing(store.path) as client:
        arrays, facts = client.ask(f"/slide/{client.key}/scores?run=run-1").arrays
    assert facts["classes"] == ["normal", "tumor"]
    tumor, stride = arrays["bands"][1], 2.0 * (128 - overlap)
    # The last cells reach past the slide: only what lies on it counts.
    edges = [np.minimum(np.arange(n + 1) * stride, size) for n, size in zip(tumor.shape, (3072, 4096), strict=True)]
    areas = np.outer(*map(np.diff, edges))
    for k in (0, 1, 57, 58, 100, 101, 199, 200):
        options = wsivit.AggregateOptions(threshold=k / 200, class_name="tumor")
        table = wsivit.aggregate([store], tmp_path / "a.csv", options=options)
        row = dict(zip(*(line.split(",") for line in Path(table).read_text().splitlines()), strict=True))
        assert areas[tumor > k].sum() / areas[tumor > 0].sum() == pytest.approx(float(row["area_fraction"]), abs=1e-6)
    exact = store.predictions("run-1").probabilities
    assert np.array_equal(arrays["values"], exact, equal_nan=True)


def test_tiles_and_mask_are_those_of_the_store(folder: Path, client: Client) -> None:
    store = TileStore(folder / "s.zarr")
    arrays, _ = client.ask(f"/slide/{client.key}/tiles").arrays
    for name in ("col", "row", "x0", "y0", "status"):
        assert np.array_equal(arrays[name], getattr(store, name))
    mask, facts = client.ask(f"/slide/{client.key}/mask").arrays
    assert np.array_equal(mask["mask"] > 0, store.tissue_mask[0])
    assert tuple(facts["downsample"]) == store.tissue_mask[1]
    patch = client.ask(f"/slide/{client.key}/patch/7")
    assert np.abs(pixels(patch).astype(int) - store[7]).max() <= 3
    zipped = client.ask(f"/slide/{client.key}/tiles", Accept_Encoding="gzip")
    assert zipped.headers.get("Content-Encoding") == ("gzip" if len(store) > 700 else None)


def test_no_torch_and_quickly_ready(folder: Path) -> None:
    code = f"""
import sys, wsivit
from wsivit.viewer import ViewOptions
with wsivit.view({str(folder / "s.zarr")!r}, browser=False) as view:
    import urllib.request
    address, token = view.url.split("?token=")
    for path in ("", "study", "colors", "page/main.js"):
        urllib.request.urlopen(urllib.request.Request(address + path, headers={{"Authorization": "token " + token}}))
print({{"torch", "timm", "transformers", "skimage"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Labels


def stroke(labels: dict[int, str | None], run: str = "run-1") -> bytes:
    return json.dumps({"labels": labels, "run": run}).encode()


def test_strokes_arrive_in_the_store_and_in_geojson(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "s.zarr", tmp_path / "s.zarr")
    store = TileStore(tmp_path / "s.zarr")
    with viewing(store.path, label="mine") as client:
        paint = f"/slide/{client.key}/paint"
        assert client.ask(f"/slide/{client.key}").json["store"]["offered"] == ["normal", "tumor", "unsure", "artefact"]
        for labels in ({3: "tumor", 4: "tumor"}, {4: "unsure", 9: "artefact"}, {3: None}):
            assert client.ask(paint, "POST", stroke(labels), X_Wsivit_Write="1").status == 200
        column = store.label("mine")
        named = {int(i): column.classes[column.codes[i]] for i in np.flatnonzero(column.codes >= 0)}
        assert named == {4: "unsure", 9: "artefact"}
        (entry,) = column.attrs["painted"]
        assert (entry["run"], entry["tiles"]) == ("run-1", 5)
        assert entry["who"] and entry["first"] <= entry["last"]
        regions = json.loads((tmp_path / "s-mine.geojson").read_text())
        assert client.ask(f"/slide/{client.key}/regions?name=mine").json == regions
        by_name = {f["properties"]["classification"]["name"]: f["geometry"] for f in regions["features"]}
        assert set(by_name) == {"unsure", "artefact"}
        corners = np.array(by_name["artefact"]["coordinates"][0])
        x0, y0 = store.col[9] * 192, store.row[9] * 192
        assert corners.min(axis=0).tolist() == [x0, y0]
        assert corners.max(axis=0).tolist() == [x0 + 192, y0 + 192]
        assert wsivit.verify(store.path) == []
        bad = (b"", b"[]", b'{"labels": 3}', stroke({99999: "tumor"}), stroke({1: "other"}), stroke({-1: "tumor"}))
        for body in bad:
            assert client.ask(paint, "POST", body, X_Wsivit_Write="1").status == 400
        assert np.array_equal(store.label("mine").codes, column.codes)


def test_two_pages_paint_at_once_and_nothing_is_lost(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "s.zarr", tmp_path / "s.zarr")
    with viewing(tmp_path / "s.zarr") as client:

        def paint(first: int) -> None:
            for i in range(first, 16, 2):
                reply = client.ask(f"/slide/{client.key}/paint", "POST", stroke({i: "tumor"}), X_Wsivit_Write="1")
                assert reply.status == 200

        pages = [threading.Thread(target=paint, args=(first,)) for first in (0, 1)]
        for page in pages:
            page.start()
        for page in pages:
            page.join()
    column = TileStore(tmp_path / "s.zarr").label("viewed")
    assert np.flatnonzero(column.codes >= 0).tolist() == list(range(16))


def test_read_only_forbids_painting(folder: Path) -> None:
    with viewing(folder / "s.zarr", read_only=True) as client:
        reply = client.ask(f"/slide/{client.key}/paint", "POST", stroke({1: "tumor"}), X_Wsivit_Write="1")
        assert reply.status == 409
        assert client.ask(f"/slide/{client.key}").json["store"]["offered"] == []
    assert "viewed" not in TileStore(folder / "s.zarr").labels


# Safety


def test_only_who_has_the_token_gets_an_answer(client: Client) -> None:
    assert client.entered.status == 302
    assert client.entered.headers["Location"] == "./"
    cookie = client.entered.headers["Set-Cookie"]
    assert cookie.startswith(f"wsivit-{client.port}=")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert client.token not in cookie
    for path in ("/", "/study", f"/slide/{client.key}", "/page/main.js", "/colors", "/nothing"):
        assert client.ask(path, cookie=False).status == 403, path
        assert client.ask(path, cookie=False, Cookie=f"wsivit-{client.port}=wrong").status == 403
    assert client.ask("/?token=wrong", cookie=False).status == 403
    assert client.ask("/study", cookie=False, Authorization=f"token {client.token}").status == 200


def test_other_names_and_other_sites_are_refused(client: Client) -> None:
    for host in ("evil.example", f"evil.example:{client.port}", "", "127.0.0.1.evil.example", "[::2]:80"):
        assert client.ask("/study", Host=host).status == 421, host
    for host in ("localhost:1", "LOCALHOST", "[::1]:8080", "127.0.0.1:22"):
        assert client.ask("/study", Host=host).status == 200, host
    for site in ("cross-site", "same-site"):
        assert client.ask("/study", Sec_Fetch_Site=site).status == 403
        assert client.ask("/study", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate").status == 403
        assert (
            client.ask("/", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate").status == 200
        )  # the page itself, by a link
    assert client.ask("/study", Sec_Fetch_Site="same-origin").status == 200


def test_writes_need_their_header_and_no_other_site_may_ask(client: Client) -> None:
    assert client.ask(f"/slide/{client.key}/paint", "POST", stroke({1: "tumor"})).status == 403
    preflight = client.ask("/study", "OPTIONS", Origin="https://evil.example", Access_Control_Request_Method="POST")
    assert preflight.status in (403, 405)
    for method in ("PUT", "DELETE", "PATCH"):
        assert client.ask("/study", method, b"", X_Wsivit_Write="1").status == 405
    assert not any("access-control" in name.lower() for name in client.ask("/study").headers)


def test_every_answer_has_the_headers(client: Client) -> None:
    for path in ("/", "/study", "/page/style.css", f"/slide/{client.key}", "/no/such/thing", "/?token=wrong"):
        headers = client.ask(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Server" not in headers


TRAVERSALS = [
    "/page/..%2f..%2fpyproject.toml", "/page/../view.py", "/page/%2e%2e/view.py", "/page/icon.svg/../../view.py",
    "/../../etc/passwd", "/slide/..", "/slide/../../etc/passwd", "//etc/passwd", "/page//etc/passwd",
    "/slide/0000000000000000", "/slide/{key}/scores?run=../../s", "/slide/{key}/labels?name=../col",
    "/slide/{key}/labels?name=", "/slide/{key}/tile/p0/0/-1/0", "/slide/{key}/tile/p0/0/1e3/0",
    "/slide/{key}/patch/999999999", "/slide/{key}/thumbnail?size=256&run=..", "/slide/{key}%00", "/page/link.js",
]  # fmt: skip


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_comes_from_an_address(path: str, client: Client) -> None:
    assert client.ask(path.replace("{key}", client.key)).status in (400, 404)


def test_numbers_out_of_range_are_no_tiles(client: Client) -> None:
    for place in ("p0/0/999999999/0", "p0/7/0/0", "p9/0/0/0"):
        reply = client.ask(f"/slide/{client.key}/tile/{place}")
        assert (reply.status, reply.headers["X-Wsivit-Tile"]) == (204, "changed")


def test_a_linked_store_is_shown_and_what_lies_beside_it_is_not(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "s.zarr").symlink_to(folder / "s.zarr")
    with viewing(tmp_path / "s.zarr") as client:
        assert client.ask(f"/slide/{client.key}").json["store"]["tiles"] > 0
        for name in ("secret.txt", "../secret.txt", "s.zarr/zarr.json"):
            assert client.ask(f"/page/{name}").status == 404


def test_nothing_private_is_in_any_answer(tmp_path: Path) -> None:
    """Planted strings, paths and the pictures of label and glass, searched for in every answer there is."""
    (tmp_path / "Zqfolderqz").mkdir()
    slide = aperio(tmp_path / "Zqfolderqz" / "s.svs")
    store = wsivit.tile(slide, tmp_path / "out", TileOptions(mpp=0.5, tile_size=96, min_tissue=0.0)).store
    p = np.full((len(store), 2), 0.5, np.float32)
    store.write_predictions("run", Predictions(p, ("normal", "tumor")))
    for source in (slide, store.path):
        with viewing(source) as client:
            key, answers = client.key, [client.ask("/"), client.ask("/study"), client.ask("/colors")]
            about = client.ask(f"/slide/{key}")
            answers.append(about)
            for number, level in enumerate(about.json["levels"]):
                columns, rows = -(-level["width"] // level["step"][0]), -(-level["height"] // level["step"][1])
                places = [f"{number}/{col}/{row}" for col in range(columns) for row in range(rows)]
                answers += [client.ask(f"/slide/{key}/tile/{about.json['pyramid']}/{place}") for place in places]
            answers.append(client.ask(f"/slide/{key}/thumbnail?size=1024"))
            if source == store.path:
                names = ("tiles", "scores?run=run", "mask", "labels?name=viewed", "regions?name=viewed", "annotations")
                answers += [client.ask(f"/slide/{key}/{name}") for name in names]
                answers += [client.ask(f"/slide/{key}/patch/{i}") for i in range(len(store))]
                body = stroke({0: "tumor"}, "run")
                answers.append(client.ask(f"/slide/{key}/paint", "POST", body, X_Wsivit_Write="1"))
            answers += [client.ask(path) for path in ("/x", "/page/x", f"/slide/{key}/scores?run=x")]
            for reply in answers:
                said = reply.body + repr(reply.headers).encode()
                assert planted_in(said) == set()
                assert str(tmp_path).encode() not in said
                assert b"19 Z" not in said and b"2019" not in said
                if reply.headers.get("Content-Type") == "image/jpeg":
                    picture = simplejpeg.decode_jpeg(reply.body, "RGB")
                    assert not shows(picture, LABEL) and not shows(picture, MACRO)
            assert len(answers) > 25


def test_a_client_that_leaves_costs_nothing(folder: Path) -> None:
    with viewing(folder / "s.zarr") as client:
        pyramid = client.ask(f"/slide/{client.key}").json["pyramid"]
        for i in range(40):
            with socket.create_connection(("127.0.0.1", client.port)) as page:
                address = f"/slide/{client.key}/tile/{pyramid}/0/{i % 10}/1"
                page.sendall(f"GET {address} HTTP/1.1\r\nHost: localhost\r\nCookie: {client.cookie}\r\n\r\n".encode())
        with socket.create_connection(("127.0.0.1", client.port)) as page:
            page.sendall(b"GET / HTTP/1.1\r\nHost: local")
        assert client.ask("/study").status == 200


def test_the_newest_request_comes_first_and_dropped_ones_never() -> None:
    queue, begun, hold = DecodeQueue(threads=1), list[int](), threading.Event()
    try:
        first = queue.submit(lambda: hold.wait(60))
        rest = [queue.submit(lambda k=k: begun.append(k)) for k in range(6)]  # type: ignore[misc]
        assert rest[4].cancel()
        hold.set()
        for k in (5, 3, 2, 1, 0):
            rest[k].result(60)
        assert first.result(60)
        assert begun == [5, 3, 2, 1, 0]
    finally:
        queue.close()


# The verb


def test_what_cannot_be_viewed_is_said_before_a_page_opens(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError):
        wsivit.view(tmp_path / "nothing.svs", browser=False)
    (tmp_path / "broken.tiff").write_bytes(b"II*\0nonsense")
    with pytest.raises(wsivit.WsivitError, match="broken"):
        wsivit.view(tmp_path / "broken.tiff", browser=False)
    with viewing(folder / "s.zarr") as client, pytest.raises(OutputError, match="--port"):
        wsivit.view(folder / "s.zarr", browser=False, options=ViewOptions(port=client.port))
    for wrong in ({"port": 70000}, {"label": "a/b"}, {"label": "../x"}):
        with pytest.raises(UsageError):
            ViewOptions(**wrong)


def test_a_study_lists_every_slide_and_says_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(folder / "s.zarr", tmp_path / f"{name}.zarr")
    make_store(tmp_path / "c.zarr", unreadable=(1, 2))
    (tmp_path / "d.zarr").mkdir()
    (tmp_path / "d.zarr" / "zarr.json").write_text("{}")
    write_slide(tmp_path / "e.tiff", tissue_picture(400, 300))
    with viewing(tmp_path) as client:
        for _ in range(600):
            answer = client.ask("/study").json
            if answer["complete"]:
                break
            threading.Event().wait(0.05)
        rows = answer["rows"]
        assert [row["state"] == "ready" for row in rows] == [True, True, True, False, True]
        assert len({row["key"] for row in rows}) == 5
        assert rows[2]["unreadable"] == 2
        assert rows[0]["runs"]["run-1"]["class"] == "tumor"
        assert client.ask(f"/study?since={answer['changes']}").json["rows"] == []
        shown = client.ask(f"/slide/{rows[1]['key']}/thumbnail?size=192&run=run-1")
        assert max(pixels(shown).shape) <= 192
        assert client.ask(f"/slide/{rows[3]['key']}").status == 422


def test_a_notebook_shows_it_in_a_frame(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    with wsivit.view(folder / "s.zarr") as view:  # and no browser opens
        shown = view._repr_html_()
        assert f"http://localhost:{view.port}/?token=" in shown
        policy = Client(view).ask("/").headers["Content-Security-Policy"]
        assert "frame-ancestors http://localhost:* http://127.0.0.1:*" in policy
        monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ann/")
        assert f'src="/user/ann/proxy/{view.port}/?token=' in view._repr_html_()


def test_the_command_serves_until_it_is_interrupted(folder: Path) -> None:
    command = [sys.executable, "-m", "wsivit", "view", str(folder / "s.zarr"), "--no-browser", "--read-only"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]
        token = address.partition("?token=")[2]
        request = urllib.request.Request(
            address.partition("?")[0] + "study", headers={"Authorization": f"token {token}"}
        )
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["slides"] == 1
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert "Traceback" not in process.stderr.read()  # type: ignore[union-attr]


def test_annotations_lie_where_they_were_drawn(folder: Path, tmp_path: Path) -> None:
    ring = [[100, 50], [400, 50], [400, 300], [100, 50]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "classification": {"name": "tumor"}},
    }
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    with viewing(folder / "s.zarr", annotations=tmp_path / "a.geojson") as client:
        (region,) = client.ask(f"/slide/{client.key}/annotations").json
        assert region["name"] == "tumor"
        assert {tuple(place) for place in region["geometry"]["coordinates"][0]} == {tuple(place) for place in ring}
    shutil.copytree(folder / "s.zarr", tmp_path / "many" / "a.zarr")
    shutil.copytree(folder / "s.zarr", tmp_path / "many" / "b.zarr")
    with pytest.raises(UsageError, match="one slide"):
        wsivit.view(tmp_path / "many", annotations=tmp_path / "a.geojson", browser=False)


def test_slides_and_stores_at_urls_are_shown_as_local_ones(folder: Path, client: Client) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(folder / "s.tiff"), "/view/s.tiff")
    memory.put(str(folder / "s.zarr"), "/view/s.zarr", recursive=True)
    with viewing("memory://view/s.tiff") as remote:
        here, there = (c.ask(f"/slide/{c.key}/tile/p0/0/3/4") for c in (client, remote))
        assert there.body == here.body
    with viewing("memory://view/s.zarr") as remote:
        paint = remote.ask(f"/slide/{remote.key}/paint", "POST", stroke({2: "tumor"}), X_Wsivit_Write="1")
        assert paint.status == 200
    assert np.flatnonzero(TileStore("memory://view/s.zarr").label("viewed").codes >= 0).tolist() == [2]
