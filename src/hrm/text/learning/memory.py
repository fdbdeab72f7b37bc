"""A learner's memory: what it keeps of the books it has read, to rehearse while it reads the next one."""

from __future__ import annotations

import bz2
import copy
import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from hrm.text.model import HRMForCausalLM

PIECE = 4
"""Rows of text in a kept piece."""
PROMPT = 12
"""Characters of a kept piece that serve as the prompt of a dream."""
DREAMS = 1200
"""Rows that the model dreams before a book."""
MOST = 1 << 28
"""Most tokens kept of a book."""
TRIES = 6
"""Attempts to find the number of pieces that fit."""


class ReplayRows(NamedTuple):
    """Old rows to learn beside those of a new book: ids and next tokens, both [n, p]."""

    ids: np.ndarray
    labels: np.ndarray
    taught: Tensor | None = None
    """Probabilities [n, p, v] of all next tokens, learned instead of the labels."""


class Memory:
    """How old books stay alive while a new one is learned; this one keeps nothing."""

    asked: Callable[[], None] = staticmethod(lambda: None)
    """Called often during a long `begin`. It may raise to end it; then `begin` is called again later."""

    def begin(self, model: HRMForCausalLM, length: int, seed: int, book: int) -> None:
        """Called before a book is learned or resumed; `length` is that of a row."""

    def remember(
        self, book: int, tokens: np.ndarray, characters: int, length: int, seed: int, model: HRMForCausalLM
    ) -> None:
        """Keep parts of a book of this many characters that has just been learned."""

    def rows(self, count: int, length: int, rng: np.random.Generator, book: int) -> ReplayRows | None:
        """`count` rows of `length` from other books, to learn beside this one; None if there are none."""
        return None

    def pull(self, model: HRMForCausalLM) -> None:
        """Change the gradients before an update, for memories that work this way."""

    def pack(self) -> dict[str, Tensor]:
        """Everything as tensors for a checkpoint."""
        return {}

    def unpack(self, tensors: dict[str, Tensor], model: HRMForCausalLM) -> None:
        """Restore what `pack` returned for a model of the same form."""


class Reservoir(Memory):
    """Keeps pieces spread evenly over every book: as many as fit, compressed, into the given share of its size."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.books: dict[int, np.ndarray] = {}
        """Pieces [n, tokens] of each book."""
        self._stored: dict[int, bytes] = {}

    def remember(
        self, book: int, tokens: np.ndarray, characters: int, length: int, seed: int, model: HRMForCausalLM
    ) -> None:
        """Divide the book into stretches of equal length and keep a piece from a random place of each."""
        size, budget = min(PIECE * length + 1, len(tokens)), self.share * characters
        if self.share <= 0 or size < 2:
            return
        count, most = max(1, round(2 * self.share * len(tokens) / size)), max(1, len(tokens) // size)
        kept: tuple[np.ndarray, bytes] | None = None
        for _ in range(TRIES):
            edges = np.linspace(0, len(tokens) - size, count + 1)
            chance = np.random.default_rng([seed, book]).random(count)
            starts = (edges[:-1] + chance * np.diff(edges)).astype(np.int64)
            pieces = np.stack([tokens[start : start + size] for start in starts]).astype(np.int32)
            # The fewest bytes a token that the largest id allows.
            width = next(width for width in (1, 2, 4) if int(pieces.max()) < 256**width)
            stored = bz2.compress(pieces.astype(f"<u{width}").tobytes())
            # A single piece is kept whatever its size; otherwise as many as fit.
            if (count == 1 or len(stored) <= budget) and (kept is None or count > len(kept[0])):
                kept = pieces, stored
            if 0.97 * budget <= len(stored) <= budget:
                break
            # Never more pieces than the whole book has, however well they compress.
            count = min(max(1, int(0.99 * count * budget / len(stored))), most)
        if kept is not None:
            self.books[book], self._stored[book] = kept

    def rows(self, count: int, length: int, rng: np.random.Generator, book: int) -> ReplayRows | None:
        """Random rows: books, then pieces, then places are equally likely. Labels are the next tokens."""
        found = self._stretches(count, length + 1, rng, book)
        return None if found is None else ReplayRows(found[:, :-1], found[:, 1:])

    def pack(self) -> dict[str, Tensor]:
        """One array of bytes: a header with the number and length of each book's pieces, then the compressed pieces."""
        shapes = [[book, *pieces.shape, len(self._stored[book])] for book, pieces in self.books.items()]
        head = json.dumps(shapes).encode()
        content = len(head).to_bytes(8, "little") + head + b"".join(self._stored.values())
        return {"reservoir": torch.frombuffer(bytearray(content), dtype=torch.uint8).clone()}

    def unpack(self, tensors: dict[str, Tensor], model: HRMForCausalLM) -> None:
        """The same array."""
        content = tensors["reservoir"].numpy().tobytes()
        at = 8 + int.from_bytes(content[:8], "little")
        shapes: list[list[int]] = json.loads(content[8:at])
        self.books, self._stored = {}, {}
        for book, count, size, length in shapes:
            # Limits on the header, so that a hostile file cannot make this unpack without end.
            if any(type(n) is not int or n < 0 for n in (book, count, size, length)) or not 0 < count * size <= MOST:
                raise ValueError("it tells of pieces that cannot be")
            self._stored[book] = content[at : at + length]
            raw = bz2.BZ2Decompressor().decompress(self._stored[book], 4 * count * size + 1)
            width, rest = divmod(len(raw), count * size)
            if rest or width not in (1, 2, 4):
                raise ValueError("its pieces are not as large as it says")
            self.books[book] = _ids(np.frombuffer(raw, f"<u{width}").reshape(count, size), model).astype(np.int32)
            at += length

    def _stretches(self, count: int, size: int, rng: np.random.Generator, without: int) -> np.ndarray | None:
        """`size` tokens in a row from each of `count` random places, none of them in the book `without`."""
        known = [pieces for book, pieces in self.books.items() if book != without and pieces.shape[1] >= size]
        if not known or not count:
            return None
        found = np.empty((count, size), np.int64)
        for row, (a, b, c) in enumerate(rng.random((count, 3))):
            pieces = known[int(a * len(known))]
            piece = pieces[int(b * len(pieces))]
            start = int(c * (len(piece) - size + 1))
            found[row] = piece[start : start + size]
        return found


