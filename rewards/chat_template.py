"""What a chat template is given: messages, tools and settings, in the form that it can write.

Everything that makes text of messages goes through `write`: training, sampling, length counts and reward models.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rewards.control_tokens import ControlTokens
from rewards.types import Message

Apply = Callable[..., str]
"""``apply(messages, add_generation_prompt=..., tools=..., **settings)`` -> text: a tokenizer's template."""
CALL_ID = "call{:05d}"
"""Nine letters and digits, as the templates of Mistral's models demand of the id of a tool call."""
MARK = "7031859264"
"""What is looked for in a template's text, in place of a called tool's name, of what one answers or somebody says."""


class TemplateError(ValueError):
    """A conversation that a chat template refuses, or of which it leaves something out."""


class RunawayTemplateError(TemplateError):
    """A template that takes more time, or makes more text, than any conversation needs."""


def write(
    apply: Apply,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
    control: ControlTokens | None = None,
) -> str:
    """Return a conversation as the template writes it; with ``control``, what others than the template have spelled
    like a control token is marked as text.

    Templates differ in what they take for a tool call: next to it no content, or an empty one; any id, or one of nine
    letters and digits; arguments as an object, or as its JSON text. The first form is taken that the template does not
    refuse, or write as the word None. Raises TemplateError where it refuses them all, or leaves out a call or what
    somebody else than the assistant says: the assistant's thoughts alone may be left out.
    """
    given = {"add_generation_prompt": add_generation_prompt, "tools": tools or None, **(settings or {})}
    refusal: Exception | None = None
    for form in _forms(messages):
        try:
            text = apply(form, **given)
        except RunawayTemplateError:
            raise
        except Exception as error:  # a template may raise anything
            refusal = refusal or error
            continue
        if text.count("None") > _num_nones(apply, form, given):
            refusal = refusal or ValueError("it writes content that is null as None")
            continue
        marked, num_marks = _marked(form)
        if num_marks and apply(marked, **given).count(MARK) < num_marks:
            raise TemplateError(
                "the chat template leaves out calls of tools, or what tools answer; use the template of a model that "
                "calls tools, or conversations without them"
            )
        _require_said(apply, form, given, text)
        return text if control is None else _with_marks(apply, form, given, text, control)
    assert refusal is not None
    what = str(refusal).removeprefix("the chat template refuses the conversation: ")
    raise TemplateError(f"the chat template refuses the conversation: {what}") from refusal


def spoken(turn: Message) -> str:
    """Return what a turn says, and the tools that it calls, for people and judges. Raises ValueError for images."""
    text = turn["content"] or ""
    if not isinstance(text, str):
        raise ValueError(f"only text can be shown to a language model here, not {text!r:.80}")
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in turn.get("tool_calls") or ()]
    return "\n".join([*([text] if text or not calls else []), *calls])


def tools_of(columns: Mapping[str, Any]) -> Sequence[Mapping[str, Any]] | None:
    """Return the schemas of tools that a row brings along."""
    return columns.get("tools") or None


