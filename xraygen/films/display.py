"""How stored values become light: Modality LUT, VOI, one inversion, padding (DICOM PS3.3 C.11.1, C.11.2, C.11.6).

One equation, one function. Light is float, [0, 1]: 0 is black (air), 1 is white (bone).
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from xraygen.errors import ShapeError

Floats = NDArray[np.float64]
StoredValues = NDArray[np.integer[Any]] | NDArray[np.floating[Any]]
VoiKind = Literal["lut", "linear", "linear_exact", "sigmoid", "percentiles", "full_range"]

ROBUST_PERCENTILES = (0.5, 99.5)
"""What a film without a window is stretched between: markers and dead pixels lie outside."""

CLIP_TOLERANCE = 0.5 / 255
"""Largest error of light where an area mean goes before the display: half an 8-bit level."""

_LEAST_LEVELS = 255
"""Stored levels from black to white from which rounding these ends to whole levels costs at most CLIP_TOLERANCE."""

TABLE_BITS = 16
"""Stored values of up to so many bits are displayed by one look-up table."""


@dataclass(frozen=True)
class Rescale:
    """Rescale Slope and Intercept."""

    slope: float = 1.0
    intercept: float = 0.0

    def __call__(self, stored: Floats) -> Floats:
        """Stored values to modality values.

        Source:
            DICOM PS3.3 C.11.1.1.2: output = m * SV + b.
        """
        if (self.slope, self.intercept) == (1.0, 0.0):
            return stored
        return stored * self.slope + self.intercept

    def inverse(self, x: float) -> float:
        """The stored value, whole or not, whose modality value is `x`."""
        return (x - self.intercept) / self.slope


@dataclass(frozen=True, eq=False)
class LookUpTable:
    """A Modality or VOI LUT: `entries[0]` is the output for `first` and all below, the last one for all above."""

    first: int
    entries: Floats  # [n], in [0, 2^bits - 1]
    bits: int

    def __call__(self, x: Floats) -> Floats:
        """Look values up; what lies outside the table gets its first or last entry.

        Source:
            DICOM PS3.3 C.11.1.1.1 (modality) and C.11.2.1.1 (VOI).
        """
        last = len(self.entries) - 1
        index = np.clip(np.rint(x) - self.first, 0, last).astype(np.int64)
        output: Floats = self.entries[index]
        return output


@dataclass(frozen=True)
class Intensity:
    """A detector's values, proportional to X-ray intensity: the modality of films For Processing.

    Args:
        rising: Pixel Intensity Relationship Sign 1 (low values mean little intensity); else -1.
        levels: Smallest and largest value of Bits Stored; the one that means no intensity is the zero.
    """

    rising: bool
    levels: tuple[int, int]

    def __call__(self, stored: Floats) -> Floats:
        """Stored values to attenuation: -ln(I / I_max), with I at least one level, since none has no logarithm.

        Source:
            DICOM PS3.3 C.8.11.3.1.2 (LIN and its sign); the law of Beer and Lambert.
        """
        low, high = self.levels
        intensity = stored - low if self.rising else high - stored
        attenuation: Floats = np.log(high - low) - np.log(np.maximum(intensity, 1.0))
        return attenuation


Modality = Rescale | LookUpTable | Intensity


@dataclass(frozen=True)
class Window:
    """Window Center and Width, in modality values, with the function that applies them."""

    center: float
    width: float
    function: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"] = "LINEAR"

    @property
    def is_linear(self) -> bool:
        """Whether light is a straight line inside the window (LINEAR of width 1 is a step)."""
        return self.function == "LINEAR_EXACT" or (self.function == "LINEAR" and self.width > 1)

    @property
    def ends(self) -> tuple[float, float]:
        """Modality values where a linear window begins (light 0) and ends (light 1).

        Source:
            DICOM PS3.3 C.11.2.1.2.1 (LINEAR) and C.11.2.1.3.2 (LINEAR_EXACT).
        """
        if self.function == "LINEAR":
            return self.center - 0.5 - (self.width - 1) / 2, self.center - 0.5 + (self.width - 1) / 2
        return self.center - self.width / 2, self.center + self.width / 2


def window_linear(x: Floats, center: float, width: float) -> Floats:
    """The straight line through the window, not yet clipped; a step where the width is 1.

    Source:
        DICOM PS3.3 C.11.2.1.2.1, with y_min 0 and y_max 1.
    """
    if width == 1:
        return (x > center - 0.5).astype(np.float64)
    light = x - (center - 0.5)
    light /= width - 1
    light += 0.5
    return light


def window_linear_exact(x: Floats, center: float, width: float) -> Floats:
    """The straight line through the window without LINEAR's half pixels, not yet clipped.

    Source:
        DICOM PS3.3 C.11.2.1.3.2, with y_min 0 and y_max 1.
    """
    return (x - center) / width + 0.5


def window_sigmoid(x: Floats, center: float, width: float) -> Floats:
    """1 / (1 + exp(-4 (x - c) / w)), written as a hyperbolic tangent, which cannot overflow.

    Source:
        DICOM PS3.3 C.11.2.1.3.1, with an output range of 1.
    """
    return 0.5 * (1 + np.tanh(2 * (x - center) / width))


def window_between(low: float, high: float) -> Window:
    """The window that shows `low` black and `high` white; a flat film gets a width of 1."""
    width = high - low
    return Window((low + high) / 2, width if width > 0 else 1.0, "LINEAR_EXACT")


@dataclass(frozen=True, eq=False)
class Display:
    """How the stored values of one film become light.

    Args:
        modality: Modality LUT, or Rescale Slope and Intercept, or the logarithm of a film For Processing.
        voi: VOI LUT or window, in modality values.
        voi_kind: Where `voi` comes from.
        inverted: Whether the light is turned over, once, after the VOI.
        padding: Smallest and largest stored value that means "no pixel here"; those become black.
        levels: Smallest and largest stored value that the file's type can hold; None for floats.
    """

    modality: Modality
    voi: Window | LookUpTable
    voi_kind: VoiKind
    inverted: bool = False
    padding: tuple[int, int] | None = None
    levels: tuple[int, int] | None = None

    @property
    def commutes(self) -> bool:
        """Whether an area mean of `bounded` values may be displayed instead of taking the mean of the light.

        True where light is a straight line of the stored values between two ends of the window (no look-up table, no
        SIGMOID), and the stored values are fine enough to say where these ends and padding's black lie. The error is
        then at most CLIP_TOLERANCE, since no pixel's light is off by more.
        """
        return self._black_and_white is not None

    @cached_property
    def _black_and_white(self) -> tuple[float, float] | None:
        """Stored values, whole ones of a film of integers, whose light is black and white; None where none are."""
        if (
            not isinstance(self.modality, Rescale)
            or isinstance(self.voi, LookUpTable)
            or not self.voi.is_linear
        ):
            return None
        black, white = (self.modality.inverse(end) for end in self.voi.ends)
        if self.inverted:
            black, white = white, black
        if self.levels is None:
            return black, white
        coarse = abs(white - black) < _LEAST_LEVELS
        no_black = self.padding is not None and not self.levels[0] <= round(black) <= self.levels[1]
        return None if coarse or no_black else (round(black), round(white))

    def bounded(self, stored: StoredValues, out: NDArray[Any] | None = None) -> StoredValues:
        """Stored values after the window has cut off what lies outside it, and with padding as black.

        For films that commute, light is a straight line of the result: area means of it are means of the light.

        Args:
            stored: Stored values `[H, W]`.
            out: Memory for the result, of the same type and shape; a new array by default.

        Returns:
            The same type and shape; the same array where the window cuts off nothing.
        """
        if self.padding is None and self._cuts is None:
            return stored
        assert self._black_and_white is not None
        number = stored.dtype.type  # plain integers take NumPy's slow way
        first, last = self._cuts or self.levels or (-np.inf, np.inf)
        inside: NDArray[Any] = np.clip(stored, number(first), number(last), out=out)
        if self.padding is not None:
            inside[padding_mask(stored, self.padding)] = self._black_and_white[0]
        return inside

    @cached_property
    def _cuts(self) -> tuple[float, float] | None:
        """Smallest and largest stored value inside the window; None where it holds all that the film's type can."""
        assert self._black_and_white is not None
        low, high = min(self._black_and_white), max(self._black_and_white)
        held = self.levels or (-np.inf, np.inf)
        if low <= held[0] and held[1] <= high:
            return None
        return min(max(low, held[0]), held[1]), min(max(high, held[0]), held[1])

    def without_padding(self) -> Self:
        """The display of `bounded` values, in which padding is black already."""
        return replace(self, padding=None)

    def apply(self, stored: StoredValues) -> NDArray[np.float32]:
        """Stored values to light.

        Args:
            stored: Stored values `[H, W]`; integers, or floats such as an area mean of them.

        Returns:
            float32 `[H, W]`, in [0, 1]: air dark, bone bright, padding black.
        """
        if stored.dtype.kind in "iu" and self._has_table:
            return self._look_up(stored)
        return self._light(stored.astype(np.float64)).astype(np.float32)

    @property
    def _has_table(self) -> bool:
        """Whether the stored values are few enough to compute the light of each once."""
        return self.levels is not None and self.levels[1] - self.levels[0] < 2**TABLE_BITS

    @cached_property
    def _table(self) -> NDArray[np.float32]:
        """The light of every stored value there can be, ordered so that a value's low bits are its index."""
        assert self.levels is not None
        low, high = self.levels
        light = self._light(np.arange(low, high + 1, dtype=np.float64)).astype(np.float32)
        return np.roll(light, low)

    def _look_up(self, stored: StoredValues) -> NDArray[np.float32]:
        """Index the table; a negative index counts from its end, where `_table` put the negative values."""
        try:
            light: NDArray[np.float32] = self._table.take(np.asarray(stored))
        except IndexError:
            raise ShapeError(
                f"stored values must lie in {self.levels}, the range of the film's bits."
            ) from None
        return light

    def _light(self, stored: Floats) -> Floats:
        """The chain in the standard's order, in float64."""
        light = self._voi(self.modality(stored))
        np.clip(light, 0.0, 1.0, out=light)
        if self.inverted:
            light = 1 - light
        if self.padding is not None:
            light[(stored >= self.padding[0]) & (stored <= self.padding[1])] = 0
        return light

    def _voi(self, x: Floats) -> Floats:
        """Modality values to light, not yet clipped."""
        if isinstance(self.voi, LookUpTable):
            light: Floats = self.voi(x) / (2**self.voi.bits - 1)
            return light
        function = {
            "LINEAR": window_linear,
            "LINEAR_EXACT": window_linear_exact,
            "SIGMOID": window_sigmoid,
        }[self.voi.function]
        return function(x, self.voi.center, self.voi.width)


