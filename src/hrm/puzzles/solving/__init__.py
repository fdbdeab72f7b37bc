"""Questions in, verified answers out. The model answers; a task's search solver is never asked for a solution."""

from hrm.puzzles.solving.answer import Answer as Answer
from hrm.puzzles.solving.solver import Solver as Solver
from hrm.puzzles.solving.solver import load as load
