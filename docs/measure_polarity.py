"""Measures the flag `polarity_doubtful`: a threshold is chosen on half of Kermany's children and tried elsewhere.

    python docs/measure_polarity.py ../shared/data

The rule, fixed before the other films are looked at: the lowest threshold below which all films of the choosing half
fall when they are turned over. A lower one raises fewer false alarms, so that this one errs on their side. Halves are
drawn by the number in the file name, so that no child is in both, as far as that number tells. The chest that films
are compared with was drawn by hand by somebody who had seen such films; no number in it was fitted.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from real_films import kermany, parse, parser, patient_of, pictures, say, say_how, say_table

from xraygen.films.display import Display, Rescale, window_between
from xraygen.films.objects import ReadOptions
from xraygen.films.polarity import THRESHOLD, displayed_correlation
from xraygen.films.reader import read_film
from xraygen.seeds import numpy_generator

Correlations = NDArray[np.float64]  # [N, 2]: as displayed, and turned over
FOLDERS = {
    "hannover, 640 px": "hannover-cxr/gray640",
    "hannover, 1024 px (of the same patients)": "hannover-cxr/gray1024",
    "hannover, 2000 px (of the same patients)": "hannover-cxr/orig2000",
    "nih, 1024 px": "nih-cxr/orig1024",
    "chest DICOMs": "dicom-cxr",
}


def both(values: NDArray[np.integer], display: Display) -> tuple[float, float]:
    """The correlation as displayed, and with one inversion more."""
    turned = replace(display, inverted=not display.inverted)
    return displayed_correlation(values, display), displayed_correlation(values, turned)


def of_pictures(pictures_u8: Iterable[NDArray[np.uint8]]) -> Correlations:
    """8-bit pictures, shown in their full range."""
    display = Display(Rescale(), window_between(0, 255), "full_range", levels=(0, 255))
    return np.array([both(picture, display) for picture in pictures_u8])


def of_folder(folder: Path) -> Correlations:
    """Films as ingest displays them."""
    films = [read_film(path, ReadOptions(any_body_part=True)) for path in pictures(folder)]
    return np.array([both(film.values, film.display) for film in films])


def halves(films: Path, seed: int) -> tuple[Correlations, Correlations]:
    """Kermany's films: those that the threshold is chosen on, and the others."""
    named = list(kermany(films))
    children = sorted({patient_of(name) for name, _ in named})
    chosen = set(numpy_generator(seed, "polarity").permutation(children)[: len(children) // 2].tolist())
    correlations = of_pictures(np.rint(light * 255).astype(np.uint8) for _, light in named)
    is_chosen = np.array([patient_of(name) in chosen for name, _ in named])
    return correlations[is_chosen], correlations[~is_chosen]


def threshold_of(correlations: Correlations) -> float:
    """Just above the highest correlation of the films turned over: all of them are found, and no threshold is lower."""
    return float(np.nextafter(correlations[:, 1].max(), 1))


def row(name: str, correlations: Correlations, thresholds: tuple[float, float]) -> tuple[object, ...]:
    """Alarms and finds at each threshold, and the lowest correlation of a film shown correctly."""
    counts = []
    for threshold in thresholds:
        alarms, found = (correlations < threshold).sum(axis=0)
        counts += [alarms, found]
    return name, len(correlations), *counts, f"{correlations[:, 0].min():.3f}"


def main() -> None:
    """Print the table in Markdown."""
    arguments = parse(parser(__doc__))
    films = arguments.films
    choosing, other = halves(films, arguments.seed)
    chosen = threshold_of(choosing)
    with np.load(films / "nih-cxr/nih1000_64.npz") as arrays:
        nih = of_pictures(arrays["images"])
    collections = {
        "kermany, the choosing half": choosing,
        "kermany, the other half": other,
        "nih, 64 px": nih,
        **{name: of_folder(films / folder) for name, folder in FOLDERS.items()},
    }
    found = "found when turned over"
    say_table(
        (
            *("films", "number", f"false alarms at {chosen:.3f} (by the rule)", found),
            *(f"false alarms at {THRESHOLD:.3f} (xraygen's)", found, "lowest correlation"),
        ),
        [row(name, correlations, (chosen, THRESHOLD)) for name, correlations in collections.items()],
    )
    whole = threshold_of(np.concatenate([choosing, other]))
    say(
        f"By the same rule the other half would choose {threshold_of(other):.3f}, and both together {whole:.3f}.\n"
    )
    say_how("python docs/measure_polarity.py", arguments.seed)


if __name__ == "__main__":
    main()
