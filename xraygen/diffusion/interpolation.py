"""Mixing two noisy images on the way between them (Ho et al. 2020, sec. 4.4).

B frames, C channel, H, W sides. lambda is the place of a frame: 0 the first image, 1 the second; the formulas hold
outside [0, 1] too.
"""

import torch
from torch import Tensor

from xraygen.diffusion.gaussian import GaussianDiffusion, Model
from xraygen.diffusion.paths import Watch, unwatched
from xraygen.diffusion.samplers import ddim_invert

_NO_ANGLE = 1e-6
"""Sine of an angle below which the arc between two noises is a straight line."""


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


def interpolate_spherically(
    diffusion: GaussianDiffusion,
    x_a: Tensor,
    x_b: Tensor,
    noise_a: Tensor,
    noise_b: Tensor,
    t: Tensor,
    lam: Tensor,
    cosine: Tensor | float = 0.0,
) -> Tensor:
    """Images mixed linearly, their noises along the arc between them, so that the noise's variance stays 1.

    x_t = sqrt(alphas_cumprod_t) [(1 - lambda) x_a + lambda x_b]
          + sqrt(1 - alphas_cumprod_t) [sin((1 - lambda) w) noise_a + sin(lambda w) noise_b] / sin(w)

    w is the angle between the noises. Independent ones stand at a right angle, and the second bracket is
    cos(pi lambda / 2) noise_a + sin(pi lambda / 2) noise_b. Only the noise goes along an arc: one through the whole x_t
    would weigh the images by cos + sin, up to sqrt(2) together, and they are no noise: too much contrast half-way.

    Args:
        diffusion: Gives q_sample.
        x_a: First image for each frame, `(B, C, H, W)`, [-1, 1].
        x_b: Second image, same shape.
        noise_a: Noise of the first image, same shape, mean square 1.
        noise_b: Noise of the second.
        t: Timestep of each frame, `(B,)`, int64.
        lam: Place on the way for each frame, `(B,)`.
        cosine: Cosine of the angle between the noises, `(B,)` or one for all: 0 for independent ones, 1 for equal ones,
            between which the arc is a straight line. -1 has no arc.

    Returns:
        Noisy frames, `(B, C, H, W)`.

    Source:
        Shoemake 1985, "Animating rotation with quaternion curves", sec. 3.3; Song et al. 2021, sec. 5.3 and app. D.5.
    """
    weight = lam.to(x_a.dtype).view(-1, 1, 1, 1)
    first, second = (w.to(x_a.dtype).view(-1, 1, 1, 1) for w in arc_weights(lam, cosine))
    return diffusion.q_sample((1 - weight) * x_a + weight * x_b, t, first * noise_a + second * noise_b)


def arc_weights(lam: Tensor, cosine: Tensor | float) -> tuple[Tensor, Tensor]:
    """Weights of two unit vectors on the arc between them, float64 `(B,)` each; arguments as above."""
    lam = lam.double()
    angle = torch.as_tensor(cosine, dtype=torch.float64, device=lam.device).clamp(-1, 1).acos()
    sine = angle.sin()
    straight = sine < _NO_ANGLE
    sine = torch.where(straight, 1.0, sine)
    first = torch.where(straight, 1 - lam, ((1 - lam) * angle).sin() / sine)
    second = torch.where(straight, lam, (lam * angle).sin() / sine)
    return first, second


def noise_cosine(noise_a: Tensor, noise_b: Tensor) -> Tensor:
    """Cosine of the angle between two noises, `(B, C, H, W)` each, as float64 `(B,)`."""
    a, b = noise_a.double().flatten(1), noise_b.double().flatten(1)
    cosine: Tensor = (a * b).sum(dim=1) / (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()
    return cosine


def inverted_noise(
    model: Model,
    diffusion: GaussianDiffusion,
    x_start: Tensor,
    *,
    stop: int,
    iterations: int = 1,
    watch: Watch = unwatched,
) -> Tensor:
    """The noise from which the deterministic chain leads back to an image: eps of eq. 4 in inversion's x_t.

    Args:
        model: Trained network.
        diffusion: Its diffusion, respaced or not.
        x_start: Clean images, `(B, C, H, W)`, [-1, 1].
        stop: Index of the step to arrive at.
        iterations: Evaluations of the network per step.
        watch: Told of each step.

    Returns:
        `(B, C, H, W)`. Not white, and its variance is not 1: what the network cannot explain is left in it.

    Source:
        Song et al. 2021, sec. 4.3.
    """
    x_t = ddim_invert(model, diffusion, x_start, stop=stop, iterations=iterations, watch=watch)
    t = torch.full((len(x_start),), stop, device=x_start.device)
    return diffusion.predict_eps_from_xstart(x_t, t, x_start)


def noise_variance(diffusion: GaussianDiffusion, x_t: Tensor, clean: Tensor, t: Tensor) -> Tensor:
    """Mean square of the noise in x_t, whose clean part is known: 1 is what the network was trained on.

    Args:
        diffusion: Gives the schedule.
        x_t: Noisy images, `(B, C, H, W)`.
        clean: What they are without noise, same shape.
        t: Timestep per image, `(B,)`, int64.

    Returns:
        `(B,)`, float64.
    """
    noise = diffusion.predict_eps_from_xstart(x_t.double(), t, clean.double())
    return noise.square().flatten(1).mean(dim=1)
