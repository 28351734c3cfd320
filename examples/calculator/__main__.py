"""Write the task into a folder: `python -m examples.calculator --out artifacts/calculator --seed 17`."""

from examples.calculator.problems import make_splits
from examples.task import command_line

VERSION = 1  # raise it when the same seed would give other files

if __name__ == "__main__":
    command_line("calculator", __doc__, VERSION, make_splits)
