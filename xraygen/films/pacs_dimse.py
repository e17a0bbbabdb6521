"""C-STORE, C-FIND and C-GET (PS3.4 B and C): the archive as a service class provider."""

import io
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at run time
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from xraygen.films.pacs import (
    FILM_CLASSES,
    Archive,
    DimseServer,
    Series,
    ServerError,
    refuse_unheeded,
    shows_films,
    split_keys,
)

_PLAIN = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_SYNTAXES = [
    *_PLAIN,
    JPEGLosslessSV1,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
]
_SECONDS = 60.0
_PARTLY = 0xFF01
_PENDING = (0xFF00, _PARTLY)
_TRANSIENT = 2
"""Result of an association that may be accepted later (PS3.8 9.3.4, table 9-21)."""


@contextmanager
def connected(server: DimseServer) -> Iterator[Archive]:
    """An association that is made at the first use, and anew when it broke."""
    quiet = logging.getLogger("pynetdicom")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)  # it tells what it could not do; so do we, in one sentence
    archive = _DimseArchive(server)
    try:
        yield archive
    finally:
        archive.close()
        quiet.setLevel(level)


class _DimseArchive:
    """`Archive` over one association at a time."""

    def __init__(self, server: DimseServer) -> None:
        self._server = server
        self._storing: Association | None = None

    def store(self, film: bytes) -> None:
        """C-STORE."""
        dataset = pydicom.dcmread(io.BytesIO(film))
        if self._storing is None or not self._storing.is_established:
            contexts = [(uid, _PLAIN) for uid in FILM_CLASSES]
            self._storing = self._associate(contexts)
        try:
            answer = self._storing.send_c_store(dataset)
        except ValueError:
            raise ServerError(
                f"{self._server.name} does not take objects of the class {dataset.SOPClassUID.name}.",
                again=False,
            ) from None
        except RuntimeError:
            raise self._broken() from None
        status = _status(answer)
        if status is None:
            raise self._broken()
        # warnings (PS3.4 B.2.3): the archive has taken it, and changed or doubted an element
        if status != 0 and status >> 12 != 0xB:
            again = status >> 8 == 0xA7  # out of resources
            raise ServerError(f"{self._server.name} refuses a film with status {status:04X}.", again=again)

    def find(self, keys: Mapping[str, str]) -> list[Series]:
        """C-FIND of studies, then of their series."""
        of_study, of_series = split_keys(keys)
        found = []
        for study in self._query("STUDY", {"StudyInstanceUID": "", **of_study}, of_study):
            uid = str(study.StudyInstanceUID)
            wanted = {"Modality": "", "SeriesInstanceUID": "", **of_series, "StudyInstanceUID": uid}
            found += [
                Series(uid, str(series.SeriesInstanceUID))
                for series in self._query("SERIES", wanted, of_series)
                if shows_films(str(series.get("Modality", "")))
            ]
        return found

    def instances(self, series: Series) -> set[str]:
        """C-FIND of instances."""
        keys = {
            "StudyInstanceUID": series.study_uid,
            "SeriesInstanceUID": series.series_uid,
            "SOPInstanceUID": "",
        }
        return {str(found.SOPInstanceUID) for found in self._query("IMAGE", keys)}

    def fetch(self, series: Series) -> Iterator[bytes]:
        """C-GET: the archive sends over the association that asks."""
        films: SimpleQueue[bytes] = SimpleQueue()

        def take(event: evt.Event) -> int:
            films.put(event.encoded_dataset())
            return 0

        contexts = [(uid, _SYNTAXES) for uid in FILM_CLASSES]
        contexts.append((str(StudyRootQueryRetrieveInformationModelGet), _PLAIN))
        association = self._associate(contexts, take)
        identifier = _identifier(
            "SERIES", {"StudyInstanceUID": series.study_uid, "SeriesInstanceUID": series.series_uid}
        )
        failures: list[ServerError] = []
        asking = Thread(target=self._get, args=(association, identifier, failures), daemon=True)
        asking.start()
        try:
            while asking.is_alive() or not films.empty():
                try:
                    yield films.get(timeout=0.05)
                except Empty:
                    continue
        finally:
            if asking.is_alive():
                association.abort()
            asking.join()
            if association.is_established:
                association.release()
        if failures:
            raise failures[0]

    def close(self) -> None:
        """End the association, if there is one."""
        if self._storing is not None and self._storing.is_established:
            self._storing.release()

    def _get(self, association: Association, identifier: Dataset, failures: list[ServerError]) -> None:
        """Ask, and wait until all films have come."""
        try:
            answers = list(association.send_c_get(identifier, StudyRootQueryRetrieveInformationModelGet))
        except ValueError:
            failures.append(ServerError(f"{self._server.name} does not offer C-GET.", again=False))
            return
        except RuntimeError:
            failures.append(self._broken())
            return
        status = _status(answers[-1][0]) if answers else None
        if status is None:
            failures.append(self._broken())
        elif status != 0:
            sentence = f"{self._server.name} does not give all films of a series (status {status:04X})."
            failures.append(ServerError(sentence, again=False))

    def _query(self, level: str, keys: Mapping[str, str], asked: Collection[str] = ()) -> list[Dataset]:
        """C-FIND at one level; refused where the archive does not heed all that is asked."""
        model = StudyRootQueryRetrieveInformationModelFind
        association = self._associate([(str(model), _PLAIN)])
        try:
            answers = list(association.send_c_find(_identifier(level, keys), model))
        except ValueError:
            raise ServerError(f"{self._server.name} does not offer C-FIND.", again=False) from None
        except RuntimeError:
            raise self._broken() from None
        finally:
            if association.is_established:
                association.release()
        status = _status(answers[-1][0]) if answers else None
        if status is None:
            raise self._broken()
        if status != 0:
            raise ServerError(f"{self._server.name} refuses the query with status {status:04X}.", again=False)
        statuses = {_status(answer) for answer, _ in answers}
        matches = [found for answer, found in answers if _status(answer) in _PENDING and found is not None]
        refuse_unheeded(asked, matches, partly=_PARTLY in statuses)
        return matches

    def _associate(
        self,
        contexts: list[tuple[str, list[Any]]],
        take: Callable[[evt.Event], int] | None = None,
    ) -> Association:
        """A new association; with `take`, this side accepts films over it."""
        server = self._server
        entity = AE(ae_title=server.calling_aet)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _SECONDS
        entity.connection_timeout = _SECONDS / 4
        for uid, syntaxes in contexts:
            entity.add_requested_context(uid, syntaxes)
        association = entity.associate(
            server.host,
            server.port,
            ae_title=server.aet,
            ext_neg=[build_role(uid, scp_role=True) for uid in FILM_CLASSES] if take else [],
            evt_handlers=[(evt.EVT_C_STORE, take)] if take else [],
            tls_args=None if server.tls is None else (server.tls.context(), server.host),
        )
        answer = association.acceptor.primitive
        if association.is_rejected and answer is not None and answer.result == _TRANSIENT:
            raise ServerError(f"{server.name} is busy and refuses an association for now.", again=True)
        if association.is_rejected:
            raise ServerError(
                f"{server.name} refuses an association with {server.calling_aet}; check both AE titles, and that the "
                "archive knows ours (--calling-aet).",
                again=False,
            )
        if not association.is_established:
            raise ServerError(
                f"{server.name} is not reached; check host, port{' and certificates' if server.tls else ''}.",
                again=True,
            )
        return association

    def _broken(self) -> ServerError:
        return ServerError(f"The connection to {self._server.name} broke.", again=True)


def _identifier(level: str, keys: Mapping[str, str]) -> Dataset:
    """The keys of a query or retrieval."""
    dataset = Dataset()
    dataset.QueryRetrieveLevel = level
    for name, value in keys.items():
        setattr(dataset, name, value)
    return dataset


def _status(answer: Dataset | None) -> int | None:
    """An answer's status; None where the connection broke before there was one."""
    return None if answer is None or "Status" not in answer else int(answer.Status)
