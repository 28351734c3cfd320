"""Environments in their workers, and answers of several turns."""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
from pydantic import TypeAdapter

from rewards.scoring_config import ScoringConfig
from rewards.types import Mark, Message, RewardError
from rollout.config import EnvironmentConfig, OwnEnvironmentConfig, ToolsConfig
from rollout.environment import Environment, Move, Reply, open_environment, tools_of
from rollout.episodes import Turns
from rollout.tools import Tools
from rollout.types import Completion, GenerationRequest, Prompt, request_seed
from tests.fakes import FakePool, completion
from tests.rollout.environments import GuessTheNumber, multiply, shout, undocumented, wait

SCORING = ScoringConfig(deadline_s=3, max_retries=0)
HERE = "tests.rollout.environments"


def own(name: str, **kwargs: Any) -> OwnEnvironmentConfig:
    return OwnEnvironmentConfig(import_path=f"{HERE}:{name}", **kwargs)


def move(response: str | None, state: bytes | None = None, **columns: Any) -> Move:
    return Move(state=state, prompt=[{"role": "user", "content": "?"}], columns=columns, response=response)


def test_a_recipe_names_functions_or_a_class() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(EnvironmentConfig)
    assert adapter.validate_python({"functions": [f"{HERE}:multiply"]}) == ToolsConfig(functions=[f"{HERE}:multiply"])
    assert adapter.validate_python({"import_path": f"{HERE}:Slow", "max_turns": 2}) == own("Slow", max_turns=2)
    with pytest.raises(ValueError, match="should match pattern"):
        adapter.validate_python({"import_path": "no_colon"})


@pytest.mark.processes
def test_a_conversation_goes_on_in_whatever_worker_is_free() -> None:
    with open_environment(own("GuessTheNumber", kwargs={"polite": True}), ScoringConfig(num_workers=2)) as lane:
        assert lane is not None and lane.wait_ready() is None
        first = [lane.submit(move(str(guess), secret=7)).result() for guess in (3, 9, 5)]
        assert [reply.messages for reply in first] == [
            ({"role": "user", "content": f"{word}, please"},) for word in ("higher", "lower", "higher")
        ]
        then = [lane.submit(move("7", reply.state)).result() for reply in first]
        assert all(reply.messages is None and reply.columns == {"guesses": 2} for reply in then)
        begun = lane.submit(move(None, secret=7)).result()
        assert begun == Reply(columns={"guesses": 0})


@pytest.mark.processes
def test_coroutines_of_many_conversations_wait_together() -> None:
    with open_environment(own("Slow", concurrency=8), SCORING) as lane:
        assert lane is not None
        lane.wait_ready()
        start = time.monotonic()
        futures = [lane.submit(move("1", secret=1)) for _ in range(8)]
        assert all(future.result().messages is None for future in futures)
        assert time.monotonic() - start < 1.2  # one after the other they take 1.7 s


@pytest.mark.processes
@pytest.mark.parametrize(
    ("response", "cause", "detail"),
    [
        ("hang", "timeout", "environment 'Obedient' was running, for 3"),
        ("exit", "killed", "exit code 3 while environment 'Obedient' was running"),
        ("raise", "error", "raised LookupError: no such place"),
        ("cancel", "error", "raised CancelledError"),
        ("hold", "malformed", "cannot be pickled between two steps: TypeError"),
        ("columns", "malformed", "columns or tools that JSON cannot hold"),
        ("nothing", "malformed", "must answer with messages"),
        ("text", "malformed", "it returned 'well'"),
        ("number", "malformed", "must answer with messages"),
        ("half", "malformed", "must answer with messages"),
        ("assistant", "malformed", "speaks as 'assistant'"),
        ("long", "malformed", "said 2000000 characters"),
    ],
)
def test_whatever_an_environment_does_the_next_conversation_finds_one(response: str, cause: str, detail: str) -> None:
    with open_environment(own("Obedient"), SCORING) as lane:
        assert lane is not None
        reply = lane.submit(move(response)).result()
        assert reply.messages is None
        assert reply.failure is not None and reply.failure.cause == cause and detail in reply.failure.detail
        assert lane.submit(move("hello")).result().messages == ({"role": "user", "content": "go on"},)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (own("Nothing"), "has no attribute 'Nothing'"),
        (own("Stepless"), r"has no step\(\)"),
        (own("GuessTheNumber", kwargs={"rude": True}), "unexpected keyword argument 'rude'"),
        (OwnEnvironmentConfig(import_path="no.such:Thing"), "No module named 'no'"),
        (ToolsConfig(functions=[f"{HERE}:undocumented"]), "'undocumented' cannot be shown to the policy"),
        (ToolsConfig(functions=[f"{HERE}:shout", f"{HERE}:shout"]), "two tools have one name"),
    ],
)
def test_an_environment_that_cannot_be_had_says_why(config: Any, message: str) -> None:
    with pytest.raises(RewardError, match=message), open_environment(config, SCORING):
        pass


