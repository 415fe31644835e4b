"""The one exception for what a user can mend, and the guess at what was meant."""

import difflib


class InputError(Exception):
    """Something the user can put right.

    The message is one sentence: which file or key, what was found, what was expected.
    The command line prints it without a traceback and exits with status 2.
    """


def nearest(word, choices):
    """The entry of `choices` closest in spelling to `word`, or None."""
    found = difflib.get_close_matches(str(word), [str(c) for c in choices], n=1, cutoff=0.5)
    return found[0] if found else None
