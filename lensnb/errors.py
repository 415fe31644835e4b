"""InputError for user mistakes, its command-line reporting, and spelling suggestions."""

import contextlib
import difflib
import errno
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

STOPPED = "stopped; finished work is kept, and the same command continues from there"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class InputError(Exception):
    """Something the user can put right.

    The message is one sentence: which file or key, what was found, what was expected.
    The command line prints it without a traceback and exits with status 2 (see `told`).
    """


@contextlib.contextmanager
def of_files(place: str | Path) -> Iterator[None]:
    """A context that turns errors of the file system into InputErrors.

    Such errors are: no space, no permission, a name too long. The message names the file, or
    `place` where the system names none. Broken pipes and connections pass through unchanged.
    """
    try:
        yield
    except OSError as error:
        # numpy reports a full disk without an error number
        cut_short = error.errno is None and "requested and" in str(error)
        names_a_file = error.errno is not None and error.filename is not None
        if not (cut_short or error.errno in FULL or names_a_file):
            raise
        reason = error.strerror or "No space left on device"
        raise InputError(
            f"{error.filename or place}: {reason}; make room or give permission there, "
            "or set LENSNB_OUTPUTS to another folder"
        ) from None


def told(command: Callable[[], object], stopped: str = STOPPED) -> int:
    """Run `command` and return the exit status of the command line.

    0 : it is done. 2 : one line on stderr says what the user can put right. 130 : Ctrl-C, of which
    the line `stopped` tells, if it is not empty.
    """
    try:
        with of_files("the run folder"):
            command()
    except InputError as error:
        print(f"lensnb: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if stopped:
            print(f"lensnb: {stopped}", file=sys.stderr)
        return 130
    return 0


def one_line(error: BaseException, most: int = 200) -> str:
    """The message of an error as one line of at most `most` characters, or else its type."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def nearest(word: object, choices: Iterable[object]) -> str | None:
    """The entry of `choices` closest in spelling to `word`, or None."""
    found = difflib.get_close_matches(str(word), [str(c) for c in choices], n=1, cutoff=0.5)
    return found[0] if found else None


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """The nearest known word as a question, or all of them."""
    words = [str(entry) for entry in known]
    guess = nearest(word, words)
    return f"did you mean {guess}?" if guess else f"known are {', '.join(words) or 'none'}"
