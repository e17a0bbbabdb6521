"""The mathematics: schedules, Gaussian diffusion, samplers. Knows no network: a model is any callable."""
