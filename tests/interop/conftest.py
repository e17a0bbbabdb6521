"""Folders as diffusers writes them, and RUNs made from them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from xraygen.atomic import write_text
from xraygen.config import RunConfig, load_config
from xraygen.interop.diffusers import export_diffusers, import_diffusers
from xraygen.models.unet import UNet
from xraygen.seeds import torch_generator
from xraygen.training.checkpoint import save_checkpoint

SMALL = (
    "data.image_size=16",
    "data.channels=1",
    "data.horizontal_flip=false",
    "model.dropout=0",
    "model.channel_mult=[1,1]",
    "model.num_res_blocks=1",
    "model.attention_resolutions=[8]",
)
"""Overrides of cifar10 that make the smallest network which attends and has the paper's 32 groups everywhere."""


def redrawn(network: torch.nn.Module, seed: int) -> None:
    """Random weights of the size that training leaves, the almost-zero ones too."""
    weights = {
        name: 0.05 * torch.randn(tensor.shape, generator=torch_generator(seed, "test", name))
        for name, tensor in network.state_dict().items()
    }
    network.load_state_dict(weights, assign=True)


def diffusers_folder(folder: Path, channels: int) -> Path:
    """What diffusers writes of a random UNet2DModel with attention and two widths, and a scheduler."""
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        unet = diffusers.UNet2DModel(
            sample_size=[16, 24],
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(128, 256),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=None,
            norm_eps=1e-6,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            dropout=0.1,
        )
    redrawn(unet, channels)
    scheduler = diffusers.DDPMScheduler(beta_end=0.015, variance_type="fixed_large", num_train_timesteps=100)
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained(folder)
    return folder


def own_run(run: Path, config: RunConfig) -> Path:
    """A RUN as training leaves it, whose average differs from its last step."""
    networks = []
    for seed in (1, 2):
        with torch.device("meta"):
            network = UNet(config.model)
        redrawn(network, seed)
        networks.append(network)
    run.mkdir()
    write_text(run / "config.yaml", config.to_yaml())
    save_checkpoint(
        run, 40, networks[0], networks[1], torch.optim.Adam(networks[0].parameters()).state_dict()
    )
    return run


@pytest.fixture(scope="session", name="own_run")
def _own_run() -> Callable[[Path, RunConfig], Path]:
    """`own_run(folder, config)`."""
    return own_run


@pytest.fixture(scope="session")
def small_config() -> Callable[..., RunConfig]:
    """`small_config("model.dropout=0.1")`: the smallest network that attends, with overrides."""
    return lambda *overrides: load_config("cifar10", [*SMALL, *overrides])


@pytest.fixture(scope="session")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return diffusers_folder(tmp_path_factory.mktemp("diffusers") / "grey", 1)


@pytest.fixture(scope="session")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return diffusers_folder(tmp_path_factory.mktemp("diffusers") / "colour", 3)


@pytest.fixture(scope="session")
def imported(grey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RUN of the grey folder; tests only read it."""
    run = tmp_path_factory.mktemp("runs") / "imported"
    import_diffusers(grey, run)
    return run


@pytest.fixture(scope="session")
def exported(imported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That RUN as a diffusers folder again."""
    folder = tmp_path_factory.mktemp("diffusers") / "exported"
    export_diffusers(imported, folder)
    return folder
