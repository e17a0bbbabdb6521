"""Randomness as an argument: every generator follows from a seed and a purpose, and from nothing else."""

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Hash a seed and its purpose into 63 bits.

    `derive_seed(0, "noise", 17)` and `derive_seed(0, "split", 17)` are unrelated: two purposes share a seed with a
    chance of 2^-63. Whether they share a stream too is the generator's matter.

    Args:
        seed: The user's seed, any integer.
        purpose: Words and numbers that say what the randomness is for.

    Returns:
        An integer in [0, 2^63).
    """
    name = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose; draw on the CPU and move, so that devices agree.

    Torch's Mersenne Twister starts from the lower 32 bits of a seed alone: among 100,000 generators one pair that draws
    the same is to be expected. Where that matters, as for the noise of images, take `numpy_generator`.
    """
    return torch.Generator("cpu").manual_seed(derive_seed(seed, *purpose))


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A NumPy generator (PCG64) for one purpose, which starts from all 63 bits."""
    return np.random.default_rng(derive_seed(seed, *purpose))


_GAMMA = -7046029254386353131  # 0x9e3779b97f4a7c15, the odd number nearest to 2^64 / golden ratio
_FIRST, _SECOND = -4658895280553007687, -7723592293110705685  # 0xbf58476d1ce4e5b9, 0x94d049bb133111eb


def counted_bits(keys: torch.Tensor, count: int) -> torch.Tensor:
    """Random bits as a function of key and place alone: row b is the stream of splitmix64 from state `keys[b]`.

    Integer arithmetic only, so that every device gives the same bits, and a row does not depend on the others.

    Args:
        keys: State of each stream, int64 `(B,)`.
        count: Words per stream.

    Returns:
        int64 `(B, count)`, on the device of `keys`.

    Source:
        Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", fig. 16 with the constants of
        Vigna's splitmix64.
    """
    places = torch.arange(1, count + 1, dtype=torch.int64, device=keys.device)
    return _mix(keys[:, None] + places * _GAMMA)


def _mix(z: torch.Tensor) -> torch.Tensor:
    """The output function of splitmix64, in place; torch shifts in the sign, which the masks take out again."""
    for shift, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
        shifted = torch.bitwise_right_shift(z, shift)
        shifted &= (1 << (64 - shift)) - 1
        z ^= shifted
        if factor != 1:
            z *= factor
    return z
