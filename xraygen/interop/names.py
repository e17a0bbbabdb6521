"""Which layer of diffusers' UNet2DModel is which of ours: the same tensors under other names."""

import re

from xraygen.models.unet import UNet

_ENDS = {
    "time.0": "time_embedding.linear_1",
    "time.2": "time_embedding.linear_2",
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
_BLOCK = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "shortcut": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What early diffusers called them, as in the files of google/ddpm-cifar10-32."""
_OLD_NAME = re.compile(rf"(.*\.attentions\.\d+)\.({'|'.join(_OLD_ATTENTION)})\.(weight|bias)")


def diffusers_names(network: UNet) -> dict[str, str]:
    """Name of each tensor in diffusers' UNet2DModel, by its name in our `state_dict`, in our order."""
    layers = _layer_names(len(network.config.channel_mult), network.config.num_res_blocks)
    split = {name: name.rpartition(".") for name in network.state_dict()}
    return {name: f"{layers[layer]}.{tensor}" for name, (layer, _, tensor) in split.items()}


def modern_name(name: str) -> str:
    """Today's diffusers name of a tensor that an old file may call otherwise."""
    old = _OLD_NAME.fullmatch(name)
    return f"{old[1]}.{_OLD_ATTENTION[old[2]]}.{old[3]}" if old else name


def _layer_names(levels: int, blocks: int) -> dict[str, str]:
    """Our layer -> theirs, for a network that has every shortcut and attends everywhere."""
    return {
        **_ENDS,
        **_level_names("down", "down_blocks", "downsamplers", levels, blocks),
        **_stage_names("middle.0", "mid_block", 0),
        **_stage_names("middle.1", "mid_block", 1),
        **_level_names("up", "up_blocks", "upsamplers", levels, blocks + 1),
    }


def _level_names(ours: str, theirs: str, samplers: str, levels: int, blocks: int) -> dict[str, str]:
    """We count the layers of one direction through, they count levels and within them blocks."""
    names: dict[str, str] = {}
    for level in range(levels):
        first = level * (blocks + 1)  # each level before has its blocks and one change of resolution
        for block in range(blocks):
            names |= _stage_names(f"{ours}.{first + block}", f"{theirs}.{level}", block)
        names[f"{ours}.{first + blocks}.conv"] = f"{theirs}.{level}.{samplers}.0.conv"
    return names


def _stage_names(ours: str, theirs: str, block: int) -> dict[str, str]:
    """A residual block and the attention after it."""
    return {
        **{f"{ours}.block.{mine}": f"{theirs}.resnets.{block}.{other}" for mine, other in _BLOCK.items()},
        **{
            f"{ours}.attention.{mine}": f"{theirs}.attentions.{block}.{other}"
            for mine, other in _ATTENTION.items()
        },
    }
