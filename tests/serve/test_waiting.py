"""The queue of an engine: limited, and fair to its owners."""

from __future__ import annotations

import pytest

from hrm.serve.waiting import Busy, FairQueue, Ticket


def ticket(owner: str) -> Ticket:
    return Ticket(lambda event: None, owner)


def test_nobody_is_refused_for_what_others_have_waiting():
    queue: FairQueue[Ticket] = FairQueue(2)
    queue.put(ticket("greedy"), ticket("greedy"))
    for owner, count in (("greedy", 1), ("other", 3)):
        with pytest.raises(Busy):
            queue.put(*(ticket(owner) for _ in range(count)))
    queue.put(ticket("other"))
    with pytest.raises(Busy):
        queue.put(ticket("other"))
    assert [queue.take().owner for _ in range(3)] == ["greedy", "other", "greedy"]  # type: ignore[union-attr]
    queue.close()
    with pytest.raises(Busy):
        queue.put(ticket("third"))
