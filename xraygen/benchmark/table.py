"""A measured comparison as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from xraygen.benchmark.turns import OURS

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
_INGEST_HEAD = (
    "| transfer syntax | library | a film, ms | least, ms | films/s | ours / this | 95 % | by CPU time | 95 % |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
_AUDIT_HEAD = (
    "| N per set | way | s | least, s | ours / this | 95 % | by CPU time | 95 % | differs from ours by |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
_NAMED = (
    "torch",
    "diffusers",
    "monai",
    "numpy",
    "scipy",
    "torchmetrics",
    "pydicom",
    "imagecodecs",
    "pillow",
    "pylibjpeg-libjpeg",
    "pylibjpeg-openjpeg",
)


def speed_table(measured: Mapping[str, Any]) -> str:
    """What `benchmark_speed` returned, for a person to read and a page to hold."""
    parts = measured["parts"]
    lines = [_about(measured)]
    if "train" in parts:
        lines += ["", *_train(measured["cases"])]
    if "generation" in parts:
        lines += ["", *_generation(measured["cases"])]
    if measured["missing"]:
        lines += ["", *measured["missing"]]
    if "ingest" in parts:
        lines += ["", *_ingest(measured["ingest"])]
    if "audit" in parts:
        lines += ["", *_audit(measured["audit"])]
    return "\n".join(lines) + "\n"


def _train(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whole steps, then what is not network in them."""
    lines = ["Train step:", "", _STEP_HEAD]
    for case in cases:
        network = f"{case['name']}, {case['parameters'] / 1e6:.1f} M, batch {case['batch']}"
        lines += [_step_row(network, case["precision"], name, row) for name, row in case["step"].items()]
    lines += ["", "Optimiser and average of the weights alone:", "", _UPDATE_HEAD]
    for case in cases:
        for name, row in case["optimiser_and_average"].items():
            lines.append(_update_row(case["name"], name, row))
    return lines


def _generation(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Films by ddim, beside diffusers' DDIMPipeline, and what the sampler costs outside the network."""
    lines = [f"Generation, {cases[0]['generation_steps']} steps of ddim:", "", _GENERATION_HEAD]
    for case in cases:
        for name, row in case["generation"].items():
            lines.append(
                f"| {case['name']} | {case['precision']} | {name} | {row['seconds']:.4g} | "
                f"{row['least_seconds']:.4g} | {row['images_per_second']:.4g} |{_compared(name, row)}"
            )
    outside = ", ".join(f"{case['name']} {100 * case['outside_network']:.2f} %" for case in cases)
    return [*lines, "", f"Of its CPU time, the sampler spends outside the network: {outside}."]


def _ingest(measured: Mapping[str, Any]) -> list[str]:
    """Films beside MONAI's chain, by transfer syntax."""
    height, width = measured["size"]
    lines = [
        f"Ingest, {measured['films']} films of {measured['side']} px to {height} x {width}, one thread:",
        "",
        _INGEST_HEAD,
    ]
    for syntax, sides in measured["cases"].items():
        for name, row in sides.items():
            if "missing" in row:
                lines.append(f"| {syntax} | {name} | {_cell(row['missing'])} | | | | | | |")
                continue
            lines.append(
                f"| {syntax} | {name} | {1000 * row['seconds']:.4g} | {1000 * row['least_seconds']:.4g} | "
                f"{row['images_per_second']:.4g} |{_compared(name, row)}"
            )
    return lines


def _audit(measured: Mapping[str, Any]) -> list[str]:
    """The Fréchet distance in several ways, by the number of samples."""
    threads = measured["threads"]
    lines = [
        f"Audit, Fréchet distance of {measured['dims']} features, {threads} thread{'s' * (threads != 1)}:",
        "",
        _AUDIT_HEAD,
    ]
    for count, ways in measured["cases"].items():
        for name, row in ways.items():
            if "missing" in row:
                lines.append(f"| {count} | {name} | {_cell(row['missing'])} | | | | | | |")
                continue
            apart = "" if name == OURS else f" {row['apart']:.1e}"
            lines.append(
                f"| {count} | {name} | {row['seconds']:.3g} | {row['least_seconds']:.3g} |"
                f"{_compared(name, row)}{apart} |"
            )
    return lines


def _about(measured: Mapping[str, Any]) -> str:
    """Machine, versions, and what the device can do where that was measured."""
    machine, peak = measured["machine"], measured["peak"]
    packages = machine["packages"]
    named = [f"{name} {packages[name]}" for name in _NAMED if name in packages]
    size = (
        "Small sizes (--quick): these figures say that the benchmark runs, and no more. "
        if measured["quick"]
        else ""
    )
    hardware = dict.fromkeys((machine["device"], machine["processor"]))  # which are one without a GPU
    about = (
        f"{size}{', '.join(hardware)}, {machine['cpu_count']} processors, {machine['threads']} threads; "
        f"{', '.join(named)}; {measured['rounds']} rounds{_load(measured)}."
    )
    if peak is None:
        return about
    return (
        f"{about} Peak of a matrix product: {peak['float32'] / 1e12:.3g} TFLOP/s in float32, "
        f"{peak['bfloat16'] / 1e12:.3g} in bfloat16; a copy moves {peak['bandwidth'] / 1e9:.3g} GB/s."
    )


def _load(measured: Mapping[str, Any]) -> str:
    """How many processes wanted to run before and after: more than there are processors spoils the clock's figures."""
    load = measured.get("load_average")
    return f", load average {load[0]:.1f} before and {load[1]:.1f} after" if load else ""


def _step_row(network: str, precision: str, name: str, row: Mapping[str, Any]) -> str:
    return (
        f"| {network} | {precision} | {name} | {1000 * row['seconds']:.4g} | {1000 * row['least_seconds']:.4g} | "
        f"{row['images_per_second']:.4g} | {100 * row['share_of_peak']:.0f} % |{_compared(name, row)}"
    )


def _update_row(network: str, name: str, row: Mapping[str, Any]) -> str:
    wall, cpu = _inverse(row["ours_over_this"]), _inverse(row["ours_over_this_cpu"])
    compared = " 1 | | | |" if name == OURS else _ratio(wall) + _ratio(cpu)
    return (
        f"| {network} | {name} | {1000 * row['seconds']:.4g} | {1000 * row['least_seconds']:.4g} |{compared}"
    )


def _compared(name: str, row: Mapping[str, Any]) -> str:
    """Four cells: our time over this one's by the clock and by CPU time, each with its interval."""
    if name == OURS:
        return " 1 | | | |"
    return _ratio(row["ours_over_this"]) + _ratio(row["ours_over_this_cpu"])


def _ratio(ratio: Mapping[str, float]) -> str:
    """Two cells: the median, and its interval."""
    return f" {ratio['median']:.3g} | {ratio['low']:.3g} to {ratio['high']:.3g} |"


def _inverse(ratio: Mapping[str, float]) -> dict[str, float]:
    """Theirs over ours."""
    return {"median": 1 / ratio["median"], "low": 1 / ratio["high"], "high": 1 / ratio["low"]}


def _cell(text: str) -> str:
    """A sentence that ends no cell."""
    return text.replace("|", "/")
