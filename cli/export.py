"""`xraygen export`: RUN -> another library's folder, or a RUN to pass on."""

from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xraygen.errors import UsageError

from . import console, options, servers

if TYPE_CHECKING:
    from xraygen.training.checkpoint import Checkpoint


class Target(StrEnum):
    """Whose format is written."""

    diffusers = "diffusers"
    monai = "monai"
    release = "release"


class Weights(StrEnum):
    """Which of a checkpoint's two sets of weights."""

    ema = "ema"
    model = "model"


def export(
    context: typer.Context,
    run: options.Run,
    to: Annotated[Target, typer.Option(help="Whose format.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write, which must not exist yet.")],
    weights: Annotated[
        Weights, typer.Option(help="The average, or the last step's, which goes to diffusers only.")
    ] = Weights.ema,
    checkpoint: Annotated[
        str,
        typer.Option(
            metavar="newest|best|STEP", help="Not for diffusers; best is that on the validation films."
        ),
    ] = "best",
    card: Annotated[
        Path | None, typer.Option(metavar="TEXT.md", help="What a release's model card begins with.")
    ] = None,
    audit: servers.Audit = None,
    acknowledge_patient_data: servers.Acknowledge = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Write a RUN so that another library runs it, such as diffusers' `DDPMPipeline.from_pretrained(DIR)`.

    As a release it is a RUN of one checkpoint, in half precision and without what only training needs.

    xraygen export run --to diffusers --out exported --audit report

    xraygen export run --to monai --checkpoint newest --out bundle --audit report

    xraygen export run --to release --checkpoint newest --out my-model --card about.md --audit report

    xraygen export run --to diffusers --out last-step --weights model --acknowledge-patient-data
    """
    _check_options(to, weights, options.given(context))
    from xraygen.synthesis.permission import check_weights

    choice = options.read_checkpoint("newest" if to is Target.diffusers else checkpoint)
    chosen = check_weights(run, choice, weights.value, audit, acknowledged=acknowledge_patient_data)
    _check_target(run, to, out)
    if dry_run:
        console.emit({"folder": str(out), "to": to.value, "step": chosen.step}, as_json=as_json)
        console.say(f"Would write the {weights} weights of step {chosen.step} of {run} for {to} into {out}.")
        return
    if to is Target.release:
        _release(run, out, chosen, card, as_json=as_json)
        return
    if to is Target.monai:
        _bundle(run, out, chosen, as_json=as_json)
        return
    from xraygen.interop.diffusers import export_diffusers

    summary = export_diffusers(run, out, weights=weights.value, choice=chosen)
    result = {"folder": str(out), "parameters": summary.parameters, "step": summary.step}
    console.emit(result, as_json=as_json)
    console.say(f"{out}: {summary.parameters:,} parameters of step {summary.step}, for {to}.")


def _check_options(to: Target, weights: Weights, given: Collection[str]) -> None:
    """Refuse what this target would leave unheeded."""
    if weights is Weights.model and to is not Target.diffusers:
        raise UsageError(f"--weights model: --to {to} writes the averaged weights; leave it out.")
    if "checkpoint" in given and to is Target.diffusers:
        raise UsageError("--checkpoint: --to diffusers writes the newest checkpoint; leave it out.")
    if "card" in given and to is not Target.release:
        raise UsageError(f"--card: --to {to} writes no model card; leave it out.")


def _check_target(run: Path, to: Target, out: Path) -> None:
    """Refuse what would not be written."""
    from xraygen.atomic import check_absent

    check_absent(out)
    if to is Target.diffusers:
        from xraygen.interop.diffusers import settings_for_diffusers

        settings_for_diffusers(run)
    if to is Target.monai:
        from xraygen.interop.monai_bundle import check_makes_films

        check_makes_films(run)


def _release(run: Path, out: Path, chosen: "Checkpoint", card: Path | None, *, as_json: bool) -> None:
    """Write a RUN to pass on."""
    from xraygen.training.release import release

    text = options.read_text(card) if card is not None else ""
    made = release(run, out, chosen, text)
    result = {"folder": str(out), "parameters": made.parameters, "step": made.step, "bytes": made.bytes}
    console.emit(result, as_json=as_json)
    console.say(
        f"{out}: {made.parameters:,} parameters of step {made.step} in {made.bytes / 1e6:.1f} MB. Read its README.md "
        "before you pass it on: it was trained on films of patients."
    )


def _bundle(run: Path, out: Path, chosen: "Checkpoint", *, as_json: bool) -> None:
    """Write a MONAI bundle."""
    from xraygen.interop.monai_bundle import export_bundle

    made = export_bundle(run, out, chosen)
    result = {"folder": str(out), "parameters": made.parameters, "step": made.step}
    console.emit(result, as_json=as_json)
    console.say(
        f"{out}: {made.parameters:,} parameters of step {made.step}. Next: cd {out} && python -m monai.bundle run "
        "--config_file configs/inference.json"
    )
