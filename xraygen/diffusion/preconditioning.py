"""What Karras et al. 2022 put around the network: each formula of eq. 7 and table 1, for x = x_0 + sigma eps.

`sigma` is a tensor that broadcasts against the images, `sigma_data` the standard deviation of the training pixels.
"""

from torch import Tensor


def c_skip(sigma: Tensor, sigma_data: float) -> Tensor:
    """How much of the noisy image passes by the network: sigma_data^2 / (sigma^2 + sigma_data^2)."""
    return sigma_data**2 / (sigma**2 + sigma_data**2)


def c_out(sigma: Tensor, sigma_data: float) -> Tensor:
    """Scale of the network's output: sigma sigma_data / sqrt(sigma^2 + sigma_data^2)."""
    return sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt()


def c_in(sigma: Tensor, sigma_data: float) -> Tensor:
    """Scale that gives the network inputs of variance 1: 1 / sqrt(sigma^2 + sigma_data^2)."""
    return (sigma**2 + sigma_data**2).rsqrt()


def c_noise(sigma: Tensor) -> Tensor:
    """What the network is told of the noise: ln(sigma) / 4."""
    return sigma.log() / 4


def network_target(x_start: Tensor, eps: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """(x_0 - c_skip x) / c_out with x = x_0 + sigma eps (eq. 8), written so that no two large numbers cancel."""
    scale = (sigma**2 + sigma_data**2).rsqrt()
    return (sigma / sigma_data * scale).to(x_start.dtype) * x_start - (sigma_data * scale).to(eps.dtype) * eps
