"""The views of a film that are known by name."""

VIEWS = frozenset((
    "PA", "AP", "LL", "RL", "LATERAL", "LAT", "FRONTAL", "OBLIQUE", "LLD", "RLD", "LLO", "RLO", "LAO", "RAO", "LPO",
    "RPO", "LORDOTIC", "AP AXIAL", "PA AXIAL", "AP LLD", "AP RLD", "PA LLD", "PA RLD", "AP LORDOTIC", "PA LORDOTIC",
    "AP SUPINE", "LL SUPINE", "AP ERECT", "PA ERECT", "AP HORIZONTAL", "XTABLE LATERAL",
))  # fmt: skip
"""View Position's terms (PS3.3 C.8.1.2, C.8.11.5), and those that public collections of chest films use."""


def coded_view(text: str) -> str:
    """The view in capitals, words apart; "" for any text that is none of VIEWS."""
    view = " ".join(text.upper().replace("_", " ").replace("-", " ").split())
    return view if view in VIEWS else ""
