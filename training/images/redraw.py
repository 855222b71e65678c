"""Redraw a test digit as people would send it: an image file of pen on paper.

It is only used for evaluation, makes real PNG and JPEG files, and is independent of the training
augmentation. The 8 × 8 grey levels become a smooth outline at high resolution. The outline is thinned or
thickened, tilted, placed on plain, grey or ruled paper, and saved. All random numbers come from one
generator: the same digit and generator state give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SMALLEST, LARGEST = 24, 1024  # pixels a side
_MARGIN = 2  # source pixels around the digit, so that a thickened stroke is not cut
_ZOOM = 20  # high-resolution pixels a source pixel
_INK = [255 if level >= 112 else 0 for level in range(256)]

Paper = Literal["plain", "grey", "ruled"]


@dataclass(frozen=True, slots=True)
class DigitLook:
    """The look of one redrawn digit.

    Attributes:
        width, height: Pixels.
        digit_height: Height of the digit as a share of the image's height, 0.35–0.9.
        shift_x, shift_y: Shift of the digit's centre as shares of width and height, −0.2–0.2; less if the
            digit would leave the image.
        tilt_degrees: −15–15.
        stroke: Change of the stroke on either side, in source pixels: −0.25 thinner to 0.3 thicker.
        contrast: Difference of ink and paper, 0.25–1 of the range of grey.
        blur: Standard deviation of the blur as a share of the image's height.
        quality: JPEG quality, 30–95; None is PNG.
    """

    width: int
    height: int
    digit_height: float
    shift_x: float
    shift_y: float
    tilt_degrees: float
    stroke: float
    contrast: float
    dark_on_light: bool
    paper: Paper
    blur: float
    quality: int | None

    def traits(self) -> tuple[str, ...]:
        """Return the names of its traits, for metrics by look."""
        side, tilt = min(self.width, self.height), abs(self.tilt_degrees)
        size = "24 to 63" if side < 64 else "64 to 255" if side < 256 else "256 to 1024"
        return (
            "ink: dark on light" if self.dark_on_light else "ink: light on dark",
            f"paper: {self.paper}",
            f"size: {size} px",
            "digit height: 35 to 60%" if self.digit_height < 0.6 else "digit height: 60 to 90%",
            "contrast: 25 to 50%" if self.contrast < 0.5 else "contrast: 50 to 100%",
            "stroke: thinned" if self.stroke < 0 else "stroke: thickened",
            "tilt: 0 to 8°" if tilt < 8 else "tilt: 8 to 15°",
            "file: PNG" if self.quality is None else "file: JPEG",
            "shape: square" if self.width == self.height else "shape: oblong",
        )


@dataclass(frozen=True, slots=True)
class Redrawing:
    """A raw file and its look."""

    file: bytes
    look: DigitLook


def redraw(digit: NDArray[np.uint8], random: np.random.Generator) -> Redrawing:
    """Redraw a digit and save it.

    Args:
        digit: u8 [8, 8], light ink on dark.
        random: Source of all random numbers.
    """
    look = _choose_look(random)
    ink = _place(_tilted_outline(digit, look), look)
    picture = _on_paper(ink, look, random)
    file = BytesIO()
    if look.quality is None:
        picture.save(file, format="PNG", compress_level=1)
    else:
        picture.save(file, format="JPEG", quality=look.quality)
    return Redrawing(file.getvalue(), look)


def _choose_look(random: np.random.Generator) -> DigitLook:
    height = round(np.exp(random.uniform(np.log(SMALLEST), np.log(LARGEST))))
    aspect = np.exp(random.uniform(-0.29, 0.29)) if random.random() < 0.3 else 1.0  # up to 4:3 and 3:4
    return DigitLook(
        width=int(np.clip(round(height * aspect), SMALLEST, LARGEST)),
        height=height,
        digit_height=random.uniform(0.35, 0.9),
        shift_x=random.uniform(-0.2, 0.2),
        shift_y=random.uniform(-0.2, 0.2),
        tilt_degrees=random.uniform(-15, 15),
        stroke=random.uniform(-0.25, 0.3),
        contrast=random.uniform(0.25, 1.0),
        dark_on_light=bool(random.random() < 0.5),
        paper=("plain", "grey", "ruled")[random.integers(3)],
        blur=random.uniform(0, 0.012) if random.random() < 0.5 else 0.0,
        quality=int(random.integers(30, 96)) if random.random() < 0.6 else None,
    )


def _tilted_outline(digit: NDArray[np.uint8], look: DigitLook) -> Image.Image:
    """Return the digit's filled outline, cropped to its ink: mode L, 255 is ink."""
    padded = Image.fromarray(np.pad(digit, _MARGIN))
    side = padded.width * _ZOOM
    smooth = padded.resize((side, side), Image.Resampling.BICUBIC)
    # 8 × 8 grey levels nearly close the eye of a 6, which a pen leaves open: raise the local contrast.
    sharp = smooth.filter(ImageFilter.UnsharpMask(radius=1.2 * _ZOOM, percent=180, threshold=0))
    outline = sharp.filter(ImageFilter.GaussianBlur(0.25 * _ZOOM)).point(_INK)
    steps = 2 * round(abs(look.stroke) * _ZOOM) + 1
    if steps > 1:
        outline = outline.filter(
            ImageFilter.MaxFilter(steps) if look.stroke > 0 else ImageFilter.MinFilter(steps)
        )
    tilted = outline.rotate(look.tilt_degrees, Image.Resampling.BICUBIC, expand=True)
    return tilted.crop(tilted.point(_INK).getbbox())


