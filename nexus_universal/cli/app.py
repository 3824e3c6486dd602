"""The `nexus` command: its options, its commands, and what a person sees when something goes wrong."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from nexus_universal import __version__
from nexus_universal.architecture.errors import NexusError
from nexus_universal.cli import (
    analyse,
    chat,
    convert,
    diff,
    families,
    generate,
    inspect,
    merge,
    plan,
    serve,
    union,
    verify,
)

BAD_INPUT, INTERRUPTED = 2, 130

app = typer.Typer(
    name="nexus",
    help="One class for every transformer: read its n, prove a checkpoint against the reference, generate.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command(name="inspect")(inspect.inspect)
app.command(name="diff")(diff.diff)
app.command(name="plan")(plan.plan)
app.command(name="families")(families.families)
app.command(name="verify")(verify.verify)
app.command(name="generate")(generate.generate)
app.command(name="chat")(chat.chat)
app.command(name="analyse")(analyse.analyse)
app.command(name="convert")(convert.convert)
app.command(name="union")(union.union)
app.command(name="merge")(merge.merge)
app.command(name="serve")(serve.serve)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"nexus_universal {__version__}")
        raise typer.Exit


@app.callback()
def nexus(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; works anywhere.")] = False,
) -> None:
    """Take the options that stand before a command."""


def run(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status: 0, 1 (`verify`: not proven), or 2 on bad input.

    Every error is one line on stderr; `--debug`, anywhere in the line, shows the traceback as well.
    """
    given = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in given
    given = [arg for arg in given if arg != "--debug"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "0" if sys.stderr.isatty() else "1")
    try:
        with warnings.catch_warnings():
            if not debug and not sys.warnoptions:
                # What libraries warn of speaks to their callers; on stderr it would stand beside our one line.
                warnings.simplefilter("ignore")
            status = app(given, prog_name="nexus", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except typer.TyperException as error:
        return _failed(error.format_message(), debug, hint=_usage(error))
    except typer.Abort:
        return _failed("interrupted", debug, status=INTERRUPTED)
    except NexusError as error:
        return _failed(str(error), debug)
    except OSError as error:
        return _failed(
            f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error), debug
        )
    except MemoryError as error:
        return _failed(f"not enough memory ({error})" if str(error) else "not enough memory", debug)
    except Exception as error:
        return _failed(f"internal error, {type(error).__name__}: {error} (--debug shows where)", debug)


def main() -> None:
    """Entry point of the `nexus` script."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    sys.exit(run())


def _usage(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f" (see {context.command_path} --help)" if context is not None else ""


def _failed(message: str, debug: bool, *, status: int = BAD_INPUT, hint: str = "") -> int:
    if debug:
        traceback.print_exc()
    # An empty message is that of a bare `nexus`, which has printed its help.
    if line := " ".join(message.split()):
        rank = os.environ.get("RANK", "0")
        print(f"nexus{f' (rank {rank})' if rank != '0' else ''}: {line}{hint}", file=sys.stderr)
    return status
