"""Exact values of arithmetic expressions in texts, without `eval`: fractions, powers within bounds, percent signs."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

MAX_CHARS = 200  # of an expression
MAX_EXPONENT = 64
MAX_BITS = 4096
OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
LITERAL = re.compile(r"\d+(?:\.\d+)?|\.\d+")


class NotArithmetic(Exception):
    pass


def value_of(expression: str) -> Fraction:
    """Of digits, points, + - * / ** and brackets. Raises: NotArithmetic, for a division by zero too."""
    if len(expression) > MAX_CHARS:
        raise NotArithmetic
    exact = LITERAL.sub(lambda found: f"'{found[0]}'", expression)  # floats would round, and 007 is no literal
    try:
        return _value(ast.parse(exact.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError) as exc:
        raise NotArithmetic from exc


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and LITERAL.fullmatch(node.value):
        value = Fraction(node.value)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand) * (-1 if isinstance(node.op, ast.USub) else 1)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        value = _power(_value(node.left), _value(node.right))
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        value = OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    else:
        raise NotArithmetic
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise NotArithmetic
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT:
        raise NotArithmetic
    power = base ** int(exponent)
    if not isinstance(power, Fraction):
        raise NotArithmetic
    return power


def is_rounded(exact: Fraction, said: str) -> bool:
    """Is what is said the exact value, or that value rounded to the decimals which are said?"""
    shown = Fraction(said)
    if shown == exact:
        return True
    decimals = len(said.partition(".")[2])
    return decimals > 0 and abs(shown - exact) <= Fraction(1, 2 * 10**decimals)
