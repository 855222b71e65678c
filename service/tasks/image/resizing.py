"""Scaling of images and pixel arrays with the filter that the version names.

Pixels from the fast JPEG decoder are scaled by a fast library where it has a wheel for the platform. It uses
the same bilinear kernel as Pillow; results differ by rounding, by one level at most (a test checks that).

Array shapes: `H` height, `W` width, `C` channels (1 or 3).
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

CropBox = tuple[float, float, float, float]  # left, top, right and bottom, in pixels, which may be fractions
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def uses_antialiasing(spec: ImageInput) -> bool:
    """Return whether shrinking averages over all source pixels."""
    return spec.antialias and spec.filter != "nearest"


def scale_image(image: Image.Image, size: tuple[int, int], box: CropBox, spec: ImageInput) -> Image.Image:
    """Return a part of an image, scaled.

    Args:
        image: Mode `L` or `RGB`.
        size: Width and height of the result.
        box: The part.
        spec: Filter and antialiasing.

    Returns:
        The scaled part; the image itself if nothing changes.
    """
    if image.size == size and box == (0.0, 0.0, *size):
        return image
    if spec.antialias:
        return image.resize(size, _FILTERS[spec.filter], box=box)
    # An affine transform samples only at the centres of output pixels, as deep learning frameworks do.
    left, top, right, bottom = box
    factors = ((right - left) / size[0], 0, left, 0, (bottom - top) / size[1], top)
    return image.transform(size, Image.Transform.AFFINE, factors, _FILTERS[spec.filter])


def scale_pixels(
    pixels: NDArray[np.uint8], size: tuple[int, int], box: CropBox, spec: ImageInput
) -> NDArray[np.uint8]:
    """Return a part of an image that is an array, scaled; see `scale_image`.

    Args:
        pixels: u8 [H, W, C], contiguous.
        size: Width and height of the result.
        box: The part.
        spec: Filter and antialiasing.

    Returns:
        u8 [height, width, C], contiguous.
    """
    height, width, channels = pixels.shape
    if (width, height) == size and box == (0.0, 0.0, *size):
        return pixels
    if fast is None or not spec.antialias or spec.filter != "bilinear":
        image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
        return np.array(scale_image(image, size, box, spec)).reshape(size[1], size[0], channels)
    kind = fast.PixelType.U8 if channels == 1 else fast.PixelType.U8x3
    left, top, right, bottom = box
    options = fast.ResizeOptions(
        resize_alg=fast.ResizeAlg.convolution(fast.FilterType.bilinear),
        crop_box=fast.CropBox(left, top, right - left, bottom - top),
    )
    scaled = fast.ImageData(*size, kind)
    fast.Resizer().resize(fast.ImageData(width, height, kind, pixels.tobytes()), scaled, options)
    content = bytearray(scaled.get_buffer())  # a copy, so that the array is writable
    return np.frombuffer(content, np.uint8).reshape(size[1], size[0], channels)
