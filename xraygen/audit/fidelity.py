"""How far a set of films is from the real ones, beside sets whose quality is known, all at one N."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xraygen.audit.sets import ImageSet
from xraygen.dataset.store import Dataset
from xraygen.errors import UsageError
from xraygen.films.phantom import BITS, MIN_SIDE, phantom_film
from xraygen.films.resizing import resize
from xraygen.metrics.references import blurred, gaussian_like, noise
from xraygen.progress import Progress, Report, silent
from xraygen.ranges import Stored, stored_to_unit, unit_to_stored
from xraygen.seeds import derive_seed, numpy_generator, torch_generator

SMALLEST_COUNT = 8
"""Three quarters of fewer films have no fifth neighbour."""

PHANTOM_SIDE = 128
"""Pixels of the shorter side that phantoms are drawn with at most; with 256 px they take more than twice as long."""
_THREADS = 2
REFERENCE_BITS = 16
_GAUSSIAN_PIXELS = 2**27
"""512 MB of float32: the Gaussian is fitted to as many training films as that holds."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """One set to hold against the N test films."""

    label: str
    """What a table calls it."""
    description: str
    """What it is, in one sentence."""
    images: Stored
    """[N, H, W]."""
    bits: int
    """White is stored as 2^bits - 1."""
    rows: NDArray[np.int64] | None = None
    """Which films these are of what they were chosen from, [N]; None where they were made for this."""


def equal_count(available: Mapping[str, int], wanted: int | None) -> int:
    """The N of every distance: the smallest set's size, or the size asked for.

    Raises:
        UsageError: If a set is smaller than asked for, or than SMALLEST_COUNT.
    """
    smallest = min(available, key=lambda name: available[name])
    if available[smallest] < SMALLEST_COUNT:
        raise UsageError(
            f"{smallest} holds {available[smallest]} films, and an audit needs at least {SMALLEST_COUNT}."
        )
    if wanted is not None and not SMALLEST_COUNT <= wanted <= available[smallest]:
        raise UsageError(
            f"--count {wanted}: expected {SMALLEST_COUNT} to {available[smallest]}, "
            f"the number of films in {smallest}."
        )
    return wanted or available[smallest]


def choose(total: int, count: int, seed: int, name: str) -> NDArray[np.int64]:
    """`count` of `total` rows without repeats, ascending, int64 [count]."""
    generator = numpy_generator(seed, "audit-rows", name)
    return np.sort(generator.choice(total, size=count, replace=False)).astype(np.int64)


def reference_sets(
    real: Dataset, train: NDArray[np.int64], count: int, seed: int, *, report: Report = silent
) -> dict[str, Comparison]:
    """The floor, the ceiling and what lies between.

    Args:
        real: The DATASET.
        train: Rows of its train split.
        count: N.
        seed: Seed of every choice.
        report: Told of each phantom.

    Returns:
        `real` (N training films, other patients than the test films), `blurred`, `gaussian`, `phantoms` and `noise`.
    """
    height, width = real.info.size
    bits = real.info.bits
    floor = train[choose(len(train), count, seed, "floor")]
    disjoint = real.gather(floor)  # [N, H, W]
    fitted = min(len(train), max(2, _GAUSSIAN_PIXELS // (height * width)))
    pool = stored_to_unit(real.gather(train[choose(len(train), fitted, seed, "gaussian")]), bits)
    gaussian = gaussian_like(pool, count, torch_generator(seed, "audit-gaussian"))
    grain = noise(count, (height, width), torch_generator(seed, "audit-noise"))
    return {
        "real": Comparison(
            "real films (floor)", f"{count} real training films of other patients.", disjoint, bits, floor
        ),
        "blurred": blurred_set(disjoint, bits),
        "gaussian": Comparison(
            "Gaussian",
            f"Drawn from the Gaussian with the mean and covariance of the pixels of {fitted} training films.",
            unit_to_stored(gaussian, REFERENCE_BITS),
            REFERENCE_BITS,
        ),
        "phantoms": phantom_set(count, (height, width), seed, report=report),
        "noise": Comparison(
            "noise (ceiling)",
            "Uniform noise.",
            unit_to_stored(grain, REFERENCE_BITS),
            REFERENCE_BITS,
        ),
    }


def blurred_set(films: Stored, bits: int) -> Comparison:
    """Films of the floor, `[N, H, W]`, through a blur of 1/32 of their height."""
    sigma_px = films.shape[1] / 32
    return Comparison(
        "real films, blurred",
        f"The films of the floor, through a Gaussian blur of {sigma_px:.3g} px.",
        unit_to_stored(blurred(stored_to_unit(films, bits), sigma_px), REFERENCE_BITS),
        REFERENCE_BITS,
    )


def phantom_set(count: int, size: tuple[int, int], seed: int, *, report: Report = silent) -> Comparison:
    """One phantom film of each of N patients that no `xraygen phantom` of this seed draws, `[N, H, W]`."""
    scale = max(MIN_SIDE, min(PHANTOM_SIDE, *size)) / min(size)
    drawn = (round(size[0] * scale), round(size[1] * scale))
    own_seed = derive_seed(seed, "audit-phantoms")
    images = np.empty((count, *size), dtype=np.uint16)

    def draw(patient: int) -> None:
        film = stored_to_unit(phantom_film(own_seed, patient, 0, drawn).pixels, BITS)
        images[patient] = unit_to_stored(film if drawn == size else resize(film, size), REFERENCE_BITS)

    report(Progress("phantoms to compare with", 0, count))
    with ThreadPoolExecutor(_THREADS) as pool:  # NumPy lets go of the interpreter's lock
        try:
            for done, _ in enumerate(pool.map(draw, range(count)), start=1):
                report(Progress("phantoms to compare with", done, count))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    enlarged = "" if drawn == size else f", drawn with {drawn[0]}x{drawn[1]} px and resized"
    return Comparison(
        "phantoms",
        f"Drawn chest films, as of `xraygen phantom`, of {count} made-up adults{enlarged}.",
        images,
        REFERENCE_BITS,
    )


def chosen_from(films: ImageSet, count: int, seed: int, label: str, description: str) -> Comparison:
    """N films of a set."""
    rows = choose(len(films), count, seed, films.name)
    return Comparison(label, description, films.images[rows], films.bits, rows)
