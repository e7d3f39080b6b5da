"""The server of exported folders in `examples/serving`, in a process of its own."""

import asyncio
import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


httpx = pytest.importorskip("httpx")
for package in ("onnx", "onnxscript", "onnxruntime", "fastapi", "uvicorn"):
    pytest.importorskip(package)

from deployment_eomt import export_model  # noqa: E402
from deployment_eomt.predict import Segmenter  # noqa: E402


SERVER = Path(__file__).resolve().parents[2] / "examples" / "serving" / "server.py"
SIZES = [(96, 64), (64, 64), (50, 80), (160, 120), (33, 200)]  # width and height


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> Path:
    """A raw graph with an open batch."""
    return export_model(model, tmp_path_factory.mktemp("exported") / "onnx")


@pytest.fixture
def task_folder(exported, tmp_path, request) -> Path:
    """The exported folder with other settings."""
    for path in exported.iterdir():
        (tmp_path / path.name).symlink_to(path)
    settings = json.loads((exported / "preprocessor_config.json").read_text()) | request.param
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    return tmp_path


class Served:
    """A server in a process of its own."""

    def __init__(self, folder: Path, port: int, process: subprocess.Popen):
        self.folder, self.port, self.process = folder, port, process

    def post(self, file: bytes) -> Any:
        return httpx.post(f"http://127.0.0.1:{self.port}/segment", content=file, timeout=60)

    def health(self) -> Any:
        return httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=60)

    def peak_memory(self) -> float:
        """Returns the most memory that the process has had, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


@contextlib.contextmanager
def serve(folder: Path, **limits: Any) -> Iterator[Served]:
    """Starts a server, with other limits than its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"import server; vars(server).update({limits!r}); server.main()"
    command = [sys.executable, "-c", code, str(folder), "--port", str(port)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(SERVER.parent)})
    served = Served(folder, port, process)
    try:
        for _ in range(600):
            assert process.poll() is None, "the server ended"
            with contextlib.suppress(httpx.TransportError):
                if served.health().status_code == 200:
                    break
            time.sleep(0.1)
        yield served
    finally:
        process.terminate()
        assert process.wait(timeout=30) in (0, -15)


@pytest.fixture(scope="module")
def served(exported) -> Iterator[Served]:
    """A server of the exported folder, with its own limits."""
    with serve(exported) as served:
        yield served


