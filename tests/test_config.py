from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from xraygen.config import ModelConfig, RunConfig, load_config
from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.errors import ConfigError, UsageError
from xraygen.presets import preset_names

EVERYONES_PAPER: dict[str, Any] = {
    "schedule.kind": "linear",
    "schedule.num_timesteps": 1000,
    "schedule.beta_start": 1e-4,
    "schedule.beta_end": 0.02,
    "model.channels": 128,
    "model.num_res_blocks": 2,
    "model.attention_resolutions": (16,),
    "model.patch_size": 1,
    "diffusion.prediction_type": "epsilon",
    "diffusion.loss_weighting": "simple",
    "data.channels": 3,
    "data.horizontal_flip": True,
    "train.warmup_steps": 5000,
    "train.ema_decay": 0.9999,
    "train.ema_warmup": False,
    "train.gradient_clip": 1.0,
}
CIFAR10 = EVERYONES_PAPER | {
    "data.image_size": 32,
    "model.channel_mult": (1, 2, 2, 2),
    "model.dropout": 0.1,
    "train.learning_rate": 2e-4,
    "train.batch_size": 128,
    "train.max_steps": 800_000,
    "diffusion.variance_type": "fixed_large",
}
CELEBA = EVERYONES_PAPER | {
    "data.image_size": 256,
    "model.channel_mult": (1, 1, 2, 2, 4, 4),
    "model.dropout": 0.0,
    "train.learning_rate": 2e-5,
    "train.batch_size": 64,
    "train.max_steps": 500_000,
    "diffusion.variance_type": "fixed_small",
}

each_preset = pytest.mark.parametrize("preset", preset_names())


def setting(config: BaseModel, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "run.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def assert_one_sentence(error: UsageError, *words: str) -> None:
    message = str(error)
    assert "\n" not in message
    assert message.endswith(".")
    assert error.exit_code == 2
    assert all(word in message for word in words)


@each_preset
def test_every_preset_loads_and_survives_being_written(preset: str, tmp_path: Path) -> None:
    config = load_config(preset)
    assert load_config(write(tmp_path, config.to_yaml())) == config


def test_the_promised_presets_ship() -> None:
    promised = {
        "phantom-32",
        "cxr-64",
        "cxr-64-edm",
        "cxr-64-likelihood",
        "cxr-128",
        "cxr-256",
        "cxr-512",
        "cifar10",
        "celebahq-256",
    }
    assert promised == set(preset_names())


@pytest.mark.parametrize(
    ("preset", "key", "value"),
    [("cifar10", *pair) for pair in CIFAR10.items()] + [("celebahq-256", *pair) for pair in CELEBA.items()],
)
def test_the_papers_presets_have_the_papers_settings(preset: str, key: str, value: Any) -> None:
    assert setting(load_config(preset), key) == value


@pytest.mark.parametrize(
    ("preset", "ratio"), [("cxr-64", 1), ("cxr-256", 1 / 16), ("cxr-512", 1 / 64), ("celebahq-256", 1)]
)
def test_large_films_are_noised_as_films_of_64_px_are(preset: str, ratio: float) -> None:
    schedule = load_config(preset).schedule
    plain = schedule.model_copy(update={"reference_size": None})
    shifted, before = NoiseSchedule.from_config(schedule).snr, NoiseSchedule.from_config(plain).snr
    # 1e-9 as 1 - alphas_cumprod cancels.
    np.testing.assert_allclose((shifted / before).numpy(), ratio, rtol=1e-9)


@each_preset
def test_no_chest_film_is_flipped(preset: str) -> None:
    data = load_config(preset).data
    assert data.channels == 3 or not data.horizontal_flip


@each_preset
def test_the_model_follows_the_data(preset: str) -> None:
    config = load_config(preset)
    assert (config.model.image_size, config.model.in_channels) == (
        config.data.image_size,
        config.data.channels,
    )


@pytest.mark.parametrize(
    ("override", "size", "shape"),
    [("64", 64, (3, 64, 64)), ("[64,32]", (64, 32), (3, 64, 32))],
)
def test_overriding_the_datas_size_moves_the_models(
    override: str, size: object, shape: tuple[int, int, int]
) -> None:
    config = load_config("cifar10", [f"data.image_size={override}"])
    assert config.model.image_size == config.data.image_size == size
    assert config.data.shape == shape


def test_a_model_that_contradicts_the_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="follow other settings") as caught:
        load_config("cifar10", ["model.image_size=64"])
    assert_one_sentence(caught.value, "model.image_size")


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001"])
def test_a_small_number_in_yaml_is_a_number(tmp_path: Path, text: str) -> None:
    # PyYAML reads `1e-4` as a string; a learning rate must not depend on a dot.
    config = load_config(write(tmp_path, f"train:\n  learning_rate: {text}\n"))
    assert config.train.learning_rate == 1e-4
    assert load_config("cifar10", [f"train.learning_rate={text}"]).train.learning_rate == 1e-4


