"""The paper's tables as Markdown: published figures, what was run and on what, and why a row is empty.

A figure stands beside a published one only if data, features, settings, steps and samples are the same. All else that
was measured is told in tables of its own.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from xraygen.benchmark.published import NAMES, PAPER, REPRODUCTION, SAMPLES, Figure, Setup
from xraygen.benchmark.trajectory import REVERSE
from xraygen.metrics.inception import FID

NO_WEIGHTS = "needs the FID network's weights"


def paper_table(setup: Setup, result: Mapping[str, Any]) -> str:
    """What `benchmark_paper` returned, for a person to read and a page to hold."""
    lines = [f"# {setup.name}", "", *_about(setup, result), ""]
    if setup.figures:
        lines += [f"## Beside the figures of {PAPER}", "", *_beside(setup, result), ""]
    lines += [f"## FID by training step, beside {REPRODUCTION}", "", *_ladder(setup, result), ""]
    lines += ["## What was run", "", *_run(result), ""]
    if result["likelihood"]:
        lines += ["## Likelihood", "", *_likelihood(result["likelihood"]), ""]
        lines += ["## Rate and distortion", "", *_rate_distortion(setup, result), ""]
    if result["progressive"]:
        lines += ["## Progressive generation", "", *_progressive(result["progressive"]), ""]
    if result["interpolation"]:
        lines += ["## Interpolation", "", *_interpolation(result["interpolation"]), ""]
    return "\n".join(lines).rstrip() + "\n"


def obstacles(setup: Setup, result: Mapping[str, Any], steps: int | None, *, of_samples: bool) -> list[str]:
    """Why a figure of this run may not stand beside a published one; empty if it may.

    Args:
        setup: The paper's setup.
        result: What was run.
        steps: Training steps of the figure; None where those of the published one were taken.
        of_samples: Whether it is a figure of generated images, as FID is and the likelihood is not.
    """
    settings, data = result["settings"], result["data"]
    why = []
    if not data["original"]:
        known = (
            "are not the published files" if setup.has_original else "cannot be told to be the published ones"
        )
        why.append(f"the images {known}")
    if result["other_settings"]:
        why.append(f"other settings ({', '.join(result['other_settings'])})")
    if steps is not None and steps != setup.steps:
        why.append(f"{steps:,} of {setup.steps:,} steps")
    if not of_samples:
        return why
    if settings["sampler"] != "ddpm":
        why.append(
            f"{settings['sampler']} over {settings['chain_steps']} of {settings['timesteps']} timesteps"
        )
    if settings["samples"] != SAMPLES:
        why.append(f"{settings['samples']:,} of {SAMPLES:,} samples")
    if settings["reference_images"] is not None:
        why.append(f"compared with {settings['reference_images']:,} real images")
    if not settings["fid_weights"]:
        why.append(NO_WEIGHTS)
    return why


def _about(setup: Setup, result: Mapping[str, Any]) -> Iterator[str]:
    data, settings, counts = result["data"], result["settings"], result["data"]["images"]
    known = "the published files" if data["original"] else "not known to be the published files"
    others = ", ".join(f"`{change}`" for change in result["other_settings"])
    steps = f"{settings['chain_steps']:,} of {settings['timesteps']:,} timesteps"
    yield (
        f"Images: {data['source']}, {counts['train']:,} of training and {counts['test']:,} of testing ({known}). "
        f"Preset `{setup.preset}`, {settings['steps']:,} steps{', but ' if others else ''}{others}. "
        f"Samples by {settings['sampler']} over {steps}, from the averaged weights, quantised to 8 bits (the paper's "
        "FID took floats)."
    )
    yield ""
    yield (
        f"{result['finished']}, xraygen {result['environment']['xraygen']}, {result['machine']}, "
        f"{result['environment']['cpu_count']} processors."
    )


def _beside(setup: Setup, result: Mapping[str, Any]) -> Iterator[str]:
    """The paper's figures; a cell of this run is a number or the reasons why there is none."""
    yield "| | published | this run |"
    yield "|---|---|---|"
    last = result["ladder"][-1]
    for figure, published in setup.figures.items():
        of_samples = not figure.startswith("nll")
        why = obstacles(setup, result, last["step"], of_samples=of_samples)
        measured = None if why else _figure(figure, result)
        yield f"| {NAMES[figure]} | {published} | {measured or _not_run(why)} |"


def _figure(figure: Figure, result: Mapping[str, Any]) -> str | None:
    """One figure of the last step, printed; None where it was not measured."""
    if figure.startswith("nll"):
        split = figure.removeprefix("nll_")
        found = (result["likelihood"] or {"splits": {}})["splits"].get(split)
        return None if found is None else f"≤ {_with_error(found['every_timestep'])}"
    scores = result["ladder"][-1]["scores"].get(FID, {})
    if figure == "inception_score":
        score = scores.get("inception_score")
        return None if score is None else f"{score['mean']:.2f} ± {score['deviation']:.2f}"
    value = scores.get(figure.removeprefix("fid_"))
    return None if value is None else f"{value:.2f}"


def _ladder(setup: Setup, result: Mapping[str, Any]) -> Iterator[str]:
    yield "| step | published | this run |"
    yield "|---|---|---|"
    scored = {entry["step"]: entry for entry in result["ladder"]}
    for step, published in setup.ladder.items():
        why = [] if step in scored else [f"{result['settings']['steps']:,} steps were run"]
        why += obstacles(setup, result, None, of_samples=True)
        value = None if why else scored[step]["scores"][FID]["train"]
        yield f"| {step:,} | {published:g} | {_not_run(why) if value is None else f'{value:.2f}'} |"


