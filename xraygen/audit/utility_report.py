"""What a report says and shows of the utility of a set."""

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from xraygen.audit.figures import OTHER, REAL, SYNTHETIC
from xraygen.audit.utility import BOTH, TUNED
from xraygen.audit.utility import REAL as REAL_ARM
from xraygen.audit.utility import SYNTHETIC as SYNTHETIC_ARM

ARM_LABELS = {
    REAL_ARM: "real films",
    BOTH: "real and synthetic films together",
    TUNED: "first synthetic, then real films",
    SYNTHETIC_ARM: "synthetic films alone",
}
_SENTENCES = {
    BOTH: "Adding {synthetic} synthetic films to {share}",
    TUNED: "Learning from {synthetic} synthetic films before {share}",
    SYNTHETIC_ARM: "Taking {synthetic} synthetic films in place of all real ones",
}


def describe_utility(utility: dict[str, Any], label: str) -> dict[str, Any]:
    """`utility` of report.json: the numbers of `measure_utility` with their sentences."""
    told = [
        {
            "test": test["name"],
            "arm": row["arm"],
            "fraction": row["fraction"],
            "sentence": _sentence(utility, test, row),
        }
        for test in utility["tests"]
        for row in test["mean"]
        if row["change"] is not None
    ]
    return {"label": label, **utility, "sentences": told, "arm_labels": ARM_LABELS}


def utility_summary(utility: Mapping[str, Any]) -> Iterator[str]:
    """Adding the set to the smallest share and to all of the patients, on every test set, and the set alone."""
    fractions = [share["fraction"] for share in utility["fractions"]]
    wanted = [(BOTH, fractions[0]), (BOTH, fractions[-1]), (SYNTHETIC_ARM, None)]
    for told in utility["sentences"]:
        if (told["arm"], told["fraction"]) in wanted:
            yield told["sentence"]


def utility_table(utility: Mapping[str, Any]) -> list[str]:
    """As lines of text."""
    lines = []
    for test in utility["tests"]:
        lines.append(
            f"utility: AUC of {utility['label']} on {test['films']} films of {test['patients']} patients, "
            f"{test['name']} ({utility['classifier']['classifier']}, {utility['seeds']} seeds, 95 % intervals)"
        )
        if test["left_out"]:
            lines.append(
                f"  {test['left_out']} films left out, of patients whom the classifiers learned from"
            )
        for row in test["mean"]:
            share = "" if row["fraction"] is None else f"{100 * row['fraction']:g} % of patients, "
            change = "" if row["change"] is None else f"  {_change(row['change'])}"
            area = f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
            lines.append(f"  {share + ARM_LABELS[row['arm']]:<58} {area}{change}")
        lines.append("")
    return lines


def utility_chart(utility: Mapping[str, Any]) -> Figure:
    """AUC by share of the patients, a panel per test set; synthetic films alone are a band."""
    tests = utility["tests"]
    figure = Figure(figsize=(7.4, 3.2), layout="constrained")
    panels = figure.subplots(1, len(tests), squeeze=False, sharey=True)[0]
    for axes, test in zip(panels, tests, strict=True):
        _panel(axes, test, [share["fraction"] for share in utility["fractions"]])
        axes.set_title(test["name"], fontsize=9)
    panels[0].set_ylabel(f"AUC of {utility['label']}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure


def _panel(axes: Axes, test: Mapping[str, Any], fractions: list[float]) -> None:
    """One test set; the arms stand side by side, so that their intervals can be told apart."""
    for kind, colour, marker, aside in (
        (REAL_ARM, REAL, "o", 0.95),
        (BOTH, SYNTHETIC, "D", 1.0),
        (TUNED, OTHER, "s", 1.05),
    ):
        rows = [row for row in test["mean"] if row["arm"] == kind]
        x, y = [100 * row["fraction"] * aside for row in rows], [row["value"] for row in rows]
        ends = [[row["value"] - row["low"] for row in rows], [row["high"] - row["value"] for row in rows]]
        axes.errorbar(
            x, y, ends, color=colour, marker=marker, ms=4, lw=1.2, capsize=2, label=ARM_LABELS[kind]
        )
    (alone,) = (row for row in test["mean"] if row["arm"] == SYNTHETIC_ARM)
    axes.axhspan(alone["low"], alone["high"], color=SYNTHETIC, alpha=0.12, lw=0)
    axes.axhline(alone["value"], color=SYNTHETIC, ls=":", lw=1.4, label=ARM_LABELS[SYNTHETIC_ARM])
    axes.set(xscale="log", xlabel="% of the real training patients")
    axes.set_xticks(
        [100 * fraction for fraction in fractions], [f"{100 * fraction:g}" for fraction in fractions]
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)


def _sentence(utility: Mapping[str, Any], test: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """What a change is, and whether it is one."""
    share = next((share for share in utility["fractions"] if share["fraction"] == row["fraction"]), None)
    of_patients = (
        ""
        if share is None
        else f"{100 * share['fraction']:g} % of the patients ({share['patients']} patients, {share['films']} films)"
    )
    begin = _SENTENCES[row["arm"]].format(synthetic=utility["synthetic_films"], share=of_patients)
    return f"{begin} changed the AUC on {test['name']} by {_change(row['change'])}."


def _change(change: Mapping[str, float]) -> str:
    """+0.010 (-0.020 to 0.040): no measurable gain."""
    verdict = "a gain" if change["low"] > 0 else "a loss" if change["high"] < 0 else "no measurable gain"
    return f"{change['value']:+.3f} ({change['low']:.3f} to {change['high']:.3f}): {verdict}"