def test_overrides_apply_in_order() -> None:
    config = load_config("cifar10", ["train.seed=1", "train.batch_size=64", "train.seed=2"])
    assert (config.train.seed, config.train.batch_size, config.train.max_steps) == (2, 64, 800_000)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.batchsize=64", ["train.batchsize", "batch_size"]),
        ("schedule.num_timestep=10", ["schedule.num_timestep", "num_timesteps"]),
        ("training.batch_size=64", ["training", "train"]),
        ("train.batch_size=many", ["train.batch_size", "many"]),
        ("train.batch_size=1.5", ["train.batch_size", "1.5"]),
        ("train.batch_size=null", ["train.batch_size"]),
        ("train.batch_size=0", ["train.batch_size", "0"]),
        ("train.batch_size.x=3", ["train.batch_size"]),
        ("train.learning_rate=-1", ["train.learning_rate", "-1"]),
        ("train.learning_rate=.nan", ["train.learning_rate", "nan"]),
        ("train.learning_rate=${oc.env:HOME}", ["train.learning_rate", "oc.env:HOME"]),
        ("train.precision=float16", ["train.precision", "float16", "bfloat16"]),
        ("train.ema_decay=1", ["train.ema_decay"]),
        ("train=3", ["train", "3"]),
        ("data=null", ["data"]),
        ("data.channels=2", ["data.channels", "2"]),
        ("data.horizontal_flip=3", ["data.horizontal_flip", "3"]),
        ("data.image_size=65", ["multiples of 8", "65"]),
        ("data.image_size=huge", ["data.image_size", "huge"]),
        ("model.channels=48", ["model.channels", "48"]),
        ("model.channel_mult=[]", ["model.channel_mult"]),
        ("model.dropout=1", ["model.dropout"]),
        ("schedule.num_timesteps=1", ["schedule.num_timesteps", "1"]),
        ("schedule.kind=square", ["schedule.kind", "square", "cosine"]),
        ("schedule.beta_end=1", ["schedule.beta_end"]),
        ("diffusion.variance_type=large", ["diffusion.variance_type", "large", "fixed_large"]),
        ("train.batch_size", ["train.batch_size", "key=value"]),
        ("train.batch_size=[1", ["train.batch_size=[1"]),
        ("=3", ["is not a setting"]),
    ],
)
def test_a_wrong_override_is_one_sentence_that_names_the_key(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("cifar10", [override])
    # The messages of the YAML parser, quoted whole, have no full stop of their own.
    if override == "train.batch_size=[1":
        assert "\n" not in str(caught.value)
        return
    assert_one_sentence(caught.value, *words)


@pytest.mark.parametrize("override", ["data=[1]", "model.channel_mult[0]=2"])
def test_an_override_of_the_wrong_container_is_one_sentence(override: str) -> None:
    """Found 2026-11-23: OmegaConf.merge raises TypeError('Cannot merge incompatible container types')."""
    with pytest.raises(ConfigError) as caught:
        load_config("cifar10", [override])
    assert_one_sentence(caught.value, override.partition("=")[0].partition("[")[0])


@pytest.mark.parametrize("key", ["train.batch_size", "data.channels", "train.learning_rate"])
def test_a_truth_value_is_not_a_number(key: str) -> None:
    """Found 2026-11-23: `train.batch_size=true` was read as a batch of 1."""
    with pytest.raises(ConfigError) as caught:
        load_config("cifar10", [f"{key}=true"])
    assert_one_sentence(caught.value, key)


def test_an_infinite_learning_rate_is_out_of_range() -> None:
    """Found 2026-11-23: `train.learning_rate=.inf` was accepted."""
    with pytest.raises(ConfigError) as caught:
        load_config("cifar10", ["train.learning_rate=.inf"])
    assert_one_sentence(caught.value, "train.learning_rate")


def test_an_override_is_never_dropped_in_silence() -> None:
    """Found 2026-11-23: OmegaConf reads `???` as "missing", and the merge kept the preset's value."""
    with pytest.raises(ConfigError) as caught:
        load_config("cifar10", ["train.learning_rate=???"])
    assert_one_sentence(caught.value, "train.learning_rate")


def test_a_wrong_size_is_explained_under_its_own_name_and_once() -> None:
    """Found 2026-11-23: the sentence named `data.image_size.constrained-int` and said all again for the model."""
    with pytest.raises(ConfigError) as caught:
        load_config("cifar10", ["data.image_size=huge"])
    assert "constrained" not in str(caught.value)
    assert "model.image_size" not in str(caught.value)


@pytest.mark.parametrize("name", ["cifar-10", "missing.yaml", "", "."])
def test_an_unknown_preset_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(name)
    assert_one_sentence(caught.value, name, "cifar10", "celebahq-256")


@pytest.mark.parametrize(
    "text",
    [
        "train: [1",
        "- 1\n- 2\n",
        "hello",
        "train:\n",
        "1: 2\n",
        "train: {1: 2}\n",
        "train: {seed: 1, seed: 2}\n",
        "train: {seed: 1}\n---\ntrain: {}\n",
        "train: !!python/object/apply:os.getcwd []\n",
        b"\xff\xfe\x00",
        pytest.param("3", id="a number, found 2026-11-23: AssertionError"),
    ],
)
def test_a_broken_file_is_one_sentence_with_its_name(tmp_path: Path, text: str | bytes) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_too_long_for_the_disk_is_an_unknown_preset() -> None:
    """Found 2026-11-23: OSError, File name too long."""
    with pytest.raises(ConfigError, match="neither a preset"):
        load_config("x" * 300)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "")) == RunConfig()


