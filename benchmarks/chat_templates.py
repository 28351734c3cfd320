"""What bounds cost on ordinary chat templates: the same conversations rendered by transformers and by us, in turn.

    python -m benchmarks.chat_templates

Prints, by template and number of turns, microseconds of processor time of transformers' own rendering, the least of
forty rounds, and how many times that ours takes.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from rewards.bounded_template import render

TEMPLATES = Path(__file__).parents[1] / "tests" / "templates"
ROUNDS, CONVERSATIONS = 40, 40
SCHEMA = {"type": "object", "properties": {name: {"type": "string"} for name in "abcd"}, "required": ["a"]}
TOOLS = [
    {"type": "function", "function": {"name": f"f{n}", "description": "d", "parameters": SCHEMA}} for n in range(4)
]


def main() -> None:
    """Print a line a case."""
    for file in sorted(TEMPLATES.glob("*.jinja")):
        for num_turns in (2, 8, 32):
            for tools in (None, TOOLS):
                _compare(file, num_turns, tools)


def _compare(file: Path, num_turns: int, tools: Any) -> None:
    text = file.read_text()
    asked = {"role": "user", "content": "What is the weather in Paris today? " * 8}
    told = {"role": "assistant", "content": "It is sunny and warm, with little wind. " * 20}
    turns = [asked, told] * (num_turns // 2)
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    given = {**special, "messages": turns, "tools": tools, "documents": None, "add_generation_prompt": True}

    def theirs() -> str:
        written, _ = render_jinja_template(
            conversations=[turns], tools=tools, chat_template=text, add_generation_prompt=True, **special
        )
        return str(written[0])

    def ours() -> str:
        return render(text, "m", given)

    assert ours() == theirs(), file
    pairs = [(_seconds(theirs), _seconds(ours)) for _ in range(ROUNDS)]
    before, after = (min(each) for each in zip(*pairs, strict=True))
    what = f"{file.stem:16} {num_turns:3} turns {'with' if tools else 'no':>4} tools"
    print(
        f"{what}  transformers {1e6 * before / CONVERSATIONS:7.1f} us  ours {after / before:.2f} times that", flush=True
    )


def _seconds(work: Callable[[], str]) -> float:
    start = time.process_time()
    for _ in range(CONVERSATIONS):
        work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
