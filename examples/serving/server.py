"""
Serves an exported folder: an image comes in over HTTP, the list of its segments goes out, as `predict.py` writes it.

    python server.py FOLDER --port 8000
    curl --data-binary @photo.jpg http://localhost:8000/segment
    curl http://localhost:8000/health

Inputs that wait for the graph run as one batch; none waits for a batch to fill. Memory is bounded by the limits below:
files that wait take at most `MAX_REQUESTS * MAX_BYTES`, and `2 * MAX_BATCH` images are worked on at a time.
"""

import argparse
import asyncio
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from PIL import Image, UnidentifiedImageError
from starlette.requests import ClientDisconnect


MAX_BATCH = 4  # inputs of the graph that run together
MAX_REQUESTS = 256  # that are answered at a time; one more is refused (503)
MAX_BYTES = 16 * 2**20  # of a file; a larger one is refused (413)
MAX_PIXELS = 25 * 10**6  # of an image; a larger one is refused (413)
MAX_WINDOWS = 8  # that an image is cut into; a longer one is refused (413)
MAX_SECONDS = 30  # that a file takes to arrive; a slower one is refused (408)
FORMATS = ("JPEG", "PNG", "WEBP")

Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit; the one above is checked before any pixel is read
Arrays = dict[str, np.ndarray]


class BatchedGraph:
    """A graph that many threads call with an input each, and that runs together what waits."""

    def __init__(self, graph: Any):
        self.graph, self.description = graph, graph.description
        self.max_batch = MAX_BATCH if "batch" in graph.description["dynamic"] else 1
        self.waiting: SimpleQueue[tuple[Arrays, Future[Arrays]]] = SimpleQueue()
        self.thread = Thread(target=self.run_batches, daemon=True)
        self.thread.start()

    def __call__(self, **inputs: np.ndarray) -> Arrays:
        future: Future[Arrays] = Future()
        self.waiting.put((inputs, future))
        return future.result()

    def run_batches(self) -> None:
        while True:
            batch = [self.waiting.get()]
            while len(batch) < self.max_batch and not self.waiting.empty():
                batch.append(self.waiting.get())
            by_shape: dict[Any, list[tuple[Arrays, Future[Arrays]]]] = {}
            for inputs, future in batch:
                shape = tuple(array.shape for array in inputs.values())
                by_shape.setdefault(shape, []).append((inputs, future))
            for same in by_shape.values():
                self.run(*zip(*same))

    def run(self, inputs: tuple[Arrays, ...], futures: tuple[Future[Arrays], ...]) -> None:
        try:
            if len(inputs) == 1:
                futures[0].set_result(self.graph(**inputs[0]))
                return
            outputs = self.graph(**{name: np.concatenate([each[name] for each in inputs]) for name in inputs[0]})
            for index, future in enumerate(futures):
                future.set_result({name: output[index : index + 1] for name, output in outputs.items()})
        except Exception as error:  # whatever a runtime raises is for those who wait
            for future in futures:
                future.set_exception(error)


def create_app(folder: str) -> FastAPI:
    """Returns the server of an exported folder."""
    sys.path.insert(0, folder)
    import eomt_decoder as decoder
    import predict

    segmenter = predict.Segmenter(folder)
    segmenter.graph = graph = BatchedGraph(segmenter.graph)
    threads = ThreadPoolExecutor(2 * MAX_BATCH)  # while a batch runs, the next one is prepared
    requests = asyncio.Semaphore(MAX_REQUESTS)
    app = FastAPI(title="EoMT")

    def segment(file: bytes) -> list[dict[str, Any]]:
        return segmenter(read_image(file))

    def read_image(file: bytes) -> np.ndarray:
        try:
            with Image.open(BytesIO(file), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise HTTPException(413, f"The image has {width * height} pixels, more than {MAX_PIXELS}.")
                if len(decoder.compute_view((height, width), segmenter.settings).windows) > MAX_WINDOWS:
                    raise HTTPException(413, f"The image of {width} x {height} pixels is too long: cut it first.")
                return predict.read_image(image)
        except HTTPException:
            raise
        except UnidentifiedImageError as error:
            raise HTTPException(422, f"The body is no image in {', '.join(FORMATS)}.") from error
        except Exception as error:  # Pillow's decoders raise errors of any kind
            raise HTTPException(422, f"The image cannot be read: {error}") from error

    @app.post("/segment")
    async def answer(request: Request) -> list[dict[str, Any]]:
        if requests.locked():
            raise HTTPException(503, "Too many images are waiting.", {"Retry-After": "1"})
        async with requests:
            try:
                file = await asyncio.wait_for(read_body(request), MAX_SECONDS)
            except asyncio.TimeoutError:
                raise HTTPException(408, f"The file took more than {MAX_SECONDS} seconds to arrive.") from None
            except ClientDisconnect:
                raise HTTPException(400, "The file ended early.") from None
            return await asyncio.get_running_loop().run_in_executor(threads, segment, file)

    @app.get("/health")
    async def health() -> dict[str, str]:
        if not graph.thread.is_alive():
            raise HTTPException(503, "The thread that runs the graph has ended.")
        return {"status": "ok"}

    return app


async def read_body(request: Request) -> bytes:
    """Returns the body of a request, as long as it is not too large."""
    file = bytearray()
    async for chunk in request.stream():
        file += chunk
        if len(file) > MAX_BYTES:
            raise HTTPException(413, f"The file has more than {MAX_BYTES} bytes.")
    return bytes(file)


def main() -> None:
    parser = argparse.ArgumentParser(description="Serves an exported folder.")
    parser.add_argument("folder", metavar="FOLDER", help="what `python -m deployment_eomt` has written")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at, 0.0.0.0 for all")
    parser.add_argument("--port", default=8000, type=int)
    options = parser.parse_args()
    uvicorn.run(create_app(options.folder), host=options.host, port=options.port)


if __name__ == "__main__":
    main()
