"""Which readable films stay out of a DATASET, by rules with a reason code and a threshold each.

| reason | threshold |
|---|---|
| `too_small` | `min_side_px`, `max_magnification` |
| `blank` | `min_contrast` |
| `saturated` | `max_black`, `max_white` |
| `duplicate` | none: the same pixels |
| `near_duplicate` | `near_duplicate_bits` |
| `text`, which PrepareSettings ask for | `text_contrast`, `text_characters` |
"""

import base64
import math
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygen.dataset.journal import Outcome
from xraygen.dataset.outcomes import duplicate, rejected
from xraygen.errors import UsageError
from xraygen.films.content import HASH_BITS, TextRule
from xraygen.films.resizing import resize, size_inside
from xraygen.films.transforms import PreparedFilm, PrepareSettings
from xraygen.ranges import stored_to_unit

THUMBNAIL_PX = 96
THUMBNAILS_PER_REASON = 16
_MOST_BITS = 64  # beyond, the index looks at most of the films and the rule at different ones
_LEAST_HASHED_PX = 16
_OF_TEXT = "text_"


@dataclass(frozen=True, kw_only=True)
class CurationSettings:
    """Thresholds of all rules; what was measured on real films is in docs/how-to/curation.md."""

    min_side_px: int = 16
    """A film with fewer rows or columns is `too_small`."""
    max_magnification: float = 4.0
    """So is one of which what `fit` takes would be enlarged by more than this to reach the images' size; finite."""
    min_contrast: float = 0.05
    """Below this range of light, of coarse blocks so that noise averages out, a film is `blank`; 0 for none."""
    max_black: float = 0.9
    """Above this share of pixels cut off at black, without wholly black borders, it is `saturated`; 1 for none."""
    max_white: float = 0.5
    """The same at white."""
    near_duplicate_bits: int = 16
    """Up to so many differing bits of 256 a film is a `near_duplicate` of an earlier one; -1 for none."""

    def __post_init__(self) -> None:
        if self.min_side_px < 1 or not 0 < self.max_magnification < math.inf:
            raise UsageError(
                "--curate: min_side_px must be 1 or more, and max_magnification a number above 0; for none, 1000."
            )
        for name in ("min_contrast", "max_black", "max_white"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"--curate {name}={getattr(self, name)}: expected a number from 0 to 1.")
        if not -1 <= self.near_duplicate_bits <= _MOST_BITS:
            raise UsageError(
                f"--curate near_duplicate_bits={self.near_duplicate_bits}: expected -1 (none) to {_MOST_BITS}."
            )

    def to_json(self) -> dict[str, Any]:
        """As dataset.json holds them."""
        return asdict(self)


def parse_thresholds(texts: Sequence[str]) -> tuple[CurationSettings, TextRule]:
    """The defaults of all rules, changed by texts such as "min_contrast=0.02" and "text_characters=6".

    Raises:
        UsageError: If a name is unknown, or a value is no number or out of range.
    """
    types = {
        prefix + field.name: int if field.type in (int, "int") else float
        for prefix, rule in (("", CurationSettings), (_OF_TEXT, TextRule))
        for field in fields(rule)
    }
    changes: dict[str, Any] = {}
    for text in texts:
        match = re.fullmatch(r"\s*(\w+)\s*=\s*(\S+)\s*", text)
        if not match or match[1] not in types:
            raise UsageError(f"--curate {text}: expected NAME=NUMBER, NAME being one of {', '.join(types)}.")
        try:
            changes[match[1]] = types[match[1]](match[2])
        except ValueError:
            raise UsageError(f"--curate {text}: {match[2]} is not the number that it should be.") from None
    of_text = {
        name.removeprefix(_OF_TEXT): changes.pop(name) for name in [*changes] if name.startswith(_OF_TEXT)
    }
    return CurationSettings(**changes), TextRule(**of_text)


