"""
The command itself: its subcommands, and what an error means for whoever called it.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import click

from .. import __version__
from ..config import debugging
from ..exceptions import ConfigurationError, NoAnswer, PoolError
from .demo import demo
from .history import history
from .marks import drain, pause, resume, undrain
from .rotate import rotate
from .serve import serve
from .state import state
from .status import status
from .token import token

__all__ = ["command", "main", "run"]

FAILED, BAD_CONFIGURATION, NO_ANSWER, INTERRUPTED = 1, 2, 3, 130


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 the pool does not "
    "answer.",
)
@click.version_option(__version__, prog_name="livekit-pool")
def command() -> None:
    """Many LiveKit servers, one address: everybody moves to the next server when one fails."""


for _each in (
    serve,
    status,
    rotate,
    drain,
    undrain,
    pause,
    resume,
    history,
    state,
    token,
    demo,
):
    command.add_command(_each)


def main() -> None:
    """Run the command with the process's arguments, and end the process with its exit code."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command with ``arguments`` (the process's by default); its exit code.

    Errors become one sentence on standard error, never a traceback, unless LIVEKIT_POOL_DEBUG is
    set and the error is one that nobody expected.
    """
    try:
        code = command.main(
            None if arguments is None else list(arguments),
            prog_name="livekit-pool",
            standalone_mode=False,
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except PoolError as error:
        _say(str(error))
        return _exit_code(error)
    except Exception as error:  # the outermost frame
        if debugging():
            traceback.print_exc()
        else:
            # Not its text: what a library writes there may hold a URL with a token.
            _say(
                f"Something unexpected happened ({type(error).__name__}). "
                "Set LIVEKIT_POOL_DEBUG=1 and try again to see where."
            )
        return FAILED
    return code if isinstance(code, int) else 0


def _exit_code(error: PoolError) -> int:
    if isinstance(error, ConfigurationError):
        return BAD_CONFIGURATION
    return NO_ANSWER if isinstance(error, NoAnswer) else FAILED


def _say(sentence: str) -> None:
    click.echo(f"livekit-pool: {sentence}", err=True)
