"""Chat templates, rendered within bounds: a template comes with a model, from whoever made it, and is a program.

As transformers renders them, word for word, but that a render has so much processor time, and may make so many
characters and items in all. Jinja's own sandbox bounds neither. Turns of loops and calls of macros are counted, and
what makes a value that lasts (`set`, arguments, captured output) counts its size; what is only written out is counted
with all that is written, so that ordinary templates are hardly slower.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from types import BuiltinMethodType
from typing import Any

from jinja2 import TemplateError as JinjaError
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer
from typing_extensions import override

from rewards.chat_template import Apply, RunawayTemplateError
from rewards.template_costs import (
    AS_THEY_ARE,
    GROWING,
    ITEM,
    MOST_DIGITS,
    WIDE,
    WIDEST,
    added,
    charged,
    charging,
    concat,
    contents,
    joined,
    made,
    require_little,
    require_narrow,
    spent,
    tojson,
    turn,
)

LONGEST_TEMPLATE = 1 << 18
"""Characters; the longest of known models has some ten thousands."""
MOST_ADDED, MOST_TIMES = 1 << 18, 16
"""What is written has at most as many characters more than so many times what was given: all of it becomes tokens."""
_OF_DICTS = frozenset(dir(dict))


class Refusal(JinjaError):
    """What a template says by ``raise_exception``."""


def render(text: str, of: str, given: Mapping[str, Any]) -> str:
    """Return what a template writes with these variables; ``of`` says whose it is.

    Raises RunawayTemplateError past the bounds, and whatever else a template may raise.
    """
    try:
        template = compiled(text)
        spent.begin()
        written = concat(template.root_render_func(template.new_context(dict(given))))
        if len(written) > MOST_ADDED and len(written) > MOST_ADDED + MOST_TIMES * contents(given):
            raise RunawayTemplateError(f"writes {len(written):,} characters of a conversation of {contents(given):,}")
        return written
    except (RunawayTemplateError, MemoryError) as error:
        what = str(error) or "takes more memory than there is"
        raise RunawayTemplateError(
            f"the chat template of {of} {what}: it is broken or hostile; use the template of a model that you trust"
        ) from error


def apply_of(tokenizer: Any) -> Apply:
    """Return a transformers tokenizer's `apply_chat_template`, without tokens, as ``apply(messages, **given)``."""

    def apply(messages: Any, *, tools: Any = None, **given: Any) -> str:
        if not messages:
            raise ValueError("there is no message for the chat template to write")
        named = {**tokenizer.special_tokens_map, **given, "messages": messages, "tools": tools}
        text = tokenizer.get_chat_template(tools=tools)
        return render(
            text,
            str(tokenizer.name_or_path) or "the tokenizer",
            {"documents": None, "add_generation_prompt": False, **named},
        )

    return apply


@lru_cache(maxsize=64)
def compiled(text: str) -> Any:
    """Return a template compiled. Raises jinja2's TemplateError, and what Python's own compiler raises."""
    if len(text) > LONGEST_TEMPLATE:
        raise RunawayTemplateError(f"has {len(text):,} characters, and may have {LONGEST_TEMPLATE:,}")
    spent.begin()  # what is constant is made now
    return _environment().from_string(text)


