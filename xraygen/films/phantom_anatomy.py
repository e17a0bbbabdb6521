"""A patient made of simple solids: how each one is built and positioned, and the soft organs' chord lengths.

Lengths are mm of a reference adult, x towards the patient's left (the image's right), y towards the feet; a patient's
`size` scales them all. Solids replace what they lie in: a lung is a hole in soft tissue, the heart a hole in the lung.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from xraygen.films.phantom_solids import Map, Plane, capsule, dome, ellipsoid, rounded, superellipsoid, tubes
from xraygen.seeds import numpy_generator

APEX_Y = -150.0
"""Top of the lungs."""
HILUM_Y = -18.0
"""Where the pulmonary vessels enter."""


@dataclass(frozen=True)
class Build:
    """What stays with a patient from film to film."""

    sex: Literal["M", "F"]
    age: int
    size: float
    cavity_half_width: float
    lung_depth: float
    lung_height: float
    dome_difference: float
    dome_curve: float
    wall: float
    fat: float
    heart: float
    heart_tilt: float
    aorta: float
    rib_spacing: float
    rib_drop: float
    rib_width: float
    bone_density: float
    vertebra: float
    spine_bend: float
    shoulder_y: float
    clavicle_rise: float
    breast: float
    bubble: float
    seed: int
    patient: int

    @staticmethod
    def draw(seed: int, patient: int) -> "Build":
        """Patient number `patient` of the set `seed`: always the same one, however many there are."""
        random = numpy_generator(seed, "phantom", patient, "build")
        sex: Literal["M", "F"] = "F" if random.random() < 0.48 else "M"
        age = int(np.clip(random.normal(54, 17), 18, 92))
        aging = (age - 50) / 40
        female = sex == "F"

        def near(mean: float, deviation: float, reach: float = 2.2) -> float:
            return mean + deviation * float(np.clip(random.normal(), -reach, reach))

        lung_height = near(232, 13)
        return Build(
            sex=sex,
            age=age,
            size=near(0.95 if female else 1.02, 0.035),
            cavity_half_width=near(135 if female else 143, 6),
            lung_depth=near(160 if female else 172, 10),
            lung_height=lung_height,
            dome_difference=near(12, 4),
            dome_curve=near(52, 8),
            wall=near(17, 2.5),
            fat=float(np.clip(random.gamma(2.6, 5.5), 3, 45)),
            heart=near(1.0 + 0.05 * aging, 0.085),
            heart_tilt=near(0.62, 0.12),
            aorta=near(1.0 + 0.14 * aging, 0.08),
            rib_spacing=near(24.5, 0.8) * lung_height / 232,
            rib_drop=near(48, 8),
            rib_width=near(1.0, 0.1),
            bone_density=near(1.0 - 0.1 * aging, 0.1),
            vertebra=near(25.5, 1.1),
            spine_bend=near(0, 2.5),
            shoulder_y=near(-159, 7),
            clavicle_rise=near(20, 8),
            breast=float(np.clip(random.normal(0.95, 0.28), 0.4, 1.6)) if female else 0.0,
            bubble=float(np.clip(random.normal(0.6, 0.4), 0, 1.2)),
            seed=seed,
            patient=patient,
        )


@dataclass(frozen=True)
class Pose:
    """What changes from film to film of one patient."""

    view: Literal["PA", "AP"]
    shift_mm: tuple[float, float]
    tilt: float
    magnification: float
    turn_mm: float
    inspiration_mm: float
    arm_spread: float
    exposure: float

    @staticmethod
    def draw(seed: int, patient: int, image: int) -> "Pose":
        """How patient `patient` stood for film `image`."""
        random = numpy_generator(seed, "phantom", patient, "pose", image)
        view: Literal["PA", "AP"] = "PA" if random.random() < 0.75 else "AP"
        frontal = view == "PA"
        return Pose(
            view=view,
            shift_mm=(float(random.normal(0, 5)), float(random.normal(-6, 7))),
            tilt=float(np.clip(random.normal(0, 0.022), -0.06, 0.06)),
            magnification=float((1.06 if frontal else 1.13) * random.uniform(0.97, 1.03)),
            turn_mm=float(np.clip(random.normal(0, 2.2 if frontal else 4), -8, 8)),
            inspiration_mm=float(random.normal(4 if frontal else -9, 6)),
            arm_spread=float(random.uniform(0.1, 1.0) if frontal else random.uniform(-0.3, 0.4)),
            exposure=float(np.exp(random.normal(0, 0.18))),
        )


def _fade(t: Map) -> Map:
    """0 below 0, 1 above 1, smooth between: a fold of flesh rather than a rim."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def lateral_edge(build: Build, y: Map) -> Map:
    """Distance of the lung's outer edge from the midline at height y: an egg, narrow at the apex."""
    t = np.clip((y - APEX_Y) / (build.lung_height - 10), 0, 1.6)
    up = np.maximum(1 - t, 0)
    apex = 54
    tuck = np.maximum(t - 1, 0) ** 2 * 22
    edge: Map = apex + (build.cavity_half_width - apex) * dome(up * up * (0.35 + 0.65 * up)) - tuck
    return edge


