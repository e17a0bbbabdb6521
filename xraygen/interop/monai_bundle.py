"""RUN -> MONAI bundle: `python -m monai.bundle run --config_file configs/inference.json` makes films without xraygen.

BUNDLE/configs/metadata.json   what it is, what goes in and out
BUNDLE/configs/inference.json  the chain: MONAI's DiffusionInferer and DDIMScheduler around the network
BUNDLE/models/model.pt2        the network and its diffusion as one program (torch.export): x_t and t to x_0
BUNDLE/models/alphas_cumprod.json
BUNDLE/docs/README.md
"""

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xraygen import __version__
from xraygen.atomic import atomic_folder, write_json, write_text
from xraygen.dataset.conditions import Condition
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.errors import UsageError
from xraygen.models.conditions import DROPPED
from xraygen.models.unet import UNet
from xraygen.training.checkpoint import Checkpoint, Choice, LoadedRun, chosen_checkpoint, load_run, run_config
from xraygen.training.conditions import read_conditions

STEPS = 50
"""Evaluations of the network per film, unless --steps says otherwise."""
_LARGEST_BATCH = 1024
_PROGRAM, _ALPHAS = "models/model.pt2", "models/alphas_cumprod.json"


@dataclass(frozen=True)
class BundleSummary:
    """What was exported."""

    folder: Path
    parameters: int
    step: int


class _Denoiser(nn.Module):
    """The RUN as MONAI's inferer calls it: a noisy image and its timestep to the image behind the noise."""

    def __init__(self, model: UNet, diffusion: GaussianDiffusion) -> None:
        super().__init__()
        self.model, self.diffusion = model, diffusion

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None) -> Tensor:
        """x_t `(B, 1, H, W)`, t `(1,)` as float, conditions `(B, F)` to pred_xstart `(B, 1, H, W)`, in [-1, 1]."""
        t = timesteps.long().expand(x.shape[0])  # (B,)
        return self.diffusion.denoise(lambda x_t, at: self.model(x_t, at, context), x, t)


def check_makes_films(run: Path) -> None:
    """Raise UsageError if a RUN makes colour images."""
    if run_config(run).data.channels != 1:
        raise UsageError(f"{run} makes colour images; a bundle makes films.")


def export_bundle(run: Path, out: Path, choice: Choice | Checkpoint = "newest") -> BundleSummary:
    """Write a RUN as a MONAI bundle.

    Args:
        run: RUN folder.
        out: Folder to write, which must not exist yet.
        choice: Which checkpoint, or what `chosen_checkpoint` returned; its averaged weights are taken.

    Returns:
        The folder, its number of parameters and the step of the checkpoint.

    Raises:
        UsageError: If the RUN makes colour images.
        FolderError: If the RUN has no such checkpoint, or `out` exists.
    """
    check_makes_films(run)
    checkpoint = chosen_checkpoint(run, choice)
    loaded = load_run(run, "cpu", checkpoint)
    members = read_conditions(run, loaded.config).members
    parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
    with atomic_folder(out) as aside:
        for folder in ("configs", "models", "docs"):
            (aside / folder).mkdir()
        torch.export.save(_program(loaded, len(members)), aside / _PROGRAM)
        write_json(aside / _ALPHAS, loaded.diffusion.schedule.alphas_cumprod.tolist())
        write_json(aside / "configs" / "metadata.json", _metadata(loaded, members))
        write_json(aside / "configs" / "inference.json", _inference(loaded, len(members)))
        write_text(aside / "docs" / "README.md", _readme(loaded, members, checkpoint.ema_sha256))
    return BundleSummary(out, parameters, checkpoint.step)


def _program(loaded: LoadedRun, conditions: int) -> torch.export.ExportedProgram:
    """The denoiser as a program for any number of films, without the paths of the machine that traced it."""
    channels, height, width = loaded.config.data.shape
    batch = torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
    context = torch.full((2, conditions), DROPPED) if conditions else None
    shapes = {"x": {0: batch}, "timesteps": None, "context": {0: batch} if conditions else None}
    program = torch.export.export(
        _Denoiser(loaded.model, loaded.diffusion),
        (torch.zeros(2, channels, height, width),),
        {"timesteps": torch.zeros(1), "context": context},
        dynamic_shapes=shapes,
    )
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program


