"""Functions that the policy may call: the environment behind `environment: {functions: [...]}`.

A call is JSON between tags, as the chat templates of Qwen and Hermes show them to the model::

    <tool_call>
    {"name": "multiply", "arguments": {"a": 6, "b": 7}}
    </tool_call>

Each call of a turn is answered by one message of the role ``tool``; what goes wrong is said there too, for the policy
to learn from. A turn without a call ends the conversation.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rewards.types import Message, RewardError
from rollout.tool_results import told

_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


class Tools:
    """An `Environment` of functions, by their names. Their annotations and docstrings become the schemas."""

    def __init__(self, functions: Sequence[Callable[..., Any]]) -> None:
        """Raises RewardError for two functions of one name, and for one that has to be awaited."""
        if awaited := [function.__name__ for function in functions if inspect.iscoroutinefunction(function)]:
            raise RewardError(f"tool {awaited[0]!r} is a coroutine function; a tool is a plain one")
        self._functions = {function.__name__: function for function in functions}
        if len(self._functions) < len(functions):
            raise RewardError(f"two tools have one name: {[function.__name__ for function in functions]}")

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The functions' JSON schemas."""
        return [_schema(function) for function in self._functions.values()]

    def reset(self, prompt: Sequence[Message], columns: Mapping[str, Any]) -> None:
        """Nothing of the row is needed."""

    def step(self, response: str) -> list[Message] | None:
        """Answer each call of the turn."""
        calls = _CALL.findall(response)
        return [self._answer(call) for call in calls] or None

    def _answer(self, call: str) -> Message:
        name = ""
        try:
            asked = json.loads(call)
            name, arguments = asked["name"], asked.get("arguments", {})
            if name not in self._functions:
                raise LookupError(f"there is no tool {name!r}; there are {sorted(self._functions)}")
            content = told(self._functions[name](**arguments))
        except (Exception, SystemExit) as error:
            content = f"error: {type(error).__name__}: {error}"
        return {"role": "tool", "name": str(name), "content": content}


def _schema(function: Callable[..., Any]) -> dict[str, Any]:
    from transformers.utils import get_json_schema

    try:
        schema: dict[str, Any] = get_json_schema(function)
    except Exception as error:
        raise RewardError(
            f"tool {function.__name__!r} cannot be shown to the policy: {error}. It needs annotated arguments and a "
            "docstring with an `Args:` line for each"
        ) from error
    return schema