def body(plane: Plane, build: Build, pose: Pose) -> Map:
    """Whole chord of the trunk, neck, shoulders and arms, skin to skin; the smooth union of the four."""
    x, y = plane.x, plane.y
    aside = np.abs(x)
    flank = build.cavity_half_width + build.wall + 0.75 * build.fat
    depth = build.lung_depth + 48 + 1.5 * build.fat
    ratio = aside / flank
    trunk = depth * dome(ratio * ratio * (0.45 + 0.55 * ratio * ratio))
    top = build.shoulder_y - 52 * np.clip(1 - aside / 150, 0, 1) ** 2
    top = top + np.maximum(aside - 150, 0) ** 2 * 0.0085
    below = y - top
    trunk = trunk * rounded(below / 75)
    yoke = (115 + build.fat) * rounded(below / 40) * dome((aside / 222) ** 4)
    yoke = yoke * _fade((95 - y) / 190)
    flare = (57 + 0.35 * build.fat) + 75 * np.clip((y + 235) / 110, 0, 1) ** 3
    neck = (118 + 0.5 * build.fat) * dome((x / flare) ** 2) * _fade((-70 - y) / 80)
    thick = 84 + 0.8 * build.fat
    arms = np.zeros_like(x)
    for side in (-1.0, 1.0):
        elbow = (side * (212 + 60 * pose.arm_spread + 0.4 * build.fat), 235.0)
        arms += capsule(
            x, y, (side * 186, build.shoulder_y + 52), elbow, (float(thick) / 2, float(thick) / 2.4)
        )
    union = sum(part * part for part in (part * part for part in (trunk, yoke, neck, arms)))
    return np.sqrt(np.sqrt(union)).astype(np.float32)


def breasts(plane: Plane, build: Build) -> Map:
    """Chord of the breasts, with the crescent of density at their lower rim."""
    total = np.zeros_like(plane.x)
    if build.breast == 0:
        return total
    for side in (-1.0, 1.0):
        centre = (side * 86.0, 32.0 + 18 * build.breast)
        across, along = 58 + 12 * build.breast, 50 + 20 * build.breast
        box, x, y = plane.part(
            centre[0] - across, centre[0] + across, centre[1] - 1.2 * along, centre[1] + 1.2 * along
        )
        fade = _fade((y - (centre[1] - along)) / (1.3 * along))
        total[box] += ellipsoid(x, y, centre, (across, along, 9.5 * build.breast)) * fade
    return total


def dome_top(build: Build, pose: Pose, side: float, x: Map) -> Map:
    """Height y of the diaphragm's crest over x; the right one (side -1) is higher."""
    crest = APEX_Y + build.lung_height + pose.inspiration_mm + (build.dome_difference if side > 0 else 0.0)
    away = (side * x - 62) / 76
    return crest + build.dome_curve * away * away * (0.55 + 0.45 * away * away)


def lung(plane: Plane, build: Build, pose: Pose, side: float) -> Map:
    """Chord of one lung's cavity above the diaphragm, before the mediastinum is taken out of it.

    Below the dome's crest only the recesses before and behind the dome are left: y_crest + z²/r < y leaves
    chord - 2·sqrt(r·(y - y_crest)), r = 210 mm.
    """
    x, y = plane.x, plane.y
    t = (y - APEX_Y) / build.lung_height
    up = np.clip(1 - t, 0, 1)
    outer = lateral_edge(build, y)
    inner = 10 + 34 * (up * up) ** 2
    centre, half = (outer + inner) / 2, np.maximum((outer - inner) / 2, (1e-3))
    u = (side * x - centre) / half
    chord = dome(u * u * (0.3 + 0.7 * u * u)) * dome(up * up * up) * build.lung_depth
    chord = np.where(t > 0, chord, 0)
    beneath = np.maximum(y - dome_top(build, pose, side, x), 0)
    above: Map = np.maximum(chord - 2 * np.sqrt(210 * beneath), 0)
    return above


