"""The errors that a user can mend; everything else is a bug and keeps its traceback."""


class InputError(ValueError):
    """The input cannot be used. One line: the value seen, the limit, the remedy.

    The command line prints it as it is and exits with 2.
    """


class MissingExtra(InputError):
    """A feature was asked for whose optional packages are not installed; the line names the pip command."""


def first_line(error: BaseException) -> str:
    """Its message's first line, for a warning of one line; where it says nothing, its type."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
