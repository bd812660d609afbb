"""What is to be measured, in the order in which devices take it."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pocketformer.compiler.tuning.job import name_at

if TYPE_CHECKING:
    from pocketformer.compiler.tuning.job import Job
    from pocketformer.compiler.tuning.measure import Measured


@dataclass(eq=False)
class Request:
    """A job with its bundle, to be measured for about `seconds`.

    `losses` counts the devices that were lost over it. One that `is_part` of another request is not
    divided any more.
    """

    job: Job
    tar: bytes
    seconds: float
    is_part: bool = False
    losses: int = 0
    future: Future[Measured] = field(default_factory=Future)

    @property
    def name(self) -> str:
        """The workload, with the sizes of its symbolic axes."""
        return name_at(self.job.workload, self.job.sizes)

    def succeed(self, result: Measured) -> None:
        """Tell the result to whoever waits for it, if it was not cancelled."""
        with suppress(InvalidStateError):
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        """Tell why there is no result."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)


class Requests:
    """A queue of requests for many threads."""

    def __init__(self) -> None:
        self._waiting: deque[Request] = deque()
        self._news = threading.Condition()
        self._closed = False

    def put(self, request: Request, first: bool = False) -> None:
        """Add it at the end, or before all others."""
        with self._news:
            if self._closed:
                request.future.cancel()
                return
            (self._waiting.appendleft if first else self._waiting.append)(request)
            self._news.notify()

    def take(self) -> Request | None:
        """The first, once there is one; None when the queue is closed."""
        with self._news:
            while not self._closed:
                while self._waiting:
                    request = self._waiting.popleft()
                    if not request.future.cancelled():
                        return request
                self._news.wait()
            return None

    def close(self) -> None:
        """Cancel what waits, and let nobody wait any more."""
        with self._news:
            self._closed = True
            while self._waiting:
                self._waiting.pop().future.cancel()
            self._news.notify_all()
