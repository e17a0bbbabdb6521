"""Presets and models that ship with xraygen, YAML files and assignments, as they are written."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from xraygen.errors import ConfigError


def preset_names() -> list[str]:
    """Names of the presets that ship with xraygen, in alphabetical order."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in files("xraygen.configs").iterdir()
        if entry.name.endswith(".yaml")
    )


def shipped_models() -> list[str]:
    """Names of the models that ship with xraygen, in alphabetical order."""
    folder = Path(str(files("xraygen.shipped")))
    return sorted(config.parent.name for config in folder.glob("*/config.yaml"))


def run_folder(run: str | Path) -> Path:
    """The RUN folder that is meant: that of a shipped model where it is named and no folder here has its name."""
    if str(run) in shipped_models() and not Path(run).exists():
        return Path(str(files("xraygen.shipped"))) / run
    return Path(run)


def read_yaml(preset_or_path: str | Path) -> Any:
    """The content of a preset or a YAML file, unchecked.

    Args:
        preset_or_path: A preset's name, or the path of a YAML file.

    Raises:
        ConfigError: If the preset is unknown, or the file unreadable or no YAML.
    """
    preset = files("xraygen.configs").joinpath(f"{preset_or_path}.yaml")
    try:
        if str(preset_or_path) in preset_names():
            text = preset.read_text(encoding="utf-8")
        else:
            text = Path(preset_or_path).read_text(encoding="utf-8")
        content = OmegaConf.create(text)
    except OSError:
        raise ConfigError(
            f"{preset_or_path} is neither a preset ({', '.join(preset_names())}) nor a readable YAML file; "
            "check the name."
        ) from None
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, AssertionError) as error:
        raise ConfigError(f"{preset_or_path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not OmegaConf.is_dict(content):
        raise ConfigError(f"{preset_or_path} must hold sections such as `train:`, and holds none.")
    return content


def read_overrides(overrides: Sequence[str]) -> Any:
    """`key=value` strings as a nested dictionary.

    Raises:
        ConfigError: If one has no `=`, or cannot be read.
    """
    for override in overrides:
        _, equals, value = override.partition("=")
        if not equals or value.strip() == "???":  # which OmegaConf would take for "no value" and leave out
            raise ConfigError(f"--set {override}: expected key=value, such as train.batch_size=64.")
    try:
        return OmegaConf.from_dotlist(list(overrides))
    except (YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"--set {' '.join(overrides)}: {' '.join(str(error).split())}") from None


def is_positive(value: Any) -> bool:
    """Whether a value, as it is written, will be a number above 0."""
    try:
        return float(value) > 0
    except (TypeError, ValueError):
        return False