@pytest.mark.processes
def test_what_travels_is_of_plain_types() -> None:
    with open_environment(own("Strings"), SCORING) as lane:
        assert lane is not None
        reply = lane.submit(move("x")).result()
        assert type(reply.columns["word"]) is str and reply.messages is not None
        assert {type(text) for text in reply.messages[0].values()} == {str}


@pytest.mark.processes
def test_an_environment_that_cannot_travel_is_found_when_it_begins() -> None:
    with open_environment(own("HoldsALock"), SCORING) as lane:
        assert lane is not None
        reply = lane.submit(move(None)).result()
        assert reply.failure is not None and "cannot be pickled" in reply.failure.detail


@pytest.mark.processes
def test_schemas_come_from_annotations_and_docstrings() -> None:
    [schema] = tools_of(ToolsConfig(functions=[f"{HERE}:multiply"]), SCORING) or []
    assert schema["function"]["name"] == "multiply" and schema["function"]["description"] == "Multiply two numbers."
    assert schema["function"]["parameters"]["properties"]["a"] == {"type": "integer", "description": "One."}
    assert tools_of(own("Obedient"), SCORING) is None
    assert tools_of(None, SCORING) is None


def call(name: Any, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


@pytest.mark.parametrize(
    ("response", "answers"),
    [
        ("It is 42.", None),
        (call("multiply", a=6, b=7), ["42"]),
        (f"First {call('multiply', a=2, b=3)} then {call('shout', text='ho')}", ["6", "HO"]),
        (call("divide", a=6, b=7), ["error: LookupError: there is no tool 'divide'"]),
        (call("multiply", a=6), ["error: TypeError: multiply() missing"]),
        (call("shout", text=3), ["error: AttributeError: "]),
        (call(["multiply"]), ["error: TypeError: "]),
        ("<tool_call>6 * 7</tool_call>", ["error: JSONDecodeError: "]),
        ("<tool_call>[1]</tool_call>", ["error: TypeError: "]),
        ('<tool_call>{"name": "multiply", "arguments"', ["error: JSONDecodeError: "]),
    ],
)
def test_calls_are_answered_one_by_one_and_errors_are_told(response: str, answers: list[str] | None) -> None:
    said = Tools([multiply, shout]).step(response)
    assert (said is None) == (answers is None)
    for message, expected in zip(said or [], answers or [], strict=True):
        assert message["role"] == "tool" and message["content"].startswith(expected), message


def test_functions_that_cannot_be_tools_are_refused() -> None:
    with pytest.raises(RewardError, match="'wait' is a coroutine function"):
        Tools([wait])
    with pytest.raises(RewardError, match="needs annotated arguments"):
        _ = Tools([undocumented]).tools


class LaneHere:
    """An environment in this process."""

    def __init__(self, make: Callable[[], Environment]) -> None:
        self._make = make
        self._all: list[Environment] = []
        self.moves: list[Move] = []

    def submit(self, move: Move) -> "Future[Reply]":
        self.moves.append(move)
        future = Future[Reply]()
        future.set_result(self._reply(move))
        return future

    def _reply(self, move: Move) -> Reply:
        if move.state is None:
            self._all.append(self._make())
            self._all[-1].reset(move.prompt, move.columns)
        number = len(self._all) - 1 if move.state is None else int(move.state)
        try:
            said = None if move.response is None else self._all[number].step(move.response)
        except ValueError as error:
            return Reply(failure=Mark(cause="error", detail=str(error)))
        columns = getattr(self._all[number], "columns", {})
        return Reply(state=str(number).encode(), messages=tuple(said) if said is not None else None, columns=columns)


EOS = 9
WORDS = {"higher": (71, 72), "lower": (73,)}
PROMPT = Prompt(id="a", messages=[{"role": "user", "content": "?"}], token_ids=(1, 2), columns={"secret": 5})


def tokens_of(messages: Sequence[Message], prompt: Prompt) -> tuple[int, ...]:
    strange = [message["content"] for message in messages if message["content"] not in WORDS]
    if strange:
        raise ValueError(f"no tokens for {strange[0]!r}")
    return tuple(token for message in messages for token in WORDS[message["content"]])


def played(
    script: dict[tuple[int, ...], list[Completion]], *, max_turns: int = 8, **asked: Any
) -> tuple[list[Any], FakePool, LaneHere]:
    pool, lane = FakePool(script), LaneHere(GuessTheNumber)
    turns = Turns(pool, lane, lambda ids: "".join(map(str, ids[:-1])), tokens_of, max_turns=max_turns)  # type: ignore[arg-type]
    given: dict[str, Any] = {"num_completions": 2, "max_tokens": 20, "temperature": 1.0, "seed": 50, "eos_ids": (EOS,)}
    request = GenerationRequest(prompt_ids=PROMPT.token_ids, **{**given, **asked})
    return list(turns.submit(PROMPT, request).result(5)), pool, lane


def test_tokens_go_on_as_they_were_sampled_with_what_the_environment_said_between_them() -> None:
    guesses = {
        (1, 2): [completion(3, EOS), completion(5, EOS, version=4)],
        (1, 2, 3, EOS, 71, 72): [completion(8, EOS, version=1)],
        (1, 2, 3, EOS, 71, 72, 8, EOS, 73): [completion(5, EOS, version=2)],
    }
    [long, short], pool, _ = played(guesses, deadline_s=30.0)
    assert long.completion == Completion(
        token_ids=(3, EOS, 71, 72, 8, EOS, 73, 5, EOS),
        logprobs=(-1.0, -1.0, 0.0, 0.0, -1.0, -1.0, 0.0, -1.0, -1.0),
        versions=(0, 0, 0, 0, 1, 1, 1, 2, 2),
        finish_reason="stop",
        given=((2, 4), (6, 7)),
    )
    assert long.completion.sampled == [0, 1, 4, 5, 7, 8]
    assert [turn["content"] for turn in long.turns] == ["3", "higher", "8", "lower", "5"]
    assert long.response == "5" and long.columns == {"guesses": 3}
    assert short.completion == completion(5, EOS, version=4) and short.columns == {"guesses": 1}
    first, second, third = pool.requests
    assert (first.num_completions, second.num_completions, third.num_completions) == (2, 1, 1)
    assert (first.max_tokens, second.max_tokens, third.max_tokens) == (20, 16, 13)
    assert [request.deadline_s for request in pool.requests] == [30.0] * 3, "of each turn"
    assert [second.seed, third.seed] == [request_seed(50, 1), request_seed(50, 2)]


def test_each_completion_goes_on_by_a_seed_of_its_own() -> None:
    script = {(1, 2): [completion(3, EOS)], (1, 2, 3, EOS, 71, 72): [completion(5, EOS)]}
    _, pool, _ = played(script)
    assert [request.seed for request in pool.requests[1:]] == [request_seed(50, 1), request_seed(51, 1)]


@pytest.mark.parametrize(
    ("asked", "max_turns", "finish_reason", "token_ids"),
    [
        ({}, 2, "turns", (3, EOS, 71, 72, 4, EOS)),
        ({}, 1, "turns", (3, EOS)),
        ({"max_tokens": 8}, 8, "length", (3, EOS, 71, 72, 4, EOS)),  # two for the next words, none for a turn
        ({"max_tokens": 4}, 8, "length", (3, EOS)),
    ],
)
def test_a_conversation_ends_where_turns_or_tokens_are_up(
    asked: dict[str, Any], max_turns: int, finish_reason: str, token_ids: tuple[int, ...]
) -> None:
    script = {(1, 2): [completion(3, EOS)], (1, 2, 3, EOS, 71, 72): [completion(4, EOS)]}
    [episode, _], _, _ = played(script, max_turns=max_turns, **asked)
    assert episode.completion.finish_reason == finish_reason and episode.completion.token_ids == token_ids
    assert episode.response == str(token_ids[-2])
    assert episode.turns[-1] == {"role": "assistant", "content": str(token_ids[-2])}, "no word that it did not hear"


def test_a_turn_that_was_cut_is_not_answered_and_yet_the_environment_was_begun() -> None:
    [cut, _], _, lane = played({(1, 2): [completion(3, 4, finish_reason="length")]})
    assert cut.completion.finish_reason == "length" and cut.columns == {"guesses": 0}
    assert [move.response for move in lane.moves] == [None, None]


def test_an_environment_that_fails_ends_the_conversation_with_the_cause() -> None:
    script = {(1, 2): [completion(3, EOS), completion(-3, EOS)]}
    script[1, 2, 3, EOS, 71, 72] = [completion(EOS)]  # says nothing, which is no number
    script[1, 2, -3, EOS, 71, 72] = [completion(5, EOS)]
    [broken, sound], _, _ = played(script)
    assert broken.failure is not None and "invalid literal" in broken.failure.detail
    assert sound.failure is None and sound.columns == {"guesses": 2}


def test_whoever_waits_hears_of_an_engine_that_breaks_in_a_later_turn() -> None:
    with pytest.raises(KeyError):
        played({(1, 2): [completion(3, EOS)]})


def test_words_that_cannot_be_tokens_end_the_conversation_with_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(WORDS, "higher")
    [episode, _], _, _ = played({(1, 2): [completion(3, EOS)]})
    assert episode.failure == Mark(cause="malformed", detail="no tokens for 'higher'")
