"""A small COCO folder of blocks and discs, and a recipe that learns it within seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from service.repository.manifest import ImageInput, ModelManifest
from training.recipes.detection_recipe import CocoData, DetectionRecipe, DetectorSize, ScenesData
from training.recipes.recipe import Optimisation, Split

SIDE = 96


def write_coco_folder(folder: Path, pictures: int = 40) -> Path:
    """Draw dark blocks and light discs on grey, some pictures oblong; returns the JSON file."""
    random = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(pictures):
        width, height = (SIDE, SIDE) if number % 3 else (SIDE, SIDE * 2 // 3)
        picture = Image.new("RGB", (width, height), (128, 120, 126))
        pen = ImageDraw.Draw(picture)
        for column in range(2):
            extent = int(random.integers(18, 34))
            left = column * width // 2 + int(random.integers(0, width // 2 - extent))
            top = int(random.integers(0, height - extent))
            block = bool(random.random() < 0.5)
            edges = (left, top, left + extent - 1, top + extent - 1)
            if block:
                pen.rectangle(edges, fill=(20, 20, 30))
            else:
                pen.ellipse(edges, fill=(250, 250, 240))
            annotation = {"image_id": number, "category_id": 3 if block else 7, "iscrowd": 0}
            annotations.append({**annotation, "id": len(annotations), "bbox": [left, top, extent, extent]})
        name = f"{number:03d}.png"
        picture.save(folder / name)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
    categories = [{"id": 3, "name": "block"}, {"id": 7, "name": "disc"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    path = folder / "annotations.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def tiny_detection_recipe(annotations: Path, **optimisation: float) -> DetectionRecipe:
    """A recipe that trains in a few seconds."""
    wanted = {"epochs": 5, "least_steps": 40, "batch_size": 8, "learning_rate": 6e-3, **optimisation}
    return DetectionRecipe(
        manifest=ModelManifest(name="things", task="object-detection", required=False),
        data=CocoData(path=annotations, mirror=True),
        input=ImageInput(width=SIDE, height=SIDE, channels=3, resize="letterbox", pad_value=114),
        train_size=SIDE,
        split=Split(test=0.2, validation=0.2, seed=1),
        network=DetectorSize(stem=8, widths=(12, 16, 24, 24), blocks=(1, 1, 1, 1), neck=16, slots=16),
        optimisation=Optimisation.model_validate({"gradient_clip": 10.0, **wanted}),
    )


def tiny_scenes_recipe(**data: Any) -> DetectionRecipe:
    """A recipe of a few scenes."""
    counts = {"train": 6, "validation": 3, "test": 4, "drawn": 1, **data}
    return DetectionRecipe(
        manifest=ModelManifest(name="scenes", task="object-detection", required=False),
        data=ScenesData.model_validate(counts),
        input=ImageInput(width=128, height=128, channels=3, resize="letterbox", pad_value=114),
        train_size=96,
    )