@pytest.mark.parametrize("section", list(RunConfig.model_fields))
def test_a_configuration_is_frozen(section: str) -> None:
    config = load_config("cifar10")
    part = getattr(config, section)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(config, section, part)
    name = next(iter(type(part).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(part, name, getattr(part, name))


@pytest.mark.parametrize("section", list(RunConfig.model_fields))
def test_every_setting_is_documented_under_its_name(section: str) -> None:
    fields = type(getattr(RunConfig(), section)).model_fields
    assert all(field.description for field in fields.values())


@pytest.mark.parametrize(
    ("size", "patch", "good"), [(30, 1, False), (32, 1, True), (32, 8, False), (64, 8, True)]
)
def test_levels_and_patches_must_divide_the_image(size: int, patch: int, good: bool) -> None:
    if good:
        assert ModelConfig(image_size=size, patch_size=patch).image_size == size
        return
    with pytest.raises(ValidationError, match="need image sides that are multiples of"):
        ModelConfig(image_size=size, patch_size=patch)


@each_preset
def test_no_preset_augments(preset: str) -> None:
    config = load_config(preset)
    assert config.data.augment_probability == 0
    assert not config.model.hears_augmentation


@pytest.mark.parametrize(("often", "hears"), [("0.12", True), ("1e-3", True), ("0", False), ("0.0", False)])
def test_the_model_hears_augmentations_that_there_are(often: str, hears: bool, tmp_path: Path) -> None:
    config = load_config("cxr-64", [f"data.augment_probability={often}"])
    assert config.model.hears_augmentation is hears
    assert load_config(write(tmp_path, config.to_yaml())) == config


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.augment_probability=1"], ["data.augment_probability", "less than 1"]),
        (["data.augment_probability=often"], ["data.augment_probability", "often"]),
        (["data.augment_flip=true"], ["augment_probability above 0"]),
        (
            ["data.augment_flip=true", "data.augment_probability=0.1", "data.horizontal_flip=true"],
            ["horizontal_flip"],
        ),
        (["data.augment_scale=-1"], ["data.augment_scale"]),
        (["model.hears_augmentation=true"], ["model.hears_augmentation", "leave them out"]),
    ],
)
def test_augmentations_that_cannot_be_are_explained(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("cxr-64", overrides)
    assert_one_sentence(caught.value, *words)
