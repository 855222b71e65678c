"""The requests: raw pixels of the graph's size, and JPEGs. No two equal ones are sent at the same time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.gpu.model_folder import MODEL
from benchmarks.payloads import jpeg, photographs
from benchmarks.servers import Server
from benchmarks.workloads import FORM_TYPE, form, post

TENSOR_ROUTE = f"/v2/models/{MODEL}"
TASK_ROUTE = f"/v1/image-classification?model={MODEL}"


def pixels(count: int, side: int) -> NDArray[np.uint8]:
    """Make random pictures: u8 [count, side, side, 3]."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def takes_tensors(server: Server) -> bool:
    """Return whether the service has the Open Inference Protocol."""
    return server.get(TENSOR_ROUTE)[0] == 200


def raw_requests(pictures: NDArray[np.uint8], per_request: int, *, as_tensors: bool) -> list[bytes]:
    """Write requests with raw pictures.

    Args:
        pictures: u8 [N, S, S, 3].
        per_request: Pictures in each request; a remainder is dropped.
        as_tensors: Whether to use the binary form of the Open Inference Protocol; else BMP files, the format
            of the task's route that is nearest to raw pixels.
    """
    groups = [pictures[i : i + per_request] for i in range(0, len(pictures) - per_request + 1, per_request)]
    if as_tensors:
        return [tensor_request(group) for group in groups]
    files = [[bitmap(picture) for picture in group] for group in groups]
    if per_request == 1:
        return [post(TASK_ROUTE, group[0], "image/bmp", {}) for group in files]
    return [post(TASK_ROUTE, form(*group), FORM_TYPE, {}) for group in files]


def tensor_request(pictures: NDArray[np.uint8]) -> bytes:
    """Write u8 [K, S, S, 3] as a request of the Open Inference Protocol with its binary extension."""
    size = {"binary_data_size": pictures.nbytes}
    tensor = {"name": "image", "shape": list(pictures.shape), "datatype": "UINT8", "parameters": size}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    length = {"Inference-Header-Content-Length": len(head)}
    return post(f"{TENSOR_ROUTE}/infer", head + pictures.tobytes(), "application/octet-stream", length)


def bitmap(picture: NDArray[np.uint8]) -> bytes:
    """Write u8 [S, S, 3] as a BMP file."""
    file = BytesIO()
    Image.fromarray(picture).save(file, "BMP")
    return file.getvalue()


def jpegs(count: int, width: int) -> list[bytes]:
    """Make photographs of 4:3 as JPEG files."""
    return [jpeg(picture) for picture in photographs(width, width * 3 // 4, count)]


def jpeg_requests(files: Sequence[bytes]) -> list[bytes]:
    """Write a request for each file."""
    return [post(TASK_ROUTE, file, "image/jpeg", {}) for file in files]
