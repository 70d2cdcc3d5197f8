"""Ending a tool with the words of its refusal alone, where it refuses what a user asks for."""

import gc
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from .shipped import home


def run_main(main: Callable):
    """Call ``main`` of a tool and return what it returns; a refusal ends the program with its message.

    With ``--verbose`` on the command line, and for faults of the program, the traceback is shown.

    Raises:
        SystemExit: mmsnn's code refused something; the message is that of the exception.
    """
    # `mmsnn COMMAND` imports the tool without it
    gc.enable()
    if _is_the_program():
        # What is imported stays to the end. Collecting garbage, as mmengine does for each data set and Python does
        # before it ends, would look through all of it, which takes seconds.
        gc.freeze()
    try:
        return main()
    except (ValueError, TypeError, OSError, KeyError, ArithmeticError) as problem:
        if '--verbose' in sys.argv or not is_refusal(problem):
            raise
        sys.stdout.flush()
        raise SystemExit(f'{Path(sys.argv[0]).name}: {type(problem).__name__}: {problem}') from None


def is_refusal(problem: Exception) -> bool:
    """Whether mmsnn's own code raised ``problem``, with words for a user, who needs no traceback."""
    frame = traceback.extract_tb(problem.__traceback__)[-1]
    folders = Path(__file__).parent, home() / 'tools', home() / 'demo'
    ours = any(Path(frame.filename).is_relative_to(folder) for folder in folders)
    return ours and (frame.line or '').startswith('raise')


def _is_the_program() -> bool:
    """Whether the tool that runs is the whole program, rather than called by a notebook or another script."""
    rest = sys.argv[1:]
    return bool(rest) and sys.orig_argv[-len(rest) :] == rest
