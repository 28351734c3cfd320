"""Chat templates that somebody made to use up time or memory are stopped; all others are rendered as transformers does.

Most are tried with bounds a hundred times narrower, which they pass all the same: a test takes no seconds then.
"""

# ruff: noqa: E501 - a template is one line
import contextlib
import time
from typing import Any

import pytest

from rewards import template_costs
from rewards.bounded_template import LONGEST_TEMPLATE, apply_of, render
from rewards.chat_template import RunawayTemplateError, write
from stages.data.rendering import prompt_text
from stages.data.rows import DataError
from tests.chats import chat_of, tokenizer_of

MESSAGES = [{"role": "user", "content": "What is 1 plus 1?"}]
BOMBS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "three": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(9999) %}x{% endfor %}{% endfor %}{% endfor %}",
    "if": "{% for a in range(99999) %}{% for b in range(99999) if b < 0 %}{% endfor %}{% endfor %}",
    "times": '{{ "x" * 10**9 }}',
    "times2": '{{ "x" * 1000000000 }}',
    "lists": "{{ ([1] * 10000000)|length }}{{ ([1] * 100000000)|length }}",
    "pow2": "{{ 10 ** 100000000 }}",
    "square": "{% set ns = namespace(x=3) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "caller": "{% macro f(n) %}{{ caller(n) }}{{ caller(n) }}{% endmacro %}{% macro g(n) %}{% if n > 0 %}{% call(m) f(n-1) %}{{ g(m) }}{% endcall %}{% endif %}{% endmacro %}{{ g(60) }}",
    "recursive loop": "{% for x in [[1]] * 2 recursive %}{{ loop(x * 2 and [[x], [x]]) }}{% endfor %}",
    "double": "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "tilde": "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "list double": "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "nested": "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "nested json": "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x|tojson }}",
    "nested tuple": "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ ns.x == ns.x }}",
    "nested dict()": "{% set ns = namespace(x=1) %}{% for i in range(99) %}{% set ns.x = dict(a=ns.x, b=ns.x) %}{% endfor %}{{ ns.x|tojson }}",
    "varargs": "{% macro m(n) %}{% if n > 0 %}{{ m(n - 1, varargs, varargs) }}{% else %}{{ varargs }}{% endif %}{% endmacro %}{{ m(60, 1) }}",
    "fromkeys": "{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = {}.fromkeys(['a','b'], ns.x) %}{% endfor %}{{ ns.x|tojson }}",
    "center": "{{ 'x'|center(1000000000) }}",
    "center method": "{{ 'x'.center(10**9) }}",
    "zfill": "{{ '1'.zfill(1000000000) }}",
    "format": "{{ '%1000000000d' % 1 }}",
    "format filter": "{{ '%1000000000d'|format(1) }}",
    "format star": "{{ '%*d' % (1000000000, 1) }}",
    "str.format": "{{ '{:>1000000000}'.format(1) }}",
    "str.format nested": "{{ '{:>{w}}'.format(1, w=1000000000) }}",
    "format_map": "{{ '{x:>1000000000}'.format_map({'x': 1}) }}",
    "indent": "{{ ('a\n' * 1000000)|indent(1000000) }}",
    "replace": "{% set a = 'x' * 1000000 %}{{ a|replace('x', a) }}",
    "replace method": "{% set a = 'x' * 1000000 %}{{ a.replace('x', a) }}",
    "join": "{% set a = 'x' * 1000000 %}{{ a.join(a) }}",
    "join filter": "{% set a = 'x' * 1000000 %}{{ ([a] * 100000)|join(a) }}",
    "join filter 2": "{% set a = 'x' * 10000000 %}{{ (a, a)|join('') }}{{ range(99999)|join(a) }}",
    "batch": "{{ [1]|batch(1000000000, 0)|list }}",
    "slice": "{{ [1]|slice(1000000000)|list|length }}",
    "round": "{{ 1.5|round(100000000) }}",
    "json indent": "{{ messages|tojson(indent=1000000000) }}",
    "expandtabs": "{{ ('\t' * 100000).expandtabs(1000000) }}",
    "to_bytes": "{{ (1).to_bytes(10**9) }}",
    "lipsum": "{{ lipsum(n=1000000) }}",
    "map": "{% set a = 'x' * 10000000 %}{{ ([a] * 99999)|map('upper')|list|length }}",
    "select": "{% set a = 'x' * 1000000 %}{{ range(99999)|map('string')|map('replace', '1', a)|list|length }}",
    "sort": "{% set a = 'x' * 10000000 %}{{ ([a ~ 'b', a ~ 'c'] * 90000)|sort|length }}",
    "wordwrap": "{{ ('ab ' * 1000000)|wordwrap(1, wrapstring='x' * 1000000) }}",
    "output": "{% set a = 'x' * 10000000 %}{% for i in range(99999) %}{{ a }}{% endfor %}",
    "macro output": "{% set a = 'x' * 10000000 %}{% macro m() %}{% for i in range(99999) %}{{ a }}{% endfor %}{% endmacro %}{{ m() }}",
    "set block": "{% set a = 'x' * 10000000 %}{% set b %}{% for i in range(99999) %}{{ a }}{% endfor %}{% endset %}{{ b|length }}",
    "appending": "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = ns.x + ['x' * 100000] %}{% endfor %}",
    "split": "{{ (',' * 100000000).split(',')|length }}",
    "chars": "{{ ('x' * 100000000)|list|length }}",
    "strftime": "{{ strftime_now('%1000000000Y') }}",
    "translate": "{% set a = 'x' * 1000000 %}{{ a.translate({120: a}) }}",
    "cycler": "{% set c = cycler('x' * 100000000) %}{% for i in range(9999) %}{{ c.next() }}{% endfor %}",
    "pprint": "{{ ([[1]*100000]*100)|pprint|length }}",
    "in": "{% for i in range(99999) %}{% if 'y' in ('x' * 10000000) %}{% endif %}{% endfor %}",
    "xmlattr": "{{ {'a': 'x' * 100000000}|xmlattr|length }}",
    "safe center": "{{ ('x'|e).center(1000000000) }}",
    "safe format": "{{ ('{:>1000000000}'|e).format(1) }}",
    "safe times": "{{ ('x'|safe) * 1000000000 }}",
    "captured": "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set y %}{{ ns.x + ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "arguments": "{% macro f(x, n) %}{% if n > 0 %}{{ f(x + x, n - 1) }}{% endif %}{% endmacro %}{{ f('ab', 99) }}",
    "nested arguments": "{% macro f(x, n) %}{% if n > 0 %}{{ f([x, x], n - 1) }}{% else %}{{ x }}{% endif %}{% endmacro %}{{ f('ab', 60) }}",
    "unrolled": "{% set a0 = [1] %}" + "".join(f"{{% set a{n + 1} = [a{n}, a{n}] %}}" for n in range(60)) + "{{ a60 }}",
    "slices": "{% set a = 'x' * 1000000 %}" + "".join(f"{{% set b{n} = a[1:] %}}" for n in range(300)),
}
PLAIN = [
    "{% for m in messages %}{{ loop.index0 }}{{ m.role }}{{ '' if loop.last else ',' }}{% endfor %}",
    "{% for m in messages[::-1] if m.role == 'user' %}{{ m['content'] | trim | upper }}{% else %}none{% endfor %}",
    "{% set ns = namespace(n=0, text='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.text = ns.text + "
    "m.content ~ ns.n %}{% endfor %}{{ ns.text }}{{ ns.n % 2 == 0 }}{{ 7 // 2 * 3 - 2 ** 5 }}",
    "{% macro say(m, end='.') %}<{{ m.role }}>{{ m.content + end }}{% for a in varargs %}{{ a }}{% endfor %}{% endmacro %}"
    "{% for m in messages %}{{ say(m, '!', 1, 2) }}{% if loop.first %}{% continue %}{% endif %}{% endfor %}",
    "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ {'b': [1, none], 'a': 'ü'} | tojson(sort_keys=true) }}",
    "{{ messages | map(attribute='role') | join(', ') }}{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{{ 'a-b-c'.split('-')[1:] | join('+') }}{{ 'x'.replace('x', 'yy') }}{{ '%03d|%s' % (7, 'z') }}{{ '{:>5}|{k}'.format(1, k=2) }}",
    "{% set tools = ['a', 'b'] + ['c'] %}{{ tools }}{{ (1, 2) + (3,) }}{{ [0] * 3 }}{{ 'ab' * 2 }}{{ tools | batch(2) | list }}",
    "{% set block %}{{ bos_token }}{{ missing }}{{ missing | default('d') }}{% endset %}{{ block }}{{ range(3) | list }}",
    "{% generation %}{{ messages[0].content }}{% endgeneration %}{{ messages[0]['items'] is defined }}{{ messages[0].get('x', 5) }}",
    "{{ dict(a=1) }}{{ [3, 1, 2] | sort }}{{ ['b', 'a'] | unique | list }}{{ 'a b' | title | center(9) }}{{ 3.14159 | round(2) }}",
    "{% macro twice() %}{{ caller(1) }}{{ caller(2) }}{% endmacro %}{% call(n) twice() %}[{{ n }}]{% endcall %}",
]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_costs, "MOST_MADE", 1 << 21)
    monkeypatch.setattr(template_costs, "SECONDS", 0.5)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_would_take_all_time_or_memory_is_stopped_and_named(name: str) -> None:
    start = time.process_time()
    with pytest.raises(Exception) as caught:
        render(BOMBS[name], "their/model", {"messages": MESSAGES})
    assert time.process_time() - start < 2
    told = isinstance(caught.value, RunawayTemplateError) and "the chat template of their/model" in str(caught.value)
    assert told or isinstance(caught.value, RecursionError) or "lipsum" in str(caught.value), caught.value


