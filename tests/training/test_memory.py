"""What a step keeps for its backward pass does not depend on the number of cycles, steps or segments (last_step)."""

import pytest

from benchmarks.memory import most_saved, trainer

SMALL = {"dim": 16, "batch_size": 2}


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["h_cycles", "l_cycles", "max_segments"])
def test_what_a_step_saves_is_the_same_from_two_to_eight(setting: str) -> None:
    sizes = [most_saved(trainer("last_step", **SMALL, **{setting: size}), 9) for size in (2, 3, 8)]
    assert sizes[0] > 0 and len(set(sizes)) == 1


def test_a_longer_horizon_is_seen_to_save_more() -> None:
    first, second, third = (most_saved(trainer("last_cycle", **SMALL, l_cycles=size), 1) for size in (1, 2, 3))
    assert third - second == second - first > first / 4
    cycles = [most_saved(trainer("last_cycle", **SMALL, h_cycles=size), 1) for size in (1, 4)]
    assert cycles[0] == cycles[1] == second


def test_recomputing_activations_saves_less() -> None:
    kept, recomputed = (trainer("last_step", **SMALL) for _ in range(2))
    for stack in (recomputed.model.recurrence.fast, recomputed.model.recurrence.slow):
        assert stack is not None
        stack.recompute = True
    assert most_saved(recomputed, 1) < most_saved(kept, 1) / 2
