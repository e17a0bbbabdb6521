"""Films to and from a hospital's archive, by the two languages that archives speak.

pacs.py        who the archive is, and what can be asked of it
pacs_dimse.py  C-STORE, C-FIND and C-GET, by pynetdicom
pacs_web.py    STOW-RS, QIDO-RS and WADO-RS, by dicomweb-client

No token, and no value of a patient, gets into a message, a log or a name of ours.
"""

import ssl
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from pydicom.datadict import tag_for_keyword

from xraygen.errors import UsageError, XraygenError
from xraygen.films.objects import (
    CAPTURE_CLASSES,
    FOR_PROCESSING_CLASS,
    RADIOGRAPH_CLASSES,
    RADIOGRAPH_MODALITIES,
)

FILM_CLASSES = (*sorted(RADIOGRAPH_CLASSES), FOR_PROCESSING_CLASS, *sorted(CAPTURE_CLASSES))
"""What is asked of an archive: ingest decides over each film."""
_SERIES_KEYS = ("Modality", "BodyPartExamined", "SeriesDescription", "SeriesInstanceUID", "ProtocolName")
"""Keys of a query that are a series' and not a study's (PS3.4 C.6.2)."""
_REQUIRED_KEYS = (
    "StudyDate", "StudyTime", "AccessionNumber", "PatientName", "PatientID", "StudyID", "StudyInstanceUID",
    "Modality", "SeriesNumber", "SeriesInstanceUID",
)  # fmt: skip
"""By which every archive searches studies and series (PS3.4 tables C.6-2 and C.6-3)."""
_IMAGE_KEYS = (
    "SOPInstanceUID", "SOPClassUID", "InstanceNumber", "ImageType", "ViewPosition", "ContentDate", "ContentTime",
    "AcquisitionDate", "AcquisitionTime", "AcquisitionNumber", "Rows", "Columns", "NumberOfFrames", "BitsStored",
    "BitsAllocated", "BurnedInAnnotation", "PresentationIntentType", "PatientOrientation", "ImageLaterality",
)  # fmt: skip
"""Attributes of images, by which neither studies nor series are searched: an archive would leave the key unheeded."""
_LOCAL = ("localhost", "127.0.0.1", "::1")


class ServerError(XraygenError):
    """An archive cannot be reached, or refuses.

    Args:
        message: One sentence for the user.
        again: Whether the same may succeed later.
    """

    def __init__(self, message: str, *, again: bool) -> None:
        super().__init__(message)
        self.again = again


class Series(NamedTuple):
    """One series of an archive."""

    study_uid: str
    series_uid: str


