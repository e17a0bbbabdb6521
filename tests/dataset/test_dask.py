"""On a Dask cluster the same films give the same bytes."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import Result

from xraygen.dataset.cluster import dask_executor
from xraygen.dataset.workers import Limits, in_order
from xraygen.errors import FilmError, UsageError, XraygenError


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def started(stack: ExitStack, folder: Path, *command: object) -> None:
    """A part of the cluster as a process of its own."""
    words = [sys.executable, "-m", "distributed.cli.dask_scheduler", *map(str, command)]
    if command[0] == "worker":
        words = [sys.executable, "-m", "distributed.cli.dask_worker", *map(str, command[1:])]
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.wait, 30)
    stack.callback(process.kill)


Cluster = Callable[..., str]


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """`cluster(threads)`: the address of a scheduler on loopback with two worker processes of so many threads.

    With `nanny="--nanny"` each is started, as Dask's users do, by a process that starts it anew when it ends.
    """
    distributed = pytest.importorskip("distributed")
    folder = tmp_path_factory.mktemp("cluster")
    with ExitStack() as stack:

        def start(threads: int, nanny: str = "--no-nanny") -> str:
            scheduler = folder / "scheduler.json"
            started(
                stack,
                folder,
                "--host",
                "127.0.0.1",
                "--port",
                0,
                "--no-dashboard",
                "--scheduler-file",
                scheduler,
            )
            for _ in range(2):
                started(stack, folder, "worker", "--scheduler-file", scheduler, "--nthreads", threads, nanny,
                        "--no-dashboard")  # fmt: skip
            with distributed.Client(
                scheduler_file=str(scheduler), timeout=60, set_as_default=False
            ) as client:
                client.wait_for_workers(2, timeout=60)
                address: str = client.scheduler.address
            return address

        yield start


def test_a_cluster_of_two_workers_gives_the_same_bytes(
    cluster: Cluster,
    hospital: Path,
    tmp_path: Path,
    xraygen_cli: Callable[..., Result],
    identifying: list[str],
) -> None:
    address, key = cluster(1), tmp_path / "key"
    for out, where in (("together", ("--dask", address)), ("alone", ("--workers", 0))):
        result = xraygen_cli("ingest", hospital, "--out", tmp_path / out, "--size", 16, "--key", key, *where)
        assert result.exit_code == 0, result.stderr
        told = (result.stdout + result.stderr).replace(str(tmp_path), "")
        assert [word for word in identifying if word in told] == []
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")


def test_an_item_that_hangs_or_crashes_costs_only_itself(cluster: Cluster) -> None:
    items = ["1", "__import__('time').sleep(1000)", "2", "__import__('os').abort()", "3", "int('x')"]
    with dask_executor(cluster(1, "--nanny")) as executor:
        futures = list(in_order(eval, items, executor, ahead=6, limits=Limits(seconds=2)))
        workers = {
            future.result()
            for future in in_order(eval, ["__import__('os').getppid()"] * 4, executor, ahead=4)
        }
    assert [future.result() for future in futures[::2]] == [1, 2, 3]
    errors = [future.exception() for future in futures[1::2]]
    assert [getattr(error, "reason", type(error)) for error in errors] == ["timed_out", "crashed", ValueError]
    assert len(workers) <= 2  # the parents of those that read are the same still


def test_workers_of_several_threads_are_refused(cluster: Cluster) -> None:
    with pytest.raises(UsageError, match="--nthreads 1"), dask_executor(cluster(2)):
        pass


def test_a_cluster_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("xraygen.dataset.cluster._SECONDS_TO_CONNECT", 1)
    with pytest.raises(XraygenError, match="does not answer"), dask_executor("tcp://127.0.0.1:9"):
        pass
    with pytest.raises(XraygenError, match="does not answer"), dask_executor("nonsense://x"):
        pass


def test_without_dask_the_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(UsageError, match=r"pip install 'xraygen\[dask\]'"),
        dask_executor("tcp://127.0.0.1:9"),
    ):
        pass


class CodecError(Exception):
    """As some codecs', an error that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("damaged")
        self.handle = lambda: None


def refuse(item: int) -> int:
    try:
        raise CodecError
    except CodecError as error:
        raise FilmError("decode_failed", "The picture is damaged.") from error


def test_a_refusal_is_pickled_even_if_its_cause_cannot_be() -> None:
    """Importing Dask lets tblib pickle an error's cause with it, which made a refused film a failure of the reader."""
    pytest.importorskip("tblib.pickling_support").install()
    with ThreadPoolExecutor(1) as pool:
        (future,) = in_order(refuse, [0], pool, ahead=1)
        error = future.exception()
    assert isinstance(error, FilmError)
    assert error.reason == "decode_failed"
