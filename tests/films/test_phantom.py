import itertools
import math

import numpy as np
import pytest

from xraygen.errors import ShapeError
from xraygen.films import phantom
from xraygen.films.phantom import (
    MU_SOFT,
    Lesions,
    attenuation,
    detect,
    images_of,
    phantom_film,
    phantom_finding,
)
from xraygen.films.phantom_anatomy import Build, Pose, body, lung
from xraygen.films.phantom_solids import Plane, bone, capsule, ellipsoid, tubes
from xraygen.seeds import numpy_generator


def fine_plane() -> Plane:
    return Plane.of((200, 240), 0.5, (3.0, -2.0), 0.1)


# solids


@pytest.mark.parametrize("angle", [0.0, 0.6])
def test_the_chord_through_a_balls_centre_is_its_diameter_and_its_volume_is_4_3_pi_r3(angle: float) -> None:
    plane = fine_plane()
    chord = ellipsoid(plane.x, plane.y, (5.0, -4.0), (20.0, 20.0, 20.0), angle)
    assert chord.max() == pytest.approx(40, rel=1e-3)  # a pixel's centre lies within 0.36 mm of the ball's
    assert chord.sum() * 0.25 == pytest.approx(
        4 / 3 * math.pi * 20**3, rel=2e-3
    )  # midpoint rule, 40 px radius


def test_a_bars_volume_is_that_of_a_cylinder_and_two_half_balls() -> None:
    plane = fine_plane()
    chord = capsule(plane.x, plane.y, (-20.0, -10.0), (20.0, 10.0), (8.0, 8.0))
    exact = math.pi * 64 * math.hypot(40, 20) + 4 / 3 * math.pi * 512
    assert chord.sum() * 0.25 == pytest.approx(exact, rel=3e-3)  # midpoint rule, 16 px radius


@pytest.mark.parametrize("radius", [0.3, 1.0, 3.0])
def test_a_tubes_volume_is_kept_however_thin_it_is(radius: float) -> None:
    plane = fine_plane()
    x = np.linspace(-20, 20, 400)
    volume = np.full(400, math.pi * radius**2 * 40 / 400)
    chord = tubes(plane, x, 0.4 * x, volume, radius)
    assert chord.sum() * 0.25 == pytest.approx(volume.sum(), rel=1e-4)  # float32


def test_a_bones_shell_and_inside_add_up_to_the_bone() -> None:
    distance = np.linspace(-6, 6, 121, dtype=np.float32)
    shell, inside = bone(distance, 5.0, 8.0, 1.5)
    whole = 8 * np.sqrt(np.maximum(1 - (distance / 5) ** 2, 0))
    np.testing.assert_allclose(
        shell + inside, whole, atol=2e-3
    )  # float32 near the rim, where the root is steep
    assert shell[60] == pytest.approx(3.0)
    assert shell.min() >= 0


def test_a_plane_finds_the_pixel_of_a_point_again() -> None:
    plane = fine_plane()
    rows, columns = plane.pixels(plane.x, plane.y)
    np.testing.assert_allclose(rows, np.indices(plane.x.shape)[0], atol=1e-3)  # float32 mm over 0.5 mm
    np.testing.assert_allclose(columns, np.indices(plane.x.shape)[1], atol=1e-3)


def test_the_box_of_a_rectangle_holds_all_its_pixels() -> None:
    plane = fine_plane()
    inside = (np.abs(plane.x - 10) < 12) & (np.abs(plane.y + 5) < 7)
    box = plane.box(-2, 22, -12, 2)
    assert inside[box].sum() == inside.sum() > 0


# physics


def test_a_slab_of_tissue_weakens_the_beam_as_beer_and_lambert_say() -> None:
    slab = np.full((64, 64), math.exp(-MU_SOFT * 100), dtype=np.float32)
    signal = detect(slab, 1.0, 1e6, numpy_generator(0, "test"))
    # a uniform field scatters as much out as in; at 1e6 times the dose noise is below 1e-4
    assert signal.mean() == pytest.approx(MU_SOFT * 100, abs=1e-4)


