"""Measures the detector of burned-in text on real films: what it finds of planted text, and its false alarms.

    python docs/measure_text.py ../shared/data

Text is planted into films on which the detector finds nothing as they are. Each planting draws a film, a text, a font
(Pillow's Aileron, and DejaVu as matplotlib brings it), a contrast, a polarity and a place; all but the size are drawn
anew each time. The detector then sees the text with 48 pixels around it, farther than its widest window reaches, which
gives the answer that the whole film would, some hundred times sooner.

Ingest looks at films at their own size, before it makes them small. The tables of small films say what would be found
if it did not, or where the films themselves are as small.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from real_films import Light, kermany, light_of, parse, parser, pictures, say, say_how, say_table

from xraygen.films.content import has_text
from xraygen.films.phantom import phantom_film
from xraygen.films.resizing import resize
from xraygen.seeds import numpy_generator

TEXTS = ("MUSTERMANN^ERIKA", "12.03.1961", "ID 4711-0815", "Doe, Jane 63Y F", "19:44:07", "Acc 20260311")
FONTS = ("Aileron", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif")
CONTRASTS = (0.2, 0.4, 0.8)
PLACES = ("upper left", "upper right", "lower left", "lower right", "middle")
SIZES_PX = (8, 10, 14, 20, 32)
MARGIN_PX = 48
SMALL_PX = (32, 64)
Draw = dict[str, str]


def font(name: str, size_px: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """A font of that height in pixels."""
    if name == "Aileron":
        return ImageFont.load_default(size_px)
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts/ttf" / f"{name}.ttf"), size_px)


def corner_of(place: str, film: tuple[int, int], text: tuple[int, int], edge: int) -> tuple[int, int]:
    """Where the text's left upper corner (x, y) goes."""
    free = (film[1] - text[0], film[0] - text[1])
    if place == "middle":
        return free[0] // 2, free[1] // 2
    x = edge if "left" in place else free[0] - edge
    y = edge if "upper" in place else free[1] - edge
    return max(0, x), max(0, y)


