"""The area under the ROC curve by its definition, and its variance, with loops over all pairs of films.

Sources: Hanley & McNeil 1982 (the area is a probability); DeLong et al. 1988, eq. 2 to 6.
"""


def area(scores: list[float], positive: list[bool]) -> float:
    """P(positive above negative) + P(equal) / 2, over all pairs."""
    wins, pairs = 0.0, 0
    for x, x_is_positive in zip(scores, positive, strict=True):
        for y, y_is_positive in zip(scores, positive, strict=True):
            if x_is_positive and not y_is_positive:
                wins += 1.0 if x > y else 0.5 if x == y else 0.0
                pairs += 1
    return wins / pairs


def delong_variance(scores: list[float], positive: list[bool]) -> float:
    """Variance of the area of independent films: S10 / m + S01 / n."""
    xs = [score for score, is_positive in zip(scores, positive, strict=True) if is_positive]
    ys = [score for score, is_positive in zip(scores, positive, strict=True) if not is_positive]
    theta = area(scores, positive)

    def psi(x: float, y: float) -> float:
        return 1.0 if x > y else 0.5 if x == y else 0.0

    V10 = [sum(psi(x, y) for y in ys) / len(ys) for x in xs]
    V01 = [sum(psi(x, y) for x in xs) / len(xs) for y in ys]
    S10 = sum((v - theta) ** 2 for v in V10) / (len(xs) - 1)
    S01 = sum((v - theta) ** 2 for v in V01) / (len(ys) - 1)
    return S10 / len(xs) + S01 / len(ys)
