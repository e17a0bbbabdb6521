"""Read one natural image in colour: what a benchmark trains on, and what a RUN of three channels writes."""

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from xraygen.errors import FilmError
from xraygen.films.claims import check_pixels
from xraygen.films.disk import unreadable

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
"""Of the files that are taken for pictures."""
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_MODES = frozenset({"RGB", "RGBA", "P", "L", "LA", "1", "CMYK", "YCbCr"})
"""What 8 bits of red, green and blue can say; 16-bit modes would lose half of theirs."""


def read_colour(source: Path | bytes) -> NDArray[np.uint8]:
    """Read a picture of 8 bits as red, green and blue; a grey one has three equal channels.

    Args:
        source: A PNG, JPEG, WebP, BMP or TIFF file, or its bytes.

    Returns:
        uint8 `[H, W, 3]`, upright as its EXIF says; transparency is dropped.

    Raises:
        FilmError: unreadable, not_an_image, truncated, too_large, multi_frame or unsupported_depth.
        OSError: If the disk or the machine fails, which is not the picture's fault.
    """
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise unreadable(error) from error
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(content), formats=_FORMATS) as picture,
        ):
            return _pixels(picture)
    except (FilmError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise FilmError("not_an_image", "The file is not a PNG, JPEG, WebP, BMP or TIFF picture.") from error
    except Image.DecompressionBombError as error:
        raise FilmError("too_large", "The picture claims more pixels than any photograph has.") from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise FilmError("truncated", "The picture is cut off or damaged; copy it again.") from error


def resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture at a smaller size of the same proportions: each pixel the mean of the area that it covers.

    Args:
        image: uint8 `[H, W, 3]`.
        size: (height, width) wanted.

    Returns:
        uint8 `[height, width, 3]`; `image` itself where it has the size.

    Raises:
        FilmError: other_proportions or too_small: nothing is cropped, padded or enlarged.
    """
    height, width = size
    if image.shape[:2] == size:
        return image
    if image.shape[0] * width != image.shape[1] * height:
        raise FilmError(
            "other_proportions",
            f"The picture is {image.shape[0]}x{image.shape[1]}, and {height}x{width} has other proportions.",
        )
    if image.shape[0] < height:
        raise FilmError(
            "too_small",
            f"The picture is {image.shape[0]}x{image.shape[1]}, and {height}x{width} is asked for.",
        )
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


def _pixels(picture: Image.Image) -> NDArray[np.uint8]:
    """Red, green and blue of an opened picture."""
    if getattr(picture, "n_frames", 1) > 1:
        raise FilmError("multi_frame", "The picture has several frames; expected one.")
    if picture.mode not in _MODES:
        raise FilmError(
            "unsupported_depth", f"The picture is of mode {picture.mode}; expected 8 bits per channel."
        )
    check_pixels(picture.height, picture.width)
    return np.array(ImageOps.exif_transpose(picture).convert("RGB"))
