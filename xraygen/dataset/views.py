"""Which views of the chest a DATASET takes: frontal and lateral films teach a network two pictures at once."""

from collections.abc import Sequence

from xraygen.dataset.allowed import VIEWS, coded_view
from xraygen.dataset.journal import Outcome
from xraygen.dataset.outcomes import Knowledge, accepted, rejected
from xraygen.dataset.sources import SourceFile
from xraygen.errors import UsageError
from xraygen.films.transforms import PreparedFilm

REASON = "view"
UNKNOWN = "unknown"
"""The word for films whose view neither they nor the CSV tell."""


def parse_views(text: str) -> tuple[str, ...]:
    """Read "PA,AP,unknown".

    Returns:
        Views as manifests hold them, and UNKNOWN, each once and in the order of the text.

    Raises:
        UsageError: If a word is no view.
    """
    views = []
    for word in text.split(","):
        view = UNKNOWN if word.strip().lower() == UNKNOWN else coded_view(word)
        if not view:
            raise UsageError(
                f"--views {text}: {word.strip() or 'nothing'} is no view; expected some of "
                f"{', '.join(sorted(VIEWS))} or {UNKNOWN}, with commas between."
            )
        views.append(view)
    return tuple(dict.fromkeys(views))


def of_another_view(
    film: PreparedFilm, file: SourceFile, knowledge: Knowledge, views: Sequence[str] | None
) -> Outcome | None:
    """The rejection of a film of a view that is not wanted, or None.

    Args:
        film: The film as prepared.
        file: Where it is from.
        knowledge: What the CSV says of it.
        views: Those that are wanted, as `parse_views` gives them; None for all.
    """
    if views is None:
        return None
    facts, _ = knowledge.facts(file, film.attributes)
    view = coded_view(facts.view) or UNKNOWN
    if view in views:
        return None
    outcome = accepted(film, file, knowledge)
    told = {name: outcome["row"][name] for name in ("patient", "study")}  # of other films of the study, too
    told |= {name: outcome[name] for name in ("patient_by", "split", "matched")}
    detail = f"The film's view is {view}; --views takes {', '.join(views)}."
    return {**rejected(outcome["source"], REASON, detail), **told}