def _run(result: Mapping[str, Any]) -> Iterator[str]:
    """Every set that was scored: FID's columns only where its network was given, others under their own names."""
    labels = list(result["ladder"][-1]["scores"])
    names = {label: "FID" if label == FID else f"FD-{label}" for label in labels}
    heads = [f"{names[label]} to {split}" for label in labels for split in ("train", "test")]
    heads += ["Inception Score"] if FID in labels else []
    yield f"| step | samples | training | generation | {' | '.join(heads)} |"
    yield "|---" * (4 + len(heads)) + "|"
    for entry in result["ladder"]:
        cells = [
            _number(entry["scores"][label].get(split)) for label in labels for split in ("train", "test")
        ]
        cells += [_score(entry["scores"][FID])] if FID in labels else []
        made = entry["generated"]
        yield (
            f"| {entry['step']:,} | {entry['samples']:,} | {_time(entry['training_seconds'])} | "
            f"{made['images']:,} images in {_time(made['seconds'])} | {' | '.join(cells)} |"
        )
    for label, floor in result["floor"].items():
        if floor is not None:
            yield ""
            yield (
                f"{floor['images']:,} real test images have {names[label]} {floor['distance']:.4g} to the training "
                "images: what a perfect set of as many would have."
            )
    if FID not in labels:
        yield ""
        yield (
            f"FID and Inception Score: not run: {NO_WEIGHTS} (`--weights`). FD-EfficientNet-Lite0 is another "
            "quantity and compares runs of this table alone."
        )


def _likelihood(found: Mapping[str, Any]) -> Iterator[str]:
    yield "| split | images | bits/dim | L_T | rate: L_1 to L_T-1 | distortion: L_0 |"
    yield "|---|---|---|---|---|---|"
    for split, measured in found["splits"].items():
        sums = measured["every_timestep"]
        parts = [sums[part]["mean"] for part in ("L_T", "L_between", "L_0")]
        cells = [f"{sums['images']:,}", f"≤ {_with_error(sums)}", f"{parts[0]:.5f}"]
        yield f"| {split} | {' | '.join([*cells, *(f'{part:.3f}' for part in parts[1:])])} |"
    yield ""
    yield f"Measured at step {found['step']:,} in {_time(found['seconds'])}."


def _rate_distortion(setup: Setup, result: Mapping[str, Any]) -> Iterator[str]:
    """Table 4; the published columns where the run may stand beside them, else the run alone."""
    found = result["likelihood"]
    split = "test" if "test" in found["splits"] else "train"
    why = obstacles(setup, result, found["step"], of_samples=False)
    rows = found["splits"][split]["rate_distortion"]
    published = {steps: (rate, rmse) for steps, rate, rmse in setup.rate_distortion}
    beside = bool(published) and not why
    extra = " published rate | published RMSE |" if beside else ""
    yield f"| reverse steps | rate, bits/dim | RMSE, of 255 |{extra}"
    yield "|---" * (5 if beside else 3) + "|"
    for row in rows:
        rate, rmse = published.get(row["reverse_steps"], (float("nan"),) * 2)
        cells = f" {rate:.5f} | {rmse:.5f} |" if beside else ""
        yield f"| {row['reverse_steps']} | {row['rate']:.5f} | {row['rmse']:.5f} |{cells}"
    yield ""
    yield f"The {split} images." + (f" Not beside the published table: {'; '.join(why)}." if why else "")


def _progressive(found: Mapping[str, Any]) -> Iterator[str]:
    labels = list(found["rows"][-1]["scores"])
    names = ["FID" if label == FID else f"FD-{label}" for label in labels]
    yield f"| reverse steps done | {' | '.join(f'{name} to train' for name in names)} |" + (
        " Inception Score |" if FID in labels else ""
    )
    yield "|---" * (1 + len(labels) + (FID in labels)) + "|"
    for row in found["rows"]:
        cells = [_number(row["scores"][label].get("train")) for label in labels]
        cells += [_score(row["scores"][FID])] if FID in labels else []
        yield f"| {row[REVERSE]} | {' | '.join(cells)} |"
    yield ""
    yield (
        f"What {found['samples']:,} chains take for their images (pred_xstart), at step {found['step']:,}; "
        f"in {_time(found['seconds'])}."
    )


def _interpolation(found: Mapping[str, Any]) -> Iterator[str]:
    """The grids, and which step and images they are of."""
    for pair in found["pairs"]:
        rows = " and ".join(f"{row}" for row in pair["rows"])
        grid = f"paths/step-{found['step']:08d}/{pair['folder']}/grid.png"
        yield f"![From image to image, lambda from left to right and t from top to bottom]({grid})"
        yield ""
        yield f"Rows {rows} of the DATASET; half-way the noise has a variance of {pair['noise_variance_half_way']:.2f}."
        yield ""
    yield (
        f"{found['split'].capitalize()} images, mixed as in the paper (`--mode {found['mode']}`: two independent "
        f"noises cancel in part), at step {found['step']:,}; with the strips at t = {found['timestep']}, in "
        f"{_time(found['seconds'])}."
    )


def _not_run(why: list[str]) -> str:
    return f"not run: {'; '.join(why)}" if why else "not run"


def _with_error(sums: Mapping[str, Any]) -> str:
    """Mean and standard error over images, and how many."""
    total = sums["bits_per_dim"]
    error = total["standard_error"]
    return f"{total['mean']:.3f}" + ("" if error is None else f" ± {error:.3f} (n = {sums['images']:,})")


def _number(value: float | None) -> str:
    return "no such images" if value is None else f"{value:.4g}"


def _score(scores: Mapping[str, Any]) -> str:
    score = scores.get("inception_score")
    return "too few images" if score is None else f"{score['mean']:.2f} ± {score['deviation']:.2f}"


def _time(seconds: float) -> str:
    """The largest unit of which there is at least one."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
