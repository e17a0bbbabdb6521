"""The `xraygen` program: its verbs, and the one place where an error becomes a sentence and an exit code."""

import logging
import sys
from typing import Annotated

import typer

from xraygen import __version__
from xraygen.errors import XraygenError

from . import (
    audit,
    benchmark,
    config,
    console,
    ema,
    export,
    generate,
    import_,
    info,
    ingest,
    interpolate,
    likelihood,
    phantom,
    plan,
    progressive,
    send,
    train,
)

_INTERRUPTED = 130


class _OneSentence(typer.core.TyperGroup):
    """Turns what a user can cause into one sentence on stderr; a traceback is left for bugs."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(ctx)
        except XraygenError as error:
            console.say(f"xraygen: {error}")
            sys.exit(error.exit_code)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            console.say(f"xraygen: {where}{error.strerror or error}.")
            sys.exit(1)
        except KeyboardInterrupt:
            console.say(
                "Stopped. What is written is whole: give the same command again to go on, or to begin anew."
            )
            sys.exit(_INTERRUPTED)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            console.say(
                "xraygen: out of memory: lower --compute-batch, --batch-size or train.micro_batch_size, whichever the "
                "command has."
            )
            sys.exit(1)


def _out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether Python, NumPy or torch found no memory; torch is not imported to tell, since only it raises its error."""
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error):
        return True
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


app = typer.Typer(
    cls=_OneSentence,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Synthetic chest X-rays: DICOM in, audited and marked DICOM out.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xraygen {__version__}")
        raise typer.Exit


@app.callback()
def _all_verbs(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    logging.basicConfig(level=logging.WARNING, format="xraygen: %(message)s", stream=sys.stderr)


app.command("phantom")(phantom.phantom)
app.command("ingest")(ingest.ingest)
app.command("train")(train.train)
app.command("ema")(ema.ema)
app.command("plan")(plan.plan)
app.command("generate")(generate.generate)
app.command("interpolate")(interpolate.interpolate)
app.command("progressive")(progressive.progressive)
app.command("likelihood")(likelihood.likelihood)
app.command("audit")(audit.audit)
app.command("send")(send.send)
app.add_typer(benchmark.benchmark, name="benchmark")
app.command("export")(export.export)
app.command("import")(import_.import_)
app.command("config")(config.config)
app.command("info")(info.info)
