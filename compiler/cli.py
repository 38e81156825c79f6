"""The command line: ``tilewright COMMAND``, of which COMMANDS is the list.

Exit codes: 0 ok, 1 results differ or a model got slower, 2 wrong usage or input, 3 unsupported
model, 4 internal error, 5 too noisy to judge.
Every error is one paragraph on standard error; TILEWRIGHT_DEBUG=1 adds the traceback.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import click

from tilewright.errors import InternalError, OptionError, OutputError, TilewrightError, is_full
from tilewright.options import from_environment
from tilewright.version import __version__

INTERRUPTED = 130
_KNOWN = "tilewright-known"
"""The name under which ``_known`` is registered, which says how to print what has no code."""
_NO_MEMORY = "there is not enough memory for this; choose smaller sizes, or end other programs"

COMMANDS: dict[str, tuple[str, str]] = {
    "compile": ("tilewright.commands.compile:compile_model", "Compile a model to a .tw file."),
    "export": ("tilewright.commands.export:export", "Export a model for C or WebAssembly."),
    "run": ("tilewright.commands.run:run", "Run a model on random or given inputs."),
    "bench": ("tilewright.commands.bench:bench", "Measure models, also against other runtimes."),
    "tune": ("tilewright.commands.tune:tune", "Search for faster schedules of a model's kernels."),
    "records": ("tilewright.commands.records:records", "Show, merge or export what tune kept."),
    "profile": ("tilewright.commands.profile:profile", "Show where the time of a call goes."),
    "inspect": ("tilewright.commands.stages:inspect", "Show a model at any stage of compilation."),
    "ops": ("tilewright.commands.ops:ops", "List operators, or what a model lacks."),
    "doctor": ("tilewright.commands.doctor:doctor", "Show the machine, the versions, a self-test."),
}
"""Each command's function, loaded when it is called, and its line in the list of commands."""


class Commands(click.Group):
    """A group whose commands are imported only when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, function = COMMANDS[cmd_name][0].split(":")
        found = getattr(import_module(module), function)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: tilewright run zoo:resnet50",
)
@click.version_option(__version__, prog_name="tilewright")
def tilewright() -> None:
    """Compile deep-learning models to native code, run and measure them.

    A MODEL is an ONNX file, a .pt2 file of torch.export.save, a compiled .tw file, or zoo:NAME for
    a network that comes with the onnx package and needs no download.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with its code."""
    sys.exit(run_command(arguments))


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; errors become one paragraph."""
    _print_what_is_known()
    try:
        result = tilewright.main(
            None if arguments is None else list(arguments), "tilewright", standalone_mode=False
        )
        if sys.stdout is not None:  # None: the caller has closed it
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()  # the reader has had enough
        return 0
    except SystemExit as leaving:
        if not isinstance(leaving.__context__, BrokenPipeError):
            raise
        return 0  # click leaves with 1, which stands for another thing here
    except TilewrightError as error:
        return _report(error)
    except MemoryError as error:
        return _report(OptionError(_NO_MEMORY, code="TW-E0805"), error)
    except Exception as error:
        if isinstance(error, OSError) and is_full(error):
            _drop_output()
            return _report(OutputError.of("standard output or a temporary file", error), error)
        message = (
            f"a defect of Tilewright, not of the model or its use: {type(error).__name__}: {error}."
            " Please report it with the output of the same command under TILEWRIGHT_DEBUG=1"
        )
        return _report(InternalError(message, code="TW-E0900"), error)


def _drop_output() -> None:
    """Sends the rest of standard output nowhere: Python would complain of it once more at exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_what_is_known() -> None:
    """Has characters that the terminal's encoding lacks printed as ``?``, not end a command."""
    codecs.register_error(_KNOWN, _known)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_KNOWN)


def _known(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        # Names of files may hold bytes that are no text; these go out as they came in.
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("replace")(error)


def _report(error: TilewrightError, cause: BaseException | None = None) -> int:
    if _shows_tracebacks():
        traceback.print_exception(cause or error)
    click.echo(f"error: {error}", err=True)
    return error.exit_code


def _shows_tracebacks() -> bool:
    try:
        return from_environment().debug > 0
    except OptionError:
        return False
