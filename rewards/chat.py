"""Asking a chat model: an OpenAI-compatible endpoint, or a vLLM server of our own, with a cache and a meter.

    question -> cache, else endpoint (retried, bounded in number) -> reply

For the rewards that a language model gives: `judge` and `verifier`.
"""

import asyncio
import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from rewards.chat_template import spoken
from rewards.control_tokens import kept_apart, of_folder
from rewards.types import Mark, RewardError

if TYPE_CHECKING:
    from rewards.config import AskingConfig

TOKENS_A_PRICE = 1_000_000
"""Prices are for so many tokens."""


class Meter:
    """What one group has cost."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(("requests", "cached", "prompt_tokens", "completion_tokens", "cost_usd"), 0.0)
        """Requests, those of them that the cache answered, tokens of both kinds, and dollars."""

    def add(self, **counts: float) -> None:
        """Count on."""
        for name, count in counts.items():
            self.counts[name] += count


class Chat:
    """A chat model that can be asked, by any number of coroutines at once on one event loop."""

    def __init__(self, config: "AskingConfig") -> None:
        """Connect, starting the server first where the endpoint is our own; RewardError where that cannot be."""
        import openai

        self._config = config
        self._control = None
        if config.base_url is None:
            from rewards.serving import serve

            base_url, key = serve(config.model, config.max_model_tokens, config.gpu_memory_utilization)
            self._control = of_folder(config.model)
        else:
            base_url, key = config.base_url, os.environ.get(config.api_key_variable) or "none"
        self._client = openai.AsyncOpenAI(
            base_url=base_url, api_key=key, max_retries=config.max_retries, timeout=config.seconds
        )
        self._cache = _Cache(config.cache)
        self._seats = asyncio.Semaphore(config.parallel)
        self._under_way: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def ask(self, text: str, meter: Meter, sample: int = 0) -> str:
        """Return the reply to one user turn; replies of different samples are drawn independently.

        What in it has the form of a control token is broken: the server would make one of it.

        Raises openai.OpenAIError once the retries are spent, RewardError for a reply without text.
        """
        config = self._config
        request: dict[str, Any] = {
            "model": config.model,
            "messages": [{"role": "user", "content": kept_apart(text, self._control)}],
            "max_tokens": config.max_tokens,
            "temperature": config.temperature,
        }
        if config.temperature > 0:
            request["seed"] = sample
        whole = [config.base_url, request, config.request]
        key = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
        meter.add(requests=1)
        async with self._under_way.setdefault(key, asyncio.Lock()):  # who asks the same meanwhile waits for the cache
            known = self._cache.get(key)
            if known is not None:
                meter.add(cached=1)
                return known
            async with self._seats:
                told = await self._client.chat.completions.create(**request, extra_body=config.request)
            usage = getattr(told, "usage", None)
            if usage is not None:
                self._count(meter, usage.prompt_tokens or 0, usage.completion_tokens or 0)
            reply = text_of(told)
            self._cache.put(key, reply)
            return reply

    @property
    def spent_usd(self) -> float:
        """Dollars since the cache was begun; without a file, since this process was."""
        return self._cache.spent_usd

    def _count(self, meter: Meter, prompt_tokens: int, completion_tokens: int) -> None:
        price = self._config.price
        cost = (prompt_tokens * price.prompt + completion_tokens * price.completion) / TOKENS_A_PRICE
        meter.add(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cost_usd=cost)
        self._cache.spend(cost)


class _Cache:
    """Replies by request, and dollars spent, in an SQLite file that outlives workers and runs; or in memory."""

    def __init__(self, path: str | None) -> None:
        try:
            if path is not None:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._rows = sqlite3.connect(path or ":memory:", timeout=10, isolation_level=None)
            self._rows.execute("PRAGMA journal_mode=WAL")
            self._rows.execute("CREATE TABLE IF NOT EXISTS replies (request TEXT PRIMARY KEY, reply TEXT NOT NULL)")
            self._rows.execute("CREATE TABLE IF NOT EXISTS spent (usd REAL NOT NULL)")
        except (sqlite3.Error, OSError) as error:
            raise RewardError(f"the cache {path} cannot be used: {error}") from error

    def get(self, key: str) -> str | None:
        found = self._first("SELECT reply FROM replies WHERE request = ?", key)
        return None if found is None else str(found)

    def put(self, key: str, reply: str) -> None:
        self._first("INSERT OR REPLACE INTO replies VALUES (?, ?)", key, reply)

    def spend(self, usd: float) -> None:
        if usd:
            self._first("INSERT INTO spent VALUES (?)", usd)

    @property
    def spent_usd(self) -> float:
        return self._first("SELECT COALESCE(SUM(usd), 0) FROM spent") or 0.0

    def _first(self, statement: str, *values: Any) -> Any:
        """Return the first value that the statement finds; a cache that fails is no reason to lose a reply."""
        try:
            row = self._rows.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            print(f"the cache of replies failed, and is done without: {error}", flush=True)
            return None
        return None if row is None else row[0]


def text_of(told: Any) -> str:
    """Return the text of an endpoint's reply; RewardError where it holds none, whatever else it is."""
    choices = getattr(told, "choices", None)
    message = getattr(choices[0], "message", None) if choices else None
    content = getattr(message, "content", None)
    if not isinstance(content, str) or not content.strip():
        raise RewardError(f"the endpoint's reply holds no text: {told!r:.300}")
    return content


async def gathered(asked: Sequence[Coroutine[Any, Any, str]], seconds: float) -> list[str | Mark]:
    """Return the replies that come in time, and for the others why there is none."""
    tasks = [asyncio.create_task(one) for one in asked]
    if not tasks:
        return []
    try:
        await asyncio.wait(tasks, timeout=seconds)
    finally:
        late = [task for task in tasks if task.cancel()]  # or all of them, where this is being given up
    found: list[str | Mark] = []
    for task in tasks:
        if task in late:
            found.append(Mark(cause="timeout", detail=f"no reply within {seconds:g} s"))
        elif (failure := task.exception()) is not None:
            found.append(Mark(cause="error", detail=f"{type(failure).__name__}: {failure}"[:500]))
        else:
            found.append(task.result())
    return found


def transcript(turns: Sequence[Mapping[str, Any]]) -> str:
    """Return a conversation as text: a single turn bare, several with who speaks. Raises ValueError for images."""
    if len(turns) == 1:
        return spoken(turns[0])
    return "\n\n".join(f"{turn['role']}: {spoken(turn)}" for turn in turns)


def filled(template: str, **parts: str) -> str:
    """Put each part where its name stands in braces; names within the parts stay, and so do other braces."""
    names = "|".join(map(re.escape, parts))
    return re.sub(rf"\{{({names})\}}", lambda found: parts[found[1]], template)
