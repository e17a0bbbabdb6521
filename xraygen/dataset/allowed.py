"""What may pass from a film into a DATASET besides its pixels: values of closed lists, and numbers. No free text.

A hospital may have typed a name into any element: what is not on the list does not pass, whatever element it is from.
"""

import math

from xraygen.films.view_terms import VIEWS, coded_view

__all__ = [
    "OLDEST",
    "PHOTOMETRICS",
    "VIEWS",
    "coded_photometric",
    "coded_sex",
    "coded_view",
    "plausible_spacing",
    "pooled_age",
]

PHOTOMETRICS = frozenset((
    "MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT",
    "YBR_RCT", "XYB",
))  # fmt: skip
"""PS3.3 C.7.6.3.1.2."""
OLDEST = 90.0
"""Ages from here on are one value (45 CFR 164.514(b)(2)(i)(C))."""


def coded_sex(text: str) -> str:
    """M, F or O (PS3.3 C.7.1.1); "" for any other text."""
    return text if text in ("M", "F", "O") else ""


def coded_photometric(text: str) -> str:
    """The photometric interpretation; "" for any text that is none of PHOTOMETRICS."""
    return text if text in PHOTOMETRICS else ""


def pooled_age(years: float | None) -> float | None:
    """The age in years, all from OLDEST on as OLDEST; None for what is no age.

    Example:
        >>> [pooled_age(age) for age in (63.0, 90.0, 101.0, -1.0)]
        [63.0, 90.0, 90.0, None]
    """
    if years is None or not math.isfinite(years) or years < 0:
        return None
    return min(years, OLDEST)


def plausible_spacing(mm: float | None) -> float | None:
    """A distance between pixels from 0.001 to 100 mm, to six digits; None for any other number."""
    return float(f"{mm:.6g}") if mm is not None and 0.001 <= mm <= 100 else None
