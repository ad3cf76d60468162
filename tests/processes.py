"""How tests start processes that they send signals to."""

import signal


def heed_all() -> None:
    """Undo, in a process to come, that tests in the background or under `nohup` ignore signals."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
