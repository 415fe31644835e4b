"""The one exception for what a user can mend, how a command line says it, and the guess at what was meant."""

import contextlib
import difflib
import errno
import sys

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class InputError(Exception):
    """Something the user can put right.

    The message is one sentence: which file or key, what was found, what was expected.
    The command line prints it without a traceback and exits with status 2 (see `told`).
    """


@contextlib.contextmanager
def of_files(place):
    """A context that turns what the system says of files (no space, no permission, a name too long) into an InputError.

    It names the file, or `place` where the system does not. Broken pipes and connections go through as they are.
    """
    try:
        yield
    except OSError as error:
        cut_short = error.errno is None and "requested and" in str(
            error
        )  # what numpy says of a full disk
        if (
            not cut_short
            and error.errno not in FULL
            and (error.errno is None or error.filename is None)
        ):
            raise
        raise InputError(
            f"{error.filename or place}: {error.strerror or 'No space left on device'}; make room or give permission "
            "there, or set LENSNB_OUTPUTS to another folder"
        ) from None


def told(command):
    """The exit status of a command line: 0, 2 after one line on stderr for what the user can put right, or 130 after Ctrl-C."""
    try:
        with of_files("the run folder"):
            command()
    except InputError as error:
        print(f"lensnb: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "lensnb: stopped; what is whole stays, and the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    return 0


def nearest(word, choices):
    """The entry of `choices` closest in spelling to `word`, or None."""
    found = difflib.get_close_matches(str(word), [str(c) for c in choices], n=1, cutoff=0.5)
    return found[0] if found else None