def test_noise_follows_the_square_root_of_the_photons() -> None:
    shallow, deep = (
        detect(np.full((200, 200), math.exp(-depth), np.float32), 0.5, 1.0, numpy_generator(1, "test")).std()
        for depth in (1.0, 3.0)
    )
    assert deep / shallow == pytest.approx(math.e, rel=0.02)  # exp((3 - 1) / 2); 40,000 samples


def test_noise_grows_as_the_dose_falls() -> None:
    field = np.full((200, 200), math.exp(-2), np.float32)
    low, high = (detect(field, 0.5, dose, numpy_generator(2, "test")).std() for dose in (0.25, 1.0))
    assert low / high == pytest.approx(2, rel=0.02)


def test_scatter_lights_up_the_shadow_beside_an_open_field() -> None:
    primary = np.full((100, 100), 0.01, np.float32)
    primary[:, 50:] = 0.5
    signal = detect(primary, 2.0, 1e6, numpy_generator(3, "test"))
    assert signal[50, 45] < signal[50, 2] - 0.3


# anatomy


@pytest.mark.parametrize("patient", range(8))
def test_a_beam_never_meets_more_than_the_body_nor_gains_photons(patient: int) -> None:
    build, pose = Build.draw(0, patient), Pose.draw(0, patient, 0)
    plane = Plane.of((96, 96), 4.0, (0.0, 0.0), 0.02)
    total = attenuation(plane, build, pose, Lesions.draw(0, patient, build))
    assert total.dtype == np.float32
    assert total.min() >= 0
    outside = body(plane, build, pose) == 0
    assert outside.any()
    assert total[outside].max() < 0.05  # breasts alone may stand out of the trunk


@pytest.mark.parametrize("patient", range(8))
def test_lungs_are_dark_spine_and_heart_bright_and_air_darkest(patient: int) -> None:
    film = phantom_film(0, patient, 0, 128)
    pixels = film.pixels.astype(float)
    spine = pixels[40:80, 60:68].mean()
    right, left = pixels[40:75, 30:48], pixels[40:60, 80:98]
    assert np.median(right) < 0.75 * spine
    assert np.median(left) < 0.75 * spine
    assert pixels[:4, :4].mean() < 0.5 * np.median(right)


@pytest.mark.parametrize("patient", range(8))
def test_the_hearts_apex_lies_at_the_right_of_the_image(patient: int) -> None:
    build = Build.draw(0, patient)
    pose = Pose.draw(0, patient, 0)
    plane = Plane.of((128, 128), 3.0, (0.0, 0.0), 0.0)
    total = attenuation(plane, build, pose, Lesions("NORMAL"))
    beside = (np.abs(plane.x) > 35) & (np.abs(plane.x) < 80) & (np.abs(plane.y - 35) < 20)
    left, right = total[beside & (plane.x < 0)].mean(), total[beside & (plane.x > 0)].mean()
    assert right > left + 0.15


@pytest.mark.parametrize("patient", range(8))
def test_the_right_diaphragm_is_the_higher_one(patient: int) -> None:
    build, pose = Build.draw(0, patient), Pose.draw(0, patient, 0)
    plane = Plane.of((256, 256), 1.5, (0.0, 0.0), 0.0)
    lungs = [lung(plane, build, pose, side)[:, 128 + int(side) * 44] for side in (-1.0, 1.0)]
    steepest = [int(np.argmin(np.diff(column))) for column in lungs]
    assert steepest[0] < steepest[1]


