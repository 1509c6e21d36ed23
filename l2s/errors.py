"""The errors that a user can mend; everything else is a bug and keeps its traceback."""


class InputError(ValueError):
    """The input cannot be used. One line: the value seen, the limit, the remedy.

    The command line prints it as it is and exits with 2.
    """


class MissingExtra(InputError):
    """An optional library is not installed."""

    def __init__(self, library: str, feature: str, extra: str):
        super().__init__(f"{feature} needs {library}, which is not installed: pip install 'l2s[{extra}]'")