def _place(outline: Image.Image, look: DigitLook) -> Image.Image:
    """Scale the outline and place it in an empty image: mode L, 255 is ink."""
    height = look.digit_height * look.height
    scale = min(height / outline.height, 0.95 * look.width / outline.width)
    size = (max(1, round(outline.width * scale)), max(1, round(outline.height * scale)))
    small = outline.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    room_x, room_y = (look.width - size[0]) / 2, (look.height - size[1]) / 2
    left = round(room_x + np.clip(look.shift_x * look.width, -room_x, room_x))
    top = round(room_y + np.clip(look.shift_y * look.height, -room_y, room_y))
    ink = Image.new("L", (look.width, look.height), 0)
    ink.paste(small, (left, top))
    return ink.filter(ImageFilter.GaussianBlur(look.blur * look.height)) if look.blur else ink


def _on_paper(ink: Image.Image, look: DigitLook, random: np.random.Generator) -> Image.Image:
    """Put the ink on paper and choose the grey levels: mode L."""
    span = 255 * look.contrast
    low = random.uniform(0, 255 - span)  # the darker of ink and paper
    amount = np.asarray(ink, dtype=np.float32) / 255
    if look.paper == "ruled":
        amount = np.maximum(amount, _rules(look, random))
    elif look.paper == "grey":  # uneven light and grain
        slope = random.uniform(-0.2, 0.2, size=2)
        ramp_y, ramp_x = np.linspace(-0.5, 0.5, look.height), np.linspace(-0.5, 0.5, look.width)
        amount = amount + (slope[0] * ramp_y[:, None] + slope[1] * ramp_x).astype(np.float32)
        grain = random.standard_normal(amount.shape, dtype=np.float32)
        amount = amount + np.float32(random.uniform(0, 0.08)) * grain
    light = 1 - amount if look.dark_on_light else amount
    return Image.fromarray((low + span * light).round().clip(0, 255).astype(np.uint8))


def _rules(look: DigitLook, random: np.random.Generator) -> NDArray[np.float32]:
    """Draw the paper's printed lines: f32 [height, width], 0–0.5 of the ink's strength."""
    lines = Image.new("L", (look.width, look.height), 0)
    pen = ImageDraw.Draw(lines)
    strength = round(255 * random.uniform(0.15, 0.5))
    spacing = max(5.0, look.height * random.uniform(0.12, 0.4))
    thickness = max(1, round(look.height * random.uniform(0.004, 0.012)))
    for y in np.arange(random.uniform(0, spacing), look.height, spacing):
        pen.line([(0, y), (look.width, y)], fill=strength, width=thickness)
    if random.random() < 0.3:  # squared paper
        for x in np.arange(random.uniform(0, spacing), look.width, spacing):
            pen.line([(x, 0), (x, look.height)], fill=strength, width=thickness)
    return np.asarray(lines, dtype=np.float32) / np.float32(255)