def mediastinum(plane: Plane, build: Build, pose: Pose) -> Map:
    """Chord of heart, great vessels and what lies between the lungs; the smooth union of its parts."""
    x, y = plane.x - pose.turn_mm, plane.y
    h, a = build.heart * (1.06 if pose.view == "AP" else 1.0), build.aorta
    sink = 0.8 * (pose.inspiration_mm + build.lung_height - 232) + 0.5 * build.dome_difference - 4
    wave = 2.6 * np.sin(y / 31 + 7 * build.heart)
    parts = [
        # left ventricle, apex to the patient's left
        ellipsoid(x, y, (24.0, 50 + sink), (78 * h, 52 * h, 56 * h), build.heart_tilt),
        # right atrium, left atrial appendage with the pulmonary trunk, aortic knob
        ellipsoid(x, y, (-12.0, 44 + sink), (31 * h, 58 * h, 46 * h), 0.12),
        ellipsoid(x, y, (14.0, 0.5 * sink - 2), (30 * h, 47 * h, 40 * h), -0.45),
        ellipsoid(x, y, (14 + 6 * a, -57.0), (18 * a, 21 * a, 34.0), 0.2),
        # superior vena cava and ascending aorta; descending aorta
        ellipsoid(x, y, (-7.0, -50.0), (22.0, 92.0, 40.0), 0.05),
        superellipsoid(x, y, (14 + 4 * a, 25.0), (14 * a, 125.0, 13 * a), -0.03),
        # oesophagus, thymus, fat: the strip before the spine
        superellipsoid(x + wave, y, (1.0, -10.0), (20.0, 235.0, 55.0)),
    ]
    fourth = np.zeros_like(x)
    for part in parts:
        square = part * part
        fourth += square * square
    return np.sqrt(np.sqrt(fourth))


def airways(plane: Plane, build: Build, pose: Pose) -> Map:
    """Chord of the air in the trachea, the two main bronchi and the stomach's bubble."""
    total = np.zeros_like(plane.x)
    turn = 0.6 * pose.turn_mm
    carina = (turn + 1.0, -48.0)
    box, x, y = plane.part(-70, 70, -300, 30)
    trachea = capsule(x, y, (turn - 1, -300.0), carina, (8.6, 7.8))
    right = capsule(x, y, carina, (turn - 30.0, -16.0), (6.6, 4.5))
    left = capsule(x, y, carina, (turn + 38.0, -16.0), (5.8, 3.8))
    total[box] += np.maximum(np.maximum(trachea, right), left)
    if build.bubble > 0.15:
        crest = APEX_Y + build.lung_height + pose.inspiration_mm + build.dome_difference
        centre = (62.0, crest + 17 + 13 * build.bubble)
        box, x, y = plane.part(0, 130, crest, crest + 90)
        gas = ellipsoid(x, y, centre, (32 * build.bubble, 17 * build.bubble, 17 * build.bubble), 0.12)
        # standing, the gas floats on a level fluid
        total[box] += gas * rounded(((centre[1] + 7 * build.bubble) - y) / 6)
    return total


def vessels(plane: Plane, build: Build) -> Map:
    """Chord of the pulmonary arteries and veins: trees that fork and thin from the hilum outwards."""
    random = numpy_generator(build.seed, "phantom", build.patient, "vessels")
    total = np.zeros_like(plane.x)
    sides = np.array([-1.0] * 10 + [1.0] * 10)
    fan = np.tile(np.linspace(-1.25, 1.35, 10), 2)  # radians below the horizontal
    heading = fan + random.normal(0, 0.1, sides.size)
    x = sides * 30 + random.normal(0, 4, sides.size)
    y = HILUM_Y + 16 * np.sin(heading) + random.normal(0, 4, sides.size)
    radius = np.full(sides.size, 6.0)
    for level, (mean_radius, mean_length) in enumerate(
        [(6.0, 27), (4.0, 25), (2.7, 23), (1.8, 21), (1.2, 17)]
    ):
        length = mean_length * random.uniform(0.7, 1.35, x.size)
        bend = random.normal(0, 0.25, x.size)
        points = max(4, math.ceil(1.6 * mean_length / plane.spacing_mm))
        s = np.linspace(0, 1, points)[:, None]
        turning = heading + bend * s  # [points, N]
        step = length / points
        track_x = x + np.cumsum(sides * np.cos(turning), axis=0) * step
        track_y = y + np.cumsum(np.sin(turning), axis=0) * step
        volume = np.broadcast_to(np.pi * radius**2 * step, track_x.shape)
        total += tubes(plane, track_x, track_y, volume, mean_radius)
        if level == 4:
            break
        split = random.uniform(0.2, 0.6, x.size)
        heading = np.concatenate(
            [turning[-1] + split, turning[-1] - split * random.uniform(0.5, 1.1, x.size)]
        )
        x, y, sides = np.tile(track_x[-1], 2), np.tile(track_y[-1], 2), np.tile(sides, 2)
        radius = np.tile(radius, 2) * random.uniform(0.62, 0.78, x.size)
    return total
