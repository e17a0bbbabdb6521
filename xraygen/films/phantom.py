"""A procedural chest film: solids of tissue between a source and a noisy detector (Beer-Lambert), with its findings.

intensity = I_0 · exp(-Σ_i mu_i · thickness_i), then scatter, quantum noise, the detector's blur and a log response.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from skimage.filters import gaussian

from xraygen.errors import ShapeError
from xraygen.films.phantom_anatomy import (
    APEX_Y,
    Build,
    Pose,
    airways,
    body,
    breasts,
    lung,
    mediastinum,
    vessels,
)
from xraygen.films.phantom_bones import skeleton
from xraygen.films.phantom_solids import Map, Plane, ellipsoid
from xraygen.ranges import unit_to_stored
from xraygen.seeds import numpy_generator

Finding = Literal["NORMAL", "NODULE", "OPACITY"]

# Linear attenuation per mm at 60 keV, the mean energy of a 120 kVp chest beam: mass attenuation times density, from
# NIST, "Tables of X-Ray Mass Attenuation Coefficients" (NISTIR 5632), table 4: soft tissue, adipose tissue, lung (its
# density inflated) and cortical bone of ICRU-44. Spongy bone is not in it: here soft tissue with 36 % by mass of bone.
MU_SOFT = 0.02048 * 1.06
MU_FAT = 0.01974 * 0.95
MU_LUNG = 0.02053 * 0.26
MU_SPONGY = 0.0245 * 1.18
MU_CORTICAL = 0.03148 * 1.92

FIELD_MM = 400.0
"""Shorter side of the detector."""
BITS = 12
MIN_SIDE = 16
"""Fewer pixels show no anatomy."""
PHOTONS_PER_MM2 = 2.0e5
"""Detected photons in the open beam."""
SCATTER_FRACTION = 0.22
SCATTER_SIGMA_MM = 32.0
"""What the anti-scatter grid lets through, and how far it spreads."""


@dataclass(frozen=True)
class PhantomFilm:
    """One phantom film and what is known about it.

    Args:
        pixels: Stored values, [H, W] uint16 in [0, 4095]; bone is bright, air is 0, the heart's apex lies at the right.
        finding: What the patient has.
        nodule_count: Nodules drawn, 0 unless the finding is NODULE.
        sex: Of the made-up patient.
        age: In years.
        view: Where the beam entered: PA (from behind) or AP.
        pixel_spacing_mm: Side of a pixel at the detector, mm.
    """

    pixels: NDArray[np.uint16]
    finding: Finding
    nodule_count: int
    sex: Literal["M", "F"]
    age: int
    view: Literal["PA", "AP"]
    pixel_spacing_mm: float


@dataclass(frozen=True)
class Lesions:
    """A patient's findings: nodules as (x, y, radius) and at most one opacity."""

    finding: Finding
    nodules: tuple[tuple[float, float, float], ...] = ()
    opacity_centre: tuple[float, float] = (0.0, 0.0)
    opacity_radii: tuple[float, float] = (1.0, 1.0)
    opacity_fill: float = 0.0

    @staticmethod
    def draw(seed: int, patient: int, build: Build) -> "Lesions":
        """What patient `patient` has: half have nothing, a quarter nodules, a quarter an opacity."""
        random = numpy_generator(seed, "phantom", patient, "lesions")
        kind = random.random()
        if kind < 0.5:
            return Lesions("NORMAL")
        if kind < 0.75:
            nodules = []
            for _ in range(int(random.integers(1, 5))):
                x, y = _place(random, build, 12.0)
                nodules.append((x, y, float(random.uniform(6.5, 14.0))))
            return Lesions("NODULE", nodules=tuple(nodules))
        return Lesions(
            "OPACITY",
            opacity_centre=_place(random, build, 25.0),
            opacity_radii=(float(random.uniform(26, 46)), float(random.uniform(26, 58))),
            opacity_fill=float(random.uniform(0.35, 0.75)),
        )


def images_of(seed: int, patient: int) -> int:
    """How many films patient `patient` has: 1 to 3."""
    return int(numpy_generator(seed, "phantom", patient, "images").integers(1, 4))


def phantom_finding(seed: int, patient: int) -> tuple[Finding, int]:
    """What patient `patient` has and how many nodules, without making a film."""
    lesions = Lesions.draw(seed, patient, Build.draw(seed, patient))
    return lesions.finding, len(lesions.nodules)


