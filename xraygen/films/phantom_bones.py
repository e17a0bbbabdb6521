"""The bones of a phantom: hollow bars and plates, as chords of cortical shell and of the spongy bone within."""

import numpy as np

from xraygen.films.phantom_anatomy import APEX_Y, Build, Pose, lateral_edge
from xraygen.films.phantom_solids import Map, Plane, bone, ellipsoid, rounded

RIB_PAIRS = 10


class Skeleton:
    """Where bones add up: chords of shell and inside, mm, [H, W]."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.shell: Map = np.zeros_like(plane.x)
        self.inside: Map = np.zeros_like(plane.x)

    def add(self, box: tuple[slice, slice], chords: tuple[Map, Map], weight: Map | float = 1.0) -> None:
        """Add one bone's chords inside `box`, scaled by `weight`."""
        self.shell[box] += chords[0] * np.asarray(weight, dtype=np.float32)
        self.inside[box] += chords[1] * np.asarray(weight, dtype=np.float32)


def skeleton(plane: Plane, build: Build, pose: Pose) -> tuple[Map, Map]:
    """Chords of cortical and of spongy bone over the whole film, mm, [H, W] each."""
    bones = Skeleton(plane)
    _spine(bones, build, pose)
    for pair in range(RIB_PAIRS):
        _rib_pair(bones, build, pose, pair)
    for side in (-1.0, 1.0):
        _clavicle(bones, build, pose, side)
        _scapula(bones, build, pose, side)
        _humerus(bones, build, pose, side)
    return bones.shell * build.bone_density, bones.inside * build.bone_density


def _spine(bones: Skeleton, build: Build, pose: Pose) -> None:
    """Vertebral bodies between discs, each with two pedicles seen end on and a spinous process."""
    box, x, y = bones.plane.part(-60, 60, -400, 400)
    x = x + 0.7 * pose.turn_mm - build.spine_bend * np.sin(y / 70)
    phase = (y - APEX_Y) / build.vertebra
    middle = phase - np.floor(phase) - 0.5  # 0 amid a vertebra, ±0.5 amid a disc
    waist = 16.5 + 0.012 * y + 9 * middle * middle
    body = rounded((waist - np.abs(x)) / 7) * rounded((0.41 - np.abs(middle)) / 0.12)
    rim = np.exp(-(((np.abs(middle) - 0.37) / 0.045) ** 2)) * rounded((waist - np.abs(x)) / 4)
    height = middle * build.vertebra
    pedicle = np.hypot((np.abs(x) - 11), (height + 4) * 0.75)
    ring = np.exp(-(((pedicle - 3.4) / 1.1) ** 2))
    process = ellipsoid(x, height, (0.0, 4.0), (2.6, 7.0, 5.0))
    wings = rounded((27 - np.abs(x)) / 10) * np.exp(-(((height + 4) / 4.2) ** 2))
    shell = 1.3 * body + 2.0 * rim + 2.4 * ring + 0.2 * process
    bones.add(box, (shell, 15 * body + 4 * wings))


def _rib_pair(bones: Skeleton, build: Build, pose: Pose, pair: int) -> None:
    """Both ribs of a pair: a hoop tipped forward, so an ellipse on the film, whose upper half is the back.

    Where the hoop runs along the beam the chord grows by dl/ds = sqrt(1 + (c·cos θ)² / ((a·sin θ)² + (b·cos θ)²)).
    """
    top = APEX_Y + 2 + build.rib_spacing * pair * (1 + 0.004 * pair)
    back = (0.55 + 0.45 * min(pair / 3, 1)) * build.rib_drop * (1 + 0.05 * pair)
    front = (24 + 7 * min(pair, 7)) * (0.75 + 0.25 * build.rib_drop / 40)
    side_y = top + back
    a = float(lateral_edge(build, np.array(side_y, dtype=np.float32))) + 2.5
    box, x, y = bones.plane.part(-a - 10, a + 10, top - 12, side_y + front + 14)
    if x.size == 0:
        return
    dx, dy = x / a, y - side_y
    v = np.where(dy < 0, dy / back, dy / front)
    near = np.abs(dx * dx + v * v - 1) < 26 / min(back, front)
    aside, dx, dy, v = np.abs(x[near]), dx[near], dy[near], v[near]  # only pixels close to the rib, [K]
    b = np.where(dy < 0, back, front).astype(np.float32)
    q = np.sqrt(dx * dx + v * v) + 1e-6
    slope = np.sqrt((dx / a) ** 2 + (v / b) ** 2) / q + 1e-6
    distance = (q - 1) / slope
    cos_squared = (dx / q) ** 2
    run = 70**2 * cos_squared / (a * a * (1 - cos_squared) + b * b * cos_squared)
    stretch = np.minimum(np.sqrt(1 + run), 2.4)
    weight_back = rounded((aside - 14) / 8)
    has_front = 1.0 if pair < 7 else 0.35
    weight_front = 0.62 * has_front * np.clip((aside - (48 + 3 * pair)) / 22, 0, 1)
    # the two halves meet at the side: blend over a few mm so that no step shows
    blend = np.clip(0.5 - dy / 16, 0, 1)
    weight = (blend * weight_back + (1 - blend) * weight_front) * stretch
    radius = build.rib_width * (4.2 + 2.6 * (1 - cos_squared) + 0.9 * (1 - blend))
    shell, inside = bone(distance, radius, 8.5, 2.1)
    bones.shell[box][near] += shell * weight
    bones.inside[box][near] += inside * weight


