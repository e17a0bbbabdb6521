"""Which two sets a REPORT is about: a finished one is not replaced by that of other sets."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xraygen.atomic import sha256_of
from xraygen.audit.render import JSON_NAME
from xraygen.audit.sets import METADATA_NAME, PROVENANCE_NAME
from xraygen.dataset.store import INFO_NAME, Dataset, open_dataset
from xraygen.errors import FolderError

_CONTENT = "content_sha256"


def identity(synthetic: Path) -> dict[str, Any]:
    """What tells a SYNTHETIC, or a DATASET in its place, from others; its films are not read for it.

    A SYNTHETIC keeps its provenance.json when films are added to it or moved into quarantine. Its `id` alone would not
    do: sets of other seeds or words by the same RUN and settings share it.
    """
    files = [synthetic / METADATA_NAME, synthetic / PROVENANCE_NAME]
    is_dataset = (synthetic / INFO_NAME).is_file()
    return {
        "name": synthetic.name,
        "files_sha256": {file.name: sha256_of(file) for file in files if file.is_file()},
        _CONTENT: open_dataset(synthetic).info.content_sha256 if is_dataset else None,
    }


def check_pair(out: Path, real: Dataset, synthetic: Path) -> None:
    """Refuse to replace the REPORT of another set, or of one that was held against another DATASET.

    Raises:
        FolderError: If `out` holds such a report.json; one that is damaged permits nothing, and may be replaced.
    """
    try:
        told = json.loads((out / JSON_NAME).read_text(encoding="utf-8"))
        same_set = _same(told["synthetic"], identity(synthetic))
        same_real = told["real"][_CONTENT] == real.info.content_sha256
        names = str(told["synthetic"]["name"]), str(told["real"]["name"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    if not same_set:
        raise FolderError(
            f"{out} is the report of another set ({names[0]}) than {synthetic}; choose another --out."
        )
    if not same_real:
        raise FolderError(
            f"{out} is the report of a set held against another DATASET ({names[1]}) than {real.folder}; choose "
            "another --out."
        )


def _same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two identities, the first as report.json holds it, are of one set."""
    before, now = _marks(old), _marks(new)
    if before.items() & now.items():
        return True
    # Without a mark that lasts there is but the name: metadata.csv changes with every film that is added, and reports
    # of an older xraygen hold no mark of a DATASET.
    passing = {METADATA_NAME} if before else {_CONTENT}
    return before.keys() | now.keys() <= passing and old["name"] == new["name"]


def _marks(identity: Mapping[str, Any]) -> dict[str, str]:
    """Hashes by name; two sets that share one are the same."""
    content = identity.get(_CONTENT)
    return {**identity["files_sha256"], **({} if content is None else {_CONTENT: content})}
