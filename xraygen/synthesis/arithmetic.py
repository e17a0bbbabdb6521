"""In what arithmetic the network is evaluated. What the samplers do with its predictions stays as it is."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from xraygen.errors import UsageError

Precision = Literal["float32", "bfloat16"]


def evaluated(
    network: Callable[..., Tensor], precision: Precision, device: torch.device, *, compiled: bool = False
) -> Callable[..., Tensor]:
    """The network as samplers call it.

    Args:
        network: The network, with float32 weights.
        precision: float32 as the weights are; or bfloat16 by autocast, which takes convolutions, linear layers and
            attention in it and the rest in float32.
        device: Where the network lies.
        compiled: Compile it, once for each shape and each kind of call.

    Returns:
        The network itself for float32, else a function with its arguments whose prediction has the dtype of x_t.

    Raises:
        UsageError: If there is no such precision.
    """
    if precision not in get_args(Precision):
        raise UsageError(f"--precision {precision}: expected one of {', '.join(get_args(Precision))}.")
    ready: Callable[..., Tensor] = torch.compile(network) if compiled else network
    if precision == "float32":
        return ready

    def predict(x_t: Tensor, *told: Any, **named: Any) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            prediction = ready(x_t, *told, **named)
        return prediction.to(x_t.dtype)

    return predict
