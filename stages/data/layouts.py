"""Layouts of the common data sets: how their columns become `prompt`, `completion`, `chosen`, `rejected` and `tools`.

Each layout is a function from a row to our columns. What a row of two layouts means is not guessed: it is refused.
`docs/data.md` has an example of each.
"""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

Turn = dict[str, Any]
Columns = dict[str, Any]

OURS = ("prompt", "completion", "chosen", "rejected")
SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
    "system": "system", "developer": "developer", "observation": "tool", "function_response": "tool", "tool": "tool",
    "function_call": "assistant", "tool_call": "assistant",
}  # fmt: skip
"""Who speaks in ShareGPT's `from` -> role."""
HH_TURN = re.compile(r"\n\n(Human|Assistant):")
TWO_SIDES = ("chosen", "rejected")


class LayoutError(ValueError):
    """A row whose columns have no one meaning."""


def arrange(raw: Mapping[str, Any], mapped: frozenset[str] = frozenset()) -> Columns:
    """Return a row with our columns made of those of its layout; one that has no layout known here as it is.

    ``mapped`` are those of our columns that the recipe names: what they hold is not looked for elsewhere. Raises
    LayoutError where columns contradict each other, or are not what their layout says.
    """
    row = {name: value for name, value in raw.items() if not (name == "prompt" and value is None)}
    row |= _openai_preference(row)
    for name in ("messages", "conversations", *OURS):
        row |= {name: [_turn(each) for each in row[name]]} if _is_list_of_dicts(row.get(name)) else {}
    for name in TWO_SIDES:
        row |= {name: [_turn(row[name])]} if _is_turn(row.get(name)) else {}
    row |= _tools(row)
    if not mapped & {"prompt", "completion"}:
        conversation, alpaca = _conversation(row), _alpaca(row)
        if conversation and alpaca:
            raise LayoutError("has a conversation and 'instruction', too; leave one out, or map the right one")
        row |= conversation | alpaca
    row |= _pair_of_texts(row)
    return row | _pair_of_conversations(row)


def _conversation(row: Mapping[str, Any]) -> Columns:
    """`messages` (ultrachat_200k, tulu-3-sft-mixture, OpenAI's files) or `conversations` (ShareGPT), taken apart."""
    found = {name: row[name] for name in ("messages", "conversations") if _is_list_of_dicts(row.get(name))}
    if len(found) == 2 and found["messages"] != found["conversations"]:
        raise LayoutError("has 'messages' and 'conversations', which differ; leave one out, or map the right one")
    if not found:
        return {}
    [(name, turns), *_] = found.items()
    turns = _with_system(row, turns) if name == "conversations" else turns
    answered = len(turns) > 1 and turns[-1].get("role") == "assistant"
    made: Columns = {"prompt": turns[:-1], "completion": turns[-1:]} if answered else {"prompt": turns}
    if "prompt" in row and "completion" in row and answered:
        if _is_start(row["prompt"], made["prompt"]) and _is_start(row["completion"], made["completion"]):
            return made
    elif "prompt" not in row or _is_start(row["prompt"], turns):
        return made
    raise LayoutError(
        f"has 'prompt' and {name!r}, and the prompt is no beginning of the conversation; say which one is meant, for "
        "instance columns: {prompt: prompt}"
    )


def _alpaca(row: Mapping[str, Any]) -> Columns:
    """`instruction`, `input`, and `output` or a pair: Alpaca's."""
    answers = [name for name in ("output", *TWO_SIDES) if isinstance(row.get(name), str)]
    if not isinstance(row.get("instruction"), str) or "prompt" in row or not answers:
        return {}
    turns = [
        {"role": role, "content": text}
        for two in row.get("history") or ()
        for role, text in zip(("user", "assistant"), two, strict=True)
    ]
    asked = "\n\n".join(part for part in (row["instruction"], row.get("input") or "") if part)
    prompt = _with_system(row, [*turns, {"role": "user", "content": asked}])
    return {"prompt": prompt, **({"completion": row["output"]} if "output" in answers else {})}


