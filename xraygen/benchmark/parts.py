"""What `xraygen benchmark speed` can time."""

from typing import Literal, get_args

from xraygen.errors import UsageError

Part = Literal["train", "generation", "ingest", "audit"]
PARTS: tuple[Part, ...] = get_args(Part)


def read_parts(text: str | None) -> tuple[Part, ...]:
    """`ingest,audit` as parts, in the order in which they are timed; all where nothing is said.

    Raises:
        UsageError: If one is not known.
    """
    if text is None:
        return PARTS
    named = [name.strip() for name in text.split(",")]
    if not set(named) <= set(PARTS):
        raise UsageError(f"--parts {text}: expected some of {','.join(PARTS)}, with commas between.")
    return tuple(part for part in PARTS if part in named)