def test_a_nodule_is_a_ball_of_tissue_in_the_lung() -> None:
    build, pose = Build.draw(0, 3), Pose.draw(0, 3, 0)
    plane = Plane.of((256, 256), 1.5, (0.0, 0.0), 0.0)
    without = attenuation(plane, build, pose, Lesions("NORMAL"))
    nodule = Lesions("NODULE", nodules=((-80.0, -40.0, 10.0),))
    added = attenuation(plane, build, pose, nodule) - without
    assert added.max() == pytest.approx(
        (MU_SOFT - phantom.MU_LUNG) * 20, rel=0.02
    )  # nearest pixel to the centre
    assert not added[np.hypot(plane.x + 80, plane.y + 40) > 11].any()


def test_an_opacity_brightens_the_lung_and_nothing_else() -> None:
    patient = next(k for k in itertools.count() if phantom_finding(0, k)[0] == "OPACITY")
    build, pose = Build.draw(0, patient), Pose.draw(0, patient, 0)
    plane = Plane.of((128, 128), 3.0, (0.0, 0.0), 0.0)
    lesions = Lesions.draw(0, patient, build)
    added = attenuation(plane, build, pose, lesions) - attenuation(plane, build, pose, Lesions("NORMAL"))
    assert added.min() >= -1e-5
    row, column = np.unravel_index(int(added.argmax()), added.shape)
    x, y = float(plane.x[row, column]), float(plane.y[row, column])
    assert math.dist((x, y), lesions.opacity_centre) < 1.5 * max(lesions.opacity_radii)
    assert added.max() > 0.3


# films


def test_a_film_repeats_exactly() -> None:
    first, second = phantom_film(7, 2, 1, 48), phantom_film(7, 2, 1, 48)
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert first.pixels.dtype == np.uint16
    assert first.pixels.max() < 4096


@pytest.mark.parametrize("other", [(8, 2, 1), (7, 3, 1), (7, 2, 0)])
def test_another_seed_patient_or_image_is_another_film(other: tuple[int, int, int]) -> None:
    same, different = phantom_film(7, 2, 1, 48).pixels, phantom_film(*other, 48).pixels
    assert np.abs(same.astype(int) - different).mean() > 20


def test_a_patients_films_are_more_alike_than_two_patients() -> None:
    patients = [k for k in range(40) if images_of(0, k) > 1][:6]
    first, second = (
        [phantom_film(0, k, image, 32).pixels.astype(float) for k in patients] for image in (0, 1)
    )
    distance = np.array([[np.abs(a - b).mean() for b in second] for a in first])
    own = np.diag(distance).mean()
    others = distance[~np.eye(len(patients), dtype=bool)].mean()
    assert own < 0.8 * others


def test_a_film_shows_the_same_patient_at_every_size() -> None:
    large = phantom_film(0, 4, 0, 128).pixels.astype(float)
    small = phantom_film(0, 4, 0, 32).pixels.astype(float)
    shrunk = large.reshape(32, 4, 32, 4).mean(axis=(1, 3))
    assert np.corrcoef(shrunk.ravel(), small.ravel())[0, 1] > 0.99


def test_a_film_may_be_taller_than_wide_and_keeps_its_scale() -> None:
    film, square = phantom_film(0, 4, 0, (80, 64)), phantom_film(0, 4, 0, 64)
    assert film.pixels.shape == (80, 64)
    assert film.pixel_spacing_mm == square.pixel_spacing_mm == 6.25
    middle = film.pixels[8:72].astype(float)
    assert np.corrcoef(middle.ravel(), square.pixels.ravel())[0, 1] > 0.99


def test_too_small_a_film_is_refused() -> None:
    with pytest.raises(ShapeError, match="16 or more"):
        phantom_film(0, 0, 0, 8)


def test_findings_are_those_of_the_films_and_all_three_occur() -> None:
    found = [phantom_finding(0, patient) for patient in range(60)]
    assert {finding for finding, _ in found} == {"NORMAL", "NODULE", "OPACITY"}
    assert all((count > 0) == (finding == "NODULE") for finding, count in found)
    film = phantom_film(0, 11, 0, 16)
    assert (film.finding, film.nodule_count) == found[11]
