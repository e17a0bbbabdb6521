"""How long work tells its caller how far it is: the library reports, the command line draws."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """One report: `done` of `total` units of `task`, with figures such as {"loss": 0.031} or {"step": "7/20"}.

    `under_way` says what the steps so far of units computed together now are worth: 5.5 of eleven half-way.
    """

    task: str
    done: int
    total: int
    figures: Mapping[str, float | str] = field(default_factory=dict)
    under_way: float = 0.0


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Report to nobody."""


@dataclass
class Counter:
    """Adds up what is done of a task, and tells; of a batch also how many of its steps are taken."""

    task: str
    total: int
    report: Report
    done: int = 0

    def advance(self, count: int) -> None:
        """So many more units are done."""
        self.done += count
        self.report(Progress(self.task, self.done, self.total))

    def step(self, taken: int, steps: int, worth: float, name: str = "step") -> None:
        """So many steps of a batch are taken; `worth` is that of all of them, in units."""
        figures = {name: f"{taken}/{steps}"}
        self.report(Progress(self.task, self.done, self.total, figures, worth * taken / steps))