def _clavicle(bones: Skeleton, build: Build, pose: Pose, side: float) -> None:
    """An S-shaped bar from the sternum to the acromion."""
    box, x, y = bones.plane.part(-200, 200, -230, -60)
    t = (side * (x - 1.3 * pose.turn_mm) - 13) / 140
    curve = -100 + 0.35 * (build.shoulder_y + 159) - build.clavicle_rise * t
    curve = curve - 11 * np.sin(6.0 * t - 0.5) * np.clip(t + 0.2, 0, 1)
    slope = (build.clavicle_rise + 50 * np.cos(6.0 * t - 0.5)) / 140
    distance = (y - curve) / np.sqrt(1 + slope * slope)
    radius = 5.6 + 3.2 * np.exp(-((t / 0.12) ** 2)) + 1.0 * np.clip(t, 0, 1)
    ends = rounded((t + 0.02) / 0.05) * rounded((1.04 - t) / 0.06)
    ends = np.where((t > -0.02) & (t < 1.04), ends, 0)
    bones.add(box, bone(distance, radius, 17.0, 3.6), ends)


def _scapula(bones: Skeleton, build: Build, pose: Pose, side: float) -> None:
    """A thin triangular plate with thick rims, turned out of the lung as far as the arms are rolled forward."""
    out = 128 + 26 * max(pose.arm_spread, 0.0) + 0.15 * build.fat
    top = build.shoulder_y + 38
    box, x, y = bones.plane.part(-235, 235, top - 30, top + 150)
    u, v = side * x - out, y - top
    t = np.clip(v / 125, 0, 1)
    inner = -30 + 10 * t + 14 * np.sin(3.1 * t)
    outer = 38 - 44 * t - 9 * np.sin(3.1 * t)
    inside = np.minimum(np.minimum(u - inner, outer - u), np.minimum(v, 128 - v))
    plate = rounded(inside / 6) * (inside > 0)
    rim = np.exp(-(((u - outer + 3) / 2.6) ** 2)) + 0.55 * np.exp(-(((u - inner - 2) / 1.6) ** 2))
    rim = rim * rounded(v / 20) * rounded((128 - v) / 20) * (v > 0) * (v < 128)
    bar = v - (14 - 0.30 * u)
    bones.add(box, (1.0 * plate + 3.0 * rim, 1.5 * plate))
    bones.add(
        box,
        bone(bar, 5.0, 9.0, 1.6),
        rounded((u + 24) / 20) * rounded((54 - u) / 10) * 0.8,
    )


def _humerus(bones: Skeleton, build: Build, pose: Pose, side: float) -> None:
    """A round head in the shoulder joint and a shaft down the arm."""
    head = (side * 184.0, build.shoulder_y + 44)
    elbow = (side * (216 + 60 * pose.arm_spread), 235.0)
    box, x, y = bones.plane.part(
        min(head[0] - 40, elbow[0] - 20), max(head[0] + 40, elbow[0] + 20), head[1] - 40, 300
    )
    if x.size == 0:
        return
    ball = ellipsoid(x, y, head, (23.0, 23.0, 21.0))
    core = np.minimum(ellipsoid(x, y, head, (21.2, 21.2, 19.4)), ball)
    length = float(np.hypot(elbow[0] - head[0], elbow[1] - head[1]))
    ux, uy = (elbow[0] - head[0]) / length, (elbow[1] - head[1]) / length
    along = (x - head[0]) * ux + (y - head[1]) * uy
    across = (y - head[1]) * ux - (x - head[0]) * uy
    radius = 11 + 9 * np.exp(-np.maximum(along, 0) / 22)
    shaft = bone(across, radius, 22.0, 4.0)
    below = np.clip(along / 14, 0, 1)
    bones.add(box, (np.maximum(ball - core, shaft[0] * below), np.maximum(core, shaft[1] * below)))