def phantom_film(seed: int, patient: int, image: int, size: int | tuple[int, int]) -> PhantomFilm:
    """Make film `image` of patient `patient`: the same one whatever else is made.

    Args:
        seed: Seed of the whole set.
        patient: Number of the patient, from 0; decides anatomy and findings.
        image: Number of the film, from 0; decides position, exposure and noise. `images_of` says how many there are.
        size: Side in pixels, or (height, width); the shorter side covers 400 mm whatever the number of pixels.

    Returns:
        The film, 12 bits.

    Raises:
        ShapeError: If a side is shorter than MIN_SIDE pixels.
    """
    shape = (size, size) if isinstance(size, int) else size
    if min(shape) < MIN_SIDE:
        raise ShapeError(
            f"A phantom of {shape[0]}x{shape[1]} pixels shows no anatomy; ask for {MIN_SIDE} or more."
        )
    build, pose = Build.draw(seed, patient), Pose.draw(seed, patient, image)
    lesions = Lesions.draw(seed, patient, build)
    spacing_mm = FIELD_MM / min(shape)
    fine = _supersampling(min(shape))
    plane = Plane.of(
        (shape[0] * fine, shape[1] * fine),
        spacing_mm / fine / (pose.magnification * build.size),
        pose.shift_mm,
        pose.tilt,
    )
    # lengths are a reference adult's, hence `size`
    primary = np.exp(attenuation(plane, build, pose, lesions) * (-build.size))
    random = numpy_generator(seed, "phantom", patient, "noise", image)
    signal = detect(_block_mean(primary, fine), spacing_mm, pose.exposure, random)
    return PhantomFilm(
        pixels=_develop(signal),
        finding=lesions.finding,
        nodule_count=len(lesions.nodules),
        sex=build.sex,
        age=build.age,
        view=pose.view,
        pixel_spacing_mm=spacing_mm,
    )


def attenuation(plane: Plane, build: Build, pose: Pose, lesions: Lesions) -> Map:
    """Sum of mu·thickness over every tissue on the way, [H, W], no unit (Beer-Lambert's exponent).

    Lung, air and bone replace soft tissue, and vessels and lesions replace lung: a beam's chords add up to the body's.
    """
    breast = breasts(plane, build)
    whole = body(plane, build, pose) + breast
    cavity = lung(plane, build, pose, -1.0) + lung(plane, build, pose, 1.0)
    room = np.maximum(whole - 42, 0)  # the chest wall, before and behind
    lungs = np.minimum(np.maximum(cavity - mediastinum(plane, build, pose), 0), room)
    air = np.minimum(airways(plane, build, pose), whole - lungs)
    fat = np.minimum(1.5 * build.fat + 0.6 * breast, 0.4 * (whole - lungs))
    dense = np.minimum(vessels(plane, build), 0.6 * lungs)
    dense = np.minimum(dense + _lesion_chord(plane, lesions, build, lungs), lungs)
    shell, inside = skeleton(plane, build, pose)
    cover = np.minimum(whole / 30, 1)  # no bone sticks out of the skin
    total: Map = MU_SOFT * (whole - air - fat - lungs + dense)
    total += MU_FAT * fat + MU_LUNG * (lungs - dense)
    total += cover * ((MU_CORTICAL - MU_SOFT) * shell + (MU_SPONGY - MU_SOFT) * inside)
    return total


def detect(primary: Map, spacing_mm: float, exposure: float, random: np.random.Generator) -> Map:
    """What the detector reads: primary and scattered photons with their noise, slightly blurred, as -ln.

    The noise's standard deviation is sqrt(photons) (Poisson's, by its normal limit), so thick parts are relatively the
    noisiest and a smaller pixel is noisier.

    Args:
        primary: Share of the beam that comes straight through, [H, W], in [0, 1].
        spacing_mm: Side of a pixel, mm.
        exposure: Dose, as a multiple of the usual one.
        random: Source of the noise.

    Returns:
        -ln(signal / open beam), [H, W] float32.
    """
    expected = (1 - SCATTER_FRACTION) * primary + SCATTER_FRACTION * _scatter(primary, spacing_mm)
    open_beam = PHOTONS_PER_MM2 * spacing_mm**2 * exposure
    photons = expected * open_beam
    photons += np.sqrt(photons) * random.standard_normal(primary.shape, dtype=np.float32)
    blurred = _blur3(_blur3(photons, 0.08).T, 0.08).T
    return -np.log(np.maximum(blurred, 1) / open_beam)


def _place(random: np.random.Generator, build: Build, margin: float) -> tuple[float, float]:
    """A point in a lung, away from its edge, the heart and the diaphragm."""
    side = -1.0 if random.random() < 0.5 else 1.0
    y = APEX_Y + build.lung_height * float(random.uniform(0.22, 0.8))
    height = (y - APEX_Y) / build.lung_height
    outer = 54 + (build.cavity_half_width - 54) * math.sqrt(1 - (1 - height) ** 2.6) - margin
    inner = 42 + (46 * max(height - 0.45, 0) / 0.35 if side > 0 else 0.0)
    return side * float(random.uniform(min(inner, outer - 6), outer)), y