def draw_image(size: tuple[int, int], seed: int) -> Image.Image:
    """Returns an image of coloured blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)


def encode(image: Image.Image, format: str) -> bytes:
    file = BytesIO()
    image.save(file, format)
    return file.getvalue()


def expect(folder: Path, files: list[bytes]) -> list[Any]:
    """Returns what `predict.py` writes of each file."""
    segmenter = Segmenter(folder)
    return [json.loads(json.dumps(segmenter(Image.open(BytesIO(file))))) for file in files]


@pytest.mark.slow
def test_200_requests_at_once_have_the_answers_of_predict_and_take_bounded_memory(exported, served):
    files = [encode(draw_image(SIZES[i % 5], i), "JPEG" if i % 2 else "PNG") for i in range(20)]
    expected = expect(exported, files)
    assert all(expected) and len({json.dumps(segments) for segments in expected}) == len(files)

    async def post(client: Any, index: int) -> tuple[int, Any]:
        answer = await client.post("/segment", content=files[index % len(files)])
        return answer.status_code, answer.json()

    async def post_all() -> list[tuple[int, Any]]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}", timeout=300, limits=limits) as client:
            return await asyncio.gather(*(post(client, index) for index in range(200)))

    assert served.post(files[0]).json() == expected[0]
    before = served.peak_memory()
    peaks = []
    for _ in range(2):
        for index, (status, segments) in enumerate(asyncio.run(post_all())):
            assert status == 200 and segments == expected[index % len(files)]
        peaks.append(served.peak_memory())
    # eight threads with images of at most 160 x 120 pixels each, and what the allocators keep
    assert peaks[0] - before < 100
    assert peaks[1] - peaks[0] < 20


@pytest.mark.parametrize(
    "task_folder",
    [{"task": "instance"}, {"task": "semantic", "do_split_image": True, "do_pad": False}],
    indirect=True,
    ids=["instance", "semantic in windows"],
)
def test_other_tasks_are_served(task_folder):
    files = [encode(draw_image(size, 0), "WEBP") for size in SIZES]
    expected = expect(task_folder, files)
    assert all(expected)
    with serve(task_folder) as served:
        assert [served.post(file).json() for file in files] == expected


def test_turned_images_are_turned_upright(served):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    file = BytesIO()
    draw_image((96, 64), 0).save(file, "JPEG", exif=exif)
    (first, *_) = served.post(file.getvalue()).json()
    assert first["segmentation"]["size"] == [96, 64]


@pytest.mark.parametrize("task_folder", [{"task": "semantic", "do_split_image": True, "do_pad": False}], indirect=True)
def test_what_cannot_be_segmented_is_refused_with_the_reason_and_the_server_goes_on(task_folder):
    good = encode(draw_image((64, 64), 0), "JPEG")
    cases = [
        (b"", 422, "no image in JPEG, PNG, WEBP"),
        (b"GIF89a" + good, 422, "no image in JPEG, PNG, WEBP"),
        (encode(draw_image((64, 64), 0), "BMP"), 422, "no image in JPEG, PNG, WEBP"),
        (good[: len(good) // 2], 422, "truncated"),
        (encode(Image.new("1", (600, 500)), "PNG"), 413, "300000 pixels, more than 200000"),
        (encode(Image.new("1", (64, 64 * 9)), "PNG"), 413, "64 x 576 pixels is too long"),
        (bytes(50_001), 413, "more than 50000 bytes"),
    ]
    with serve(task_folder, MAX_BYTES=50_000, MAX_PIXELS=200_000) as served:
        for file, status, message in cases:
            answer = served.post(file)
            assert (answer.status_code, message in answer.json()["detail"]) == (status, True), answer.text
        assert served.post(good).status_code == 200


def test_one_request_too_many_is_refused_and_one_that_does_not_arrive_is_given_up(exported):
    file = encode(draw_image((64, 64), 0), "JPEG")
    head = b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(file)
    with serve(exported, MAX_REQUESTS=2, MAX_SECONDS=3) as served, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", served.port))) for _ in range(2)]
        for connection in slow:
            connection.sendall(head + file[:10])
        time.sleep(1)
        refused = served.post(file)
        assert refused.status_code == 503 and refused.headers["Retry-After"] == "1"
        assert served.health().status_code == 200
        for connection in slow:
            assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
        assert served.post(file).status_code == 200


def test_a_client_that_leaves_takes_no_place(served):
    file = encode(draw_image((64, 64), 0), "JPEG")
    for _ in range(300):  # more than are answered at a time
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(b"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
    time.sleep(1)
    assert served.post(file).status_code == 200


@pytest.fixture(scope="module")
def server() -> Any:
    """The server's module."""
    spec = importlib.util.spec_from_file_location("serving_example", SERVER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class SlowGraph:
    """Doubles its input, once it may."""

    def __init__(self, *dynamic: str):
        self.description = {"dynamic": list(dynamic)}
        self.sizes: list[tuple[int, ...]] = []
        self.may_run = threading.Event()

    def __call__(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        self.may_run.wait()
        self.sizes.append(pixel_values.shape)
        if np.isnan(pixel_values).any():
            raise RuntimeError("not a number")
        return {"doubled": 2 * pixel_values}


def test_inputs_that_wait_run_together_those_of_one_shape(server):
    graph = SlowGraph("batch")
    batched = server.BatchedGraph(graph)
    inputs = [np.full((1, 3, 4, 4 if index != 3 else 8), index, np.float32) for index in range(7)]
    with server.ThreadPoolExecutor(len(inputs)) as threads:
        calls = []
        for each in inputs:
            calls.append(threads.submit(batched, pixel_values=each))
            time.sleep(0.05)
        graph.may_run.set()
        for each, call in zip(inputs, calls):
            np.testing.assert_array_equal(call.result()["doubled"], 2 * each)
    # the first alone, since nothing else was there; then at most four, one of them of another shape
    assert graph.sizes == [(1, 3, 4, 4), (3, 3, 4, 4), (1, 3, 4, 8), (2, 3, 4, 4)]


def test_what_the_graph_raises_reaches_who_waits_and_the_next_ones_run(server):
    graph = SlowGraph("batch")
    graph.may_run.set()
    batched = server.BatchedGraph(graph)
    with pytest.raises(RuntimeError, match="not a number"):
        batched(pixel_values=np.full((1, 3, 4, 4), np.nan))
    assert batched(pixel_values=np.ones((1, 3, 4, 4)))["doubled"].max() == 2


def test_a_graph_of_a_fixed_batch_runs_one_input_at_a_time(server):
    graph = SlowGraph()
    batched = server.BatchedGraph(graph)
    with server.ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(batched, pixel_values=np.ones((1, 3, 4, 4))) for _ in range(3)]
        time.sleep(0.1)
        graph.may_run.set()
        assert all(call.result()["doubled"].max() == 2 for call in calls)
    assert graph.sizes == 3 * [(1, 3, 4, 4)]


def test_the_server_needs_no_torch(exported):
    code = f"import sys, server; server.create_app({str(exported)!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(SERVER.parent)})
