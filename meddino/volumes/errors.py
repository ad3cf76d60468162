"""The one exception of unusable volumes."""


class BadVolume(Exception):
    """A volume that cannot be read, or cannot be trusted.

    The message says what is wrong and what to do; whoever catches it adds the path.
    """
