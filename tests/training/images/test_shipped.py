"""The shipped digits model, asked as a client asks: from a picture's bytes to the answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import matplotlib
import pytest
from PIL import Image, ImageDraw, ImageFont

from service.engine.runtime.session import Device, Session
from service.repository.golden import check_arrays, check_cases, check_files
from service.repository.manifest import VERSION_FILE, GoldenCases, VersionFacts, read
from service.tasks import TASKS, Limits, answer_one
from training.core.job import newest_version

MODEL = Path(__file__).parents[3] / "models" / "digits"

Answer = Callable[[Image.Image], str]

# Lines of a pen on a square of 100 by 100, drawn for this test: x to the right, y downwards.
PEN_LINES: dict[str, list[list[tuple[int, int]]]] = {
    "1": [[(38, 30), (52, 16), (52, 84)]],
    "2": [[(32, 32), (38, 20), (50, 15), (62, 20), (66, 32), (60, 46), (32, 84), (69, 84)]],
    "3": [[(33, 18), (66, 18), (47, 44), (60, 48), (67, 62), (60, 79), (46, 84), (32, 78)]],
    "4": [[(56, 84), (56, 16), (30, 62), (70, 62)]],
    "5": [[(66, 16), (37, 16), (35, 46), (50, 42), (65, 52), (66, 70), (54, 83), (33, 80)]],
    "7": [[(31, 17), (68, 17), (45, 84)]],
}


def draw(digit: str, *, side: int, pen: int, dark_on_light: bool) -> Image.Image:
    """Draw a digit in straight pen lines, or in ellipses where it is round."""
    paper, ink = (235, 40) if dark_on_light else (20, 220)
    picture = Image.new("L", (100, 100), paper)
    tool = ImageDraw.Draw(picture)
    for line in PEN_LINES.get(digit, []):
        tool.line(line, fill=ink, width=pen, joint="curve")
    if digit == "0":
        tool.ellipse((33, 15, 67, 85), outline=ink, width=pen)
    if digit == "6":
        tool.arc((32, 12, 92, 112), 175, 265, fill=ink, width=pen)
        tool.ellipse((32, 46, 68, 85), outline=ink, width=pen)
    if digit == "8":
        tool.ellipse((36, 15, 64, 48), outline=ink, width=pen)
        tool.ellipse((33, 46, 67, 85), outline=ink, width=pen)
    if digit == "9":
        tool.ellipse((33, 15, 66, 51), outline=ink, width=pen)
        tool.line([(65, 33), (60, 85)], fill=ink, width=pen)
    return picture.resize((side, side), Image.Resampling.LANCZOS)


@pytest.fixture(scope="module")
def folder() -> Path:
    newest = newest_version(MODEL)
    assert newest is not None
    return newest


@pytest.fixture(scope="module")
def answer(folder: Path) -> Answer:
    facts = read(folder / VERSION_FILE, VersionFacts)
    task = TASKS["image-classification"](folder, facts)
    session = Session(folder / facts.variants[0].file, Device("cpu"))

    def best_label(picture: Image.Image) -> str:
        file = BytesIO()
        picture.save(file, format="PNG")
        result = answer_one(task, session.run, file.getvalue(), Limits(), task.parameters())
        return str(json.loads(json.dumps(result))["predictions"][0]["label"])

    return best_label


def test_the_shipped_version_passes_its_golden_check(folder: Path) -> None:
    facts = read(folder / VERSION_FILE, VersionFacts)
    task = TASKS["image-classification"](folder, facts)
    run = Session(folder / facts.variants[0].file, Device("cpu")).run
    check_files(folder, facts)
    check_arrays(folder, facts.variants[0], task, run)
    check_cases(folder, task, run, Limits())


def test_the_shipped_figures_are_at_least_what_was_asked_for(folder: Path) -> None:
    metrics = read(folder / VERSION_FILE, VersionFacts).metrics
    assert float(metrics["accuracy"]) >= 0.99
    assert float(metrics["redrawn_accuracy"]) >= 0.97
    assert metrics["held_out_items"] == 360


def test_golden_files_are_of_every_kind(folder: Path) -> None:
    cases = read(folder / "golden" / "golden.yaml", GoldenCases).cases
    files = [(folder / "golden" / case.file).read_bytes() for case in cases]
    pictures = [Image.open(BytesIO(file)) for file in files]
    assert len(files) >= 6
    assert {picture.format for picture in pictures} == {"PNG", "JPEG"}
    assert len({picture.size for picture in pictures}) >= 6
    corners = [picture.convert("L").getpixel((0, 0)) for picture in pictures]
    assert min(corners) < 100 < max(corners)  # type: ignore[type-var, operator]


def test_the_card_names_the_figures_of_the_version(folder: Path) -> None:
    metrics = read(folder / VERSION_FILE, VersionFacts).metrics
    card = (MODEL / "README.md").read_text(encoding="utf-8")
    for name in ("accuracy", "redrawn_accuracy"):
        assert f"{float(metrics[name]):.2%}" in card


@pytest.mark.parametrize("dark_on_light", [True, False], ids=["dark on light", "light on dark"])
@pytest.mark.parametrize(("side", "pen"), [(28, 9), (64, 6), (300, 4), (300, 12)])
def test_digits_drawn_with_a_pen_are_right(answer: Answer, side: int, pen: int, dark_on_light: bool) -> None:
    answers = {
        digit: answer(draw(digit, side=side, pen=pen, dark_on_light=dark_on_light)) for digit in "0123456789"
    }
    assert answers == {digit: digit for digit in "0123456789"}


def test_printed_digits_are_nearly_all_right(answer: Answer) -> None:
    fonts = sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("DejaVuS*[!y].ttf"))
    wrong = []
    for font in fonts:
        for digit in "0123456789":
            picture = Image.new("L", (96, 96), 255)
            printed = ImageFont.truetype(str(font), 80)
            ImageDraw.Draw(picture).text((48, 48), digit, font=printed, anchor="mm", fill=0)
            if (got := answer(picture)) != digit:
                wrong.append(f"{font.stem}: {digit} taken for {got}")
    assert len(fonts) >= 8
    assert len(wrong) <= 0.02 * 10 * len(fonts), wrong


def test_a_picture_of_nothing_is_answered_without_failing(answer: Answer) -> None:
    assert answer(Image.new("L", (40, 40), 255)) in set("0123456789")
