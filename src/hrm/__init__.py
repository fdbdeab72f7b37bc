"""Recursive reasoning models whose answers come back verified: `hrm.load("runs/sudoku").solve("53..7....")`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hrm import _auto

if TYPE_CHECKING:
    from hrm.core.probe import Motion as Motion
    from hrm.core.probe import Probe as Probe
    from hrm.core.probe import Spread as Spread
    from hrm.core.probe import States as States
    from hrm.core.probe import probing as probing
    from hrm.either import evaluate as evaluate
    from hrm.either import load as load
    from hrm.either import solve as solve
    from hrm.either import train as train
    from hrm.files.reading import UserError as UserError
    from hrm.puzzles.arc.measuring import answer_tasks as answer_tasks
    from hrm.puzzles.config import Config as Config
    from hrm.puzzles.config import Strategy as Strategy
    from hrm.puzzles.data import read_puzzles as read_puzzles
    from hrm.puzzles.pictures.gif import gif as gif
    from hrm.puzzles.pictures.page import page as page
    from hrm.puzzles.solving import Answer as Answer
    from hrm.puzzles.solving import Solver as Solver
    from hrm.puzzles.tasks import Puzzle as Puzzle
    from hrm.puzzles.tasks import PuzzleError as PuzzleError
    from hrm.puzzles.tasks import Task as Task
    from hrm.settings import load_preset as load_preset
    from hrm.text.chat.session import Session as Session
    from hrm.text.config import LearnConfig as LearnConfig
    from hrm.text.config import TextConfig as TextConfig
    from hrm.text.data import Packed as Packed
    from hrm.text.data import make_tokenizer as make_tokenizer
    from hrm.text.data import open_text as open_text
    from hrm.text.data.chat import chat_prompt as chat_prompt
    from hrm.text.data.growing import grow_tokenizer as grow_tokenizer
    from hrm.text.data.growing import new_characters as new_characters
    from hrm.text.data.growing import rebuild_tokenizer as rebuild_tokenizer
    from hrm.text.data.gym import gym_sets as gym_sets
    from hrm.text.learning.growth import admit as admit
    from hrm.text.learning.growth import carry_over as carry_over
    from hrm.text.learning.growth import carry_over_average as carry_over_average
    from hrm.text.learning.growth import grow_depth as grow_depth
    from hrm.text.learning.growth import grow_vocabulary as grow_vocabulary
    from hrm.text.learning.growth import layers_for as layers_for
    from hrm.text.learning.learner import Learner as Learner
    from hrm.text.learning.memory import Memory as Memory
    from hrm.text.load import TextModel as TextModel
    from hrm.text.measuring.lm_eval import lm_eval_adapter as lm_eval_adapter
    from hrm.text.model import HRMConfig as HRMConfig
    from hrm.text.model import HRMForCausalLM as HRMForCausalLM
    from hrm.text.model import HRMForSequenceClassification as HRMForSequenceClassification
    from hrm.text.model import HRMModel as HRMModel
    from hrm.text.model.loss import token_loss as token_loss
    from hrm.text.quality.copying import TrainingText as TrainingText
    from hrm.text.quality.scale import Scale as Scale
    from hrm.text.writing.generation import Sampling as Sampling
    from hrm.text.writing.generation import generate as generate

__version__ = "0.1.0"

# torch takes a second to import, so every name is fetched when it is first asked for.
_PLACES = {
    "hrm.core.probe": ("Motion", "Probe", "Spread", "States", "probing"),
    "hrm.either": ("evaluate", "load", "solve", "train"), "hrm.files.reading": ("UserError",),
    "hrm.settings": ("load_preset",), "hrm.puzzles.config": ("Config", "Strategy"),
    "hrm.puzzles.arc.measuring": ("answer_tasks",), "hrm.puzzles.data": ("read_puzzles",),
    "hrm.puzzles.solving": ("Answer", "Solver"), "hrm.puzzles.tasks": ("Puzzle", "PuzzleError", "Task"),
    "hrm.puzzles.pictures.gif": ("gif",), "hrm.puzzles.pictures.page": ("page",),
    "hrm.text.config": ("LearnConfig", "TextConfig"),
    "hrm.text.model": ("HRMConfig", "HRMForCausalLM", "HRMForSequenceClassification", "HRMModel"),
    "hrm.text.model.loss": ("token_loss",), "hrm.text.load": ("TextModel",),
    "hrm.text.data": ("Packed", "make_tokenizer", "open_text"), "hrm.text.data.chat": ("chat_prompt",),
    "hrm.text.data.gym": ("gym_sets",),
    "hrm.text.data.growing": ("grow_tokenizer", "new_characters", "rebuild_tokenizer"),
    "hrm.text.learning.growth":
        ("admit", "carry_over", "carry_over_average", "grow_depth", "grow_vocabulary", "layers_for"),
    "hrm.text.learning.learner": ("Learner",), "hrm.text.learning.memory": ("Memory",),
    "hrm.text.measuring.lm_eval": ("lm_eval_adapter",), "hrm.text.chat.session": ("Session",),
    "hrm.text.writing.generation": ("Sampling", "generate"), "hrm.text.quality.copying": ("TrainingText",),
    "hrm.text.quality.scale": ("Scale",),
}  # fmt: skip
_HOME = {name: module for module, names in _PLACES.items() for name in names}
__all__ = ["__version__", *_HOME]  # pyright: ignore[reportUnsupportedDunderAll]
_auto.register()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hrm' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
