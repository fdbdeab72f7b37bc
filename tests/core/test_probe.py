"""The probe: what it sees is what the model computes, and its statistics are those of all states at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hrm.core.probe import Motion, Probe, Spread, States, probing
from hrm.core.recurrence import Carry, Schedule
from hrm.puzzles.model import PuzzleModel
from tests.core import small
from tests.reference.blocks import post_norm
from tests.reference.net import net_of
from tests.reference.puzzles import embed, readout, start


def double(**changes: object) -> PuzzleModel:
    model = small.model(positions="none", **changes).double().eval()  # type: ignore[arg-type]
    model.dtype = torch.float64
    return model


def think(model: PuzzleModel, probe: Probe, segments: int = 2, schedule: Schedule | None = None) -> Tensor:
    """The logits after some segments."""
    with probing(model, probe), torch.no_grad():
        inputs, ids = small.batch()
        carry = model.initial_carry(inputs, ids)
        for _ in range(segments):
            carry, answer = model.segment(carry, inputs, ids, schedule)
    return answer.logits


def by_hand(model: PuzzleModel, segments: int, cycles: int, steps: int) -> list[tuple[str, Tensor, Tensor]]:
    """Role, z_h and z_l after every visit, from the equations of HRM."""
    net = net_of({name: tensor.detach().double() for name, tensor in model.state_dict().items()})
    x = embed(net, *small.batch(), model.arch.task_positions)
    z_h, z_l = start(net, x)
    found = [("", z_h, z_l)]

    def through(stack: str, z: Tensor) -> Tensor:
        for layer in net[stack]:
            z = post_norm(z, layer, model.arch.heads, None)
        return z

    for _ in range(segments * cycles):
        for _ in range(steps):
            z_l = through("fast", z_l + z_h + x)
            found.append(("L", z_h, z_l))
        z_h = through("slow", z_h + z_l)
        found.append(("H", z_h, z_l))
    return found


@given(cycles=st.integers(1, 3), steps=st.integers(1, 3))
def test_every_state_is_that_of_the_equations(cycles: int, steps: int) -> None:
    model, states = double(), States()
    think(model, Probe(states), 2, Schedule(cycles, steps))
    wanted = by_hand(model, 2, cycles, steps)[1:]
    assert [moment.visit.role for moment, _ in states.kept] == [role for role, *_ in wanted]
    assert [moment.segment for moment, _ in states.kept] == [1 + i * 2 // len(wanted) for i in range(len(wanted))]
    for (_, kept), (role, z_h, z_l) in zip(states.kept, wanted, strict=True):
        torch.testing.assert_close(kept, z_l if role == "L" else z_h, rtol=1e-10, atol=1e-10)


def test_nothing_is_computed_differently_while_it_watches() -> None:
    model = double()
    assert torch.equal(think(model, Probe()), think(model, Probe(States(), Motion())))
    assert model.probe is None


def test_only_what_is_chosen_is_seen() -> None:
    model, states = double(), States()
    chosen = Probe(states, rows=[1, 3], positions=slice(2, 5), moments=lambda moment: moment.visit.role == "H")
    think(model, chosen)
    assert states.first is not None and states.first.z_h.shape == (2, 3, 32)
    assert {moment.visit.role for moment, _ in states.kept} == {"H"}
    everything = States()
    think(model, Probe(everything))
    slow = [z for moment, z in everything.kept if moment.visit.role == "H"]
    assert all(torch.equal(kept, z[[1, 3]][:, 2:5]) for (_, kept), z in zip(states.kept, slow, strict=True))


def test_motion_is_that_of_the_equations_over_several_batches() -> None:
    model, motion = double(), Motion()
    for _ in range(2):
        think(model, Probe(motion), 2)
    seen = by_hand(model, 2, 2, 2)
    means = motion.means()
    assert len(means) == len(seen) - 1
    last: dict[str, list[Tensor]] = {"H": [seen[0][1]], "L": [seen[0][2]]}
    for (_, found), (role, z_h, z_l) in zip(means, seen[1:], strict=True):
        z, history = (z_l if role == "L" else z_h), last[role]
        step = z - history[-1]
        wanted = {
            "size": z.pow(2).mean(-1).sqrt().mean(),
            "change": (step.norm(dim=-1) / history[-1].norm(dim=-1)).mean(),
        }
        if len(history) > 1:
            wanted["turn"] = torch.cosine_similarity(step, history[-1] - history[-2], dim=-1).mean()
        assert (found["turn"] is None) == (len(history) == 1)
        for name, value in wanted.items():
            assert found[name] == pytest.approx(float(value), rel=1e-10, abs=1e-12)
        history.append(z)


def test_halted_tokens_are_left_out_of_means() -> None:
    z, motion = torch.randn(1, 2, 8, dtype=torch.float64), Motion()
    visit = Schedule(1, 1).visits(1, 1)[0]
    probe = Probe(motion)
    probe.begin(Carry(z, z))
    probe.see(visit, Carry(z, 3 * z), torch.tensor([[True, False]]))
    (_, means), *_ = motion.means()
    assert means["size"] == pytest.approx(3 * float(z[0, 0].pow(2).mean().sqrt())) and means["change"] == pytest.approx(
        2
    )


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 9), st.booleans())
def test_the_participation_ratio_of_a_stream_is_that_of_all_eigenvalues(sizes: list[int], dim: int, far: bool) -> None:
    generator = torch.Generator().manual_seed(sum(sizes) * 10 + dim)
    parts = [torch.randn(n, dim, generator=generator, dtype=torch.float64) + 100 * far for n in (*sizes, 2)]
    whole, spread = torch.cat(parts).numpy(), Spread(parts[0].mean(0))
    for part in parts:
        one = Spread(spread.shift)
        one.add(part)
        spread = spread + one if spread.count else one
    values = np.linalg.eigvalsh(np.atleast_2d(np.cov(whole, rowvar=False)))
    assert spread.count == len(whole)
    assert spread.participation_ratio() == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-10)
    rounded = Spread()
    for part in parts:
        rounded.add(part.float())
    assert rounded.participation_ratio() == pytest.approx(spread.participation_ratio(), rel=1e-4 if far else 1e-5)


@pytest.mark.parametrize("step", [0, 1])
def test_an_interrupted_schedule_gives_what_the_model_would_say_by_then(step: int) -> None:
    """head(H(z_h, z_l)) after a step of L (Fig. 7 of HRM)."""
    model = double()
    answer = think(model, Probe(), 1, Schedule(2, 2).until(1, step))
    net = net_of({name: tensor.detach().double() for name, tensor in model.state_dict().items()})
    _, z_h, z_l = by_hand(model, 1, 2, 2)[1 + 3 + step]
    for layer in net["slow"]:
        z_h = post_norm(z_h + z_l if layer is net["slow"][0] else z_h, layer, model.arch.heads, None)
    torch.testing.assert_close(answer, readout(net, z_h, model.arch.task_positions)[0], rtol=1e-10, atol=1e-10)


def test_a_changed_schedule_is_not_taken_for_the_whole_one() -> None:
    whole = Schedule(2, 2)
    changed = [whole, whole.until(0, 1), whole.until(1, 0), whole.without("H"), whole.without("L")]
    assert len(set(changed)) == 5 and all((a == b) == (a is b) for a in changed for b in changed)
    assert whole.until(0, 1) == whole.until(0, 1) and hash(whole.until(0, 1)) == hash(whole.until(0, 1))


def test_rows_that_did_not_begin_together_are_not_mistaken_for_each_other() -> None:
    model = double()
    inputs, ids = small.batch()
    with probing(model, Probe(Motion())), pytest.raises(ValueError, match="one puzzle at a time"):
        carry = model.initial_carry(inputs, ids)
        model.segment(carry.select(torch.tensor([0, 1])), inputs[:2], ids[:2])
