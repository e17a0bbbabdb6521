"""Starting from the averaged weights of another RUN: fine-tuning a model on films of one's own."""

from pathlib import Path

from xraygen.config import RunConfig
from xraygen.errors import UsageError
from xraygen.models.augmentation import AUGMENTATION_WEIGHTS
from xraygen.presets import run_folder
from xraygen.training.checkpoint import EMA, Checkpoint, load_weights, newest_checkpoint, run_config
from xraygen.training.step import State

_HASH = "sha256:"
_NETWORK_ONLY_IN_TRAINING = {"dropout", "checkpoint_activations", "hears_augmentation"}


def starting_point(config: RunConfig) -> Checkpoint | None:
    """The checkpoint that `train.init_from` names: the newest of that RUN. None where it names none.

    Raises:
        UsageError: If that RUN's network or its prediction is another.
        FolderError: If there is no such RUN or it has no whole checkpoint.
    """
    path = config.train.init_from
    if path is None:
        return None
    if path.startswith(_HASH):
        raise UsageError(
            f"train.init_from is {path[:20]}..., which names weights by their hash, as a RUN's config.yaml does; set "
            "it to the folder of the RUN that holds them."
        )
    folder = run_folder(path)
    theirs = run_config(folder)
    pairs = {
        **{
            f"model.{key}": (getattr(theirs.model, key), value)
            for key, value in config.model
            if key not in _NETWORK_ONLY_IN_TRAINING
        },
        "diffusion.prediction_type": (theirs.diffusion.prediction_type, config.diffusion.prediction_type),
        "conditions.columns": (theirs.conditions.columns, config.conditions.columns),
    }
    differences = [
        f"{key}: {there} there, {here} here" for key, (there, here) in pairs.items() if there != here
    ]
    if differences:
        raise UsageError(
            f"The network of {path} is another ({'; '.join(differences)}); set the same here, or leave train.init_from "
            "out."
        )
    return newest_checkpoint(folder)


def with_hash(config: RunConfig, start: Checkpoint | None) -> RunConfig:
    """The configuration as the RUN records it: the weights by their hash, since a path tells where someone works."""
    if start is None:
        return config
    named = {"init_from": f"{_HASH}{start.ema_sha256}"}
    return config.model_copy(update={"train": config.train.model_copy(update=named)})


def start_from(state: State, run: Path, start: Checkpoint | None) -> None:
    """Fill a fresh state, before its first step, with the weights that the RUN was started from, if any.

    Raises:
        UsageError: If they are not those that the RUN records.
    """
    recorded = run_config(run).train.init_from
    found = None if start is None else f"{_HASH}{start.ema_sha256}"
    if recorded != found:
        raise UsageError(
            f"{run} was started from the weights {recorded}, and train.init_from now names {found}; repeat the command "
            "that started it, or choose another --out."
        )
    if start is not None:
        for network in (state.model, state.ema):
            load_weights(network, start.folder / EMA, optional=AUGMENTATION_WEIGHTS)
