"""Programs that hear signals, whatever started the tests."""

import signal


def hearing():
    """Undo in a child what ``nohup`` and a script's ``&`` do: they leave signals ignored (for ``preexec_fn``)."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