def _pair_of_texts(row: Mapping[str, Any]) -> Columns:
    """`chosen` and `rejected` as texts of a whole conversation with `Human:` and `Assistant:`, as HH-RLHF has them."""
    sides = {name: row[name] for name in TWO_SIDES if isinstance(row.get(name), str)}
    prompt = row.get("prompt")
    if isinstance(prompt, str) and HH_TURN.match(prompt):
        asked = _turns_of_text(prompt.rstrip().removesuffix("\n\nAssistant:"))
        return {"prompt": asked, **{name: text.strip() for name, text in sides.items()}}
    if prompt is None and len(sides) == 2 and all(HH_TURN.match(text) for text in sides.values()):
        return {name: _turns_of_text(text) for name, text in sides.items()}
    return {}


def _pair_of_conversations(row: Mapping[str, Any]) -> Columns:
    """`chosen` and `rejected` as whole conversations; the prompt that they share is taken once.

    A `prompt` next to them, as ultrafeedback_binarized has it, must be what is asked in them.
    """
    if not all(_is_list_of_dicts(row.get(name)) for name in TWO_SIDES):
        return {}
    chosen, rejected = (row[name] for name in TWO_SIDES)
    if all(side[0].get("role") == "assistant" for side in (chosen, rejected)):
        return {}
    same = next((at for at, (a, b) in enumerate(zip_longest(chosen, rejected)) if a != b), len(chosen) - 1)
    if not all(len(side) > same and side[same].get("role") == "assistant" for side in (chosen, rejected)) or not same:
        one, other = (side[same] if len(side) > same else None for side in (chosen, rejected))
        raise LayoutError(
            f"the prompts of the two sides differ in turn {same + 1}, {one!r:.60} and {other!r:.60}; a pair is two "
            "answers to one prompt"
        )
    shared = chosen[:same]
    if "prompt" in row and not _is_asked_in(row["prompt"], shared):
        raise LayoutError(
            "has 'prompt', 'chosen' and 'rejected', and what the two sides begin with is not the prompt; leave out the "
            "column 'prompt', or the prompt in both sides"
        )
    return {"prompt": shared, "chosen": chosen[same:], "rejected": rejected[same:]}


def _openai_preference(row: Mapping[str, Any]) -> Columns:
    """`input`, `preferred_output`, `non_preferred_output`: OpenAI's files of pairs."""
    asked = row.get("input")
    if not isinstance(asked, Mapping) or "preferred_output" not in row or "non_preferred_output" not in row:
        return {}
    tools = {"tools": asked["tools"]} if asked.get("tools") else {}
    sides = {"chosen": row["preferred_output"], "rejected": row["non_preferred_output"]}
    return {"prompt": asked.get("messages"), **sides, **tools}


def _tools(row: Mapping[str, Any]) -> Columns:
    """`tools` as JSON text or a list, each a function's schema with or without OpenAI's wrapper; or `functions`."""
    given = row.get("tools") or (row.get("functions") if _conversations_in(row) else None)
    if not given:
        return {"tools": None} if "tools" in row else {}
    tools = _from_json(given, "tools") if isinstance(given, str) else given
    if not isinstance(tools, list) or not all(_is_tool(tool) for tool in tools):
        raise LayoutError(f"'tools' holds {given!r:.60}; expected a list of functions' schemas, each with a name")
    return {"tools": [dict(t) if "function" in t else {"type": "function", "function": dict(t)} for t in tools] or None}