class DreamMemory(Reservoir):
    """A reservoir and a copy of the model from before the new book. A few pieces that are repeated often are learned by
    heart, and the rest is lost. So the targets are the old model's whole predictions (distillation, arXiv 1503.02531,
    eq. 2 at T = 1), also for text that it dreams from the pieces (self-generated replay)."""

    def __init__(self, share: float) -> None:
        super().__init__(share)
        self.teacher: HRMForCausalLM | None = None
        self.dreams: np.ndarray | None = None

    def begin(self, model: HRMForCausalLM, length: int, seed: int, book: int) -> None:
        """Keep a copy of the model and let it continue kept pieces."""
        rng = np.random.default_rng([seed, len(self.books)])
        prompts = self._stretches(DREAMS, min(PROMPT, length), rng, book)
        if prompts is None:
            return
        teacher = copy.deepcopy(model).eval().requires_grad_(False)
        parts = [self._dream(teacher, some, length + 1, rng) for some in np.array_split(prompts, 8)]
        # Set together, so that an interrupted dream leaves neither.
        self.teacher, self.dreams = teacher, np.concatenate(parts)

    def remember(
        self, book: int, tokens: np.ndarray, characters: int, length: int, seed: int, model: HRMForCausalLM
    ) -> None:
        """Keep pieces of the book; the copy and its dreams are dropped."""
        super().remember(book, tokens, characters, length, seed, model)
        self.teacher = self.dreams = None

    def rows(self, count: int, length: int, rng: np.random.Generator, book: int) -> ReplayRows | None:
        """Half kept pieces, half dreams, with the old model's predictions for both."""
        real = self._stretches(count - count // 2, length + 1, rng, book)
        if real is None or self.teacher is None or self.dreams is None:
            return None
        found = np.concatenate((real, self.dreams[rng.integers(0, len(self.dreams), count // 2)]))
        with torch.no_grad():
            ids = torch.from_numpy(found[:, :-1].copy()).to(self.teacher.device)
            out = self.teacher(ids, max_segments=1, halting="fixed", use_cache=False)
        return ReplayRows(found[:, :-1], found[:, 1:], torch.softmax(out.logits.float(), -1))

    def pack(self) -> dict[str, Tensor]:
        """The reservoir, and during a book the dreams and the old model's weights."""
        found = super().pack()
        if self.teacher is not None and self.dreams is not None:
            found["dreams"] = torch.from_numpy(self.dreams.astype(np.int32))
            found |= {f"teacher.{name}": tensor for name, tensor in self.teacher.state_dict().items()}
        return found

    def unpack(self, tensors: dict[str, Tensor], model: HRMForCausalLM) -> None:
        """The same groups. The copy has the present model's form, because models grow only between books."""
        super().unpack(tensors, model)
        self.teacher = self.dreams = None
        if "dreams" in tensors:
            self.dreams = _ids(tensors["dreams"].numpy(), model).astype(np.int64)
            self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
            weights = {n.removeprefix("teacher."): t for n, t in tensors.items() if n.startswith("teacher.")}
            self.teacher.load_state_dict(weights)

    def _dream(self, teacher: HRMForCausalLM, prompts: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
        """Rows of `length` tokens that begin with the prompts."""

        def tick(ids: Tensor, scores: object, **_: object) -> Tensor:
            self.asked()
            return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

        ids = torch.from_numpy(prompts).to(teacher.device)
        if prompts.shape[1] == length:
            return prompts
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            out = teacher.generate(
                ids, max_new_tokens=length - ids.shape[1], min_new_tokens=length - ids.shape[1], do_sample=True,
                top_k=0, max_segments=1, halting="fixed", attention_mask=torch.ones_like(ids), pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([tick]),
            )  # fmt: skip
        return out.cpu().numpy()


def _ids(tokens: np.ndarray, model: HRMForCausalLM) -> np.ndarray:
    """Tokens from a checkpoint; ValueError where the model does not know one."""
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu" or not tokens.size:
        raise ValueError("what is kept of old books are no rows of tokens")
    if int(tokens.min()) < 0 or int(tokens.max()) >= model.config.vocab_size:
        raise ValueError(f"token {int(tokens.max())} is not one of the {model.config.vocab_size} that the model knows")
    return tokens
