"""Learning one book after another: a character model that grows, remembers, and can be switched off at any moment."""

from hrm.continual.learner import Learner
from hrm.continual.memory import Dreams, Memory, Nothing, Old, Reservoir

__all__ = ["Dreams", "Learner", "Memory", "Nothing", "Old", "Reservoir"]
