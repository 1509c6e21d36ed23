"""The errors that a user can mend; everything else is a bug and keeps its traceback."""


class InputError(ValueError):
    """The input cannot be used. One line: the value seen, the limit, the remedy.

    The command line prints it as it is and exits with 2.
    """


class MissingExtra(InputError):
    """A feature was asked for whose optional packages are not installed; the line names the pip command."""