@dataclass(frozen=True)
class Tls:
    """How a connection is secured.

    Attributes:
        ca: PEM file of the authorities that are trusted; None for the system's.
        certificate: PEM file of this side's certificate with its key, where the archive asks for one.
    """

    ca: Path | None = None
    certificate: Path | None = None

    def __post_init__(self) -> None:
        for file in (self.ca, self.certificate):
            if file is not None and not file.is_file():
                raise UsageError(f"{file} does not exist; expected a PEM file.")

    def context(self) -> ssl.SSLContext:
        """For a connection of this side's making; the archive's name and certificate are checked.

        Raises:
            UsageError: If a file is no PEM file.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate)
        except ssl.SSLError:
            files = " or ".join(str(file) for file in (self.ca, self.certificate) if file is not None)
            raise UsageError(f"{files} holds no certificate (with its key) in PEM form.") from None
        return context


@dataclass(frozen=True)
class DimseServer:
    """An archive that speaks C-STORE, C-FIND and C-GET.

    Attributes:
        host: Name or address.
        port: TCP port.
        aet: Its application entity title.
        calling_aet: Ours, which many archives must know.
        tls: None for none.
    """

    host: str
    port: int
    aet: str
    calling_aet: str = "XRAYGEN"
    tls: Tls | None = None

    def __post_init__(self) -> None:
        for title in (self.aet, self.calling_aet):
            if not 1 <= len(title.strip()) <= 16 or not title.isascii() or "\\" in title:
                raise UsageError(f"The AE title {title!r} has not 1 to 16 characters of ASCII.")

    @property
    def name(self) -> str:
        """What the ledger calls it."""
        return f"dicom://{self.host}:{self.port}/{self.aet}"


@dataclass(frozen=True)
class WebServer:
    """An archive that speaks DICOMweb.

    Attributes:
        url: Root of its services, such as https://pacs.example/dicom-web.
        token: Value of the Authorization header, or a bearer token; "" for none. It is in no repr.
        tls: Whom to trust; None for the system's authorities.
    """

    url: str
    token: str = field(default="", repr=False)
    tls: Tls | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError("--dicomweb: expected a URL such as https://pacs.example/dicom-web.")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UsageError(
                "--dicomweb: a URL with a user, a password or a query would end up in logs; give what authorises in "
                "XRAYGEN_TOKEN or a --token-file."
            )
        if self.tls is not None and parts.scheme != "https":
            raise UsageError(
                f"{self.url}: --tls, --tls-ca and --tls-cert secure no http; give an https URL, or none of them."
            )
        if self.token and parts.scheme != "https" and parts.hostname not in _LOCAL:
            raise UsageError(f"{self.url}: a token is sent over https only.")

    @property
    def name(self) -> str:
        """What the ledger calls it."""
        return self.url.rstrip("/")

    @property
    def authorization(self) -> Mapping[str, str]:
        """The header that authorises."""
        if not self.token:
            return {}
        scheme = self.token.partition(" ")[0].lower()
        known = scheme in ("bearer", "basic") and " " in self.token
        return {"Authorization": self.token if known else f"Bearer {self.token}"}


Server = DimseServer | WebServer


class Archive(Protocol):
    """An open connection to an archive; each method raises ServerError."""

    def store(self, film: bytes) -> None:
        """Give it one DICOM file; on return it has said that it has taken it."""

    def find(self, keys: Mapping[str, str]) -> list[Series]:
        """All series of radiographs that match."""

    def instances(self, series: Series) -> set[str]:
        """SOP Instance UIDs that it holds of a series."""

    def fetch(self, series: Series) -> Iterator[bytes]:
        """The films of a series as DICOM files."""


def connect(server: Server) -> AbstractContextManager[Archive]:
    """Open a connection; it is made anew where it breaks.

    Raises:
        UsageError: If the package that speaks the language is not installed.
        ServerError: If the archive cannot be reached.
    """
    try:
        if isinstance(server, DimseServer):
            from xraygen.films.pacs_dimse import connected as by_dimse  # noqa: PLC0415 - an extra

            return by_dimse(server)
        from xraygen.films.pacs_web import connected as by_web  # noqa: PLC0415 - an extra

        return by_web(server)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{error.name} is not installed, by which archives are spoken to; pip install 'xraygen[pacs]'."
        ) from None


def parse_address(text: str) -> tuple[str, int]:
    """`pacs.example:104` as host and port.

    Raises:
        UsageError: If it reads otherwise.
    """
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise UsageError(f"{text}: expected HOST:PORT, such as pacs.example:104.")
    return host.strip("[]"), int(port)


def parse_keys(assignments: Sequence[str]) -> dict[str, str]:
    """`StudyDate=20260101-20260131` and the like as a dictionary.

    Raises:
        UsageError: If one reads otherwise, or there is none: nobody wants the whole archive by mistake.
    """
    keys: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not (name.isalpha() and equals and value):
            raise UsageError(
                "--find: expected an attribute's keyword and a value, such as StudyDate=20260101-20260131."
            )
        keys[name] = value
    if not keys:
        raise UsageError(
            "An archive is asked for something: give --find, such as StudyDate=20260101-20260131."
        )
    return keys


def split_keys(keys: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Those of studies, and those of their series.

    Raises:
        UsageError: If one is an image's, or none of DICOM's.
    """
    for name in keys:
        if tag_for_keyword(name) is None:
            raise UsageError(f"--find {name}: no attribute of DICOM has this keyword.")
        if name in _IMAGE_KEYS:
            raise UsageError(
                f"--find {name}: an archive is searched for studies and series, and this is an image's; ask by an "
                "attribute of theirs, such as StudyInstanceUID."
            )
    of_study = {name: value for name, value in keys.items() if name not in _SERIES_KEYS}
    return of_study, {name: value for name, value in keys.items() if name in _SERIES_KEYS}


def refuse_unheeded(asked: Iterable[str], answers: Sequence[Container[str]], *, partly: bool = False) -> None:
    """Refuse a search of which an archive left a key unheeded: its answers match the others alone, or are all it has.

    Args:
        asked: Keywords of the keys that had a value.
        answers: The keywords of each match, among which are all keys that the archive supports (PS3.4 C.4.1.1.3.2).
        partly: Whether it warned that it does not support all optional keys (PS3.4 table C.4-1, FF01).

    Raises:
        UsageError: With the first such key.
    """
    keys = [*asked]
    unheeded = [name for name in keys if answers and not any(name in answer for answer in answers)]
    if partly and not unheeded:
        unheeded = [name for name in keys if name not in _REQUIRED_KEYS]
    if unheeded:
        raise UsageError(
            f"--find {unheeded[0]}: the archive does not search by it, and would give films with any value; ask by "
            "another attribute, such as StudyDate."
        )


def shows_films(modality: str) -> bool:
    """Whether a series of this modality may hold radiographs."""
    return modality.strip().upper() in RADIOGRAPH_MODALITIES
