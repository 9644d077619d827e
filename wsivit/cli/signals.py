"""Ctrl-C, and a job scheduler's SIGTERM: answered at once with one line, whatever the process is doing.

Python calls signal handlers in the main thread, between two of its own instructions: not while a model's step or a
library's native code runs, and where the exception is swallowed (in an import, in ``__del__``) the process continues.
So a thread listens as well: it prints the line, waits a moment for locks and temporary files to be removed, and ends
the process. Files are safe at any moment, so an abrupt end costs no more than the shard being written.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 130
GRACE = 1.0
"""Seconds for the work to end by itself."""
_LINE = b"wsivit: interrupted: run the same command again to resume\n"
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM") if hasattr(signal, name))


@contextmanager
def answered(*, debug: bool = False) -> Iterator[None]:
    """Answer Ctrl-C and SIGTERM while a command runs, and leave with exit code 130.

    Parameters
    ----------
    debug : bool
        Show where it was interrupted: SIGTERM then is Ctrl-C, and there is no line and no hurry.
    """
    interrupt = _Interrupt()
    interrupt.listen(watch=not debug)
    try:
        yield
    except BaseException:
        if not interrupt.received or debug:
            raise
    finally:
        interrupt.over = True
    if interrupt.received:
        sys.exit(EXIT_CODE)


class _Interrupt:
    """An interrupt, whose signal may arrive several times: the first counts."""

    def __init__(self) -> None:
        self.received = False
        self.over = False
        self._watched = False
        self._answered = False
        self._answering = threading.Lock()

    def listen(self, watch: bool) -> None:
        """Take the signals that the caller of this process did not want ignored."""
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._raise)
        if hasattr(os, "register_at_fork"):  # not on Windows, where no process forks
            os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_leave_it_to_the_parent)
        self._watched = watch
        if watch:
            receiver, sender = os.pipe()
            if hasattr(os, "set_blocking"):
                os.set_blocking(sender, False)
            # Written by the signal itself, not by Python's handler: also while the main thread is in a library.
            signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(receiver,), name="wsivit-interrupt", daemon=True).start()

    def _raise(self, _signal: int, _frame: FrameType | None) -> None:
        if not self.received and not self.over:
            self.received = True
            if self._watched:
                self.answer()
            raise KeyboardInterrupt

    def _watch(self, receiver: int) -> None:
        while os.read(receiver, 1)[0] not in _SIGNALS:
            continue
        if not self.over:
            self.answer()
        time.sleep(GRACE)
        os._exit(EXIT_CODE)

    def answer(self) -> None:
        """Print the line, once, and silence what libraries print while they are torn down."""
        with self._answering:  # the second caller waits: the process may end as soon as it returns
            if self._answered:
                return
            self._answered = True
            # The line of a progress bar is left as it is.
            os.write(2, b"\n" * os.isatty(2) + _LINE)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _block() -> None:
    # A child that is interrupted before it has removed its handlers would write into the pipe of its parent.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _leave_it_to_the_parent() -> None:
    # A terminal's Ctrl-C reaches the workers of a data loader as well: their parent stops them, without tracebacks.
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _unblock()
