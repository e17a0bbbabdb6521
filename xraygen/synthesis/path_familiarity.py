"""Whether a film is like those that a RUN was trained on: its denoising loss beside that of held-out films.

N films, K bands of timesteps, P timesteps in each.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraygen.dataset.conditions import Conditions
from xraygen.dataset.store import Dataset
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.guidance import told
from xraygen.films.dicom import is_lateral
from xraygen.models.unet import UNet
from xraygen.progress import Progress, Report
from xraygen.seeds import torch_generator
from xraygen.synthesis.path_ends import End
from xraygen.training.batches import as_model_input
from xraygen.training.held_out import held_out_bands

_log = logging.getLogger(__name__)

HELD_OUT_FILMS = 48
"""Films on which the range is measured: one more of their kind lies outside it by chance once in 25 times."""
FEWEST_FILMS = 8
"""Fewer make no range."""
ASSUMED = (0.5, 3.0)
"""Range of the ratio where the films that would say it are not at hand: 48 of Kermany's span 0.62 to 2.51."""
_BANDS, _PER_BAND, _DRAWS = 5, 6, 4096
_AT_ONCE = 16


@dataclass(frozen=True)
class Reference:
    """Held-out films.

    Attributes:
        t: Timesteps, int64 `(K, P)`.
        losses: Mean loss of held-out films in each band, float64 `[K]`.
        low: Least ratio of a film that counts as familiar.
        high: Largest.
        films: How many films said the range; 0 where it is `ASSUMED` and the means are those of the RUN's log.
    """

    t: Tensor
    losses: NDArray[np.float64]
    low: float
    high: float
    films: int

    def ratio(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Losses `[N, K]` over the held-out films', averaged over bands, `[N]`: each noise level counts alike."""
        result: NDArray[np.float64] = (losses / self.losses).mean(axis=1)
        return result

    def to_json(self) -> dict[str, Any]:
        """As path.json holds it."""
        return {
            "range": [round(self.low, 4), round(self.high, 4)],
            "held_out_films": self.films or None,
            "range_is": "measured" if self.films else "assumed",
        }


@dataclass(frozen=True, eq=False)
class Judge:
    """A network and where it computes."""

    network: UNet
    diffusion: GaussianDiffusion
    device: torch.device

    def reference(
        self, run: Path, step: int, dataset: Dataset | None, conditions: Conditions, report: Report
    ) -> Reference | None:
        """What films are held against: the DATASET's validation films, else what the RUN knows of them.

        Args:
            run: RUN folder.
            step: Of its checkpoint.
            dataset: The RUN's DATASET, where it is at hand.
            conditions: What the RUN can be told.
            report: Told how many films are done.

        Returns:
            None where neither knows any held-out film.
        """
        if dataset is not None and len(rows := dataset.indices("validation")) >= FEWEST_FILMS:
            rows = rows[:: max(1, len(rows) // HELD_OUT_FILMS)][:HELD_OUT_FILMS]
            return self._measured(dataset, rows, conditions, report)
        bands = held_out_bands(run, step)
        if not bands:
            return None
        t = self.timesteps([(band.first, band.last) for band in bands])
        return Reference(t, np.array([band.loss for band in bands]), *ASSUMED, 0)

    def timesteps(self, bands: Sequence[tuple[int, int]] | None = None) -> Tensor:
        """Timesteps spread over each band as training draws them, int64 `(K, P)`; over all in fifths by default."""
        draw = torch_generator(0, "familiarity")
        drawn = self.diffusion.draw_timesteps(_DRAWS, draw).sort().values
        parts = (
            drawn.chunk(_BANDS)
            if bands is None
            else [drawn[(drawn >= first) & (drawn <= last)] for first, last in bands]
        )
        places = (torch.arange(_PER_BAND) + 0.5) / _PER_BAND
        if bands is not None:
            parts = [
                part if len(part) else torch.tensor([(first + last) // 2])
                for part, (first, last) in zip(parts, bands, strict=True)
            ]
        return torch.stack([part[(places * len(part)).long()] for part in parts])

    @torch.no_grad()
    def losses(
        self, films: Tensor, condition: Tensor, t: Tensor, report: Report | None = None
    ) -> NDArray[np.float64]:
        """Mean denoising loss of each film in each band; all films meet the same noise, so that they compare.

        Args:
            films: `(N, C, H, W)`, [-1, 1].
            condition: What is told of each, `(N, F)`.
            t: From `timesteps`, `(K, P)`.
            report: Told how many films are done.

        Returns:
            float64 `[N, K]`.
        """
        found: list[Tensor] = []
        parts = (torch.split(tensor, _AT_ONCE) for tensor in (films, condition))
        for x, told_of in zip(*parts, strict=True):
            if report is not None:
                report(Progress("held-out films", _AT_ONCE * len(found), len(films)))
            model = told(self.network, told_of.to(self.device))
            x_start = x.to(self.device)
            columns = []
            for place, step in enumerate(t.flatten().tolist()):
                noise = torch.randn(x.shape[1:], generator=torch_generator(0, "familiarity noise", place))
                steps = torch.full((len(x),), step, device=self.device)
                noise = noise.to(self.device).expand_as(x_start)
                columns.append(self.diffusion.training_losses(model, x_start, steps, noise).double().cpu())
            found.append(torch.stack(columns, dim=1).view(len(x), *t.shape).mean(dim=2))
        if report is not None:
            report(Progress("held-out films", len(films), len(films)))
        return torch.cat(found).numpy()

    def _measured(
        self, dataset: Dataset, rows: NDArray[np.int64], conditions: Conditions, report: Report
    ) -> Reference:
        """The range of held-out films' own ratios."""
        t = self.timesteps()
        condition = torch.from_numpy(conditions.of_manifest(dataset.manifest.iloc[rows]))
        losses = self.losses(as_model_input(dataset, rows), condition, t, report)
        ratios = (losses / losses.mean(axis=0)).mean(axis=1)
        return Reference(t, losses.mean(axis=0), float(ratios.min()), float(ratios.max()), len(rows))


def unfamiliar(side: str, ratio: float, reference: Reference) -> str | None:
    """One sentence where a film is unlike the training data, else None."""
    if reference.low <= ratio <= reference.high:
        return None
    films = f"of {reference.films} of them" if reference.films else "assumed; --data DATASET measures it"
    return (
        f"Film {side} is unlike what this RUN was trained on: its denoising loss is {ratio:.2f} times that of held-out "
        f"films, and their range is {reference.low:.2f} to {reference.high:.2f} ({films}); compare it with its "
        "reconstruction before you trust the path."
    )


def likeness(
    judge: Judge, reference: Reference | None, ends: tuple[End, End], dataset: Dataset | None
) -> dict[str, Any]:
    """How like the training films both ends are, for path.json, and a warning where one is not.

    Args:
        judge: Gives losses.
        reference: Held-out films, where any are known.
        ends: Films A and B.
        dataset: The RUN's DATASET, where it is at hand.
    """
    warnings = [_from_the_side(end, side, dataset) for end, side in zip(ends, "AB", strict=True)]
    found: dict[str, Any] = {"reference": None, "ratio_a": None, "ratio_b": None}
    if reference is not None:
        films = torch.stack([end.x for end in ends])
        condition = torch.stack([end.condition for end in ends])
        ratios = reference.ratio(judge.losses(films, condition, reference.t)).tolist()
        warnings += [unfamiliar(side, ratio, reference) for side, ratio in zip("AB", ratios, strict=True)]
        found = {
            "reference": reference.to_json(),
            **{f"ratio_{side}": round(ratio, 4) for side, ratio in zip("ab", ratios, strict=True)},
        }
    found["warnings"] = [warning for warning in warnings if warning is not None]
    for warning in found["warnings"]:
        _log.warning(warning)
    return found


def _from_the_side(end: End, side: str, dataset: Dataset | None) -> str | None:
    """One sentence for a lateral film of which it is not known that the RUN has seen any such, else None."""
    if not end.lateral or is_lateral(end.words.get("view", "").upper()):
        return None
    known = "this RUN does not say that it was trained on any"
    if dataset is not None:
        views = dataset.manifest["view"].iloc[dataset.indices("train")].astype(str)
        if any(is_lateral(view.upper()) for view in views.unique()):
            return None
        known = "no film that this RUN was trained on is one"
    return f"Film {side} is a lateral view ({end.view}), and {known}; expected frontal films."
