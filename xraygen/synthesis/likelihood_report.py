"""What a LIKELIHOOD says: means with their standard errors, the curve of Ho et al. 2020's table 4, and pictures."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from xraygen.atomic import atomic_file, write_json, write_text
from xraygen.dataset.store import Split
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.likelihood import DecoderFloor, RateDistortion, decoder_floor, rate_distortion
from xraygen.films.grids import tile
from xraygen.films.writers import write_png
from xraygen.ranges import model_to_stored

FORMAT_VERSION = 1
COLOURS = {"train": "#0072B2", "validation": "#009E73", "test": "#D55E00"}
_TABLE_ROWS = 10
_DPI = 140


class Estimated(NamedTuple):
    """Films whose bound is estimated from one timestep per stratum, `[n]` each, bits per dimension."""

    image_ids: NDArray[np.str_]
    prior: NDArray[np.float64]
    first: NDArray[np.float64]
    between: NDArray[np.float64]


@dataclass(frozen=True)
class SplitTerms:
    """The terms of a split, bits per dimension.

    Attributes:
        split: Which one.
        image_ids: Films taken at every timestep, `[n]`.
        prior: Their L_T, `[n]`.
        terms: Their L_0 ... L_{K-1}, `[n, K]`.
        xstart_mse: Mean squared error of pred_xstart in [-1, 1], `[n, K]`.
        rest: The other films.
    """

    split: Split
    image_ids: NDArray[np.str_]
    prior: NDArray[np.float64]
    terms: NDArray[np.float64]
    xstart_mse: NDArray[np.float64]
    rest: Estimated

    @property
    def every(self) -> Estimated:
        """The films taken at every timestep, summed as the estimated ones are."""
        return Estimated(self.image_ids, self.prior, self.terms[:, 0], self.terms[:, 1:].sum(axis=1))

    @property
    def curve(self) -> RateDistortion:
        """Their rate-distortion curve."""
        return rate_distortion(*map(torch.from_numpy, (self.prior, self.terms, self.xstart_mse)))


class Strip(NamedTuple):
    """What is seen of a few films at falling noise; the films themselves come last."""

    split: Split
    columns: list[Tensor]
    """pred_xstart at each timestep and at last x_0, `(films, C, H, W)` each."""
    timesteps: list[int]


def write_report(
    out: Path,
    measured: Sequence[SplitTerms],
    strip: Strip,
    diffusion: GaussianDiffusion,
    bits: int,
    origin: dict[str, Any],
) -> dict[str, Any]:
    """Write likelihood.json, the tables and the pictures.

    Args:
        out: LIKELIHOOD folder.
        measured: The terms of each split.
        strip: What to show of the films.
        diffusion: The diffusion that was measured.
        bits: Depth of the pixels.
        origin: Provenance.

    Returns:
        What likelihood.json holds.
    """
    floor = decoder_floor(diffusion, bits)
    result = {
        "format_version": FORMAT_VERSION,
        "id": origin["id"],
        "checkpoint": origin["checkpoint"],
        "settings": origin["settings"],
        "environment": origin["environment"],
        "unit": "bits per dimension",
        "L_0_floor": floor._asdict(),
        "splits": {terms.split: _summary(terms) for terms in measured},
    }
    write_json(out / "likelihood.json", result)
    write_text(out / "images.csv", _by_image(measured).to_csv(index=False, lineterminator="\n"))
    write_text(out / "terms.csv", _by_timestep(measured, diffusion).to_csv(index=False, lineterminator="\n"))
    curves = pd.concat([_curve_table(terms) for terms in measured])
    write_text(out / "rate_distortion.csv", curves.to_csv(index=False, lineterminator="\n"))
    with atomic_file(out / "likelihood.png") as aside:
        aside.write_bytes(_png(likelihood_chart(measured, floor)))
    pictures = torch.stack(strip.columns, dim=1).flatten(0, 1).permute(0, 2, 3, 1).squeeze(-1)
    write_png(
        out / "progressive-confidential.png",
        tile(model_to_stored(pictures, 8), 8, columns=len(strip.columns)),
    )
    return result


def mean_and_error(values: NDArray[np.float64]) -> dict[str, float | None]:
    """Mean over films and its standard error; None where one film cannot say."""
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
    return {"mean": float(values.mean()), "standard_error": None if error is None else float(error)}


def _summary(terms: SplitTerms) -> dict[str, Any]:
    """Figures of one split."""
    curve = terms.curve
    steps = len(curve.reverse_steps)
    chosen = sorted({max(1, round(steps * row / _TABLE_ROWS)) for row in range(1, _TABLE_ROWS + 1)})
    summary: dict[str, Any] = {
        "every_timestep": _sums(terms.every),
        "rate_distortion": [
            {"reverse_steps": n, "rate": float(curve.rate[n - 1]), "rmse": float(curve.distortion[n - 1])}
            for n in reversed(chosen)
        ],
    }
    if len(terms.rest.image_ids):
        summary["stratified"] = _sums(terms.rest)
    return summary


def _sums(films: Estimated) -> dict[str, Any]:
    """L and its parts over films."""
    return {
        "images": len(films.image_ids),
        "bits_per_dim": mean_and_error(films.prior + films.first + films.between),
        "L_T": mean_and_error(films.prior),
        "L_between": mean_and_error(films.between),
        "L_0": mean_and_error(films.first),
    }


def _by_image(measured: Sequence[SplitTerms]) -> pd.DataFrame:
    """One row per film: an unlikely film stands out here."""
    parts = [
        pd.DataFrame(
            {
                "split": terms.split,
                "image_id": films.image_ids,
                "method": method,
                "bits_per_dim": films.prior + films.first + films.between,
                "L_T": films.prior,
                "L_between": films.between,
                "L_0": films.first,
            }
        )
        for terms in measured
        for method, films in (("every_timestep", terms.every), ("stratified", terms.rest))
    ]
    return pd.concat(parts)


def _by_timestep(measured: Sequence[SplitTerms], diffusion: GaussianDiffusion) -> pd.DataFrame:
    """Mean of each term over the films taken at every timestep."""
    parts = [
        pd.DataFrame(
            {
                "split": terms.split,
                "t": diffusion.schedule.timesteps.numpy(),
                "bits_per_dim": terms.terms.mean(axis=0),
                "standard_error": _standard_errors(terms.terms),
                "xstart_rmse": 127.5 * np.sqrt(terms.xstart_mse).mean(axis=0),
            }
        )
        for terms in measured
    ]
    return pd.concat(parts)


def _standard_errors(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each column's mean, `[K]`; NaN for one film."""
    if len(terms) < 2:
        return np.full(terms.shape[1], np.nan)
    errors: NDArray[np.float64] = terms.std(axis=0, ddof=1) / len(terms) ** 0.5
    return errors


