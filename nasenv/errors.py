"""The errors that nasenv raises on purpose; each message is one line that says what was wrong and how to fix it."""

import difflib
import re
from collections.abc import Sequence

_LONGEST = 2000  # characters of a message: what stands in a file can be as long as it likes
_COMMANDING = re.compile(  # control characters, those that turn the direction of writing, halves of surrogate pairs
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return the text with control characters, and those that cannot be encoded, written as escape sequences.

    >>> print(printable("a\x1b[2Jb"))
    a\x1b[2Jb
    """
    return _COMMANDING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the known names that are most similar to a name, joined by commas; all of them if none is similar."""
    return ", ".join(difflib.get_close_matches(name, known, n=3) or known)


def counted(n: float, noun: str) -> str:
    """Return a number of things in words.

    >>> counted(1, "seed"), counted(1200, "architecture"), counted(0.5, "second")
    ('1 seed', '1,200 architectures', '0.5 seconds')
    """
    number = f"{n:,}" if isinstance(n, int) else f"{n:g}"
    return f"{number} {noun}{'s' * (n != 1)}"


class InputError(ValueError):
    """An input of the user cannot be used; the command line prints the message and exits with 2.

    The message may quote what came from a file: it becomes one line that can be printed, its middle left out where it
    is very long.
    """

    def __init__(self, message: str) -> None:
        line = printable(" ".join(message.split()))
        half = _LONGEST // 2
        super().__init__(line if len(line) <= _LONGEST else f"{line[:half]} ... {line[-half:]}")


class BudgetExhausted(Exception):
    """The search is over: its budget is used up, or its agent only proposes what it proposed before."""


class SearchStopped(BudgetExhausted):
    """The search was stopped before its end; all measurements are kept, and the same search can be resumed."""


class AgentError(InputError):
    """An agent broke its contract; the message names the agent."""