@pytest.mark.exhaustive  # its short form is in the table, and check is asked the same
def test_two_nested_loops_of_a_hundred_thousand_are_stopped_by_the_real_bounds() -> None:
    start = time.process_time()
    with pytest.raises(RunawayTemplateError, match="would make more than 268,435,456 characters"):
        render(BOMBS["loops"], "m", {"messages": MESSAGES})
    assert time.process_time() - start < 10


def test_calls_without_end_are_stopped_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_costs, "SECONDS", 0.3)
    text = "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    with pytest.raises(RunawayTemplateError, match=r"takes more than 0\.3 s of processor time"):
        render(text, "m", {"messages": MESSAGES})


def test_a_namespace_is_not_written_out() -> None:
    text = "{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = namespace(a=ns.x, b=ns.x) %}{% endfor %}{{ ns.x }}"
    assert render(text, "m", {}) == "<Namespace>"


def test_a_template_of_a_megabyte_is_refused() -> None:
    with pytest.raises(RunawayTemplateError, match="of m has 1,000,000 characters"):
        render("x" * 1_000_000, "m", {})
    assert LONGEST_TEMPLATE < 1_000_000


def test_no_other_form_of_a_conversation_is_tried_on_such_a_template() -> None:
    tried = []

    def apply(messages: Any, **given: Any) -> str:
        tried.append(messages)
        raise RunawayTemplateError("too much")

    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}
    turns: list[Any] = [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": [call]}]
    with pytest.raises(RunawayTemplateError, match="too much"):
        write(apply, turns, add_generation_prompt=False)
    assert len(tried) == 1


@pytest.mark.parametrize("name", ["qwen3", "llama3", "gemma", "mistral"])
def test_templates_of_models_are_rendered_as_transformers_does(name: str) -> None:
    tokenizer = tokenizer_of(name)
    turns = [*MESSAGES, {"role": "assistant", "content": "<think>\n1+1\n</think>\n\n2"}, *MESSAGES]
    for asks in (True, False):
        ours = apply_of(tokenizer)(turns, add_generation_prompt=asks, date_string="today")
        assert ours == tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=asks, date_string="today"
        )