class NearDuplicates:
    """Finds a hash within a number of bits among many: exactly, without comparing all pairs.

    Two hashes that differ in at most t bits agree wholly in at least one of t + 1 bands (pigeonhole), so only the
    films in the same bucket of a band are compared. A million films take about 300 MB.

    Args:
        bits: The largest distance t that counts; below 0 nothing is ever near.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self._hashes = np.zeros((1024, HASH_BITS // 64), np.uint64)
        self._sources: list[str] = []
        bands = max(bits, 0) + 1
        self._buckets: list[defaultdict[bytes, array[int]]] = [
            defaultdict(lambda: array("I")) for _ in range(bands)
        ]
        self._bits_of_bands = np.zeros((-(-HASH_BITS // bands), bands), np.uint8)  # [bits of a band, bands]

    def __len__(self) -> int:
        """Number of hashes."""
        return len(self._sources)

    def add(self, perceptual: bytes, source: str) -> None:
        """Remember a film: its hash of 32 bytes, and its name."""
        number = len(self._sources)
        if number == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.zeros_like(self._hashes)])
        self._hashes[number] = np.frombuffer(perceptual, np.uint64)
        self._sources.append(source)
        for buckets, key in zip(self._buckets, self._keys(perceptual), strict=True):
            buckets[key].append(number)

    def first_near(self, perceptual: bytes) -> tuple[str, int] | None:
        """The film added first of those within the distance, and how many bits differ; None where there is none."""
        if self.bits < 0:
            return None
        keys = self._keys(perceptual)
        found = [buckets[key] for buckets, key in zip(self._buckets, keys, strict=True) if key in buckets]
        if not found:
            return None
        numbers = np.concatenate([np.frombuffer(bucket, np.uintc) for bucket in found])  # some more than once
        differing = self._hashes[numbers] ^ np.frombuffer(perceptual, np.uint64)
        distances = np.bitwise_count(differing).sum(axis=1, dtype=np.int64)
        near = np.flatnonzero(distances <= self.bits)
        if not len(near):
            return None
        first = near[numbers[near].argmin()]
        return self._sources[numbers[first]], int(distances[first])

    def _keys(self, perceptual: bytes) -> list[bytes]:
        """The hash's bits in each band: interleaved, for the lowest frequencies of most films have one sign."""
        self._bits_of_bands.flat[:HASH_BITS] = np.unpackbits(np.frombuffer(perceptual, np.uint8))
        packed = np.packbits(self._bits_of_bands, axis=0)  # [bytes of a band, bands]
        return [packed[:, band].tobytes() for band in range(packed.shape[1])]


def near_bits(settings: CurationSettings, prepare: PrepareSettings) -> int:
    """How many bits may differ between near duplicates; -1 where there are none: a few pixels are too much alike."""
    return settings.near_duplicate_bits if min(prepare.size) >= _LEAST_HASHED_PX else -1


class Curator:
    """Judges films in their order; the first of several that are alike stays.

    Args:
        settings: The thresholds.
        prepare: What the images are brought to.
    """

    def __init__(self, settings: CurationSettings, prepare: PrepareSettings) -> None:
        self.settings, self.prepare = settings, prepare
        self._near = NearDuplicates(near_bits(settings, prepare))
        self._kept: dict[
            bytes, tuple[str, int]
        ] = {}  # first half of the content's hash -> source, hash of labels
        self._thumbnails: Counter[str] = Counter()

    def remember(self, outcome: Outcome) -> None:
        """Take note of what an earlier film came to, when an ingest goes on."""
        if "row" in outcome:
            self._keep(outcome)
        elif "thumbnail" in outcome:
            self._thumbnails[outcome["reason"]] += 1

    def judge(self, film: PreparedFilm, outcome: Outcome) -> Outcome:
        """What becomes of a film: its outcome, which it keeps, or that of a rejection with its small picture.

        Args:
            film: The film as prepared.
            outcome: Its outcome if it goes into the DATASET.
        """
        outcome = {**outcome, "perceptual": film.look.perceptual.hex()}
        refusal = self._refusal(film, outcome)
        if refusal is None:
            self._keep(outcome)
            return outcome
        # What is known of it may be news of the film that is kept, or of an identical one that is withdrawn.
        known = {name: outcome["row"][name] for name in ("image_id", "patient", "study")}
        known |= {name: outcome[name] for name in ("patient_by", "perceptual", "split", "matched")}
        refusal = {**refusal, **known}
        if self._thumbnails[refusal["reason"]] >= THUMBNAILS_PER_REASON:
            return refusal
        self._thumbnails[refusal["reason"]] += 1
        return {**refusal, "thumbnail": to_thumbnail(stored_to_unit(film.image, self.prepare.bits))}

    def _refusal(self, film: PreparedFilm, outcome: Outcome) -> Outcome | None:
        """The first rule that a film breaks."""
        source = outcome["source"]
        first = self._kept.get(_content(outcome))
        if first is not None:
            return duplicate(source, first[0], same_labels=first[1] == _labels(outcome))
        broken = broken_rule(film, self.settings, self.prepare)
        if broken is not None:
            return rejected(source, *broken)
        near = self._near.first_near(bytes.fromhex(outcome["perceptual"]))
        if near is not None:
            detail = (
                f"Nearly the same picture as {near[0]}, which is kept: {near[1]} of {HASH_BITS} bits differ."
            )
            return {**rejected(source, "near_duplicate", detail), "like": near[0]}
        return None

    def _keep(self, outcome: Outcome) -> None:
        self._kept[_content(outcome)] = outcome["source"], _labels(outcome)
        if self._near.bits >= 0:
            self._near.add(bytes.fromhex(outcome["perceptual"]), outcome["source"])


