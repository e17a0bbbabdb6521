"""Chord lengths of simple solids, in closed form: how many millimetres of one a vertical X-ray beam passes.

Every function takes a point's position on the film (x to the right, y down, mm) and returns mm, float32, 0 outside.
Source of the formulas: the line integral of a solid's indicator function along z.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.filters import gaussian

Map = NDArray[np.floating]
"""A value per pixel, [H, W] float32; lengths in mm."""


@dataclass(frozen=True)
class Plane:
    """Where the pixels lie in the patient: x and y in mm, [H, W], and the map from mm back to pixels.

    Args:
        x: Towards the patient's left (the image's right), 0 at the midline.
        y: Towards the feet, 0 in the middle of the chest.
        spacing_mm: Side of a pixel, in the patient.
        angle: Tilt of the patient on the film, radians.
        origin: Row and column of (0, 0) mm, fractional.
    """

    x: Map
    y: Map
    spacing_mm: float
    angle: float
    origin: tuple[float, float]

    @staticmethod
    def of(shape: tuple[int, int], spacing_mm: float, shift_mm: tuple[float, float], angle: float) -> "Plane":
        """The plane of a film whose centre lies `shift_mm` (x, y) from the patient's origin, tilted by `angle`."""
        H, W = shape
        right = ((np.arange(W) - (W - 1) / 2) * spacing_mm).astype(np.float32)[None, :]
        down = ((np.arange(H) - (H - 1) / 2) * spacing_mm).astype(np.float32)[:, None]
        cos, sin = (math.cos(angle)), (math.sin(angle))
        x = cos * right + sin * down + (shift_mm[0])  # [H, W]
        y = cos * down - sin * right + (shift_mm[1])  # [H, W]
        column = -(cos * shift_mm[0] - sin * shift_mm[1]) / spacing_mm + (W - 1) / 2
        row = -(sin * shift_mm[0] + cos * shift_mm[1]) / spacing_mm + (H - 1) / 2
        return Plane(x, y, spacing_mm, angle, (float(row), float(column)))

    def pixels(
        self, x: NDArray[np.floating], y: NDArray[np.floating]
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Fractional rows and columns of points in mm."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        columns = (cos * x - sin * y) / self.spacing_mm + self.origin[1]
        rows = (sin * x + cos * y) / self.spacing_mm + self.origin[0]
        return rows, columns

    def box(self, left: float, right: float, top: float, bottom: float) -> tuple[slice, slice]:
        """The rows and columns that hold a rectangle given in mm; empty where it lies off the film."""
        rows, columns = self.pixels(
            np.array([left, left, right, right]), np.array([top, bottom, top, bottom], dtype=np.float64)
        )
        H, W = self.x.shape
        low_row, high_row = np.clip([math.floor(rows.min()), math.ceil(rows.max()) + 1], 0, H)
        low_column, high_column = np.clip([math.floor(columns.min()), math.ceil(columns.max()) + 1], 0, W)
        return slice(int(low_row), int(high_row)), slice(int(low_column), int(high_column))

    def part(
        self, left: float, right: float, top: float, bottom: float
    ) -> tuple[tuple[slice, slice], Map, Map]:
        """The box of a rectangle, with its x and y: small solids are worked out only where they are."""
        box = self.box(left, right, top, bottom)
        return box, self.x[box], self.y[box]


def dome(u_squared: Map) -> Map:
    """sqrt(1 - u²) where |u| < 1, else 0: the profile of every round solid."""
    return np.sqrt(np.maximum(1 - u_squared, 0))


def rounded(depth: Map) -> Map:
    """Thickness of a plate of thickness 1 at `depth` (in units of its rim's radius) inside its round rim."""
    return dome((1 - np.clip(depth, 0, 1)) ** 2)


def ellipsoid(
    x: Map, y: Map, centre: tuple[float, float], radii: tuple[float, float, float], angle: float = 0.0
) -> Map:
    """Chord of an ellipsoid with radii (along its first axis, across it, along the beam).

    2·r_z·sqrt(1 - (u/r_u)² - (v/r_v)²), with (u, v) turned clockwise by `angle` radians as seen on the film.
    """
    cos, sin = (math.cos(angle) / radii[0]), (math.sin(angle) / radii[0])
    ratio = radii[0] / radii[1]
    dx, dy = x - (centre[0]), y - (centre[1])
    u = cos * dx + sin * dy
    v = (cos * dy - sin * dx) * ratio
    return (2 * radii[2]) * dome(u * u + v * v)


def superellipsoid(
    x: Map, y: Map, centre: tuple[float, float], radii: tuple[float, float, float], angle: float = 0.0
) -> Map:
    """Chord of a boxy solid: 2·r_z·sqrt(1 - (u/r_u)⁴ - (v/r_v)⁴), as `ellipsoid` otherwise."""
    cos, sin = math.cos(angle), math.sin(angle)
    dx, dy = x - (centre[0]), y - (centre[1])
    u = ((cos / radii[0]) * dx + (sin / radii[0]) * dy) ** 2
    v = ((cos / radii[1]) * dy - (sin / radii[1]) * dx) ** 2
    return (2 * radii[2]) * dome(u * u + v * v)


def capsule(
    x: Map, y: Map, start: tuple[float, float], end: tuple[float, float], radii: tuple[float, float]
) -> Map:
    """Chord of a round bar from `start` to `end` that lies in the film's plane and tapers between two radii."""
    ax, ay = end[0] - start[0], end[1] - start[1]
    dx, dy = x - (start[0]), y - (start[1])
    squared_length = max(ax * ax + ay * ay, 1e-6)
    along = np.clip((dx * ax + dy * ay) / squared_length, 0, 1)
    radius = (radii[0]) + along * (radii[1] - radii[0])
    distance_squared: Map = (dx - along * ax) ** 2 + (dy - along * ay) ** 2
    return 2 * radius * dome(distance_squared / radius**2)


def bone(distance: Map, radius: Map | float, thickness_mm: float, shell_mm: float) -> tuple[Map, Map]:
    """Chords of a hollow bar's cortical shell and of the spongy bone within, at `distance` from its axis.

    Args:
        distance: Distance from the bar's axis on the film, mm, any sign.
        radius: Half the bar's width on the film, mm.
        thickness_mm: Its whole thickness along the beam.
        shell_mm: How thick the shell is.

    Returns:
        Shell and inside, mm each; their sum is the bar's whole chord.
    """
    inner = np.maximum(np.asarray(radius, dtype=np.float32) - shell_mm, 0.5)
    squared: Map = distance * distance
    whole = thickness_mm * dome(squared / np.square(np.asarray(radius, dtype=np.float32)))
    inside = np.minimum(max(thickness_mm - 2 * shell_mm, 0.0) * dome(squared / np.square(inner)), whole)
    return whole - inside, inside


def tubes(
    plane: Plane,
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    volume_mm3: NDArray[np.floating],
    radius: float,
) -> Map:
    """Chord of many thin tubes of one radius, given as points that each carry a share of the volume.

    A tube's density is Gaussian across (sigma 0.55 radii gives a centre chord of 2.28 radii), which no film can tell
    from a sharp one at a few pixels' width; the volume, and so the attenuation summed over pixels, is exact.
    """
    H, W = plane.x.shape
    rows, columns = plane.pixels(x.ravel(), y.ravel())
    seen = (rows >= 0) & (rows < H - 1) & (columns >= 0) & (columns < W - 1)
    rows, columns = rows[seen], columns[seen]
    chord = volume_mm3.ravel()[seen] / plane.spacing_mm**2
    top, left = rows.astype(np.int64), columns.astype(np.int64)
    down, right = rows - top, columns - left
    first = top * W + left
    corners = np.concatenate([first, first + 1, first + W, first + W + 1])
    shares = np.concatenate(
        [(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right]
    ) * np.tile(chord, 4)
    splat = np.bincount(corners, shares, minlength=H * W).reshape(H, W).astype(np.float32)
    sigma_px = 0.55 * radius / plane.spacing_mm
    if sigma_px < 0.4:  # the splat itself is as wide
        return splat
    blurred: Map = gaussian(splat, sigma_px, truncate=3.0, mode="constant", preserve_range=True)
    return blurred
