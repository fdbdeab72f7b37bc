"""What a learner keeps of the books it has read, and mixes into the next one."""

from __future__ import annotations

import copy
import json
import lzma
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from hrm.models.text import HRMForCausalLM

PIECE = 4
"""Rows of text in a piece that is kept."""
PROMPT = 12
"""Characters of a kept piece from which a dream begins."""
DREAMS = 1200
"""Rows that are dreamt before a book."""


class Memory(Protocol):
    """How old books stay alive while a new one is learned."""

    def begin(self, model: HRMForCausalLM, length: int, seed: int) -> None:
        """A book is about to be learned by a model that knows nothing of it; `length` is that of a row."""
        ...

    def remember(self, book: int, tokens: np.ndarray, length: int, seed: int, model: HRMForCausalLM) -> None:
        """Take what is wanted of a book that has just been learned."""
        ...

    def rows(self, count: int, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        """Inputs and labels [count, length] to learn beside the new book, or None while there is nothing."""
        ...

    def pull(self, model: HRMForCausalLM) -> None:
        """Change the gradients before an update, if the memory works that way."""
        ...

    def pack(self) -> dict[str, Tensor]:
        """Everything as tensors for a checkpoint."""
        ...

    def unpack(self, tensors: dict[str, Tensor], model: HRMForCausalLM) -> None:
        """Take over what `pack` gave, when the model was as it is now."""
        ...


class Nothing:
    """No memory: the naive learner."""

    def begin(self, model: HRMForCausalLM, length: int, seed: int) -> None:
        """Nothing to prepare."""

    def remember(self, book: int, tokens: np.ndarray, length: int, seed: int, model: HRMForCausalLM) -> None:
        """Keep nothing."""

    def rows(self, count: int, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        """There is nothing."""
        return None

    def pull(self, model: HRMForCausalLM) -> None:
        """Leave the gradients alone."""

    def pack(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def unpack(self, tensors: dict[str, Tensor], model: HRMForCausalLM) -> None:
        """Nothing."""


class Reservoir(Nothing):
    """A share of every book in pieces spread evenly over it, compressed where it is stored."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.books: dict[int, np.ndarray] = {}
        """Pieces [n, tokens] of each book."""

    def remember(self, book: int, tokens: np.ndarray, length: int, seed: int, model: HRMForCausalLM) -> None:
        """Pieces from stretches of equal length, each at a random place of its stretch."""
        size = min(PIECE * length + 1, len(tokens))
        if self.share <= 0 or size < 2:
            return
        count = max(1, round(self.share * len(tokens) / size))
        edges = np.linspace(0, len(tokens) - size, count + 1)
        starts = (edges[:-1] + np.random.default_rng([seed, book]).random(count) * np.diff(edges)).astype(np.int64)
        self.books[book] = np.stack([tokens[start : start + size] for start in starts]).astype(np.int32)

    def rows(self, count: int, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        """Each book as likely as another, then each piece of it, then each place; labels are what follows there."""
        found = self._stretches(count, length + 1, rng)
        return None if found is None else (found[:, :-1], found[:, 1:])

    def pack(self) -> dict[str, Tensor]:
        """One compressed array of bytes."""
        shapes = {str(book): list(pieces.shape) for book, pieces in self.books.items()}
        head = json.dumps(shapes).encode()
        body = lzma.compress(b"".join(pieces.astype("<i4").tobytes() for pieces in self.books.values()))
        content = len(head).to_bytes(8, "little") + head + body
        return {"reservoir": torch.frombuffer(bytearray(content), dtype=torch.uint8).clone()}

    def unpack(self, tensors: dict[str, Tensor], model: HRMForCausalLM) -> None:
        """The same array."""
        content = tensors["reservoir"].numpy().tobytes()
        size = int.from_bytes(content[:8], "little")
        shapes: dict[str, Any] = json.loads(content[8 : 8 + size])
        flat = np.frombuffer(lzma.decompress(content[8 + size :]), "<i4")
        self.books, at = {}, 0
        for book, shape in shapes.items():
            self.books[int(book)] = flat[at : at + shape[0] * shape[1]].reshape(shape).astype(np.int32)
            at += shape[0] * shape[1]

    def _stretches(self, count: int, size: int, rng: np.random.Generator) -> np.ndarray | None:
        """`size` tokens in a row from each of `count` random places."""
        known = [pieces for pieces in self.books.values() if pieces.shape[1] >= size]
        if not known or not count:
            return None
        found = np.empty((count, size), np.int64)
        for row, (a, b, c) in enumerate(rng.random((count, 3))):
            pieces = known[int(a * len(known))]
            piece = pieces[int(b * len(pieces))]
            start = int(c * (len(piece) - size + 1))
            found[row] = piece[start : start + size]
        return found


class Dreams(Reservoir):
    """A reservoir, and the model as it was before the new book: it writes more old text, and says what may follow.

    A few pieces learned again and again are learned by heart, and the rest of the book is lost. Labels drawn anew from
    the old model's own predictions teach all that it thought possible (distillation, arXiv 1503.02531), also in text
    that it dreams on from the pieces (self-generated replay).
    """

    def __init__(self, share: float) -> None:
        super().__init__(share)
        self.teacher: HRMForCausalLM | None = None
        self.dreams: np.ndarray | None = None

    def begin(self, model: HRMForCausalLM, length: int, seed: int) -> None:
        """Keep a copy of the model, and let it dream on from kept pieces."""
        rng = np.random.default_rng([seed, len(self.books)])
        prompts = self._stretches(DREAMS, min(PROMPT, length), rng)
        if prompts is None:
            return
        self.teacher = self._frozen(model)
        self.dreams = np.concatenate([self._dream(some, length + 1, rng) for some in np.array_split(prompts, 8)])

    def remember(self, book: int, tokens: np.ndarray, length: int, seed: int, model: HRMForCausalLM) -> None:
        """The old model has done its work."""
        super().remember(book, tokens, length, seed, model)
        self.teacher = self.dreams = None

    def rows(self, count: int, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        """Half from kept pieces, half dreamt; the old model's predictions say what follows."""
        real = self._stretches(count - count // 2, length, rng)
        if real is None or self.teacher is None or self.dreams is None:
            return None
        ids = np.concatenate((real, self.dreams[rng.integers(0, len(self.dreams), count // 2), :length]))
        with torch.no_grad():
            device = self.teacher.device
            out = self.teacher(torch.from_numpy(ids).to(device), max_segments=1, halting="fixed", use_cache=False)
            below = torch.softmax(out.logits.float(), -1).cumsum(-1)
            drawn = torch.from_numpy(rng.random((*ids.shape, 1), dtype=np.float32)).to(device)
            labels = torch.searchsorted(below, drawn * below[..., -1:]).squeeze(-1).clamp(max=below.shape[-1] - 1)
        return ids, labels.cpu().numpy()

    def pack(self) -> dict[str, Tensor]:
        """The reservoir, and during a book the dreams and the old model's weights."""
        found = super().pack()
        if self.teacher is not None and self.dreams is not None:
            found["dreams"] = torch.from_numpy(self.dreams.astype(np.int32))
            found |= {f"teacher.{name}": tensor for name, tensor in self.teacher.state_dict().items()}
        return found

    def unpack(self, tensors: dict[str, Tensor], model: HRMForCausalLM) -> None:
        """The same; the old model has the form of the present one, because it grows between books only."""
        super().unpack(tensors, model)
        self.teacher = self.dreams = None
        if "dreams" in tensors:
            self.dreams = tensors["dreams"].numpy().astype(np.int64)
            self.teacher = self._frozen(model)
            weights = {n.removeprefix("teacher."): t for n, t in tensors.items() if n.startswith("teacher.")}
            self.teacher.load_state_dict(weights)

    def _frozen(self, model: HRMForCausalLM) -> HRMForCausalLM:
        """A copy that does not learn."""
        return copy.deepcopy(model).eval().requires_grad_(False)

    def _dream(self, prompts: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
        """Rows of `length` tokens that begin with the prompts."""
        assert self.teacher is not None
        ids = torch.from_numpy(prompts).to(self.teacher.device)
        if prompts.shape[1] == length:
            return prompts
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            out = self.teacher.generate(
                ids, max_new_tokens=length - ids.shape[1], min_new_tokens=length - ids.shape[1], do_sample=True,
                top_k=0, max_segments=1, halting="fixed", attention_mask=torch.ones_like(ids), pad_token_id=0,
            )  # fmt: skip
        return out.cpu().numpy()
