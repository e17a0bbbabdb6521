"""Randomness as an argument: every generator follows from a seed and a purpose, and from nothing else."""

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Hash a seed and its purpose into 63 bits.

    Two purposes never share a stream: `derive_seed(0, "noise", 17)` and `derive_seed(0, "split", 17)` are unrelated.

    Args:
        seed: The user's seed, any integer.
        purpose: Words and numbers that say what the randomness is for.

    Returns:
        An integer in [0, 2^63).
    """
    name = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose; draw on the CPU and move, so that devices agree."""
    return torch.Generator("cpu").manual_seed(derive_seed(seed, *purpose))


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A NumPy generator for one purpose."""
    return np.random.default_rng(derive_seed(seed, *purpose))
