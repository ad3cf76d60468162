"""The exceptions that users see."""


class MeddinoError(Exception):
    """Something a user can mend: the message names the file or key, and the remedy.

    The command line prints the message without a traceback and exits with `status`.
    """

    status = 2


class Unwritable(MeddinoError):
    """The place that is written to does not take a file: it is full, say, or read-only."""


class Stopped(MeddinoError):
    """A signal asked to stop; what is done by then is kept, and the same command goes on."""

    status = 75
    """EX_TEMPFAIL of sysexits.h: try again later."""
