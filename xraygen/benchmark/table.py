"""A measured comparison as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

_STEP_HEAD = (
    "| network | precision | library | step, ms | least, ms | images/s | share of peak "
    "| ours / this | 95 % | by CPU time | 95 % |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)
_UPDATE_HEAD = (
    "| network | library | ms | least, ms | this / ours | 95 % | by CPU time | 95 % |\n"
    "|---|---|---|---|---|---|---|---|"
)

_GENERATION_HEAD = (
    "| network | precision | library | a batch, s | least, s | films/s | ours / this | 95 % | by CPU time | 95 % |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def speed_table(measured: Mapping[str, Any]) -> str:
    """What `benchmark_speed` returned, for a person to read and a page to hold."""
    lines = [_about(measured), "", "Train step:", "", _STEP_HEAD]
    for case in measured["cases"]:
        network = f"{case['name']}, {case['parameters'] / 1e6:.1f} M, batch {case['batch']}"
        lines += [_step_row(network, case["precision"], name, row) for name, row in case["step"].items()]
    lines += ["", "Optimiser and average of the weights alone:", "", _UPDATE_HEAD]
    for case in measured["cases"]:
        for name, row in case["optimiser_and_average"].items():
            lines.append(_update_row(case["name"], name, row))
    lines += ["", *_generation(measured["cases"]), "", *measured["missing"]]
    return "\n".join(lines).rstrip() + "\n"


def _generation(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Films by ddim, beside diffusers' DDIMPipeline, and what the sampler costs outside the network."""
    lines = [f"Generation, {cases[0]['generation_steps']} steps of ddim:", "", _GENERATION_HEAD]
    for case in cases:
        for name, row in case["generation"].items():
            compared = (
                " 1 | | | |"
                if name == "xraygen"
                else _ratio(row["ours_over_this"]) + _ratio(row["ours_over_this_cpu"])
            )
            lines.append(
                f"| {case['name']} | {case['precision']} | {name} | {row['seconds']:.4g} | "
                f"{row['least_seconds']:.4g} | {row['images_per_second']:.4g} |{compared}"
            )
    outside = ", ".join(f"{case['name']} {100 * case['outside_network']:.2f} %" for case in cases)
    return [*lines, "", f"Of its CPU time, the sampler spends outside the network: {outside}."]


def _about(measured: Mapping[str, Any]) -> str:
    machine, peak = measured["machine"], measured["peak"]
    packages = machine["packages"]
    named = [f"{name} {packages[name]}" for name in ("torch", "diffusers", "monai") if name in packages]
    size = (
        "Small networks (--quick): these figures say that the benchmark runs, and no more. "
        if measured["quick"]
        else ""
    )
    return (
        f"{size}{machine['device']}, {machine['cpu_count']} processors, {machine['threads']} threads; "
        f"{', '.join(named)}; {measured['rounds']} rounds{_load(measured)}. "
        f"Peak of a matrix product: {peak['float32'] / 1e12:.3g} TFLOP/s in float32, "
        f"{peak['bfloat16'] / 1e12:.3g} in bfloat16; a copy moves {peak['bandwidth'] / 1e9:.3g} GB/s."
    )


def _load(measured: Mapping[str, Any]) -> str:
    """How many processes wanted to run before and after: more than there are processors spoils the clock's figures."""
    load = measured.get("load_average")
    return f", load average {load[0]:.1f} before and {load[1]:.1f} after" if load else ""


def _step_row(network: str, precision: str, name: str, row: Mapping[str, Any]) -> str:
    compared = (
        " 1 | | | |"
        if name == "xraygen"
        else _ratio(row["ours_over_this"]) + _ratio(row["ours_over_this_cpu"])
    )
    return (
        f"| {network} | {precision} | {name} | {1000 * row['seconds']:.4g} | {1000 * row['least_seconds']:.4g} | "
        f"{row['images_per_second']:.4g} | {100 * row['share_of_peak']:.0f} % |{compared}"
    )


def _update_row(network: str, name: str, row: Mapping[str, Any]) -> str:
    wall, cpu = _inverse(row["ours_over_this"]), _inverse(row["ours_over_this_cpu"])
    compared = " 1 | | | |" if name == "xraygen" else _ratio(wall) + _ratio(cpu)
    return (
        f"| {network} | {name} | {1000 * row['seconds']:.4g} | {1000 * row['least_seconds']:.4g} |{compared}"
    )


def _ratio(ratio: Mapping[str, float]) -> str:
    """Two cells: the median, and its interval."""
    return f" {ratio['median']:.3g} | {ratio['low']:.3g} to {ratio['high']:.3g} |"


def _inverse(ratio: Mapping[str, float]) -> dict[str, float]:
    """Theirs over ours."""
    return {"median": 1 / ratio["median"], "low": 1 / ratio["high"], "high": 1 / ratio["low"]}