def _inference(loaded: LoadedRun, conditions: int) -> dict[str, Any]:
    """The chain, in MONAI's configuration language."""
    channels, height, width = loaded.config.data.shape
    return {
        "imports": [
            "$import json",
            "$import sys",
            "$import numpy",
            "$import torch",
            "$from pathlib import Path",
            "$from PIL import Image",
            "$from torch.export.passes import move_to_device_pass",
        ],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/output'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "first_seed": 0,
        "count": 4,
        "told": f"$[float('inf')] * {conditions}",
        "seeds": "$range(@first_seed, @first_seed + @count)",
        "program": f"$torch.export.load(@bundle_root + '/{_PROGRAM}')",
        "network": "$move_to_device_pass(@program, @device).module()",
        **_chain(loaded.config.schedule.num_timesteps),
        "inferer": {"_target_": "DiffusionInferer", "scheduler": "@scheduler"},
        "noise": "$torch.stack([torch.randn("
        f"({channels}, {height}, {width}), generator=torch.Generator().manual_seed(seed)) for seed in @seeds])",
        "context": "$torch.tensor([@told] * @count).to(@device)" if conditions else None,
        "initialize": [
            f"$setattr(@scheduler, 'alphas_cumprod', torch.tensor(json.loads(Path(@bundle_root + '/{_ALPHAS}')"
            ".read_text()), device=@device)[@kept])",
            "$Path(@output_dir).mkdir(parents=True, exist_ok=True)",
        ],
        "films": "$@inferer.sample(@noise.to(@device), @denoiser, conditioning=@context, verbose=False)",
        "stored": "$((@films[:, 0].clamp(-1, 1) + 1) / 2 * 65535).round().cpu().numpy().astype(numpy.uint16)",
        "run": [
            "$[Image.fromarray(film).save(Path(@output_dir, str(seed) + '.png'))"
            " for seed, film in zip(@seeds, @stored)]"
        ],
    }


def _chain(timesteps: int) -> dict[str, Any]:
    """The timesteps that are kept, and a scheduler that steps from each to the next.

    MONAI's spreads its timesteps over the whole range, and steps by T // N, which leaves noise where N does not divide
    T. So it counts those that are kept, N - 1 to 0, over a table of their noise levels; the network is told which they
    are.

    Source:
        "trailing" of Lin et al. 2024, table 2: equal steps from the noisiest timestep, the last one down to x_0.
    """
    return {
        "steps": min(STEPS, timesteps),
        "kept": f"$(torch.arange(1, @steps + 1, device=@device) * {timesteps} / @steps).round().long() - 1"
        f" if @steps in range(1, {timesteps + 1})"
        f" else sys.exit('--steps ' + str(@steps) + ': expected 1 to {timesteps}.')",
        "denoiser": "$lambda x, timesteps, context:"
        " @network(x, timesteps=@kept[timesteps.long()].float(), context=context)",
        "scheduler": {
            "_target_": "DDIMScheduler",
            "num_train_timesteps": "$len(@kept)",
            "prediction_type": "sample",
            "clip_sample": False,
        },
    }


def _metadata(loaded: LoadedRun, members: tuple[Condition, ...]) -> dict[str, Any]:
    """What MONAI's bundle specification asks for."""
    channels, height, width = loaded.config.data.shape
    picture = {"type": "image", "modality": "CR", "num_channels": channels, "spatial_shape": [height, width]}
    return {
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by xraygen {__version__}"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"pillow": version("pillow"), "fire": "0.7.1"},
        "name": "Synthetic chest films",
        "task": "Generation of synthetic chest films",
        "description": f"A diffusion model that draws chest films of {height} x {width} pixels.",
        "authors": "The users of xraygen who trained it",
        "copyright": "Theirs; the films that it was trained on keep their own",
        "intended_use": "Research. Not for diagnosis.",
        "conditions": [_said(member) for member in members],
        "network_data_format": {
            "inputs": {
                "x": {
                    **picture,
                    "format": "noise",
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                },
            },
            "outputs": {
                "pred": {
                    **picture,
                    "format": "image",
                    "dtype": "float32",
                    "value_range": [-1, 1],
                    "is_patch_data": False,
                    "channel_def": {"0": "image"},
                }
            },
        },
    }


def _said(member: Condition) -> dict[str, Any]:
    """A condition, and which number says what."""
    if member.categories:
        return {
            "name": member.name,
            "numbers": {word: number for number, word in enumerate(member.categories)},
        }
    return {"name": member.name, "told_as": f"(value - {member.low:g}) / {member.high - member.low:g}"}


_README = """# Synthetic chest films: not for diagnosis

A diffusion model as a MONAI bundle, written by xraygen {version}; sha256 of the averaged weights {sha256}.
It needs MONAI, PyTorch, Pillow and fire, and not xraygen:

    python -m monai.bundle run --config_file configs/inference.json --count 8 --first_seed 0

`output/<seed>.png` holds 16-bit films, black air. `--steps 20` is quicker (1 to {timesteps}). {told}
The films are not those that `xraygen generate` makes of the same seeds: the noise is drawn otherwise.

MONAI's DDIMScheduler spreads its timesteps by (T - 1) / (N - 1) and steps by T // N. The configuration has it count the
N timesteps that are kept over a table of their noise levels, so that both agree and the last step ends without noise.

It was trained on films of patients and can repeat them: what a set of its films reveals is what an audit of it
says, and no more.
"""


def _readme(loaded: LoadedRun, members: tuple[Condition, ...], sha256: str) -> str:
    """How to run it."""
    told = ""
    if members:
        said = json.dumps([_said(member) for member in members])
        example = ",".join("0" for _ in members)
        told = (
            f"`--told '[{example}]'` says what the films shall show, one number per condition ({said});\n"
            "by default nothing."
        )
    timesteps = loaded.config.schedule.num_timesteps
    return _README.format(version=__version__, sha256=sha256, timesteps=timesteps, told=told)
