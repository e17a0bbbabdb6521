"""Read films on a Dask cluster, whose workers see the same disk."""

from collections.abc import Generator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from xraygen.dataset.workers import ByChildren
from xraygen.errors import UsageError, XraygenError

if TYPE_CHECKING:
    from distributed import Client

_SECONDS_TO_CONNECT = 30


@contextmanager
def dask_executor(address: str) -> Generator[Executor]:
    """An executor on a Dask cluster, for `ingest(..., executor=...)`; the cluster stays up afterwards.

    Each worker reads in a child process of its own, under the same limits as without a cluster. What becomes of lost
    workers is the cluster's to decide: Dask gives up a film that ended several of them
    (`distributed.scheduler.allowed-failures`), which is then rejected as `crashed`.

    Args:
        address: The scheduler's, such as tcp://10.0.0.1:8786.

    Raises:
        UsageError: If Dask is not installed, or a worker has several threads.
        XraygenError: If the cluster does not answer, or has no workers.
    """
    try:
        from distributed import Client  # noqa: PLC0415 - optional
    except ImportError:
        raise UsageError("--dask needs Dask; install it with: pip install 'xraygen[dask]'.") from None
    try:
        client = Client(address, timeout=_SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise XraygenError(
            f"--dask {address} does not answer ({type(error).__name__}); give the address that dask scheduler printed."
        ) from None
    with client:
        _check_threads(client, address)
        yield ByChildren(client.get_executor(pure=False))


def _check_threads(client: "Client", address: str) -> None:
    """Reading sets warning filters and pydicom's strictness, which threads of one process share."""
    threads = client.nthreads()
    if not threads:
        raise XraygenError(
            f"--dask {address} has no workers; start some with: dask worker {address} --nthreads 1."
        )
    if max(threads.values()) > 1:
        raise UsageError(
            f"--dask {address} has workers of several threads, and films are read one by one in a process; start them "
            "with --nthreads 1 and more of them."
        )
