"""From a file to a small stored image, as MONAI dictionary transforms.

LoadFilmd -> RefuseTextd, CropCollimationd (both by choice) -> FitFilmd -> DisplayFilmd -> PadFilmd -> QuantiseFilmd.
An area mean commutes with what is linear, and few pixels are displayed sooner than many: FitFilmd takes the mean of
stored values where it may, and of the light where it must.
"""

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import xxhash
from monai.transforms import Compose, MapTransform
from numpy.typing import NDArray

from xraygen.errors import FilmError, UsageError
from xraygen.films.content import PRINT, Look, TextRule, exposed_rectangle, has_text, look_at
from xraygen.films.dicom import FilmAttributes
from xraygen.films.display import Display
from xraygen.films.jpeg2000 import LEVELS, Coarse, Detail
from xraygen.films.objects import STRICT, ReadOptions
from xraygen.films.reader import read_film
from xraygen.films.resizing import crop_to_aspect, resize, size_inside
from xraygen.ranges import Stored, stored_to_unit, unit_to_stored

Fit = Literal["pad", "crop", "stretch"]

KEY = "film"
"""The key that `film_pipeline` works on; its display, attributes and hash lie beside it under KEY_*."""


@dataclass(frozen=True)
class PrepareSettings:
    """What every image of a DATASET is brought to.

    Args:
        size: Height and width in pixels.
        fit: How another aspect ratio is met: `pad` adds black borders, `crop` cuts centrally, `stretch` distorts.
        bits: Bits of a stored level, 1 to 16; up to 8 give uint8, more give uint16.
        read: What is read that is otherwise refused.
        crop_collimation: Whether the collimator's borders are cut off; see `exposed_rectangle`.
        refuse_text: Whether films are refused in which characters are found; see `has_text`.
        jpeg_2000: Whether JPEG 2000 films that stay large enough are decoded at half or a quarter of their size; not
            with `refuse_text`, which looks for thin strokes.
        text: What `refuse_text` takes for characters.
    """

    size: tuple[int, int]
    fit: Fit = "pad"
    bits: int = 16
    read: ReadOptions = STRICT
    crop_collimation: bool = False
    refuse_text: bool = False
    jpeg_2000: Detail = "full"
    text: TextRule = PRINT

    def __post_init__(self) -> None:
        if len(self.size) != 2 or any(not isinstance(side, int) or side < 1 for side in self.size):
            raise UsageError(f"size {self.size} must be a height and a width of at least 1 pixel.")
        if self.fit not in get_args(Fit):
            raise UsageError(f"fit {self.fit!r} is unknown; expected one of {', '.join(get_args(Fit))}.")
        if self.jpeg_2000 not in get_args(Detail):
            raise UsageError(
                f"jpeg_2000 {self.jpeg_2000!r} is unknown; expected one of {', '.join(get_args(Detail))}."
            )
        if self.text != PRINT and not self.refuse_text:
            raise UsageError(
                "the thresholds text_contrast and text_characters are those of --refuse-text; ask for it too, or leave "
                "them out."
            )
        if not 1 <= self.bits <= 16:
            raise UsageError(f"bits {self.bits} must lie between 1 and 16.")

    def to_json(self) -> dict[str, Any]:
        """The settings as dataset.json holds them."""
        return {**asdict(self), "size": list(self.size)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote; unknown or missing keys are errors."""
        try:
            read = ReadOptions.from_json(values.get("read", {}))  # older DATASETs have neither
            text = TextRule(**values.get("text", {}))
            return cls(**{**values, "size": tuple(values["size"]), "read": read, "text": text})
        except (TypeError, KeyError) as error:
            raise UsageError(
                f"prepare settings {dict(values)} must have size, fit and bits: {error}."
            ) from None


@dataclass(frozen=True, eq=False)
class PreparedFilm:
    """One film of a DATASET: stored levels [H, W], what is known about it, the hash of its full values and its look."""

    image: Stored
    attributes: FilmAttributes
    content_hash: str
    look: Look


def prepare_film(path: str | Path, settings: PrepareSettings) -> PreparedFilm:
    """Read one film and bring it to a DATASET's size and bits.

    Args:
        path: A DICOM, PNG, JPEG, TIFF or NIfTI file.
        settings: Size, fit and bits.

    Returns:
        The image, uint8 or uint16 `[H, W]`: display-correct, 0 black.

    Raises:
        FilmError: As `read_film`; `text` where `settings.refuse_text` and characters are found.
    """
    item: dict[Hashable, Any] = {KEY: path}
    for transform in film_pipeline(settings).transforms:  # as Compose does, which wraps what they raise
        item = transform(item)
    look = look_at(stored_to_unit(item[KEY], settings.bits))
    return PreparedFilm(item[KEY], item[f"{KEY}_attributes"], item[f"{KEY}_content_hash"], look)


@lru_cache(maxsize=8)
def film_pipeline(settings: PrepareSettings) -> Compose:
    """The chain from `{"film": path}` to `{"film": stored levels [H, W], "film_attributes": ..., ...}`."""
    levels = 0 if settings.refuse_text else LEVELS[settings.jpeg_2000]
    return Compose(
        [
            LoadFilmd(KEY, settings.read, Coarse(levels, settings.size) if levels else None),
            *([RefuseTextd(KEY, settings.text)] if settings.refuse_text else []),
            *([CropCollimationd(KEY)] if settings.crop_collimation else []),
            FitFilmd(KEY, settings.size, settings.fit),
            DisplayFilmd(KEY),
            PadFilmd(KEY, settings.size),
            QuantiseFilmd(KEY, settings.bits),
        ]
    )


class LoadFilmd(MapTransform):  # type: ignore[misc]  # MONAI is not typed here
    """Path -> full-size stored values; adds KEY_display, KEY_attributes and KEY_content_hash.

    Args:
        keys: Keys of paths.
        options: What is read that is otherwise refused.
        coarse: How coarsely JPEG 2000 may be decoded; None for all pixels.
    """

    def __init__(self, keys: Any, options: ReadOptions = STRICT, coarse: Coarse | None = None) -> None:
        super().__init__(keys)
        self.options, self.coarse = options, coarse

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load each key's file; raises FilmError as `read_film`."""
        item = dict(data)
        for key in self.key_iterator(item):
            film = read_film(item[key], self.options, self.coarse)
            item[key] = film.values
            item[f"{key}_display"] = film.display
            item[f"{key}_attributes"] = film.attributes
            item[f"{key}_content_hash"] = content_hash(film.values)
        return item


class RefuseTextd(MapTransform):  # type: ignore[misc]  # MONAI is not typed here
    """Refuse films with burned-in characters, as far as `has_text` finds them; it finds few in small films.

    Args:
        keys: Keys of films that LoadFilmd loaded.
        rule: What counts as characters.
    """

    def __init__(self, keys: Any, rule: TextRule) -> None:
        super().__init__(keys)
        self.rule = rule

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Look at each key's film, which LoadFilmd loaded."""
        item = dict(data)
        for key in self.key_iterator(item):
            if has_text(item[f"{key}_display"].apply(item[key]), self.rule):
                raise FilmError(
                    "text", "Characters seem to be burned into the film; look at it, or remove them."
                )
        return item


class CropCollimationd(MapTransform):  # type: ignore[misc]  # MONAI is not typed here
    """Cut off the borders that the collimator left, of films that LoadFilmd loaded."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop each key's stored values."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = item[key][exposed_rectangle(item[f"{key}_display"].apply(item[key]))]
        return item


class FitFilmd(MapTransform):  # type: ignore[misc]  # MONAI is not typed here
    """Resize by area means (linearly where a side grows) to a size; `pad` leaves the borders to PadFilmd.

    What must be done to every pixel of a film is done here, at full size: see `Display.bounded` for films whose display
    commutes with the mean; the others are displayed.

    Args:
        keys: Keys of films that LoadFilmd loaded.
        size: Height and width of the final image.
        fit: How another aspect ratio is met.
    """

    def __init__(self, keys: Any, size: tuple[int, int], fit: Fit) -> None:
        super().__init__(keys)
        self.size, self.fit = size, fit

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resize each key's array to float32: stored values with KEY_display, or light, and KEY_display None."""
        item = dict(data)
        for key in self.key_iterator(item):
            image, size, display = item[key], self.size, item[f"{key}_display"]
            if self.fit == "crop":
                image = crop_to_aspect(image, size)
            elif self.fit == "pad":
                size = size_inside(image.shape, size)
            through = _Bounded(display) if display.commutes else display.apply
            item[key] = resize(image, size, through, display.levels and display.levels[1])
            item[f"{key}_display"] = display.without_padding() if display.commutes else None
        return item


class _Bounded:
    """`Display.bounded` of one strip after another in the same memory, which the processor's cache still holds."""

    def __init__(self, display: Display) -> None:
        self.display = display
        self.memory: NDArray[Any] = np.empty(0)

    def __call__(self, strip: NDArray[Any]) -> NDArray[Any]:
        """The result holds until the next strip."""
        if self.memory.shape != strip.shape:
            self.memory = np.empty(strip.shape, strip.dtype)
        return self.display.bounded(strip, self.memory)


class DisplayFilmd(MapTransform):  # type: ignore[misc]  # MONAI is not typed here
    """Means of stored values -> light, float32 in [0, 1]; films that FitFilmd has displayed stay as they are."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Display each key's film."""
        item = dict(data)
        for key in self.key_iterator(item):
            display = item[f"{key}_display"]
            if display is not None:
                item[key] = display.apply(item[key])
        return item


class PadFilmd(MapTransform):  # type: ignore[misc]  # MONAI is not typed here
    """Add black borders, equal on both sides, up to a size.

    Args:
        keys: Keys of displayed `[H, W]` arrays, not larger than `size`.
        size: Height and width of the final image.
    """

    def __init__(self, keys: Any, size: tuple[int, int]) -> None:
        super().__init__(keys)
        self.size = size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Pad each key's array."""
        item = dict(data)
        for key in self.key_iterator(item):
            missing = [side - have for side, have in zip(self.size, item[key].shape, strict=True)]
            if any(missing):
                item[key] = np.pad(item[key], [(gap // 2, gap - gap // 2) for gap in missing])
        return item


class QuantiseFilmd(MapTransform):  # type: ignore[misc]  # MONAI is not typed here
    """Light in [0, 1] -> the nearest stored level, uint8 or uint16.

    Args:
        keys: Keys of displayed arrays.
        bits: Bits of a stored level.
    """

    def __init__(self, keys: Any, bits: int) -> None:
        super().__init__(keys)
        self.bits = bits

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Quantise each key's array."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = unit_to_stored(item[key], self.bits)
        return item


def content_hash(values: NDArray[Any]) -> str:
    """A hash of a film's shape and values, the same in whatever file and integer type they came.

    It tells films apart, and does not hide them: what leaves ingest is a keyed hash of it.

    Args:
        values: Stored values `[H, W]`.

    Returns:
        32 hexadecimal digits of XXH3. Integers are hashed as uint16 where they fit, else as int64; floats as float64;
        all little-endian.
    """
    kind = "<f8"
    if values.dtype.kind in "iu":
        kind = "<u2" if _fits_uint16(values) else "<i8"
    digest = xxhash.xxh3_128(f"{kind} {values.shape[0]}x{values.shape[1]} ".encode())
    digest.update(np.ascontiguousarray(values, dtype=kind).data)
    return digest.hexdigest()


def _fits_uint16(values: NDArray[Any]) -> bool:
    """Whether all integers lie in [0, 65535]."""
    if values.dtype in (np.uint8, np.uint16):
        return True
    return bool(values.min() >= 0 and values.max() < 2**16)