class _Generation(Extension):
    """transformers' own mark around what the assistant says; it writes nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    def __repr__(self) -> str:
        return "<Namespace>"  # Jinja's writes out all that is in it, and in what is in that


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja with the settings of transformers, and bounds."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        ours = {
            "tojson": tojson,
            "strop turn": turn,
            "strop made": made,
            "strop added": added,
            "strop joined": joined,
        }
        charged = {name: charging(name, each) for name, each in self.filters.items() if name not in AS_THEY_ARE}
        self.filters.update({**charged, **ours})
        del self.globals["lipsum"]
        self.globals.update(namespace=_Namespace, raise_exception=_refuse, strftime_now=_strftime_now)

    @override
    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Counting().visit(tree)
        tree.set_environment(self)
        return tree

    @override
    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict and attribute in obj and attribute not in _OF_DICTS:  # Jinja would fail at first, slowly
            return obj[attribute]
        return super().getattr(obj, attribute)

    @override
    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%":
            if isinstance(left, str):
                require_narrow(left, right if isinstance(right, tuple) else (right,), {})
        elif isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > MOST_DIGITS:
                raise RunawayTemplateError(f"works with a number of {bits:,} bits")
        elif operator == "*" and (isinstance(left, int) or isinstance(right, int)):
            times, what = (left, right) if isinstance(left, int) else (right, left)
            if hasattr(what, "__len__"):
                spent.make(max(times, 0) * len(what) * (1 if isinstance(what, str | bytes) else ITEM))
                return made(super().call_binop(context, operator, left, right))
        return super().call_binop(context, operator, left, right)

    @override
    def call(self, context: Any, called: Any, /, *given: Any, **named: Any) -> Any:
        kind = type(called)
        if kind is BuiltinMethodType or kind is Macro:  # both are safe; what Jinja passes on for others is left out
            named.pop("_loop_vars", None)
            named.pop("_block_vars", None)
            if kind is Macro:
                return called(context.eval_ctx, *given, **named)
            name = called.__name__
            if name in GROWING:
                require_little((called.__self__, *given), named)
            result = called(*given, **named)
            return made(result) if name == "fromkeys" else charged(result) if hasattr(result, "__len__") else result
        owner = getattr(called, "__self__", None)
        if isinstance(owner, str) and called.__name__ in GROWING:  # of a text that is marked safe
            require_little((owner, *given), named)
        result = super().call(context, called, *given, **named)
        return made(result) if called is dict else charged(result)

    @override
    def wrap_str_format(self, value: Any) -> Any:
        formatted = super().wrap_str_format(value)
        if formatted is None:
            return None

        def bounded(*given: Any, **named: Any) -> str:
            require_narrow(value.__self__, given, named)
            return str(formatted(*given, **named))

        return bounded

    concat = staticmethod(concat)


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    return _Environment()


class _Counting(NodeTransformer):
    """Puts a count into each loop and macro, and around what makes values of others, unless it is only looked at."""

    def __init__(self) -> None:
        self._lasts = True
        """Whether what is visited makes a value that outlasts its statement."""

    @contextmanager
    def _lasting(self, lasts: bool) -> Iterator[None]:
        before, self._lasts = self._lasts, lasts
        yield
        self._lasts = before

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        with self._lasting(False):
            return self.generic_visit(node)

    def visit_If(self, node: nodes.If) -> nodes.Node:
        with self._lasting(False):
            node.test = self.visit(node.test)
        for part in (node.body, node.elif_, node.else_):
            part[:] = [self.visit(each) for each in part]
        return node

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        node.node = self.visit(node.node)
        called, node.node = node.node, nodes.Const(None)
        with self._lasting(True):  # a macro may go on with what it is given
            self.generic_visit(node)
        node.node = called
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        if node.test is not None:
            node.test = nodes.And(_filtered("strop turn", nodes.Const(True)), node.test)
        return self._counted(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        self.generic_visit(node)
        return self._counted(node)

    visit_CallBlock = visit_Macro

    def visit_Add(self, node: nodes.Add) -> nodes.Node:
        if not self._lasts:
            return self.generic_visit(node)
        terms: list[nodes.Expr] = []
        first: nodes.Expr = node
        while isinstance(first, nodes.Add):
            terms.append(first.right)
            first = first.left
        return _filtered("strop added", nodes.List([self.visit(each) for each in (first, *reversed(terms))]))

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        if not self._lasts:
            return self.generic_visit(node)
        return _filtered("strop joined", nodes.List([self.visit(each) for each in node.nodes]))

    def visit_List(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        is_target = getattr(node, "ctx", "load") != "load"
        is_plain = all(isinstance(each, nodes.Const) for each in node.items)
        return node if is_target or is_plain or not self._lasts else _filtered("strop made", node)

    visit_Tuple = visit_Dict = visit_List

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered("strop made", node) if self._lasts and isinstance(node.arg, nodes.Slice) else node

    def visit_Name(self, node: nodes.Name) -> nodes.Node:
        is_rest = self._lasts and node.ctx == "load" and node.name in ("varargs", "kwargs")
        return _filtered("strop made", node) if is_rest else node

    @staticmethod
    def _counted(node: Any) -> nodes.Node:
        node.body.insert(0, nodes.ExprStmt(_filtered("strop turn", nodes.Const(True))))
        return nodes.Node.set_lineno(node, node.lineno)


def _filtered(name: str, node: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno or 1)


def _refuse(message: str) -> None:
    raise Refusal(message)


def _strftime_now(form: str) -> str:
    if WIDE.search(form):
        raise RunawayTemplateError(f"asks for a width of more than {WIDEST:,} characters")
    return datetime.now().strftime(form)
