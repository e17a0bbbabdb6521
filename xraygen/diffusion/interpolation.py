"""Mixing two noisy images on the way between them (Ho et al. 2020, sec. 4.4)."""

from torch import Tensor

from xraygen.diffusion.gaussian import GaussianDiffusion


def interpolate_paper(
    diffusion: GaussianDiffusion,
    x_a: Tensor,
    x_b: Tensor,
    noise_a: Tensor,
    noise_b: Tensor,
    t: Tensor,
    lam: Tensor,
) -> Tensor:
    """Linear mix of two images under independent noise, as the paper does.

    x_t = (1 - lambda) q_sample(x_a, noise_a) + lambda q_sample(x_b, noise_b)

    The noise loses variance on the way, (1 - lambda)^2 + lambda^2 of it is left (half at lambda = 0.5), so the
    chain starts from an x_t that is too clean for its t and the frames in the middle come out smooth.

    Args:
        diffusion: Gives q_sample.
        x_a: First image for each frame, `(B, C, H, W)`, [-1, 1].
        x_b: Second image, same shape.
        noise_a: Standard normal, same shape.
        noise_b: Standard normal, independent of `noise_a`.
        t: Timestep of each frame, `(B,)`, int64.
        lam: Place on the way for each frame, `(B,)`: 0 is `x_a`, 1 is `x_b`.

    Returns:
        Noisy frames, `(B, C, H, W)`.

    Source:
        Ho et al. 2020, sec. 4.4 and figure 8.
    """
    weight = lam.view(-1, 1, 1, 1)
    return (1 - weight) * diffusion.q_sample(x_a, t, noise_a) + weight * diffusion.q_sample(x_b, t, noise_b)


def interpolate_shared_noise(
    diffusion: GaussianDiffusion, x_a: Tensor, x_b: Tensor, noise: Tensor, t: Tensor, lam: Tensor
) -> Tensor:
    """Linear mix of two images under one noise, whose variance stays 1 all the way.

    x_t = q_sample((1 - lambda) x_a + lambda x_b, noise)

    Arguments and result as in `interpolate_paper`, with one `noise` for both ends.
    """
    weight = lam.view(-1, 1, 1, 1)
    return diffusion.q_sample((1 - weight) * x_a + weight * x_b, t, noise)
