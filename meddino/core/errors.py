"""The one exception that users see."""


class MeddinoError(Exception):
    """Something a user can mend: the message names the file or key, and the remedy.

    The command line prints the message without a traceback and exits with status 2.
    """
