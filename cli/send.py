"""`xraygen send`: SYNTHETIC -> an archive (PACS)."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import console, options, servers

if TYPE_CHECKING:
    from xraygen.synthesis.send import SendSummary


class Kind(StrEnum):
    """As which DICOM object."""

    sc = "sc"
    dx = "dx"


def send(
    synthetic: Annotated[Path, typer.Argument(help="SYNTHETIC folder, of any format.")],
    to: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="An archive, by C-STORE.")] = None,
    aet: servers.Aet = None,
    calling_aet: servers.CallingAet = "XRAYGEN",
    dicomweb: servers.DicomWeb = None,
    audit: servers.Audit = None,
    acknowledge_patient_data: servers.Acknowledge = False,
    dicom_object: Annotated[
        Kind | None,
        typer.Option("--dicom-object", help="Secondary Capture or DX [what the set is, else sc]."),
    ] = None,
    mark: Annotated[
        bool | None, typer.Option("--mark/--no-mark", help="SYNTHETIC in a corner of the pixels [on].")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read all back and compare pixels.")] = False,
    attempts: Annotated[int, typer.Option(min=1, help="How often a film is tried.")] = 6,
    tls: servers.WithTls = False,
    tls_ca: servers.TlsCa = None,
    tls_cert: servers.TlsCert = None,
    token_file: servers.TokenFile = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Send synthetic films to an archive. To finish what was interrupted, run the same command again.

    xraygen send synthetic --to pacs.example:104 --aet ARCHIVE --audit report

    xraygen send synthetic --dicomweb https://pacs.example/dicom-web --acknowledge-patient-data
    """
    from xraygen.synthesis.outgoing import outgoing
    from xraygen.synthesis.permission import permission
    from xraygen.synthesis.send import SendSettings
    from xraygen.synthesis.send import send as give

    server = servers.read_server(to, "--to", aet, calling_aet, dicomweb, tls, tls_ca, tls_cert, token_file)
    kind: Literal["sc", "dx"] | None = dicom_object.value if dicom_object else None
    if dry_run:
        going = outgoing(synthetic, kind, mark)
        permission(synthetic, audit, acknowledged=acknowledge_patient_data)
        console.emit({"server": server.name, "films": len(going), "object": going.kind}, as_json=as_json)
        console.say(f"Would send {len(going)} films as {going.kind} to {server.name}.")
        return
    settings = SendSettings(kind=kind, mark=mark, attempts=attempts, verify=verify)
    with console.progress() as report:
        result = give(
            synthetic, server, settings, audit=audit, acknowledged=acknowledge_patient_data, report=report
        )
    console.emit({**vars(result), "differing": list(result.differing)}, as_json=as_json)
    _say(result)
    if result.refused or result.differing:
        raise typer.Exit(1)


def _say(result: "SendSummary") -> None:
    """What a person wants to know at the end."""
    console.say(f"{result.server}: {result.accepted} films taken, {result.present} were there already.")
    if result.lost:
        console.say(f"  {result.lost} of them had been taken before and were lost there")
    for sentence, count in result.refused.items():
        console.say(f"  {count} refused: {sentence}")
    for uid in result.differing:
        console.say(f"  not there as it was sent: {uid}")
