"""What watches over a training: steps that are not finite, samples gone grey or saturated, films learned by heart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

GREY_SHARE = 0.5
"""Samples whose pixels vary by less than this share of the films' standard deviation are called grey."""
SATURATED_EXCESS = 0.25
"""Samples with this much more of their pixels at the ends of the range than the films are called saturated."""
GAPS_IN_A_ROW = 3
"""Successive saves that must show a gap before training stops on it: one may be chance."""
_END = 1 - 1 / 255
"""Beyond this, of 1, a pixel is black or white in 8 bits."""


class Reading(NamedTuple):
    """What the steps since the last line of the log came to."""

    loss: float | None
    """Mean over the steps that counted; None if none did."""
    skipped: int
    """Steps whose loss or gradient was not finite; they left the weights alone."""
    longest_row: int
    """Most of them in a row, those before the last line included."""


@dataclass
class Tally:
    """Losses of the steps since the last line of the log, left on the device until they are read."""

    losses: list[Tensor] = field(default_factory=list)
    finite: list[Tensor] = field(default_factory=list)
    in_a_row: int = 0
    """Skipped steps before the first of `losses` without one that counted in between."""

    def add(self, loss: Tensor, finite: Tensor) -> None:
        """One step: its loss and whether it counted, both without dimensions; nothing waits for them."""
        self.losses.append(loss)
        self.finite.append(finite)

    def read(self) -> Reading:
        """What has been added, and begin anew. Waits for the device."""
        if not self.losses:
            return Reading(None, 0, self.in_a_row)
        losses, finite = torch.stack(self.losses), torch.stack(self.finite)
        counted = finite.tolist()
        longest = row = self.in_a_row
        for good in counted:
            row = 0 if good else row + 1
            longest = max(longest, row)
        self.losses, self.finite, self.in_a_row = [], [], row
        loss = losses[finite].mean().item() if any(counted) else None
        return Reading(loss, counted.count(False), longest)

    def to_state(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        empty = torch.empty(0)
        return {
            "losses": torch.stack(self.losses).cpu() if self.losses else empty,
            "finite": torch.stack(self.finite).cpu() if self.finite else empty.bool(),
            "in_a_row": self.in_a_row,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: torch.device) -> "Tally":
        """The inverse of `to_state`."""
        losses, finite = (list(state[name].to(device)) for name in ("losses", "finite"))
        return cls(losses, finite, int(state["in_a_row"]))


class GreyLevels(NamedTuple):
    """How the pixels of a set of images are spread."""

    std: float
    """Standard deviation across an image's pixels in [-1, 1], averaged over the images."""
    ends: float
    """Share of the pixels that are black or white in 8 bits."""


def grey_levels(x: Tensor) -> GreyLevels:
    """Figures of images `(B, C, H, W)`; what lies outside [-1, 1] is clipped, as a writer clips it."""
    x = x.detach().float().clamp(-1, 1)
    return GreyLevels(x.flatten(1).std(dim=1).mean().item(), (x.abs() > _END).float().mean().item())


def sample_warnings(samples: GreyLevels, films: GreyLevels) -> list[str]:
    """One sentence for each way in which samples have fallen out of the films' range; none where all is well."""
    warnings = []
    if samples.std < GREY_SHARE * films.std:
        warnings.append(
            f"the samples are grey: their pixels vary by {samples.std:.3f} about the mean, the films' by "
            f"{films.std:.3f}"
        )
    if samples.ends > films.ends + SATURATED_EXCESS:
        warnings.append(
            f"the samples are saturated: {samples.ends:.0%} of their pixels are black or white, of the films' "
            f"{films.ends:.0%}"
        )
    return warnings


def memorising(log: Sequence[Mapping[str, Any]], threshold: float | None) -> bool:
    """Whether the last saves all showed held-out films to be harder than training films by more than `threshold`.

    Args:
        log: Entries of log.jsonl.
        threshold: `train.stop_at_gap`; None never stops.
    """
    if threshold is None:
        return False
    gaps = [entry["gap"] for entry in log if "gap" in entry][-GAPS_IN_A_ROW:]
    return len(gaps) == GAPS_IN_A_ROW and min(gaps) > threshold