@pytest.mark.parametrize("text", PLAIN)
def test_what_templates_do_is_done_as_transformers_does_it(text: str) -> None:
    tokenizer = tokenizer_of("llama3")
    turns = [*MESSAGES, {"role": "assistant", "content": " 2 \n"}]
    theirs = tokenizer.apply_chat_template(turns, tokenize=False, chat_template=text)
    given = {**tokenizer.special_tokens_map, "messages": turns, "tools": None, "add_generation_prompt": False}
    assert render(text, "m", given) == theirs


@pytest.mark.usefixtures("narrow")
def test_training_and_sampling_stop_at_a_row_for_which_the_template_runs_away() -> None:
    base = "{% for m in messages %}{% if 'go' in m.content %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}{{ m.content }}{% endfor %}"
    chat = chat_of("qwen3", base)
    rows = [{"prompt": [{"role": "user", "content": said}]} for said in ("hi", "go")]
    assert prompt_text(chat, rows[0]) == "hi"
    with pytest.raises(DataError, match=r"the chat template of .* would make more than"):
        prompt_text(chat, rows[1])


def test_what_is_written_is_in_proportion_to_what_was_given() -> None:
    with pytest.raises(RunawayTemplateError, match=r"writes 1,000,000 characters of a conversation of \d\d"):
        render("{{ 'x' * 1000000 }}", "m", {"messages": MESSAGES})
    long = [{"role": "user", "content": "x" * 2_000_000}]
    assert len(render("{{ messages[0].content + messages[0].content }}", "m", {"messages": long})) == 4_000_000


@pytest.mark.parametrize(
    "text",
    [
        "{{ " + "(" * 5000,
        "{{ " + "(" * 5000 + ")" * 5000 + " }}",
        "{% if a %}" * 5000,
        "{{ [" + "[" * 5000,
        "{{ a" + ".b" * 50_000 + " }}",
        "{{ -" + "-" * 5000 + "1 }}",
        "{% for a in b %}" * 30 + "x" + "{% endfor %}" * 30,
        "{{ a" + "|trim" * 5000 + " }}",
        "{{ 1" + " + 1" * 20_000 + " }}",
        "{{ a" + " ~ a" * 20_000 + " }}",
    ],
)
def test_templates_that_are_hard_to_read_are_read_or_refused_in_little_time(text: str) -> None:
    start = time.process_time()
    with contextlib.suppress(Exception):
        render(text, "m", {"a": "x", "b": [1]})
    assert time.process_time() - start < 5