def planted(light: Light, draw: Draw, size_px: int) -> tuple[Light, tuple[int, int, int, int]]:
    """The film with text in it, and the text's box (left, top, right, bottom).

    Text is that much brighter or darker than the median of what lies below it; where black or white is nearer than
    that, it goes to the other side, or else as far as the farther end.
    """
    picture, letters = Image.fromarray(light.copy()), font(draw["font"], size_px)
    canvas = ImageDraw.Draw(picture)
    size = canvas.textbbox((0, 0), draw["text"], font=letters)
    extent = (int(size[2]), int(size[3]))
    x, y = corner_of(draw["place"], (light.shape[0], light.shape[1]), extent, max(1, light.shape[1] // 64))
    box = (x, y, min(light.shape[1], x + extent[0]), min(light.shape[0], y + extent[1]))
    below, step = float(np.median(light[box[1] : box[3], box[0] : box[2]])), float(draw["contrast"])
    room = {"bright": 1 - below, "dark": below}
    polarity = draw["polarity"] if room[draw["polarity"]] >= step else max(room, key=lambda side: room[side])
    grey = below + min(step, room[polarity]) * (1 if polarity == "bright" else -1)
    canvas.text((x, y), draw["text"], font=letters, fill=grey)
    return np.asarray(picture), box


def drawn(seed: int, *purpose: str | int) -> Draw:
    """One of each."""
    generator = numpy_generator(seed, "text", *purpose)
    choices = {
        "text": TEXTS,
        "font": FONTS,
        "place": PLACES,
        "polarity": ("bright", "dark"),
        "contrast": tuple(map(str, CONTRASTS)),
    }
    return {name: str(generator.choice(values)) for name, values in choices.items()}


def found(task: tuple[Light, Draw, int]) -> bool:
    """Whether planted text is found, from the film around it."""
    film, (left, top, right, bottom) = planted(*task)
    around = film[max(0, top - MARGIN_PX) : bottom + MARGIN_PX, max(0, left - MARGIN_PX) : right + MARGIN_PX]
    return has_text(np.ascontiguousarray(around))


def found_when_small(task: tuple[Light, Draw, int, int]) -> bool:
    """Whether text planted at full size is found after the film was brought to a small side."""
    light, draw, size_px, side = task
    return has_text(resize(planted(light, draw, size_px)[0], (side, side)))


class Tally:
    """Hits and tries by every value that was drawn."""

    def __init__(self) -> None:
        self.hits: defaultdict[tuple[str, str], list[bool]] = defaultdict(list)

    def add(self, draw: Draw, hit: bool) -> None:
        """Count one planting."""
        for factor, value in draw.items():
            self.hits[factor, value].append(hit)

    def cell(self, factor: str, value: str) -> str:
        """Share of hits, and of how many."""
        hits = self.hits[factor, value]
        return f"{100 * sum(hits) / len(hits):.0f} % of {len(hits)}" if hits else "-"


Map = Callable[..., Iterable[bool]]


def recall(
    run: Map, name: str, silent: Sequence[Light], count: int, seed: int
) -> tuple[dict[int, str], Tally]:
    """Share found by size, and the tally over sizes of 14 px and more."""
    by_size, tally = {}, Tally()
    for size_px in SIZES_PX:
        draws = [drawn(seed, name, size_px, number) for number in range(count)]
        tasks = [(silent[number % len(silent)], draw, size_px) for number, draw in enumerate(draws)]
        hits = list(run(found, tasks, chunksize=20))
        by_size[size_px] = f"{100 * sum(hits) / count:.0f} %"
        for draw, hit in zip(draws, hits, strict=True):
            if size_px >= 14:
                tally.add(draw, hit)
    return by_size, tally


def say_small(run: Map, films: Sequence[Light], count: int, seed: int) -> None:
    """Recall and alarms of films of 32 and 64 pixels: text of full size made small, and text set small."""
    rows: list[tuple[object, ...]] = []
    for side in SMALL_PX:
        small = [resize(light, (side, side)) for light in films]
        alarms = sum(run(has_text, small, chunksize=20))
        silent = [light for light in films if not has_text(resize(light, (side, side)))][:count]
        for size_px in (10, 14, 20):
            tasks = [(light, drawn(seed, side, size_px, n), size_px, side) for n, light in enumerate(silent)]
            hits = sum(run(found_when_small, tasks, chunksize=20))
            rows.append(
                (
                    f"{side} px",
                    f"{size_px} px at 224 px",
                    f"{hits} of {len(silent)}",
                    f"{alarms} of {len(small)}",
                )
            )
        for size_px in (6, 8, 10):
            short = [
                {**drawn(seed, side, "set", size_px, n), "text": "4711" if side == 32 else "DOE 4711"}
                for n in range(len(silent))
            ]
            direct = [
                (resize(light, (side, side)), draw, size_px)
                for light, draw in zip(silent, short, strict=True)
            ]
            hits = sum(run(found, direct, chunksize=20))
            rows.append(
                (
                    f"{side} px",
                    f"{size_px} px, set at {side} px",
                    f"{hits} of {len(silent)}",
                    f"{alarms} of {len(small)}",
                )
            )
    say_table(("kermany at", "text", "found", "alarms without planted text"), rows)


def collections(films: Path, most: int | None) -> dict[str, list[Light]]:
    """Films by collection, at most so many of each."""
    folders = {"hannover, 640 px": "hannover-cxr/gray640", "hannover, 1024 px": "hannover-cxr/gray1024"}
    folders["nih, 1024 px"] = "nih-cxr/orig1024"
    made = {"kermany, 224 px": [light for _, light in islice(kermany(films), most)]}
    for name, folder in folders.items():
        made[name] = [light_of(path) for path in pictures(films / folder)[:most]]
    phantoms = [phantom_film(0, patient, 0, 512).pixels / np.float32(4095) for patient in range(16)]
    return made | {"phantoms, 512 px": [light.astype(np.float32) for light in phantoms]}


def options() -> argparse.Namespace:
    """What the command line says."""
    made = parser(__doc__)
    made.add_argument("--count", type=int, default=200, help="plantings for each collection and size")
    made.add_argument("--most", type=int, help="films of each collection [all]")
    made.add_argument("--workers", type=int, default=2)
    return parse(made)


def main() -> None:
    """Print the tables in Markdown."""
    arguments = options()
    count, seed = arguments.count, arguments.seed
    films = collections(arguments.films, arguments.most)
    by_size, tallies, alarms = {}, {}, {}
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        for name, lights in films.items():
            loud = list(pool.map(has_text, lights, chunksize=4))
            alarms[name] = f"{sum(loud)} of {len(lights)}"
            silent = [light for light, alarm in zip(lights, loud, strict=True) if not alarm]
            by_size[name], tallies[name] = recall(pool.map, name, silent, count, seed)
            print(f"{name}: alarms {alarms[name]}, found {by_size[name]}", file=sys.stderr)  # noqa: T201 - progress
        say(f"Found of {count} plantings each, by the size of the font, and alarms without planted text:\n")
        sizes = tuple(f"{size_px} px" for size_px in SIZES_PX)
        say_table(
            ("films", *sizes, "alarms"), [(name, *by_size[name].values(), alarms[name]) for name in films]
        )
        say("The same plantings of 14 px and more, by what else was drawn:\n")
        keys = sorted({key for tally in tallies.values() for key in tally.hits if key[0] != "text"})
        rows = [
            (f"{factor}: {value}", *(tallies[name].cell(factor, value) for name in films))
            for factor, value in keys
        ]
        say_table(("drawn", *films), rows)
        say("Small films:\n")
        say_small(
            pool.map, films["kermany, 224 px"][:: max(1, len(films["kermany, 224 px"]) // 1000)], count, seed
        )
    say_how("python docs/measure_text.py", seed)


if __name__ == "__main__":
    main()