def _lesion_chord(plane: Plane, lesions: Lesions, build: Build, lungs: Map) -> Map:
    """Chord of what the lesions fill of the lung: spheres, or a share of the lung that fades outwards."""
    chord = np.zeros_like(plane.x)
    for x0, y0, radius in lesions.nodules:
        box, x, y = plane.part(x0 - radius, x0 + radius, y0 - radius, y0 + radius)
        chord[box] += ellipsoid(x, y, (x0, y0), (radius, radius, radius))
    if lesions.opacity_fill == 0:
        return chord
    (x0, y0), (across, along) = lesions.opacity_centre, lesions.opacity_radii
    box, x, y = plane.part(x0 - 2 * across, x0 + 2 * across, y0 - 2 * along, y0 + 2 * along)
    squared = ((x - x0) / across) ** 2 + ((y - y0) / along) ** 2
    random = numpy_generator(build.seed, "phantom", build.patient, "texture")
    texture = np.zeros_like(x)
    for _ in range(7):
        wave = random.normal(0, 2 * math.pi / 40, 2)
        texture += np.cos((wave[0]) * x + (wave[1]) * y + (random.uniform(0, 6.3)))
    fill = np.exp(-np.square(squared) * 0.7) * (1 + 0.06 * texture)
    chord[box] += lungs[box] * lesions.opacity_fill * np.clip(fill, 0, 1)
    return chord


def _supersampling(side: int) -> int:
    """Rays per pixel and axis, so that ribs and the heart's edge do not alias.

    Mean error against 8x8 rays, of the whole range: 0.0014 at 32 px with 3, 0.0014 at 64 with 2, 0.003 at 128 with 1.
    """
    return 3 if side <= 48 else 2 if side <= 96 else 1


def _block_mean(fine: Map, factor: int) -> Map:
    """Mean of each factor x factor block: a pixel counts all photons that fall on it."""
    if factor == 1:
        return fine
    H, W = fine.shape
    blocks = fine.reshape(H // factor, factor, W // factor, factor)
    means: Map = blocks.mean(axis=(1, 3), dtype=np.float32)
    return means


def _scatter(primary: Map, spacing_mm: float) -> Map:
    """The scattered photons: the primary ones, spread by a wide Gaussian (worked out on a coarse grid)."""
    factor = max(1, int(SCATTER_SIGMA_MM / 4 / spacing_mm))
    H, W = primary.shape
    rows, columns = -(-H // factor), -(-W // factor)
    padded = np.pad(primary, ((0, rows * factor - H), (0, columns * factor - W)), mode="edge")
    coarse = gaussian(
        _block_mean(padded, factor),
        SCATTER_SIGMA_MM / (spacing_mm * factor),
        truncate=3.0,
        mode="nearest",
        preserve_range=True,
    )
    return _stretch(_stretch(coarse, H, factor).T, W, factor).T


def _stretch(coarse: Map, length: int, factor: int) -> Map:
    """Rows of block centres to `length` rows, linearly."""
    position = np.clip((np.arange(length) - (factor - 1) / 2) / factor, 0, coarse.shape[0] - 1)
    low = np.minimum(position.astype(np.int64), max(coarse.shape[0] - 2, 0))
    high = np.minimum(low + 1, coarse.shape[0] - 1)
    share = (position - low).astype(np.float32)[:, None]
    stretched: Map = coarse[low] * (1 - share) + coarse[high] * share
    return stretched


def _blur3(image: Map, side: float) -> Map:
    """Each row becomes a weighted mean with its neighbours: light that spreads in the detector."""
    padded = np.concatenate([image[:1], image, image[-1:]])
    blurred: Map = (1 - 2 * side) * image + side * (padded[:-2] + padded[2:])
    return blurred


def _develop(signal: Map) -> NDArray[np.uint16]:
    """Log signal to 12 bits, ranged on what lies in the middle of the film, as a radiography system does."""
    H, W = signal.shape
    step = max(1, min(H, W) // 64)
    inner = signal[H // 4 : H - H // 6 : step, W // 4 : W - W // 4 : step]
    dark, bright = (float(level) for level in np.percentile(inner, [1.0, 99.5]))
    low, high = dark - 0.16 * (bright - dark), bright + 0.08 * (bright - dark)
    return unit_to_stored((signal - low) / (high - low), BITS).astype(np.uint16)
