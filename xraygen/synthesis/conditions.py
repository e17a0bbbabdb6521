"""What a SYNTHETIC was asked to show: the network guided by it, and which folder of the set holds what.

images/17.png                             the film of seed 17, nothing told
images/finding-NORMAL-cd27ddd9/17.png     seed 17 again, told something
conditions.json                           what each of the folders was told

Films that a plan holds to their words by another weight than the set's have a folder of their own.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xraygen.atomic import sha256_of
from xraygen.dataset.conditions import Conditions
from xraygen.diffusion.gaussian import GaussianDiffusion, Model
from xraygen.diffusion.guidance import ConditionalModel, guidance_interval, guided
from xraygen.errors import FolderError, UsageError
from xraygen.training.conditions import CONDITIONS

FORMAT_VERSION = 1
_READABLE = 48

Words = Mapping[str, str]
"""Column -> word or number, in the order of the RUN's conditions."""


@dataclass(frozen=True)
class Guidance:
    """What the network is told of the films it shall make, and how closely it is held to it.

    Attributes:
        words: Column -> word or number, such as {"finding": "PNEUMONIA"}; what is not named is not known, and with none
            at all the films are unconditional.
        weight: 0 is unconditional, 1 as told; more is closer to what is told and less various.
        interval: Noise levels sigma, (low, high], at which the weight holds; outside it is 1. None: at all.
    """

    words: Words = field(default_factory=dict)
    weight: float = 1.0
    interval: tuple[float, float] | None = None

    def checked(self, conditions: Conditions, *, planned: bool = False) -> "Guidance":
        """The same in the RUN's order, numbers in their shortest form.

        Args:
            conditions: What the RUN can be told.
            planned: Whether a plan says the words, film by film.

        Raises:
            UsageError: If the RUN does not know a word, the weight is negative, or there is nothing to guide by.
        """
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise UsageError(f"--guidance {self.weight}: expected a number from 0 up, 1 for no guidance.")
        guides = self.weight != 1 or self.interval is not None
        if planned and guides and not conditions.members:
            raise UsageError(
                "This RUN was trained without conditions (conditions.columns is empty): its plans name nothing to "
                "guide by; leave out --guidance and --guidance-interval."
            )
        if not self.words:
            if guides and not planned:
                raise UsageError(
                    "Without --condition there is nothing to guide by; name one, or leave out --guidance."
                )
            return self
        conditions.of_words(self.words)
        words = {
            member.name: f"{float(self.words[member.name]):g}"
            if member.kind == "continuous"
            else self.words[member.name]
            for member in conditions.members
            if member.name in self.words
        }
        return Guidance(words, self.weight, self.interval)

    def interval_in_t(self, chain: GaussianDiffusion) -> tuple[float, float] | None:
        """The interval in the terms that the network is told.

        Raises:
            UsageError: If no step of the chain lies in it.
        """
        return None if self.interval is None else guidance_interval(chain, *self.interval)

    def told(self, run: Path, conditions: Conditions) -> dict[str, Any]:
        """What the provenance of a set says of it: all but the words, of which a set may hold several."""
        if not conditions.members:
            return {}
        return {
            "guidance": self.weight,
            "guidance_interval": None if self.interval is None else list(self.interval),
            "conditions_sha256": sha256_of(run / CONDITIONS),
        }


@dataclass(frozen=True)
class Wish:
    """One film that is ordered.

    Attributes:
        seed: Of its noise.
        words: What it is told, checked and in the RUN's order.
        weight: Of the guidance.
    """

    seed: int
    words: Words = field(default_factory=dict)
    weight: float = 1.0

    @property
    def network(self) -> tuple[bool, float]:
        """Films that agree in this are computed by the same evaluations, and so can share a batch."""
        return bool(self.words), self.weight

    def folder(self, usual: float) -> str:
        """Its folder inside images/, in a set whose guidance usually weighs `usual`."""
        return folder_of(self.words, None if self.weight == usual else self.weight)


def wish_model(
    network: ConditionalModel,
    conditions: Conditions,
    wishes: Sequence[Wish],
    interval: tuple[float, float] | None,
    device: torch.device,
) -> Model:
    """The network for one batch of films that agree in `Wish.network`, each told its own words; interval in t."""
    told, weight = wishes[0].network
    if not told:
        return network
    rows = np.stack([conditions.of_words(wish.words) for wish in wishes])  # (B, F)
    return guided(network, torch.from_numpy(rows).to(device), weight, interval)


def folder_of(words: Words, weight: float | None = None) -> str:
    """The folder, inside images/, of films that were told this: what can be read of it, and a hash; "" for nothing.

    Args:
        words: What they were told.
        weight: Of the guidance, if it is not the set's.

    Example:
        >>> folder_of({"finding": "PNEUMONIA", "sex": "F"})
        'finding-PNEUMONIA-sex-F-a2dadbc2'
    """
    if not words:
        return ""
    readable = "-".join(f"{name}-{word}" for name, word in words.items())
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", readable)[:_READABLE].strip("-.")
    hashed: Any = dict(words) if weight is None else [dict(words), weight]
    digest = hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()
    return f"{readable}-{digest[:8]}".lstrip("-")


def read_folders(out: Path) -> dict[str, Words]:
    """What each folder of a set was told; {"": {}} for a set whose films were told nothing.

    Raises:
        FolderError: If conditions.json is damaged, or does not know one of the folders.
    """
    path = out / CONDITIONS
    folders: dict[str, Words] = {"": {}}
    try:
        if path.exists():
            read = json.loads(path.read_text(encoding="utf-8"))["folders"]
            folders |= {str(name): dict(words) for name, words in read.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise FolderError(f"{path} is damaged; choose another --out.") from None
    for folder in (out / "images").glob("*/"):
        if folder.name not in folders:
            raise FolderError(f"{path} does not say what {folder} was told; choose another --out.")
    return folders


def folders_as_json(folders: Mapping[str, Words]) -> dict[str, Any]:
    """The inverse of `read_folders`."""
    told = {name: dict(words) for name, words in sorted(folders.items()) if name}
    return {"format_version": FORMAT_VERSION, "folders": told}
