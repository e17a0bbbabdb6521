"""Options of what leaves the house: what permits it, and to which archive (PACS) it goes."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xraygen.errors import UsageError

from . import options

if TYPE_CHECKING:
    from xraygen.films.pacs import Server

TOKEN_VARIABLE = "XRAYGEN_TOKEN"

Audit = Annotated[
    Path | None, typer.Option(metavar="REPORT", help="What permits it: a passing audit of these very films.")
]
Acknowledge = Annotated[
    bool, typer.Option("--acknowledge-patient-data", help="Without an audit: treat it as patients' data.")
]
DicomWeb = Annotated[str | None, typer.Option(metavar="URL", help="An archive's DICOMweb root.")]
Aet = Annotated[str | None, typer.Option(metavar="AET", help="The archive's AE title.")]
CallingAet = Annotated[str, typer.Option(metavar="AET", help="Our AE title, which it may have to know.")]
WithTls = Annotated[bool, typer.Option("--tls", help="DICOM over TLS; https needs no word.")]
TlsCa = Annotated[Path | None, typer.Option(metavar="PEM", help="Authorities to trust, if not the system's.")]
TlsCert = Annotated[Path | None, typer.Option(metavar="PEM", help="Our certificate with its key.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help=f"What authorises at --dicomweb, if not in {TOKEN_VARIABLE}."),
]


def read_server(
    address: str | None,
    option: str,
    aet: str | None,
    calling_aet: str,
    dicomweb: str | None,
    tls: bool,
    tls_ca: Path | None,
    tls_cert: Path | None,
    token_file: Path | None,
) -> "Server":
    """The archive that the options name; `option` is what `address` was given as."""
    from xraygen.films.pacs import DimseServer, Tls, WebServer, parse_address

    if (address is None) == (dicomweb is None):
        raise UsageError(f"Name one archive: {option} HOST:PORT with --aet, or --dicomweb URL.")
    if dicomweb is not None and aet is not None:
        raise UsageError(
            f"--aet: DICOMweb knows no AE title; leave it out, or name the archive as {option} HOST:PORT."
        )
    if address is not None and token_file is not None:
        raise UsageError(f"--token-file: {option} takes no token, only --dicomweb does; leave it out.")
    secured = Tls(tls_ca, tls_cert) if tls or tls_ca or tls_cert else None
    if dicomweb is not None:
        return WebServer(dicomweb, _read_token(token_file), secured)
    assert address is not None
    if aet is None:
        raise UsageError(f"{option} {address}: give the archive's AE title as --aet.")
    return DimseServer(*parse_address(address), aet, calling_aet, secured)


def _read_token(file: Path | None) -> str:
    """From the file, or from the environment; never from the command line, which others can see."""
    text = os.environ.get(TOKEN_VARIABLE, "") if file is None else options.read_text(file)
    if len(text.strip().splitlines()) > 1 or not text.isascii():
        raise UsageError(f"{file or TOKEN_VARIABLE}: expected one line of ASCII.")
    return text.strip()
