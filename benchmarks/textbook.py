"""`B0`, the endpoint that most people would write: one FastAPI route, one session, no batching.

Serves the same graph with the same decoding as Kotae does for the digits model:
`python -m benchmarks.textbook models/digits/1 PORT`.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI, File, UploadFile
from PIL import Image

from service.manifest import VERSION_FILE, ImageInput, VersionFacts, read
from service.tasks.classification import read_labels


def textbook_app(folder: Path) -> FastAPI:
    """Build the application for one version folder."""
    facts = read(folder / VERSION_FILE, VersionFacts)
    spec = facts.input
    assert isinstance(spec, ImageInput), "the benchmark sends pictures"
    labels = read_labels(folder, facts)
    session = ort.InferenceSession(str(folder / facts.variants[0].file))
    app = FastAPI()

    @app.post("/predict")
    def predict(file: Annotated[UploadFile, File()]) -> dict[str, object]:
        picture = Image.open(io.BytesIO(file.file.read())).convert("L")
        picture = picture.resize((spec.width, spec.height), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture, dtype=np.uint8)[np.newaxis, ..., np.newaxis]
        (probabilities,) = session.run(None, {"image": pixels})
        best = int(probabilities[0].argmax())
        return {"label": labels[best], "score": float(probabilities[0][best])}

    return app


if __name__ == "__main__":
    uvicorn.run(textbook_app(Path(sys.argv[1])), port=int(sys.argv[2]), log_level="warning", access_log=False)
