"""Measures the perceptual hash on real films: how many are found again, and how near different films come.

    python docs/measure_near_duplicates.py ../shared/data

Films are hashed as ingest does, at the size of a DATASET's images. A pair of different films within the threshold is a
false alarm unless both show one exposure; whether they do is told by their pixels (identical ones are counted as one
film) and by the number in Kermany's file names, which is not verified as a patient.
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from real_films import Light, kermany, light_of, parse, parser, patient_of, pictures, say, say_how, say_table

from xraygen.films.content import HASH_BITS, perceptual_hash
from xraygen.films.phantom import phantom_film
from xraygen.films.resizing import resize

THRESHOLDS = (0, 8, 16, 24, 32, 40, 48, 56, 64)
Hashes = NDArray[np.uint64]
Named = Iterable[tuple[str, Light]]


def as_jpeg(light: Light, quality: int) -> Light:
    """Saved as 8-bit JPEG and read again."""
    buffer = io.BytesIO()
    Image.fromarray(np.rint(light * 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).astype(np.float32) / np.float32(255)


def resized(light: Light, factor: float) -> Light:
    """At another size, as a viewer resizes."""
    size = (round(light.shape[1] * factor), round(light.shape[0] * factor))
    return np.asarray(Image.fromarray(light).resize(size, Image.Resampling.BILINEAR))


CHANGES: dict[str, Callable[[Light], Light]] = {
    "JPEG quality 50": lambda light: as_jpeg(light, 50),
    "resized by 0.9": lambda light: resized(light, 0.9),
    "resized by 0.5": lambda light: resized(light, 0.5),
    "10 % brighter (clipped)": lambda light: np.clip(light * np.float32(1.1), 0, 1),
    "10 % darker": lambda light: light * np.float32(0.9),
    "resized by 0.9, brighter and JPEG quality 50": lambda light: as_jpeg(
        np.clip(resized(light, 0.9) * np.float32(1.1), 0, 1), 50
    ),
    "gamma 1.3": lambda light: light ** np.float32(1.3),
    "window 10 % narrower at both ends": lambda light: np.clip((light - 0.1) / 0.8, 0, 1).astype(np.float32),
    "mirrored": lambda light: np.ascontiguousarray(light[:, ::-1]),
    "turned by 2 degrees": lambda light: np.asarray(
        Image.fromarray(light).rotate(2, Image.Resampling.BILINEAR)
    ),
    "5 % cut off on the left": lambda light: np.ascontiguousarray(light[:, light.shape[1] // 20 :]),
}


def hash_at(light: Light, side: int) -> Hashes:
    """The hash that ingest computes of a film in a DATASET of `side` pixels, uint64 [4]; `stretch`."""
    stored = np.rint(resize(light, (side, side)) * 65535) / 65535
    return perceptual_hash(stored.astype(np.float32)).view(np.uint64)


def phantom(patient: int) -> Light:
    """The first phantom of a patient, as `xraygen phantom --size 128` writes it."""
    return (phantom_film(0, patient, 0, 128).pixels / np.float32(4095)).astype(np.float32)


class Collection:
    """Films of one collection: their hashes at some sizes, and how far their changed copies are."""

    def __init__(self, films: Named, sides: tuple[int, ...]) -> None:
        self.names: list[str] = []
        seen: set[bytes] = set()
        hashes: dict[int, list[Hashes]] = {side: [] for side in sides}
        far: dict[int, list[list[int]]] = {side: [] for side in sides}
        self.identical = 0
        for name, light in films:
            content = hashlib.sha256(light.tobytes()).digest()
            if content in seen:
                self.identical += 1
                continue
            seen.add(content)
            self.names.append(name)
            copies = [change(light) for change in CHANGES.values()]
            for side in sides:
                own = hash_at(light, side)
                hashes[side].append(own)
                far[side].append([int(np.bitwise_count(own ^ hash_at(copy, side)).sum()) for copy in copies])
        self.hashes = {side: np.stack(of) for side, of in hashes.items()}  # [N, 4]
        self.far = {side: np.array(of) for side, of in far.items()}  # [N, changes]


def near_pairs(hashes: Hashes, most: int) -> Iterator[tuple[int, int, int]]:
    """Pairs (earlier, later, differing bits) of at most `most` bits, row by row."""
    for later in range(1, len(hashes)):
        bits = np.bitwise_count(hashes[:later] ^ hashes[later]).sum(axis=1, dtype=np.int64)
        for earlier in np.flatnonzero(bits <= most):
            yield int(earlier), later, int(bits[earlier])


def nearest(hashes: Hashes) -> int:
    """Differing bits of the nearest pair."""
    return min(
        int(np.bitwise_count(hashes[:later] ^ hashes[later]).sum(axis=1, dtype=np.int64).min())
        for later in range(1, len(hashes))
    )


def say_recall(collections: dict[str, Collection]) -> None:
    """Share of films whose changed copy is within the default threshold, and within twice as many bits."""
    columns = [(name, side) for name, it in collections.items() for side in it.far]
    for threshold in (16, 32):
        say(f"Found again after a change, at {threshold} of {HASH_BITS} bits:\n")
        rows: list[tuple[object, ...]] = []
        for index, change in enumerate(CHANGES):
            shares = [(collections[name].far[side][:, index] <= threshold).mean() for name, side in columns]
            rows.append((change, *(f"{100 * share:.2f} %" for share in shares)))
        head = [f"{name}, {len(collections[name].names)} films at {side} px" for name, side in columns]
        say_table(("change", *head), rows)


def say_pairs(collection: Collection) -> None:
    """Pairs of different kermany films by threshold, and of how many the numbers are the same."""
    patients = [patient_of(name) for name in collection.names]
    pairs = len(patients) * (len(patients) - 1) // 2
    say(
        f"Pairs of different kermany films ({len(patients)} films, {pairs} pairs, after "
        f"{collection.identical} films whose pixels are those of an earlier one):\n"
    )
    for side, hashes in collection.hashes.items():
        near = list(near_pairs(hashes, max(THRESHOLDS)))
        rows: list[tuple[object, ...]] = []
        for threshold in THRESHOLDS:
            within = [(a, b) for a, b, bits in near if bits <= threshold]
            same = sum(patients[a] == patients[b] for a, b in within)
            rows.append((threshold, len(within), same, len(within) - same))
        say_table((f"bits, at {side} px", "pairs", "with one number", "with two numbers"), rows)


def main() -> None:
    """Print the tables in Markdown."""
    arguments = parse(parser(__doc__))
    films = arguments.films
    with np.load(films / "nih-cxr/nih1000_64.npz") as arrays:
        nih = [
            (name, image.astype(np.float32) / 255)
            for name, image in zip(arrays["name"], arrays["images"], strict=True)
        ]
    gray640 = films / "hannover-cxr/gray640"
    collections = {
        "kermany": Collection(kermany(films), (64, 224)),
        "nih": Collection(nih, (64,)),
        "hannover": Collection(((path.name, light_of(path)) for path in pictures(gray640)), (64, 256)),
    }
    say_recall(collections)
    say_pairs(collections["kermany"])
    for name in ("nih", "hannover"):
        for side, hashes in collections[name].hashes.items():
            say(
                f"{name} at {side} px: {len(hashes)} films, the nearest pair differs in {nearest(hashes)} bits."
            )
    phantoms = np.stack([hash_at(phantom(patient), 32) for patient in range(1200)])
    say(f"phantoms at 32 px: {len(phantoms)} films, the nearest pair differs in {nearest(phantoms)} bits.\n")
    say_how("python docs/measure_near_duplicates.py", None)


if __name__ == "__main__":
    main()
