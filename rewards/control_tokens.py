"""Which tokens only a chat template may write, and where a text that somebody says is spelled like one of them.

A template writes one string, of its own words (`<|im_start|>user`) and of what others say; a tokenizer makes a token of
`<|im_end|>` whoever wrote it. A row of data, a user or a tool could so end a turn and begin another. Here such places
are marked as text; `rewards.encoding` makes ordinary tokens of them.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewards import thinking
from rewards.hub import BRANCH

AS_TEXT = "\udcff"
"""Stands before what is spelled like a control token and is text. It is half of a character: no other text has it."""
_ESCAPED = "\\udcff"
"""The same, as JSON writes it in ASCII."""
_BARRED = re.compile(r"<[|\uff5c][^\s<>]*>|<[^\s<>]*[|\uff5c]>")
_TAG = re.compile(r"<[^\s<>]+>|\[[^\s\[\]]+\]")
_CALL = re.compile(
    r"tool[_▁]?calls?|tool▁sep|function_?calls?\b|python_(?:tag|start|end)|(?:START|END)_ACTION|\[(?:ARGS|CALL_ID)\]"
    r"|</?arg_(?:key|value)>|<\|constrain\|>|<\|\"\|>",
    re.IGNORECASE,
)
_ANYBODYS = re.compile(
    r"<[|\uff5c][^\s<>]{1,60}>|<[^\s<>]{1,60}[|\uff5c]>|<(?:/?s|bos|eos|pad|unk|/?tool_response|(?:start|end)_of_turn)>"
    r"|<</?SYS>>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|gMASK)\]"
)
"""What has the form of a control token in one of the families."""
ZERO_WIDTH = "\u200b"


def is_own(token: str) -> bool:
    """Say whether an assistant may write a token itself: one around its thoughts, or of its calls of tools."""
    return thinking.is_mark(token) or _CALL.search(token) is not None


class ControlTokens:
    """The control tokens of one tokenizer.

    These are its special tokens, those of the form `<|...|>`, tags around thoughts and calls of tools, and other tags
    that its template writes: neither Qwen's `<tool_response>` nor what begins a turn of DeepSeek's is flagged special.
    Words and white space that were added to a vocabulary are none. Nobody's words become control tokens, but for tags
    around thoughts and calls: these stay tokens in the assistant's own turns, and the plain ones among them (`<think>`
    where it is not special) in those of users and systems too, as everywhere else; in what tools answer, and in calls,
    schemas and settings, they do not.
    """

    def __init__(self, added: Mapping[int, Any], template: str, named: Iterable[str] = ()) -> None:
        """``added``: the tokenizer's added tokens by id; ``named``: those that have a role, such as the EOS."""
        special = {token.content for token in added.values() if token.special} | set(named)
        self.ids = {
            token.content: number
            for number, token in added.items()
            if token.content
            and (
                token.content in special
                or _BARRED.fullmatch(token.content)
                or is_own(token.content)
                or (_TAG.fullmatch(token.content) and token.content in template)
            )
        }
        """Their ids, by their texts."""
        own = [token for token in self.ids if is_own(token)]
        plain = [token for token in own if token not in special and not _BARRED.fullmatch(token)]
        pattern = _any_of(self.ids)
        self._starts = re.compile(f"(?={pattern})")
        self.written = re.compile(f"(?<!{AS_TEXT}){pattern}")
        """Matches them where they are no text."""
        self._strict = _Rule(self.ids, ())
        self._of_users = _Rule(self.ids, plain)
        self._of_assistant = _Rule(self.ids, own)

    def spelled_in(self, turn: Mapping[str, Any]) -> str | None:
        """Return the first control token that a turn spells without being allowed to; None where it spells none."""
        for key, value in turn.items():
            rule = self._rule(turn, key)
            if rule.may_be_in(value) and (found := next(filter(None, map(rule.spelled, _texts(value))), None)):
                return found
        return None

    def marked(self, text: str, role: str) -> str:
        """Return what somebody says with marks wherever a control token could begin, go on or end.

        `settled` takes those away that turn out to be needless, once the text stands where it belongs.
        """
        return self._rule({"role": role}, "content").marked(text)

    def marked_turns(self, turns: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> tuple[Any, Any] | None:
        """Return what a template is given, with all that is said marked; None where none of it can spell anything."""
        may = any(self._rule(turn, key).may_be_in(value) for turn in turns for key, value in turn.items())
        if not may and not any(map(self._strict.may_be_in, given.values())):
            return None
        marked = [{key: _each(value, self._rule(turn, key)) for key, value in turn.items()} for turn in turns]
        return marked, {name: _each(value, self._strict) for name, value in given.items()}

    def settled(self, text: str) -> str:
        """Return a text of which what others say was marked with marks only before whole control tokens."""
        if AS_TEXT not in text:
            return text
        written, num_marks, end = set[int](), 0, 0
        for at in self._places(text):
            num_marks, end = num_marks + text.count(AS_TEXT, end, at), at
            written.add(at - num_marks)
        plain, parts, end = unmarked(text), list[str](), 0
        for at in self._places(plain):
            if at not in written:
                parts += [plain[end:at], AS_TEXT]
                end = at
        return "".join([*parts, plain[end:]])

    def agreed(self, plain: str, marked: str) -> str:
        """Return what a template has written, where others' words spell control tokens: settled; else as it was.

        ``plain`` is what it writes of the words as they are, ``marked`` of the marked ones. They may differ in more
        than marks, since templates look into what is said.
        """
        if _ESCAPED not in plain:
            marked = marked.replace(_ESCAPED, AS_TEXT)
        settled = self.settled(marked)
        num_written = sum(1 for _ in self._places(settled))
        return settled if AS_TEXT in settled or num_written != sum(1 for _ in self._places(plain)) else plain

    def _places(self, text: str) -> Iterator[int]:
        """Yield where control tokens begin that are not marked as text, overlapping ones too."""
        starts = (found.start() for found in self._starts.finditer(text))
        return (at for at in starts if text[at - 1 : at] != AS_TEXT)

    def _rule(self, turn: Mapping[str, Any], key: str) -> "_Rule":
        if key == "tool_calls" or turn.get("role") == "tool":
            return self._strict
        return self._of_assistant if turn.get("role") == "assistant" else self._of_users


class _Rule:
    """What one kind of speaker may write of the control tokens."""

    def __init__(self, tokens: Collection[str], allowed: Collection[str]) -> None:
        refused = [token for token in tokens if token not in allowed]
        self._edges = _edges(refused)
        self._signs = sorted(
            {next((letter for letter in edge if not letter.isalnum()), edge[0]) for edge in self._edges}
        )
        letters = {letter for token in refused for letter in token if not letter.isalnum()}
        letters |= {end for token in refused for end in (token[0], token[-1])}
        kept = f"({_any_of(allowed)})"
        self._refused = re.compile(f"{kept}|({_any_of(refused)})")
        self._letters = re.compile(f"{kept}|[{re.escape(''.join(sorted(letters)))}]" if letters else kept)

    def may_be_in(self, value: Any) -> bool:
        """Say whether a text, or one in a tree, has a piece of a control token; cheap, since all texts are asked."""
        if not isinstance(value, str):
            return any(map(self.may_be_in, _texts(value))) if value else False
        for sign in self._signs:  # most texts have none
            if sign in value:
                return any(edge in value for edge in self._edges)
        return False

    def spelled(self, text: str) -> str | None:
        """Return the first control token in a text."""
        return next((found[2] for found in self._refused.finditer(text) if found[2]), None)

    def marked(self, text: str) -> str:
        """Mark both ends and all signs of whatever may become a control token, also by what a template writes next to
        it, or leaves out of it.
        """
        if not self.may_be_in(text):
            return text
        return self._letters.sub(lambda found: found[0] if found[1] else AS_TEXT + found[0], text)


def kept_apart(text: str, control: ControlTokens | None) -> str:
    """Return a text for a model whose server writes the template and makes the tokens.

    What has the form of a control token, of ``control`` or of any family, gets a character of no width inside.
    """
    for pattern in (_ANYBODYS, *([control.written] if control else [])):
        text = pattern.sub(lambda found: found[0][0] + ZERO_WIDTH + found[0][1:], text)
    return text


def of_folder(model: str, revision: str | None) -> ControlTokens | None:
    """Return the control tokens of a model, a folder or a Hub id at a revision, by its tokenizer alone.

    None where it has no fast one.
    """
    from tokenizers import Tokenizer

    file, at = Path(model) / "tokenizer.json", {"revision": revision or BRANCH}
    try:
        tokenizer = Tokenizer.from_file(str(file)) if Path(model).is_dir() else Tokenizer.from_pretrained(model, **at)
    except Exception:  # the library raises nothing narrower
        return None
    return ControlTokens(tokenizer.get_added_tokens_decoder(), "")


def of_tokenizer(tokenizer: Any) -> ControlTokens:
    """Return the control tokens of a tokenizer of transformers'."""
    template = tokenizer.chat_template or ""
    templates = template.values() if isinstance(template, dict) else [template]
    try:
        added = tokenizer.added_tokens_decoder
    except NotImplementedError:  # mistral-common's, which makes no control tokens of text
        added = {}
    return ControlTokens(added, "\n".join(templates), map(str, tokenizer.all_special_tokens))


def unmarked(text: str) -> str:
    """Return a text without marks."""
    return text.replace(AS_TEXT, "")


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in a tree, names too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _texts(name)
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _each(value: Any, rule: _Rule) -> Any:
    """Return a tree with its texts marked, names too."""
    if isinstance(value, str):
        return rule.marked(value)
    if isinstance(value, Mapping):
        return {_each(name, rule): _each(each, rule) for name, each in value.items()}
    return [_each(each, rule) for each in value] if isinstance(value, list | tuple) else value


def _edges(tokens: Iterable[str]) -> list[str]:
    """Return pieces of which a text has one that spells a token whole, or all but a letter at an end of it."""
    edges = set()
    for token in tokens:
        edges |= {token[:2], token[1:3], token[-2:]} if _BARRED.fullmatch(token) else {token[:4], token[-4:]}
    return sorted(edges)


def _any_of(texts: Collection[str]) -> str:
    """Return a pattern of the longest of the texts that is there; one that matches nothing where there are none."""
    if not texts:
        return r"(?!)"
    rests: dict[str, list[str]] = {}
    for text in texts:
        if text:
            rests.setdefault(text[0], []).append(text[1:])
    branches = [re.escape(head) + (_any_of(rest) if any(rest) else "") for head, rest in sorted(rests.items())]
    return f"(?:{'|'.join(branches)}){'?' if '' in texts else ''}"
