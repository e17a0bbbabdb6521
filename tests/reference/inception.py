"""Inception-v3 as Szegedy et al. 2016 describe it in table 1 and figures 5 to 7, with FID's three differences.

A list of steps per block and one loop, in float64; averages are sums divided by a count of the pixels inside.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, pad

# Branches of each kind of block: names of convolutions in their order; "average", "maximum" and "halve" are pools.
A = [["branch1x1"], ["branch5x5_1", "branch5x5_2"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"]]
A += [["average", "branch_pool"]]
B = [["branch3x3"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], ["halve"]]
C = [["branch1x1"], [f"branch7x7_{n}" for n in (1, 2, 3)], [f"branch7x7dbl_{n}" for n in (1, 2, 3, 4, 5)]]
C += [["average", "branch_pool"]]
D = [["branch3x3_1", "branch3x3_2"], [f"branch7x7x3_{n}" for n in (1, 2, 3, 4)], ["halve"]]
E = [["branch1x1"], ["branch3x3_1", "branch3x3_2a"], ["branch3x3_1", "branch3x3_2b"]]
E += [["branch3x3dbl_1", "branch3x3dbl_2", f"branch3x3dbl_3{side}"] for side in "ab"]
BLOCKS = {"5b": A, "5c": A, "5d": A, "6a": B, "6b": C, "6c": C, "6d": C, "6e": C, "7a": D}
BLOCKS |= {"7b": [*E, ["average", "branch_pool"]], "7c": [*E, ["maximum", "branch_pool"]]}
# Convolutions with stride 2 and those that do not pad; all others keep the size.
STRIDE_2 = {"Conv2d_1a_3x3", "Mixed_6a.branch3x3", "Mixed_6a.branch3x3dbl_3", "Mixed_7a.branch3x3_2"}
STRIDE_2 |= {"Mixed_7a.branch7x7x3_4"}
VALID = STRIDE_2 | {"Conv2d_2a_3x3", "Conv2d_4a_3x3"}


def convolve(x: Tensor, name: str, weights: Mapping[str, Tensor]) -> Tensor:
    """Convolution, normalisation by the stored moments with epsilon 0.001, and what is above zero."""
    kernel = weights[f"{name}.conv.weight"].double()
    border = (0, 0) if name in VALID else (kernel.shape[2] // 2, kernel.shape[3] // 2)
    x = conv2d(x, kernel, stride=2 if name in STRIDE_2 else 1, padding=border)
    norm = {
        part: weights[f"{name}.bn.{part}"].double()[:, None, None]
        for part in ("weight", "bias", "running_mean", "running_var")
    }
    x = (x - norm["running_mean"]) / (norm["running_var"] + 0.001).sqrt() * norm["weight"] + norm["bias"]
    return x.clamp(min=0)


def average(x: Tensor) -> Tensor:
    """3x3 sums over the number of pixels inside."""
    height, width = x.shape[-2:]
    padded, inside = pad(x, (1, 1, 1, 1)), pad(torch.ones_like(x), (1, 1, 1, 1))
    windows = [(i, j) for i in range(3) for j in range(3)]
    total = sum(padded[..., i : i + height, j : j + width] for i, j in windows)
    count = sum(inside[..., i : i + height, j : j + width] for i, j in windows)
    assert isinstance(total, Tensor)
    return total / count


def maximum(x: Tensor, stride: int, border: int) -> Tensor:
    """3x3 maxima."""
    return torch.as_tensor(max_pool2d(x, 3, stride=stride, padding=border))


POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "average": average,
    "maximum": lambda x: maximum(x, 1, 1),
    "halve": lambda x: maximum(x, 2, 0),
}


def inception(x: Tensor, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Features (B, 2048) and probabilities (B, 1008) of x (B, 3, 299, 299) in [-1, 1]."""
    x = x.double()
    for name in ("1a_3x3", "2a_3x3", "2b_3x3", "halve", "3b_1x1", "4a_3x3", "halve"):
        x = POOLS[name](x) if name in POOLS else convolve(x, f"Conv2d_{name}", weights)
    for block, branches in BLOCKS.items():
        parts = []
        for branch in branches:
            y = x
            for step in branch:
                y = POOLS[step](y) if step in POOLS else convolve(y, f"Mixed_{block}.{step}", weights)
            parts.append(y)
        x = torch.cat(parts, dim=1)
    features = x.flatten(2).mean(dim=2)
    logits = features @ weights["fc.weight"].double().T
    exponentials = (logits - logits.amax(dim=1, keepdim=True)).exp()
    return features, exponentials / exponentials.sum(dim=1, keepdim=True)
