import hashlib

import numpy as np
import pytest
import torch

from xraygen.seeds import derive_seed, numpy_generator, torch_generator
from xraygen.synthesis.noise import SeededNoise


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ((0, "sampling"), 537_513_388_604_511_845),
        ((17, "sampling"), 7_197_872_066_350_360_015),
        ((0, "noise", 17), 5_921_332_432_858_475_538),
        ((-1,), 997_184_231_609_768_190),
    ],
)
def test_derived_seeds_stay_what_they_were_in_version_0_1(
    arguments: tuple[int, *tuple[str | int, ...]], value: int
) -> None:
    # An image must be made again years later: a change here changes every image ever promised.
    assert derive_seed(*arguments) == value


def test_a_derived_seed_is_the_first_63_bits_of_a_hash() -> None:
    digest = hashlib.sha256(b"17\x1fsampling\x1f3").hexdigest()
    assert derive_seed(17, "sampling", 3) == int(digest[:16], 16) // 2


@pytest.mark.parametrize("seed", [0, 1, -1, 2**31, 2**64, 10**40])
def test_any_integer_is_a_seed_and_63_bits_come_out(seed: int) -> None:
    assert 0 <= derive_seed(seed, "noise") < 2**63
    torch_generator(seed, "noise")
    numpy_generator(seed, "noise")


def test_seeds_and_purposes_do_not_share_streams() -> None:
    derived = [
        derive_seed(seed, *purpose)
        for seed in range(-50, 50)
        for purpose in [(), ("noise",), ("split",), ("noise", 1), ("noise", 11), ("noise", 1, 1), ("noise1",)]
    ]
    assert len(set(derived)) == len(derived)


def test_no_two_purposes_join_into_one() -> None:
    assert derive_seed(1, "2") != derive_seed(12)
    assert derive_seed(0, "a", "b") != derive_seed(0, "ab")
    assert derive_seed(0, "noise", 17) != derive_seed(0, "noise1", 7)


def test_streams_of_two_purposes_are_uncorrelated() -> None:
    first = torch.randn(10_000, generator=torch_generator(0, "noise"))
    second = torch.randn(10_000, generator=torch_generator(0, "split"))
    # Four standard errors of a correlation of 10,000 pairs.
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.04


def test_generators_repeat_themselves_and_leave_the_global_ones_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), str(np.random.get_state(legacy=False))
    draws = [torch.randn(4, generator=torch_generator(3, "noise")) for _ in range(2)]
    arrays = [numpy_generator(3, "noise").standard_normal(4) for _ in range(2)]
    assert torch.equal(*draws)
    assert np.array_equal(arrays[0], arrays[1])
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert str(np.random.get_state(legacy=False)) == numpy_state


def test_the_drawn_numbers_stay_what_they_were_in_version_0_1() -> None:
    # Torch and NumPy promise little across versions: if this fails after an upgrade, old images cannot be remade.
    drawn = torch.randn(3, generator=torch_generator(0, "sampling"))
    torch.testing.assert_close(drawn, torch.tensor([-0.7259461, 0.1699668, -1.3216295]), rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        numpy_generator(0, "sampling").standard_normal(3),
        [-1.6126241960479903, 0.8683449196813262, -0.2467078585808903],
        rtol=0,
        atol=1e-12,
    )
    image = SeededNoise([0], (1, 1, 3), torch.device("cpu")).draw().flatten()
    torch.testing.assert_close(image, torch.tensor([-1.3218633, -0.4165690, 0.9170843]), rtol=0, atol=1e-6)
