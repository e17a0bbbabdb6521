"""STOW-RS, QIDO-RS and WADO-RS (PS3.18 10): the archive as an origin server."""

import io
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pydicom
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from xraygen.films.pacs import (
    Archive,
    Series,
    ServerError,
    WebServer,
    refuse_unheeded,
    shows_films,
    split_keys,
)

_SECONDS = (15.0, 120.0)
"""To connect, and between two bytes."""
_STUDY_UID, _SERIES_UID, _SOP_UID, _MODALITY = "0020000D", "0020000E", "00080018", "00080060"
_PAGE = 200
_OF_A_STORE = ("application/dicom+json", "application/json", "application/dicom+xml", "application/xml")
"""What a Store Instances Response is written in (PS3.18 10.5.3)."""


@contextmanager
def connected(server: WebServer) -> Iterator[Archive]:
    """A session with the archive."""
    logging.getLogger("dicomweb_client").setLevel(
        logging.CRITICAL
    )  # it logs addresses, and they name patients
    with requests.Session() as session:
        session.trust_env = False  # neither ~/.netrc nor a proxy: tokens go to the archive alone
        session.headers.update(server.authorization)
        session.auth = _with_plain_wildcards
        if server.tls is not None and server.tls.ca is not None:
            session.verify = str(server.tls.ca)
        if server.tls is not None and server.tls.certificate is not None:
            session.cert = str(server.tls.certificate)
        yield _WebArchive(server, session)


def _with_plain_wildcards(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """A search that says `*` as it is, which RFC 3986 allows: Orthanc does not read %2A as a wildcard."""
    request.url = (request.url or "").replace("%2A", "*")
    return request


class _WebArchive:
    """`Archive` over one HTTP session."""

    def __init__(self, server: WebServer, session: requests.Session) -> None:
        self._server = server
        self._http_status = 0
        self._client = DICOMwebClient(
            server.url.rstrip("/"), session, timeout=_SECONDS, permissive_uid=True, callback=self._remember
        )
        self._client.set_http_retry_params(retry=False)  # `send` tries again, and says so

    def store(self, film: bytes) -> None:
        """STOW-RS of one instance.

        A server that takes it lists it as referenced, often beside an empty Failed SOP Sequence (PS3.18 10.5.3).
        """
        dataset = pydicom.dcmread(io.BytesIO(film))
        with self._one_sentence("store"):
            try:
                answer = self._client.store_instances([dataset])
            except (AttributeError, KeyError, SyntaxError, TypeError):  # JSON or XML, and not DICOM's
                raise self._not_taken() from None
        failed = _named(answer, "FailedSOPSequence")
        if dataset.SOPInstanceUID in failed:
            reason = failed[dataset.SOPInstanceUID]
            again = reason >> 8 == 0xA7  # out of resources
            raise ServerError(f"{self._server.name} refuses a film (reason {reason:04X}).", again=again)
        if dataset.SOPInstanceUID in _named(answer, "ReferencedSOPSequence"):
            return
        if self._http_status != requests.codes.ok:
            raise self._not_taken()

    def find(self, keys: Mapping[str, str]) -> list[Series]:
        """QIDO-RS of studies, then of their series."""
        of_study, of_series = split_keys(keys)
        with self._one_sentence("search"):
            studies = list(_pages(self._client.search_for_studies, search_filters=of_study))
            refuse_unheeded(of_study, [_told(study, of_study) for study in studies])
            found = []
            for study in studies:
                uid = _value(study, _STUDY_UID)
                series = [
                    *_pages(self._client.search_for_series, study_instance_uid=uid, search_filters=of_series)
                ]
                refuse_unheeded(of_series, [_told(one, of_series) for one in series])
                found += [
                    Series(uid, _value(one, _SERIES_UID))
                    for one in series
                    if shows_films(_value(one, _MODALITY))
                ]
        return found

    def instances(self, series: Series) -> set[str]:
        """QIDO-RS of instances."""
        with self._one_sentence("search"):
            found = _pages(
                self._client.search_for_instances,
                study_instance_uid=series.study_uid,
                series_instance_uid=series.series_uid,
            )
            return {_value(one, _SOP_UID) for one in found}

    def fetch(self, series: Series) -> Iterator[bytes]:
        """WADO-RS of a series, as it is stored."""
        stored = (("application/dicom", "*"),)
        with self._one_sentence("retrieve"):
            for film in self._client.iter_series(*series, media_types=stored):
                content = io.BytesIO()
                film.save_as(content)
                yield content.getvalue()

    def _remember(self, response: requests.Response, *_: Any, **__: Any) -> requests.Response:
        """The status of the last answer, which the client does not hand on.

        Raises:
            ServerError: If the answer sends elsewhere, for a POST would arrive there as a GET without its film; or if a
                store is answered by a page, such as that of a login.
        """
        self._http_status = response.status_code
        if 300 <= response.status_code < 400:
            response.close()
            raise ServerError(
                f"{self._server.name} sends to another address (HTTP {response.status_code}), and nothing goes there; "
                "give the address at which it answers itself as --dicomweb, and check the token.",
                again=False,
            )
        if response.ok and response.request.method == "POST" and response.content:
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if kind not in _OF_A_STORE:
                raise self._not_taken()
        return response

    def _not_taken(self) -> ServerError:
        return ServerError(f"{self._server.name} does not say that it has taken a film.", again=False)

    @contextmanager
    def _one_sentence(self, what: str) -> Iterator[None]:
        """Turn what HTTP raises into a sentence without any address below the root, which may name a patient."""
        name = self._server.name
        try:
            yield
        except requests.HTTPError as error:
            status = self._http_status if error.response is None else error.response.status_code
            hint = " Check the token." if status in (401, 403) else ""
            again = status in (408, 429) or status >= 500
            raise ServerError(f"{name} answers {what} with HTTP {status}.{hint}", again=again) from None
        except requests.exceptions.SSLError:
            raise ServerError(
                f"{name} shows a certificate that is not trusted; give its authority as --tls-ca.",
                again=False,
            ) from None
        except (requests.RequestException, OSError):
            raise ServerError(f"{name} is not reached, or the connection broke.", again=True) from None


def _pages(search: Any, **what: Any) -> Iterator[dict[str, Any]]:
    """All matches of a search, page by page: a server may give fewer at once than it is asked for, or all again."""
    offset, before = 0, None
    while page := search(limit=_PAGE, offset=offset, **what):
        if page == before:
            return
        yield from page
        offset, before = offset + len(page), page


def _told(match: Mapping[str, Any], asked: Iterable[str]) -> set[str]:
    """The keywords of those attributes that are there in DICOM JSON, with or without a value."""
    return {name for name in asked if f"{tag_for_keyword(name) or 0:08X}" in match}


def _value(match: Mapping[str, Any], tag: str) -> str:
    """The first value of an attribute in DICOM JSON; "" where there is none."""
    values = match.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _named(answer: Dataset, sequence: str) -> dict[str, int]:
    """Instance UID -> failure reason (0 where there is none) of the items of a store's answer."""
    return {
        str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason", 0))
        for item in answer.get(sequence) or []
        if "ReferencedSOPInstanceUID" in item
    }
