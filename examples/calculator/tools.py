"""The calculator. Named in recipes as `examples.calculator.tools:calculate`."""

import ast
import operator
from collections.abc import Callable

OPERATIONS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}
MOST_CHARACTERS = 100


def calculate(expression: str) -> str:
    """Work out an expression in whole numbers.

    Args:
        expression: Numbers with +, -, *, // and parentheses, such as 386*47.
    """
    if len(expression) > MOST_CHARACTERS:
        raise ValueError(f"an expression has {MOST_CHARACTERS} characters at most")
    return str(_value(ast.parse(expression, mode="eval").body))


def _value(node: ast.AST) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        return OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    raise ValueError("only whole numbers, +, -, *, // and parentheses")