def _curve_table(terms: SplitTerms) -> pd.DataFrame:
    curve = terms.curve
    return pd.DataFrame(
        {
            "split": terms.split,
            "reverse_steps": curve.reverse_steps,
            "rate": curve.rate,
            "rmse": curve.distortion,
        }
    )


def likelihood_chart(measured: Sequence[SplitTerms], floor: DecoderFloor) -> Figure:
    """Where the bits go: each term by its timestep, and what they buy."""
    figure = Figure(figsize=(8.2, 3.4), layout="constrained")
    by_step, by_rate = figure.subplots(1, 2)
    for terms in measured:
        _draw_split(by_step, by_rate, terms)
    by_step.axhline(floor.calibrated, color="#5A5A5A", ls="--", lw=1.2, label="floor of $L_0$")
    by_step.set_xlabel("t + 1 (t = 0 is the least noisy)")
    by_step.set_ylabel("bits per dimension")
    by_step.set_title("terms of the bound", fontsize=10)
    by_rate.set_xlabel("rate, bits per dimension")
    by_rate.set_ylabel("RMSE of the image, of 255")
    by_rate.set_title("rate and distortion", fontsize=10)
    for axes in (by_step, by_rate):
        axes.spines[["top", "right"]].set_visible(False)
    by_step.legend(frameon=False, fontsize=8)
    return figure


def _draw_split(by_step: Axes, by_rate: Axes, terms: SplitTerms) -> None:
    mean, error = terms.terms.mean(axis=0), np.nan_to_num(_standard_errors(terms.terms))
    steps = np.arange(1, len(mean) + 1)
    total = float((terms.prior + terms.terms.sum(axis=1)).mean())
    colour = COLOURS[terms.split]
    by_step.loglog(steps, mean, color=colour, lw=1.4, label=f"{terms.split}: {total:.2f} in all")
    by_step.fill_between(
        steps, np.maximum(mean - error, mean / 100), mean + error, color=colour, alpha=0.2, lw=0
    )
    by_rate.plot(terms.curve.rate, terms.curve.distortion, color=colour, lw=1.4)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    return content.getvalue()