def _turn(given: Mapping[str, Any]) -> Turn:
    """Return one turn with a role and OpenAI's tool calls, without keys that hold nothing."""
    named = _sharegpt_turn(given) if "from" in given and "role" not in given else given
    turn = {name: value for name, value in named.items() if value is not None or name == "content"}
    if "function_call" in turn and "tool_calls" not in turn:
        turn["tool_calls"] = [{"type": "function", "function": turn.pop("function_call")}]
    if turn.get("role") == "function":
        turn["role"] = "tool"
    if isinstance(turn.get("tool_calls"), str):
        turn["tool_calls"] = _from_json(turn["tool_calls"], "tool_calls")
    if not turn.get("tool_calls"):
        turn.pop("tool_calls", None)
    if turn.get("tool_calls"):
        turn.setdefault("content", None)
        turn["tool_calls"] = [_call(call) for call in turn["tool_calls"]]
    if _is_list_of_dicts(turn.get("content")) and all(part.get("type") == "text" for part in turn["content"]):
        turn["content"] = "".join(str(part.get("text", "")) for part in turn["content"])
    return turn


def _sharegpt_turn(turn: Mapping[str, Any]) -> Turn:
    speaker, said = turn["from"], turn.get("value")
    if speaker not in SPEAKERS:
        raise LayoutError(f"a turn is from {speaker!r}; known are {', '.join(SPEAKERS)}")
    rest = {name: value for name, value in turn.items() if name not in ("from", "value")}
    if speaker not in ("function_call", "tool_call"):
        return {"role": SPEAKERS[speaker], "content": said, **rest}
    calls = _from_json(said, speaker)
    return {"role": "assistant", "content": None, "tool_calls": calls if isinstance(calls, list) else [calls], **rest}


def _call(call: Any) -> dict[str, Any]:
    """Return a tool call in OpenAI's form."""
    if isinstance(call, Mapping) and isinstance(call.get("name"), str):
        own = {name: value for name, value in call.items() if name not in ("name", "arguments")}
        call = {**own, "function": {"name": call["name"], "arguments": call.get("arguments", {})}}
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise LayoutError(f"a tool call is {call!r:.80}; it has a 'function' with a 'name' and 'arguments'")
    return {"type": "function", **call, "function": dict(function)}


def _with_system(row: Mapping[str, Any], turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns after the text of the column `system`, where they have no system turn of their own."""
    system = row.get("system")
    if not isinstance(system, str) or not system or (turns and turns[0].get("role") == "system"):
        return list(turns)
    return [{"role": "system", "content": system}, *turns]


def _turns_of_text(text: str) -> list[Turn]:
    """Return the turns of a text that begins with `\\n\\nHuman:`; two turns of one speaker in a row are one."""
    _, *parts = HH_TURN.split(text)
    turns: list[Turn] = []
    for speaker, said in zip(parts[::2], parts[1::2], strict=True):
        role = SPEAKERS["human" if speaker == "Human" else "assistant"]
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] = f"{turns[-1]['content']}\n\n{said.strip()}".strip()
        else:
            turns.append({"role": role, "content": said.strip()})
    return turns


def _is_start(given: Any, turns: Sequence[Turn]) -> bool:
    """Say whether a column says the same as a conversation, as its first turns or as the text of the first one."""
    if isinstance(given, str):
        first = next((turn for turn in turns if turn.get("role") != "system"), {})
        return str(first.get("content")).strip() == given.strip()
    return isinstance(given, list) and bool(given) and list(turns[: len(given)]) == given


def _is_asked_in(prompt: Any, shared: Sequence[Turn]) -> bool:
    if isinstance(prompt, str):
        asked = [str(turn.get("content")).strip() for turn in shared if turn.get("role") == "user"]
        return prompt.strip() in (asked[:1] + asked[-1:])
    return bool(prompt == shared)


def _conversations_in(row: Mapping[str, Any]) -> bool:
    return any(_is_list_of_dicts(row.get(name)) for name in ("messages", "conversations", *OURS))


def _is_list_of_dicts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and ("role" in value or "from" in value)


def _is_tool(tool: Any) -> bool:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)


def _from_json(text: Any, name: str) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError) as error:
        raise LayoutError(f"{name!r} holds {text!r:.60}, which is not JSON ({error})") from error
