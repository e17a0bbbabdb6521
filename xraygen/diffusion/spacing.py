"""Which timesteps a shorter chain keeps: N of the K that a schedule has, the noisiest always among them.

Every spacing is a rule for real numbers; kept are the timesteps nearest to them, each once. Index 0 is the least noisy.
"""

from typing import Literal

import torch
from torch import Tensor

Spacing = Literal["uniform", "trailing", "log-snr", "edm"]

RHO = 7.0
"""Of the edm spacing (Karras et al. 2022, table 1)."""


def kept_timesteps(alphas_cumprod: Tensor, steps: int, spacing: Spacing) -> Tensor:
    """Indices that a chain of `steps` keeps, int64 `(steps,)`, rising, the last one K - 1.

    Args:
        alphas_cumprod: Of the whole schedule, float64 `(K,)`, falling.
        steps: N, 1 ... K.
        spacing: uniform: equal steps in t, both ends kept; trailing: equal steps in t from the noisiest, the least
            noisy end left to the last step; log-snr: equal steps in lambda; edm: equal steps in sigma^(1 / 7).
    """
    length = len(alphas_cumprod)
    if steps == 1:
        return torch.tensor([length - 1])
    match spacing:
        case "uniform":
            return uniform(length, steps)
        case "trailing":
            return trailing(length, steps)
        case "log-snr":
            return _nearest(_log_snr(alphas_cumprod), steps)
        case "edm":
            return _nearest(_edm_place(alphas_cumprod), steps)


def uniform(length: int, steps: int) -> Tensor:
    """round(linspace(0, K - 1, N)): both ends ("linspace" of Lin et al. 2024, table 2)."""
    return torch.linspace(length - 1, 0, steps, dtype=torch.float64).round().long().flip(0)


def trailing(length: int, steps: int) -> Tensor:
    """round(K i / N) - 1 for i = 1 ... N ("trailing" of Lin et al. 2024, table 2)."""
    rising = torch.arange(1, steps + 1, dtype=torch.float64) * length / steps
    return rising.round().long() - 1


def _log_snr(alphas_cumprod: Tensor) -> Tensor:
    """-lambda = log(sigma / alpha), in which "log-snr" steps equally (Lu et al. 2022a, sec. 3.4). `(K,)`, rising."""
    return 0.5 * ((1 - alphas_cumprod) / alphas_cumprod).log()


def _edm_place(alphas_cumprod: Tensor) -> Tensor:
    """sigma^(1 / rho), in which "edm" steps equally (Karras et al. 2022, eq. 5). `(K,)`, rising."""
    sigmas = ((1 - alphas_cumprod) / alphas_cumprod).sqrt()
    return sigmas ** (1 / RHO)


def _nearest(places: Tensor, steps: int) -> Tensor:
    """The timesteps nearest to equal steps between the first and the last place, each kept once.

    Where the rule asks for one twice, as at the clean end of a schedule that is coarse there, the next noisier is
    taken. A last place that is infinite (no signal left) is kept, and the others are spaced over what is finite.

    Args:
        places: Of the timesteps on the axis of the rule, float64 `(K,)`, rising.
        steps: N, 2 ... K.
    """
    length = len(places)
    finite = length if bool(places[-1].isfinite()) else length - 1
    inner = steps if finite == length else steps - 1
    wanted = torch.linspace(float(places[0]), float(places[finite - 1]), inner, dtype=torch.float64)
    if inner == 1:
        wanted = places[finite - 1 : finite]
    between = (places[: finite - 1] + places[1:finite]) / 2
    nearest = torch.searchsorted(between, wanted).tolist()
    kept: list[int] = []
    for index, place in enumerate(nearest):
        lowest = kept[-1] + 1 if kept else 0
        kept.append(min(max(place, lowest), finite - inner + index))
    return torch.tensor([*kept, *range(finite, length)])
