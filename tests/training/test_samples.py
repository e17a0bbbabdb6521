"""Grids of samples never hold more images at once than training does."""

import torch
from torch import Tensor
from torch.nn import Module

from xraygen.config import load_config
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.models.unet import UNet
from xraygen.training.samples import samples_of

SMALL = ["data.image_size=16", "model.channels=32", "model.channel_mult=[1]", "model.attention_resolutions=[]",
         "model.patch_size=1", "train.sample_count=5", "train.sample_steps=3", "train.batch_size=8"]  # fmt: skip


def test_a_grid_is_made_in_parts_no_larger_than_a_step_and_looks_the_same() -> None:
    seen: list[int] = []

    def watch(_: Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(len(arguments[0]))

    grids = []
    for changes in ([], ["train.micro_batch_size=2"]):
        config = load_config("cxr-64", [*SMALL, *changes])
        diffusion = GaussianDiffusion(NoiseSchedule.from_config(config.schedule), config.diffusion)
        torch.manual_seed(1)
        network = UNet(config.model).eval()
        network.register_forward_pre_hook(watch)
        with torch.no_grad():
            size = config.train.images_at_once(processes=1)
            grids.append(samples_of(network, diffusion, config, torch.device("cpu"), size))
        seen.append(0)
    assert seen == [5, 5, 5, 0, *[2] * 6, *[1] * 3, 0]
    # torch's kernels round otherwise at other shapes: 1e-6 after three steps.
    torch.testing.assert_close(grids[0], grids[1], rtol=0, atol=1e-5)
