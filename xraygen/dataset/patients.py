"""Whose films they are: what the films, their copies and their studies say of it together.

A film that names no patient stands for one of its own, or its study does. Another film of the study may name him, or
a copy of the film may; unless that counts, he may stand in two splits under two names.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain

PATIENT_BY = ("image", "study", "patient")
"""What a film's pseudonym of a patient is made of: itself, where nothing is known, its study, or the patient."""
_IMAGE, _PATIENT = PATIENT_BY.index("image"), PATIENT_BY.index("patient")
_NOBODY = -1  # a study's own name is none of a patient


def unite(
    patients: Sequence[str],
    by: Sequence[int],
    studies: Sequence[str],
    copies: Sequence[tuple[int, int]],
    kept: Collection[str],
) -> tuple[dict[str, str], int]:
    """Find the patients of films that name none. The order of the films plays no part.

    Films of one study are one patient's, and so are copies. Where they name one, he is the patient of them all. Where
    they name two, those that name none keep to themselves; only a film without a study goes to one that a copy names.

    Args:
        patients: The pseudonym of each film's patient, "" where there is none, [N].
        by: What it is made of, a place in PATIENT_BY, [N].
        studies: The pseudonym of each film's study, "" where it is not known, [N].
        copies: Pairs of films that are alike, as places among them.
        kept: The patients of films that stay, whose names are kept where nobody knows better.

    Returns:
        Pseudonyms made of an image or a study and what they become; and how many studies name two patients or more.
    """
    unknown = {study: (_NOBODY, False) for study in studies if study}
    unknown |= {
        name: (made_of, name in kept)
        for name, made_of in zip(patients, by, strict=True)
        if name and made_of < _PATIENT
    }
    groups, told, torn = _Groups(unknown), dict[str, str](), set[str]()
    for one, other in _links(patients, studies, copies):
        if one in unknown and other in unknown:
            groups.join(one, other)
    for one, other in _links(patients, studies, copies):
        if (one in unknown) == (other in unknown):
            continue
        head, patient = (groups.head(one), other) if one in unknown else (groups.head(other), one)
        if told.setdefault(head, patient) != patient:
            torn.add(head)
            told[head] = min(told[head], patient)
    torn = {head for head in torn if unknown[head][0] != _IMAGE}
    heads = {name: groups.head(name) for name, (made_of, _) in unknown.items() if made_of != _NOBODY}
    become = {name: head if head in torn else told.get(head, head) for name, head in heads.items()}
    return {name: other for name, other in become.items() if other != name}, len(torn)


def _links(
    patients: Sequence[str], studies: Sequence[str], copies: Sequence[tuple[int, int]]
) -> Iterator[tuple[str, str]]:
    """Pairs of names that mean one patient, where both are known."""
    pairs = chain(
        zip(studies, patients, strict=True),
        ((patients[one], patients[other]) for one, other in copies),
    )
    return (pair for pair in pairs if all(pair))


class _Groups:
    """Names that mean one patient (union-find); the head of a group is the best known of its names.

    Args:
        ranks: How well each name is known; among equals the names themselves decide.
    """

    def __init__(self, ranks: Mapping[str, tuple[int, bool]]) -> None:
        self._ranks = ranks
        self._above: dict[str, str] = {}

    def head(self, name: str) -> str:
        """The name by which the group of `name` goes."""
        while name in self._above:
            name = self._above[name]
        return name

    def join(self, one: str, other: str) -> None:
        """Make the groups of two names one."""
        heads = {self.head(one), self.head(other)}
        if len(heads) == 2:
            below, above = sorted(heads, key=lambda name: (self._ranks[name], name))
            self._above[below] = above