def is_inverted(photometric: str, presentation_shape: str) -> bool:
    """Whether the light is turned over: exactly once, however many elements ask for it.

    Args:
        photometric: Photometric Interpretation.
        presentation_shape: Presentation LUT Shape; it decides where it is present.

    Source:
        DICOM PS3.3 C.11.6.1.2 and C.7.6.3.1.2.
    """
    if presentation_shape:
        return presentation_shape == "INVERSE"
    return photometric == "MONOCHROME1"


def padding_mask(stored: StoredValues, padding: tuple[int, int]) -> NDArray[np.bool_]:
    """Where pixels are padding: Pixel Padding Value to Pixel Padding Range Limit, both included.

    Source:
        DICOM PS3.3 C.7.5.1.1.2.
    """
    mask: NDArray[np.bool_] = (stored >= padding[0]) & (stored <= padding[1])
    return mask


def robust_window(stored: StoredValues, modality: Modality) -> Window:
    """The window between the robust percentiles of unpadded pixels.

    Args:
        stored: Unpadded stored values, any shape, at least one.
        modality: What turns them into modality values.

    Returns:
        A LINEAR_EXACT window from the 0.5th to the 99.5th percentile, each a value that occurs in the film; where
        they are equal, from the smallest to the largest value.
    """
    levels, counts = _histogram(stored)
    x = modality(levels.astype(np.float64))
    order = np.argsort(x, kind="stable")
    share = np.cumsum(counts[order]) / stored.size
    at = np.searchsorted(share, np.array(ROBUST_PERCENTILES) / 100)
    low, high = x[order][np.minimum(at, len(x) - 1)]
    if low == high:
        low, high = x.min(), x.max()
    return window_between(float(low), float(high))


def _histogram(stored: StoredValues) -> tuple[NDArray[Any], NDArray[np.integer[Any]]]:
    """The values that occur, in ascending order, and how often."""
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2:
        values, counts = np.unique(stored, return_counts=True)
        return values, counts
    low = int(stored.min())
    counts = np.bincount(stored.ravel() if low == 0 else stored.ravel().astype(np.int32) - low)
    present = np.flatnonzero(counts)
    return present + low, counts[present]
