"""How noisy is meant: a timestep of the RUN's schedule, or a log-SNR that means the same at every size and schedule."""

import math

import torch
from torch import Tensor

from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.errors import UsageError

REFERENCE_PX = 64
"""Side of the square image at which a log-SNR is what it says."""


def nearest_step(diffusion: GaussianDiffusion, timestep: int) -> int:
    """Index of the kept timestep that lies nearest to `timestep`."""
    return int((diffusion.schedule.timesteps - timestep).abs().argmin())


def checked_timestep(diffusion: GaussianDiffusion, timestep: int) -> int:
    """The same timestep.

    Args:
        diffusion: That of the RUN, or fewer steps of it.
        timestep: t, 0 the least noisy.

    Raises:
        UsageError: If it lies outside the schedule.
    """
    last = diffusion.schedule.num_timesteps - 1
    if not 0 <= timestep <= last:
        raise UsageError(
            f"--timestep {timestep}: expected 0 to {last}, the schedule that this RUN was trained on."
        )
    return timestep


def log_snrs(diffusion: GaussianDiffusion, shape: tuple[int, int, int]) -> Tensor:
    """ln(alphas_cumprod / (1 - alphas_cumprod)) + 2 ln(size / 64) of each kept timestep, float64 `(K,)`, falling.

    The mean over n x n pixels keeps the image and divides the noise's variance by n^2. So what counts for how much of a
    film is left is the ratio after it has been made 64 px large: at any size, the same number hides the same anatomy.

    Args:
        diffusion: That of the RUN, or fewer steps of it.
        shape: (C, H, W) of its images; size is the square root of H W.

    Source:
        Hoogeboom et al. 2023, "simple diffusion", sec. 3.1.
    """
    size = math.sqrt(shape[1] * shape[2])
    return diffusion.schedule.snr.log() + 2 * math.log(size / REFERENCE_PX)


def timestep_of_log_snr(diffusion: GaussianDiffusion, log_snr: float, shape: tuple[int, int, int]) -> int:
    """The timestep whose `log_snrs` lies nearest.

    Raises:
        UsageError: If the schedule does not reach as far.
    """
    known = log_snrs(diffusion, shape)
    if not float(known[-1]) <= log_snr <= float(known[0]):
        raise UsageError(
            f"--log-snr {log_snr:g}: expected {float(known[-1]):.3g} (noisiest) to {float(known[0]):.3g} (cleanest), "
            "the schedule of this RUN at its size."
        )
    nearest = int(torch.argmin((known - log_snr).abs()))
    return int(diffusion.schedule.timesteps[nearest])
