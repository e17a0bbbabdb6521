import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import Result
from torch import nn

from xraygen.atomic import write_json
from xraygen.config import ModelConfig, RunConfig, load_config
from xraygen.dataset.store import open_dataset
from xraygen.models.unet import UNet
from xraygen.training import loop
from xraygen.training.budget import Walk, budget, budget_figures, budget_sentences, walk
from xraygen.training.checkpoint import BEST, prune_checkpoints
from xraygen.training.ledger import Ledger
from xraygen.training.peak import DevicePeak, device_peak, measure_peak

PEAK = DevicePeak(float32=1e12, bfloat16=8e12, bandwidth=1e11)
SMALL = ModelConfig(
    image_size=16, channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(8,)
)


def flops_by_hand(config: ModelConfig) -> int:
    """2 x kernel x channels in x channels out x pixels of every convolution, alike for dense layers, and attention."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += 2 * layer.weight.numel() * out[0, 0].numel() * len(out)
        elif isinstance(layer, nn.Linear):
            total += 2 * layer.weight.numel() * (out.numel() // out.shape[-1])
        else:
            tokens, channels = inputs[0][0, 0].numel(), inputs[0].shape[1]
            total += 4 * tokens**2 * channels * len(out)

    network = UNet(config).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) or type(layer).__name__ == "SelfAttention":
            layer.register_forward_hook(count)
    size = config.image_size
    with torch.no_grad():
        network(torch.zeros(2, config.in_channels, size, size), torch.zeros(2, dtype=torch.int64))  # type: ignore[arg-type]
    return total


def test_gradients_that_are_there_already_are_not_counted() -> None:
    few = SMALL.model_copy(update={"image_size": 8})  # fullest at the end, with all gradients
    first, second = walk(few, 1), walk(few, 1, accumulating=True)
    assert second.flops == first.flops
    assert second.peak_bytes < first.peak_bytes


def test_forward_flops_are_those_of_the_layers_counted_by_hand() -> None:
    assert walk(SMALL, 2).forward_flops == flops_by_hand(SMALL)


def test_the_papers_network_takes_its_known_arithmetic() -> None:
    needed = walk(load_config("cifar10").model, 1)
    # The digits that torch's FlopCounterMode gives for diffusers' UNet2DModel in the same settings.
    assert needed.forward_flops / 1e9 == pytest.approx(12.44, abs=0.005)
    # Every product costs two products backward, but for the first convolution, whose input needs no gradient.
    assert 2.99 < needed.flops / needed.forward_flops <= 3.0


def real_walk(config: ModelConfig, images: int) -> Ledger:
    """The same ledger, kept over real tensors."""
    network, ledger = UNet(config).train(), Ledger()
    size = config.image_size
    x_t = torch.zeros(images, config.in_channels, size, size)  # type: ignore[arg-type]
    t = torch.zeros(images, dtype=torch.int64)
    with ledger:
        network(x_t, t, dropout_keys=t).square().mean().backward()
    return ledger


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_meta_device_predicts_what_real_tensors_take(checkpointing: bool, dropout: float) -> None:
    config = SMALL.model_copy(update={"checkpoint_activations": checkpointing, "dropout": dropout})
    predicted, real = walk(config, 2), real_walk(config, 2)
    assert predicted.flops == real.flops
    # A few vectors of the attention kernel are laid out otherwise on the meta device.
    assert predicted.peak_bytes == pytest.approx(real.peak, rel=0.01)


def test_being_told_augmentations_takes_six_weights_per_channel(
    tiny_config: Callable[..., RunConfig],
) -> None:
    plain, told = (
        budget(tiny_config(f"data.augment_probability={often}", "train.batch_size=2")) for often in (0, 0.12)
    )
    assert told.parameters - plain.parameters == 6 * 32
    assert told.plain.forward_flops - plain.plain.forward_flops == 2 * 2 * 6 * 32  # of two images
    assert told.sampling == plain.sampling


def test_checkpointing_keeps_less_and_computes_more() -> None:
    plain = walk(SMALL, 16)
    checkpointed = walk(SMALL.model_copy(update={"checkpoint_activations": True}), 16)
    assert checkpointed.peak_bytes < 0.6 * plain.peak_bytes
    assert 1.15 < checkpointed.flops / plain.flops < 4 / 3  # one forward pass more at most, of three


def test_bfloat16_keeps_less() -> None:
    assert walk(SMALL, 4, bfloat16=True).kept_bytes < 0.85 * walk(SMALL, 4).kept_bytes


def test_sampling_keeps_no_activations() -> None:
    assert walk(SMALL, 4, training=False).peak_bytes < 0.5 * walk(SMALL, 4).peak_bytes
    assert walk(SMALL, 4, training=False).backward_flops == 0


def small_run(*changes: str) -> RunConfig:
    small = ["data.image_size=16", "model.channel_mult=[1,2,2]", "model.attention_resolutions=[8]"]
    return load_config("cxr-64", [*small, "model.patch_size=2", "train.sample_count=1", *changes])


def test_parts_of_a_batch_take_the_memory_of_one_and_the_arithmetic_of_all() -> None:
    whole = budget(small_run("train.batch_size=64"))
    parts = budget(small_run("train.batch_size=64", "train.micro_batch_size=16"))
    assert parts.parts == 4
    assert parts.step_flops == whole.step_flops
    assert parts.memory_bytes(parts.work) < 0.8 * whole.memory_bytes(whole.work)


def test_a_last_part_that_is_not_full_takes_the_arithmetic_of_its_images() -> None:
    whole = budget(small_run("train.batch_size=33"))
    parts = budget(small_run("train.batch_size=33", "train.micro_batch_size=32"))
    assert (parts.parts, parts.plain.images) == (2, 32)
    assert parts.step_flops == whole.step_flops
    # All but the traffic of the weights, which two passes read twice, counts as in one pass.
    assert parts.seconds_per_step(PEAK) == pytest.approx(whole.seconds_per_step(PEAK), rel=0.05)


def test_processes_share_the_batch() -> None:
    shared = budget(small_run("train.batch_size=16", "train.sample_count=16"), processes=4)
    assert shared.plain.images == 4
    assert shared.sampling.images == 4  # the main process looks at held-out films in parts of as many


def test_held_out_films_take_memory_where_they_are_more_than_a_grid() -> None:
    assert budget(small_run("train.batch_size=300", "train.sample_count=1")).sampling.images == 256


def test_time_is_arithmetic_at_the_peak_and_traffic_at_the_bandwidth() -> None:
    needed = budget(small_run("train.batch_size=4"))
    arithmetic = needed.seconds_per_step(DevicePeak(1e9, 1e9, bandwidth=1e30))
    assert arithmetic == pytest.approx(needed.step_flops / 1e9)
    doubled = DevicePeak(2 * PEAK.float32, PEAK.bfloat16, 2 * PEAK.bandwidth)
    assert needed.seconds_per_step(doubled) == pytest.approx(needed.seconds_per_step(PEAK) / 2)


def test_the_sentences_say_what_the_figures_say() -> None:
    needed = budget(small_run("train.batch_size=4", "train.max_steps=1000"))
    figures, text = budget_figures(needed, PEAK), " ".join(budget_sentences(needed, PEAK, "this CPU"))
    assert f"{figures['parameters']:,} parameters" in text
    assert "1,000 steps" in text
    assert "3 checkpoints" in text
    assert "that this CPU showed just now" in text


@pytest.mark.parametrize(
    ("batch", "advice"), [(4, "with train.micro_batch_size=2 or less, model."), (1, "with model.")]
)
def test_too_little_memory_is_said_before_the_first_step(batch: int, advice: str) -> None:
    needed = budget(small_run(f"train.batch_size={batch}"))
    fullest = needed.memory_bytes(needed.work)
    text = " ".join(budget_sentences(needed, PEAK, "NVIDIA A", fullest - 1))
    assert "WARNING: NVIDIA A has " in text
    assert advice in text
    assert "WARNING" not in " ".join(budget_sentences(needed, PEAK, "NVIDIA A", fullest))


def test_attention_that_no_level_has_is_warned_of() -> None:
    needed = budget(small_run("model.channel_mult=[1,2]", "model.attention_resolutions=[8,7,4]"))
    text = " ".join(budget_sentences(needed, PEAK, "this CPU"))
    assert "names 7, and no level is so high (they are 8, 4 px)" in text
    assert text.count("WARNING") == 1


@pytest.mark.parametrize(("bfloat16", "precision", "said"), [(3e9, "float32", True), (3e9, "bfloat16", False),
                                                             (1.5e9, "float32", False)])  # fmt: skip
def test_a_device_made_for_bfloat16_is_told_of(bfloat16: float, precision: str, said: bool) -> None:
    needed = budget(small_run(f"train.precision={precision}"))
    text = " ".join(budget_sentences(needed, DevicePeak(1e9, bfloat16, 1e9), "this CPU"))
    assert ("This CPU multiplies 3 times as fast in bfloat16" in text) is said


def test_disk_is_what_checkpoints_take_at_the_fullest(
    tiny_config: Callable[..., RunConfig], tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = list[int]()

    def measured(run: Path, *settings: int) -> None:
        files = [path for path in (run / "checkpoints").rglob("*") if path.is_file()]
        taken.append(sum(path.stat().st_size for path in files))
        prune_checkpoints(run, *settings)

    def first_is_best(run: Path, _: object) -> None:
        write_json(run / "checkpoints" / BEST, {"step": 1})

    monkeypatch.setattr(loop, "prune_checkpoints", measured)
    monkeypatch.setattr(loop, "mark_best", first_is_best)
    # At step 3 there are three: the best, the newest and the one being written.
    config = tiny_config("train.save_every=1", "train.keep_checkpoints=1", "train.max_steps=3")
    loop.train(config, open_dataset(tiny_dataset), tmp_path / "run", device="cpu")
    whole = budget(config)
    needed = whole.disk_bytes()
    # Names, shapes and hashes come on top: a few per cent of so small a network.
    assert needed < max(taken) < 1.05 * needed + 4096
    short = tiny_config("train.save_every=5", "train.keep_checkpoints=9", "train.max_steps=5")
    assert 3 * replace(whole, config=short).disk_bytes() == 2 * needed  # the untrained network and the last


def test_the_peak_of_this_device_is_measured() -> None:
    before = torch.get_rng_state()
    peak = measure_peak(torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    assert 1e8 < peak.float32 < 1e14  # from a much disturbed core to more than any CPU
    assert peak.bandwidth > 1e7
    assert peak.fastest == max(peak.float32, peak.bfloat16)


def test_a_process_measures_its_devices_peak_once() -> None:
    assert device_peak(torch.device("cpu")) is device_peak(torch.device("cpu"))


def test_dry_run_prints_the_budget_and_the_settings(
    xraygen_cli: Callable[..., Result], tiny_dataset: Path, tmp_path: Path
) -> None:
    small = ("--set", "data.image_size=16", "--set", "model.channels=32", "--set", "train.batch_size=2")
    result = xraygen_cli(
        "train",
        "--config",
        "cxr-64",
        "--data",
        tiny_dataset,
        "--out",
        tmp_path / "run",
        *small,
        "--dry-run",
    )
    assert result.exit_code == 0
    assert "parameters; " in result.stderr
    assert "Memory: " in result.stderr
    assert result.stdout.startswith("data:")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("preset", "images"), [("cxr-128", 2), ("cxr-512", 1)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_predicted_memory_is_the_measured_peak(preset: str, images: int, checkpointing: bool) -> None:
    settings = [
        "model.channels=32",
        f"train.batch_size={images}",
        f"model.checkpoint_activations={checkpointing}",
    ]
    script = Path(__file__).with_name("peak_memory.py")
    # Small blocks would otherwise stay with malloc after they are freed, up to a quarter more (docs/results/speed.md).
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, str(script), preset, *settings]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    needed = budget(load_config(preset, [*settings, "train.sample_count=1"]))
    assert needed.memory_bytes(needed.work) == pytest.approx(int(printed), rel=0.15)


def test_a_walk_knows_its_images() -> None:
    assert isinstance(walk(SMALL, 3), Walk)
    assert walk(SMALL, 3).forward_flops == 3 * walk(SMALL, 1).forward_flops
