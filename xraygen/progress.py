"""How long work tells its caller how far it is: the library reports, the command line draws."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """One report: `done` of `total` units of `task`, with figures such as {"loss": 0.031}."""

    task: str
    done: int
    total: int
    figures: Mapping[str, float] = field(default_factory=dict)


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Report to nobody."""