def _content(outcome: Outcome) -> bytes:
    """128 bits of the keyed hash of a film's pixels."""
    return bytes.fromhex(outcome["content"])[:16]


def _labels(outcome: Outcome) -> int:
    """Equal for equal labels, within this process."""
    return hash(tuple(sorted(outcome["labels"].items())))


def broken_rule(
    film: PreparedFilm, settings: CurationSettings, prepare: PrepareSettings
) -> tuple[str, str] | None:
    """The reason and detail of the first rule that one film breaks by itself, or None.

    Args:
        film: The film as prepared.
        settings: The thresholds.
        prepare: What it was prepared with.
    """
    rows, columns = film.attributes.rows, film.attributes.columns
    if min(rows, columns) < settings.min_side_px:
        return (
            "too_small",
            f"The film has {rows}x{columns} pixels; expected {settings.min_side_px} or more per side.",
        )
    if magnification((rows, columns), prepare) > settings.max_magnification:
        return "too_small", (
            f"The film has {rows}x{columns} pixels and would be enlarged more than "
            f"{settings.max_magnification:g} times; "
            "choose a smaller --size."
        )
    look = film.look
    if look.contrast < settings.min_contrast:
        return "blank", f"The film shows next to nothing: its light varies by {look.contrast:.3f} of 1."
    for end, share, most in (
        ("black", look.black, settings.max_black),
        ("white", look.white, settings.max_white),
    ):
        if share > most:
            return "saturated", f"{share:.0%} of the film is cut off at {end}; expected {most:.0%} or less."
    return None


def magnification(shape: tuple[int, int], prepare: PrepareSettings) -> float:
    """How many times a film is enlarged, along the side where it is more.

    Args:
        shape: Its rows and columns.
        prepare: What it is prepared with: the black borders of `pad` are none of it, and `crop` enlarges a part.
    """
    taken = size_inside(prepare.size, shape) if prepare.fit == "crop" else shape
    reached = size_inside(shape, prepare.size) if prepare.fit == "pad" else prepare.size
    return max(reached[0] / taken[0], reached[1] / taken[1])


def to_thumbnail(light: NDArray[np.float32]) -> str:
    """A small 8-bit copy as text: THUMBNAIL_PX on the longer side, black borders around it."""
    height, width = size_inside(light.shape, (THUMBNAIL_PX, THUMBNAIL_PX))
    small = np.zeros((THUMBNAIL_PX, THUMBNAIL_PX), np.uint8)
    top, left = (THUMBNAIL_PX - height) // 2, (THUMBNAIL_PX - width) // 2
    small[top : top + height, left : left + width] = np.rint(resize(light, (height, width)) * 255)
    return base64.b64encode(small.tobytes()).decode()


def from_thumbnail(text: str) -> NDArray[np.uint8]:
    """The inverse of `to_thumbnail`: uint8 [THUMBNAIL_PX, THUMBNAIL_PX]."""
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(THUMBNAIL_PX, THUMBNAIL_PX)
