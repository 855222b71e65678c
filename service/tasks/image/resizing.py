"""Scaling of pictures and pixels to the size of the graph, as the version's filter says.

Pixels out of the fast JPEG decoder go through a fast resizer where there is one for the platform; it uses
Pillow's own bilinear kernel and differs from Pillow by rounding, one level at most (a test holds it to that).

Letters in shapes: `H` height, `W` width, `C` channels (1 or 3).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.repository.manifest import ImageInput

try:
    import cykooz_resizer as fast
except ImportError:  # no wheel for this platform
    fast = None

Box = tuple[float, float, float, float]
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def averages(spec: ImageInput) -> bool:
    """Tell whether shrinking averages over all pixels of the source."""
    return spec.antialias and spec.filter != "nearest"


def scale_picture(picture: Image.Image, size: tuple[int, int], box: Box, spec: ImageInput) -> Image.Image:
    """Scale a part of a picture.

    Args:
        picture: Mode `L` or `RGB`.
        size: Width and height of the result.
        box: Left, top, right and bottom of the part, in pixels, which may be fractions.
        spec: Says which filter, and whether it averages.

    Returns:
        The part; the picture itself where nothing changes.
    """
    if picture.size == size and box == (0.0, 0.0, *size):
        return picture
    if spec.antialias:
        return picture.resize(size, _FILTERS[spec.filter], box=box)
    # An affine transform samples at output pixels' centres only, as deep learning frameworks do by default.
    left, top, right, bottom = box
    factors = ((right - left) / size[0], 0, left, 0, (bottom - top) / size[1], top)
    return picture.transform(size, Image.Transform.AFFINE, factors, _FILTERS[spec.filter])


def scale_pixels(
    pixels: NDArray[np.uint8], size: tuple[int, int], box: Box, spec: ImageInput
) -> NDArray[np.uint8]:
    """Scale a part of a picture that is an array; see `scale_picture`.

    Args:
        pixels: u8 [H, W, C], contiguous.
        size: Width and height of the result.
        box: Left, top, right and bottom of the part, in pixels, which may be fractions.
        spec: Says which filter, and whether it averages.

    Returns:
        u8 [height, width, C], contiguous.
    """
    height, width, channels = pixels.shape
    if (width, height) == size and box == (0.0, 0.0, *size):
        return pixels
    if fast is None or not spec.antialias or spec.filter != "bilinear":
        picture = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
        return np.array(scale_picture(picture, size, box, spec)).reshape(size[1], size[0], channels)
    kind = fast.PixelType.U8 if channels == 1 else fast.PixelType.U8x3
    left, top, right, bottom = box
    options = fast.ResizeOptions(
        resize_alg=fast.ResizeAlg.convolution(fast.FilterType.bilinear),
        crop_box=fast.CropBox(left, top, right - left, bottom - top),
    )
    scaled = fast.ImageData(*size, kind)
    fast.Resizer().resize(fast.ImageData(width, height, kind, pixels.tobytes()), scaled, options)
    content = bytearray(scaled.get_buffer())  # so that the array can be written to
    return np.frombuffer(content, np.uint8).reshape(size[1], size[0], channels)
