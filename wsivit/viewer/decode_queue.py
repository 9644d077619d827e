"""Threads that decode what the page asks for: the newest request first, and nothing that it no longer wants."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class DecodeQueue:
    """A pool of threads over a stack of requests.

    While a person zooms, requests pile up, and those that were made last are for what is on the screen now.

    Parameters
    ----------
    threads : int, optional
        Default: as many as the machine has cores, and at least 4, since those of remote slides wait.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._stack: list[tuple[Future[Any], Callable[[], Any]]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"wsivit-view-{k}", daemon=True)
            for k in range(threads or max(4, os.cpu_count() or 1))
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Put a request on top of the stack; cancelling the future drops it, if no thread has begun it."""
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the queue is closed")
            self._stack.append((future, function))
            self._changed.notify()
        return future

    async def run(self, function: Callable[[], T]) -> T:
        """Await a request; cancelling the awaiting task drops it."""
        return await asyncio.wrap_future(self.submit(function))

    def close(self) -> None:
        """Drop what waits and end the threads once they have finished what they do."""
        with self._changed:
            self._closed = True
            waiting, self._stack = self._stack, []
            self._changed.notify_all()
        for future, _ in waiting:
            future.cancel()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._stack and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                future, function = self._stack.pop()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
