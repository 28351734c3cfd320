"""Texts with marks in tokens, by tokenizers of every make: ordinary text as always, marked text in ordinary tokens."""

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from rewards import control_tokens, encoding
from rewards.control_tokens import AS_TEXT, ControlTokens
from rewards.encoding import Encoding, SpellingError

CONTROL = ["<|im_start|>", "<|im_end|>", "<s>", "</s>"]
OWN = ["<think>", "</think>"]
TEXTS = ["hello world <|im_end|> and <s> then </s> im_end im_start", "user assistant\n\n  x  y", "a < b | c > d"] * 4
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_level(*, ignore_merges: bool = False, prefix: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=ALPHABET, show_progress=False)
    )
    return tokenizer


def with_merges_of_its_tokens() -> Tokenizer:
    """Byte-level, and its merges lead to the text of a control token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\S+|\s"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    letters = sorted({letter for text in TEXTS for letter in text})
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=letters, show_progress=False)
    tokenizer.train_from_iterator(["<|im_end|> <|im_start|> <s> </s>"] * 9, trainer)
    return tokenizer


def as_llama_2() -> Tokenizer:
    """Of sentencepiece: a space before every piece of text, bytes where there is no piece, control tokens as pieces."""
    letters = sorted({letter for text in TEXTS for letter in text.replace(" ", "\u2581").replace("\n", "")})
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *letters, "he", "\u2581he"]
    vocabulary = {piece: at for at, piece in enumerate(dict.fromkeys(pieces))}
    merges = [("h", "e"), ("\u2581", "he")]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def as_sentencepiece(scheme: str) -> Tokenizer:
    tokenizer = as_llama_2()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    return tokenizer


def unigram() -> Tokenizer:
    """Its pieces have scores, and control tokens the best ones."""
    letters = sorted({letter for text in TEXTS for letter in text.replace(" ", "\u2581")})
    pieces = [("<unk>", -9.0), *((token, 0.0) for token in CONTROL), *((letter, -5.0) for letter in letters)]
    tokenizer = Tokenizer(models.Unigram([*pieces, ("\u2581he", -2.0)], unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def of_words() -> Tokenizer:
    words = ["[UNK]", *CONTROL, "hello", "<", "|", "im_end", "im_start", ">", "s", "/", "a", "\n", " "]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\S+|\s"), "isolated")
    return tokenizer


def folding() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFKC()
    return tokenizer


MAKES: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "byte-level, whole words first": lambda: byte_level(ignore_merges=True),
    "byte-level, space before": lambda: byte_level(prefix=True),
    "merges of its tokens": with_merges_of_its_tokens,
    "llama 2": as_llama_2,
    "metaspace, first": lambda: as_sentencepiece("first"),
    "metaspace, always": lambda: as_sentencepiece("always"),
    "metaspace, never": lambda: as_sentencepiece("never"),
    "unigram": unigram,
    "words": of_words,
    "folding": folding,
}


@cache
def made(make: str, strips: bool = False) -> tuple[Encoding, Tokenizer, ControlTokens]:
    tokenizer = MAKES[make]()
    tokenizer.add_special_tokens([AddedToken(t, special=True, lstrip=strips, rstrip=strips) for t in CONTROL])
    tokenizer.add_tokens(
        [*(AddedToken(t, normalized=False) for t in OWN), AddedToken("  ", normalized=make == "folding")]
    )
    if make == "folding":
        tokenizer.add_tokens([AddedToken("<|odd|>", normalized=True)])
    control = ControlTokens(tokenizer.get_added_tokens_decoder(), "")

    def plain(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    return (
        Encoding(control, tokenizer, plain, lambda ids: tokenizer.decode(ids, skip_special_tokens=False)),
        tokenizer,
        control,
    )


PIECES = [
    "hello",
    " hello",
    "a < b",
    "<",
    "|>",
    "im_end",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "he",
    "é",
    "x",
    *CONTROL,
    *OWN,
]


def texts(seed: int, num: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(PIECES, k=draw.randrange(1, 12))) for _ in range(num)]


@pytest.mark.parametrize("strips", [False, True])
@pytest.mark.parametrize("make", MAKES)
def test_text_without_marks_has_the_tokens_that_it_always_had(make: str, strips: bool) -> None:
    encode, tokenizer, _ = made(make, strips)
    for text in texts(1, 200):
        assert encode.token_ids(text) == tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("strips", [False, True])
@pytest.mark.parametrize("make", MAKES)
def test_next_to_marked_text_all_other_text_has_them_too(make: str, strips: bool) -> None:
    """What stands on the other side of a control token is encoded by itself, so there the tokens must be the same."""
    encode, tokenizer, control = made(make, strips)
    border = control.ids["<|im_start|>"]
    for text in texts(2, 200):
        before = f"{text}<|im_start|>"
        found = encode.token_ids(f"{before}{AS_TEXT}<|im_end|>")
        plain = tokenizer.encode(before, add_special_tokens=False).ids
        assert found[: len(plain)] == plain and plain[-1] == border
        assert not set(found[len(plain) :]) & {*control.ids.values()}
        after = encode.token_ids(f"<|im_start|>{AS_TEXT}<|im_end|><|im_start|>{text}")
        last = len(after) - after[::-1].index(border) if border not in tokenizer.encode(text).ids else None
        if last is not None:
            alone = tokenizer.encode(f"<|im_start|>{text}", add_special_tokens=False).ids
            assert after[last - 1 :] == alone


LOSSLESS = ["byte-level", "byte-level, whole words first", "merges of its tokens", "folding"]


@pytest.mark.parametrize("make", MAKES)
def test_marked_text_is_spelled_in_ordinary_tokens(make: str) -> None:
    encode, tokenizer, control = made(make)
    for token in CONTROL:
        for around in (" {} ", "{}", "\n{}\n", "a{}b", "{0}{0}", "<{}>"):
            said = around.format(AS_TEXT + token)
            ids = encode.token_ids(f"<|im_start|>x{said}<|im_end|>")
            text = f"<|im_start|>x{around.format(token)}<|im_end|>"
            assert [at for at in ids if at in control.ids.values()] == [
                control.ids["<|im_start|>"],
                control.ids["<|im_end|>"],
            ]
            if make in LOSSLESS:
                assert tokenizer.decode(ids, skip_special_tokens=False) == text
            elif make != "words":
                assert around.format(token).strip() in tokenizer.decode(ids, skip_special_tokens=False)


def test_marked_text_has_the_tokens_that_it_would_have_if_there_were_no_control_tokens() -> None:
    encode, _, _ = made("byte-level")
    bare = byte_level()
    assert encode.token_ids(f"hello {AS_TEXT}<|im_end|> and") == bare.encode("hello <|im_end|> and").ids


def test_letters_of_another_width_that_a_tokenizer_folds_make_no_control_token() -> None:
    encode, tokenizer, control = made("folding")
    odd = control.ids["<|odd|>"]
    said = "x \uff1c\uff5codd\uff5c\uff1e y"
    assert odd in tokenizer.encode(said).ids, "the tokenizer alone is fooled"
    assert odd not in encode.token_ids(said)
    both = encode.token_ids(f"<|odd|>{said}")
    assert both.count(odd) == 1 and both[0] == odd


def test_a_name_of_a_control_token_inside_cannot_be_said() -> None:
    encode, _, control = made("byte-level")
    first = encode._aliases["<|im_end|>"]
    again = Encoding(control, encode._backend, encode._plain, encode._decode)._aliases["<|im_end|>"]
    assert first != again and len(first) > 32


def slow() -> Any:
    """A tokenizer in Python, letter by letter."""
    import transformers

    class Letters(transformers.PythonBackend):  # type: ignore[misc]
        vocab_files_names: dict[str, str] = {}  # noqa: RUF012

        @property
        def vocab_size(self) -> int:
            return 256

        def get_vocab(self) -> dict[str, int]:
            return {chr(at): at for at in range(256)} | self.added_tokens_encoder

        def _tokenize(self, text: str, **_: Any) -> list[str]:
            return list(text)

        def _convert_token_to_id(self, token: str) -> int:
            return ord(token)

        def _convert_id_to_token(self, index: int) -> str:
            return chr(index)

        def convert_tokens_to_string(self, tokens: list[str]) -> str:
            return "".join(tokens)

    return Letters(eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"])


def test_a_tokenizer_in_python_breaks_marked_text_into_pieces() -> None:
    tokenizer = slow()
    control = control_tokens.of_tokenizer(tokenizer)
    encode = encoding.of_tokenizer(tokenizer, control)
    start, end = control.ids["<|im_start|>"], control.ids["<|im_end|>"]
    assert encode.token_ids("<|im_start|>a<|im_end|>") == tokenizer("<|im_start|>a<|im_end|>")["input_ids"]
    said = "<|im_end|>\n<|im_start|>b"
    found = encode.token_ids(f"<|im_start|>a{AS_TEXT}<|im_end|>\n{AS_TEXT}<|im_start|>b<|im_end|>")
    assert found == [start, ord("a"), *map(ord, said), end]


def of_tiktoken() -> Any:
    """As the tokenizers of Qwen's first models and of Kimi: control tokens are looked for in every text."""
    import tiktoken

    ranks = {bytes([byte]): byte for byte in range(256)}
    special = {"<|im_start|>": 256, "<|im_end|>": 257}
    inner = tiktoken.Encoding("bytes", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens=special)

    class Tiktoken:
        chat_template = "<|im_start|><|im_end|>"
        all_special_tokens = list(special)  # noqa: RUF012
        added_tokens_decoder = {at: AddedToken(text, special=True) for text, at in special.items()}  # noqa: RUF012

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": inner.encode(text, allowed_special="all")}

        def decode(self, token_ids: list[int], **_: Any) -> str:
            return inner.decode(token_ids)

    return Tiktoken()


def test_a_tokenizer_of_tiktoken_breaks_it_too() -> None:
    tokenizer = of_tiktoken()
    encode = encoding.of_tokenizer(tokenizer, control_tokens.of_tokenizer(tokenizer))
    found = encode.token_ids(f"<|im_start|>é{AS_TEXT}<|im_end|>ü<|im_end|>")
    assert found == [256, *"é<|im_end|>ü".encode(), 257]


def test_what_cannot_be_spelled_is_refused_with_the_text() -> None:
    """As a sentencepiece model that has the control token among its pieces, or puts a space before each piece."""
    control = ControlTokens({9: AddedToken("<|im_end|>", special=True)}, "")
    spaced = Encoding(control, None, lambda text: [1, len(text)], lambda ids: f" {ids}")
    with pytest.raises(SpellingError, match=r"somebody says 'x<\|im_end\|>', which has the text of a control token"):
        spaced.token_ids(f"x{AS_TEXT}<|im_end|>")
