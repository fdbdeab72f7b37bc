"""Requests between the server and an engine's thread: each has a ticket, and waits in a queue fair to its owners."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from hrm.files.reading import UserError

Event = TypeVar("Event")
End = Literal["done", "cancelled", "deadline", "stopped", "failed"]
"""How a request ended: completed, left by its client, out of time, ended by the server's shutdown, or by an error."""


@dataclass(frozen=True)
class Limits:
    """What an engine takes on."""

    slots: int = 16
    """Requests of a model that are computed at once."""
    waiting: int = 64
    """Requests of a model that may wait for a slot; more are refused."""
    seconds: float = 600.0
    """A request has this long, its waiting included."""


class Busy(UserError):
    """The queue is full. `retry_after` is in whole seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the server has as many requests as it takes: try again in {retry_after} s")
        self.retry_after = retry_after


class Ticket(Generic[Event]):
    """A request under way. Its engine calls `deliver` with each event and, once, with the ticket itself: then it has
    ended. `owner` is whom the queue is fair to, `seconds` what it may take from now on."""

    def __init__(self, deliver: Callable[[Event | Ticket[Event]], None], owner: str = "", seconds: float = 600) -> None:
        self.deliver, self.owner = deliver, owner
        self.arrived = time.monotonic()
        self.deadline = self.arrived + seconds
        self.end: End | None = None
        self.error: Exception | None = None
        """With the end `failed`."""
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Ask the engine to drop it; from any thread, at any time, also more than once."""
        self._cancelled.set()

    @property
    def over(self) -> End | None:
        """Why the engine should drop it now, if it should."""
        if self._cancelled.is_set():
            return "cancelled"
        return "deadline" if time.monotonic() > self.deadline else None

    def finish(self, end: End, error: Exception | None = None) -> None:
        """Called by the engine as the last thing; a second call changes nothing."""
        if self.end is None:
            self.end, self.error = end, error
            deliver, self.deliver = self.deliver, _nobody  # whoever listens knows the ticket: a circle
            deliver(self)


def _nobody(event: object) -> None:
    pass


class Listening(Generic[Event]):
    """The events of a ticket as an asynchronous iterator; leaving it early cancels the ticket."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | Ticket[Event]] = asyncio.Queue()

    def deliver(self, event: Event | Ticket[Event]) -> None:
        """For the ticket; called in the engine's thread."""
        with suppress(RuntimeError):  # the loop has ended, and nobody listens any more
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def events(self, ticket: Ticket[Event]) -> AsyncIterator[Event]:
        """Every event until the ticket ends; then look at its `end`."""
        try:
            while not isinstance(event := await self._events.get(), Ticket):
                yield event
        finally:
            ticket.cancel()


T = TypeVar("T", bound="Ticket[Any]")


class FairQueue(Generic[T]):
    """Tickets that wait for a slot. The owners take turns, so that many requests of one do not delay another's."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._of: OrderedDict[str, deque[T]] = OrderedDict()
        self._lock = threading.Condition()
        self._closed = False
        self._took = 1.0
        """Seconds between two that leave, smoothed: what Retry-After is estimated from."""
        self._left = time.monotonic()

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._of.values()))

    def put(self, *tickets: T) -> None:
        """Add tickets, all or none; Busy if not all fit. Who has none there is not refused for those of others."""
        with self._lock:
            waiting = sum(map(len, self._of.values()))
            full = waiting + len(tickets) > self.limit
            if full and not any(ticket.owner in self._of for ticket in tickets):
                full = len(tickets) > self.limit
            if self._closed or full:
                raise Busy(min(60, max(1, math.ceil(waiting * self._took))))
            for ticket in tickets:
                self._of.setdefault(ticket.owner, deque()).append(ticket)
            self._lock.notify_all()

    def take(self) -> T | None:
        """The next ticket, of the owner whose turn it is; None if none waits. One that is over ends here."""
        while (ticket := self._next()) is not None:
            if (over := ticket.over) is None:
                return ticket
            ticket.finish(over)
        return None

    def back(self, ticket: T) -> None:
        """Let a ticket that was taken wait for another turn, also while the queue is full or closed."""
        with self._lock:
            self._of.setdefault(ticket.owner, deque()).append(ticket)
            self._lock.notify_all()

    def sweep(self) -> None:
        """End those that are over, also while no slot is free."""
        with self._lock:
            gone = [ticket for each in self._of.values() for ticket in each if ticket.over is not None]
            for ticket in gone:
                self._of[ticket.owner].remove(ticket)
            for owner in [owner for owner, each in self._of.items() if not each]:
                del self._of[owner]
        for ticket in gone:
            ticket.finish(ticket.over or "cancelled")

    def wait(self, seconds: float) -> None:
        """Until a ticket waits, the queue is closed, or the time is up."""
        with self._lock:
            if not self._of and not self._closed:
                self._lock.wait(seconds)

    def close(self) -> None:
        """Take no more; those that wait end as `stopped`."""
        with self._lock:
            self._closed = True
            left = [ticket for each in self._of.values() for ticket in each]
            self._of.clear()
            self._lock.notify_all()
        for ticket in left:
            ticket.finish("stopped")

    def _next(self) -> T | None:
        with self._lock:
            if not self._of:
                return None
            owner, tickets = next(iter(self._of.items()))
            ticket = tickets.popleft()
            self._of.move_to_end(owner)
            if not tickets:
                del self._of[owner]
            now = time.monotonic()
            self._took += 0.1 * (min(10.0, now - self._left) - self._took)
            self._left = now
            return ticket
