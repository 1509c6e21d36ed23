"""The errors that a user can mend; everything else is a bug and keeps its traceback."""


class InputError(ValueError):
    """The input cannot be used. One line: the value seen, the limit, the remedy.

    The command line prints it as it is and exits with 2.
    """