def settings_of(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a row's template is given by name, such as ``enable_thinking``."""
    return columns.get("chat_template_kwargs") or {}


def _with_marks(
    apply: Apply, form: Sequence[Mapping[str, Any]], given: Mapping[str, Any], text: str, control: ControlTokens
) -> str:
    """Return what a template has written, with marks where what is said spells control tokens."""
    marked = control.marked_turns(form, given)
    if marked is None:
        return text
    turns, values = marked
    try:
        return control.agreed(text, apply(turns, **values))
    except Exception as error:
        raise TemplateError(
            f"the chat template refuses the conversation once it is marked what in it is text: {error}"
        ) from error


def _require_said(apply: Apply, form: Sequence[Mapping[str, Any]], given: Mapping[str, Any], text: str) -> None:
    """Raise TemplateError where a text leaves out what a system, developer or user turn says.

    A template may write a content otherwise, so what is not there is looked for once more, as a mark in its place.
    """
    quiet = [
        at
        for at, turn in enumerate(form)
        if turn["role"] not in ("assistant", "tool")
        and isinstance(turn["content"], str)
        and turn["content"].strip() not in text
    ]
    for at in quiet:
        marked = [*form[:at], {**form[at], "content": MARK}, *form[at + 1 :]]
        try:
            is_there = MARK in apply(marked, **given)
        except Exception:  # the template takes this content apart, so it does not overlook it
            continue
        if not is_there:
            raise TemplateError(
                f"the chat template leaves out what the {form[at]['role']} says in turn {at + 1}; rename the role to "
                "one that it writes, or leave the turn out"
            )


def _forms(messages: Sequence[Message]) -> Iterator[list[dict[str, Any]]]:
    """Yield the conversation in each form that a template may want; one without tool calls has only its own."""
    plain = [{key: value for key, value in turn.items() if key != "weight"} for turn in messages]
    if not any(turn["role"] == "tool" or turn.get("tool_calls") for turn in plain):
        yield plain
        return
    for base in (plain, _with_content(plain)) if any(turn.get("content") is None for turn in plain) else (plain,):
        for turns in (base, _with_short_ids(base)):
            for is_text in (False, True):
                yield [_with_arguments(turn, is_text) for turn in turns]


def _with_content(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the conversation with an empty text where a turn has none."""
    return [{**turn, "content": ""} if turn.get("content") is None else dict(turn) for turn in messages]


def _num_nones(apply: Apply, form: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> float:
    """Return how often a template writes None where no content is null; infinity where there is nothing to compare."""
    full = _with_content(form)
    try:
        return apply(full, **given).count("None") if full != form else float("inf")
    except Exception:  # a template that wants null
        return float("inf")


def _with_short_ids(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the conversation with ids of tool calls that any template takes; answers without one are in order."""
    short: dict[Any, str] = {}
    num_calls, open_ids = 0, list[str]()
    found = []
    for turn in messages:
        changed = dict(turn)
        if turn.get("tool_calls"):
            open_ids = [CALL_ID.format(num_calls + at) for at in range(len(turn["tool_calls"]))]
            num_calls += len(open_ids)
            pairs = list(zip(turn["tool_calls"], open_ids, strict=True))
            short |= {call.get("id") or own: own for call, own in pairs}
            changed["tool_calls"] = [{**call, "id": own} for call, own in pairs]
        elif turn["role"] == "tool":
            own = short.get(turn.get("tool_call_id")) or (open_ids[0] if open_ids else CALL_ID.format(0))
            open_ids = [each for each in open_ids if each != own]
            changed["tool_call_id"] = own
        found.append(changed)
    return found


def _with_arguments(turn: Mapping[str, Any], is_text: bool) -> dict[str, Any]:
    """Return a turn whose calls have their arguments as text, or as objects."""
    if not turn.get("tool_calls"):
        return dict(turn)
    calls = []
    for call in turn["tool_calls"]:
        arguments = call["function"].get("arguments", {})
        if is_text and not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        elif not is_text and isinstance(arguments, str):
            arguments = _parsed(arguments)
        calls.append({**call, "function": {**call["function"], "arguments": arguments}})
    return {**turn, "tool_calls": calls}


def _parsed(text: str) -> Any:
    try:
        value = json.loads(text) if text.strip() else {}
    except ValueError:  # what a model wrote need not be JSON; a template that takes text may still write it
        return text
    return value if isinstance(value, dict) else text


def _marked(form: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Return the conversation with a mark in every call and every answer of a tool, and how many these are."""
    marked, num_marks = [], 0
    for turn in form:
        changed = dict(turn)
        if turn.get("tool_calls"):
            calls = turn["tool_calls"]
            changed["tool_calls"] = [{**call, "function": {**call["function"], "name": MARK}} for call in calls]
            num_marks += len(calls)
        if turn["role"] == "tool":
            changed["content"] = MARK
            num_marks += 1
        marked.append(changed)
    return marked, num_marks
