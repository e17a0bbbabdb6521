"""What a network is told of an augmentation, so that it keeps apart how films are and how they were made to look.

A label tensor is `(B, len(AUGMENTATIONS))`, float; a row of zeros is an image to which nothing was done. The layer that
takes it has no bias: zeros add nothing, and a network that is asked for films as they are is told zeros, or nothing.
"""

from torch import nn

from xraygen.models.blocks import variance_scaling_

AUGMENTATIONS = ("scale", "stretch", "rotation", "shift across", "shift down", "flip")
"""The columns of a label tensor: standard normal draws, which the sizes in the configuration multiply; a flip is 1."""

AUGMENTATION_WEIGHTS = "augmentation.weight"
"""The layer's tensor in a network's `state_dict`. Without it, a network is what it is when told zeros."""


def augmentation_layer(features: int) -> nn.Linear:
    """Labels to what is added to the embedding of the noise level before its dense layers, `(B, features)`.

    Its weights are drawn: from zero, a small network took far longer to hear what a flip is, and samples showed flips.

    Source:
        `map_augment` of Karras et al. 2022's code, in the same place.
    """
    layer = nn.Linear(len(AUGMENTATIONS), features, bias=False)
    variance_scaling_(layer)
    return layer
