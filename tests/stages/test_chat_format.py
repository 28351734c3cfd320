"""`check` reads a folder as transformers does: the same template, the same text, the same tokens that end a turn."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.chat_format import ChatFormat
from stages.hand_over import save_policy
from stages.model_folder import ModelFolderError
from stages.models import load_policy, load_tokenizer
from tests.models import write_tiny_model
from tests.stages.contexts import make_context

TURNS = [{"role": "user", "content": "0+1"}, {"role": "assistant", "content": "1"}, {"role": "user", "content": "7"}]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}]
WITH_TOOLS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ tools | length }}{{ eos_token }}"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "base")


def edit(folder: Path, name: str, **changes: Any) -> None:
    file = folder / name
    tree = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({key: value for key, value in {**tree, **changes}.items() if value is not ...}))


def in_config(folder: Path) -> str:
    """Take the template's file away and return its text."""
    text = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    return text


def as_text(folder: Path) -> None:
    edit(folder, "tokenizer_config.json", chat_template=in_config(folder))


def as_list(folder: Path) -> None:
    named = [{"name": "tool_use", "template": WITH_TOOLS}, {"name": "default", "template": in_config(folder)}]
    edit(folder, "tokenizer_config.json", chat_template=named)


def as_files(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(WITH_TOOLS)
    (folder / "additional_chat_templates" / "rag.jinja").write_text("x")


def file_over_config(folder: Path) -> None:
    edit(folder, "tokenizer_config.json", chat_template=[{"name": "default", "template": "of the config"}])


def marks_and_loops(folder: Path) -> None:
    text = "{% for m in messages %}\n  {% generation %}\n{{ m.content }}{{ bos_token }}\n{% endgeneration %}\n"
    ends = "{{ eos_token }}{% if loop.index > 1 %}{% break %}{% endif %}\n{% endfor %}{% if documents is defined %}d"
    (folder / "chat_template.jinja").write_text(text + ends + "{% endif %}{{ {'é': 1} | tojson(indent=1) }}")


def eos_in_the_map(folder: Path) -> None:
    eos = json.loads((folder / "tokenizer_config.json").read_text())["eos_token"]
    edit(folder, "tokenizer_config.json", eos_token=..., added_tokens_decoder=...)
    edit(folder, "special_tokens_map.json", eos_token=eos)


def eos_as_added_token(folder: Path) -> None:
    eos = json.loads((folder / "tokenizer_config.json").read_text())["eos_token"]
    token = {"__type": "AddedToken", "content": eos, "lstrip": False, "normalized": False, "rstrip": False}
    edit(folder, "tokenizer_config.json", eos_token={**token, "single_word": False, "special": True})


def eos_in_the_map_as_added_token(folder: Path) -> None:
    eos_in_the_map(folder)
    eos = json.loads((folder / "special_tokens_map.json").read_text())["eos_token"]
    edit(folder, "special_tokens_map.json", eos_token={"content": eos, "lstrip": False, "normalized": False,
                                                       "rstrip": False, "single_word": False})  # fmt: skip


def the_map_over_the_config(folder: Path) -> None:
    edit(folder, "tokenizer_config.json", added_tokens_decoder=..., bos_token="0")
    edit(folder, "special_tokens_map.json", bos_token="1")
    marks_and_loops(folder)


def several_eos(folder: Path) -> None:
    edit(folder, "generation_config.json", eos_token_id=[3, 5])


def several_eos_in_config(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    edit(folder, "config.json", eos_token_id=[4, 2])


def no_generation_eos(folder: Path) -> None:
    edit(folder, "generation_config.json", eos_token_id=...)


def tokenizer_json_alone(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").unlink()
    edit(folder, "special_tokens_map.json", eos_token=settings["eos_token"])


def pad_that_is_no_token_yet(folder: Path) -> None:
    edit(folder, "tokenizer_config.json", pad_token="[PAD]")


def tokens_of_the_config_alone(folder: Path) -> None:
    token = {"content": "<tool>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    edit(folder, "tokenizer_config.json", added_tokens_decoder={str(size): {**token, "special": True}})


def tokens_of_older_files(folder: Path) -> None:
    edit(folder, "tokenizer_config.json", added_tokens_decoder=...)
    edit(folder, "added_tokens.json", **{"<tool>": json.loads((folder / "config.json").read_text())["vocab_size"]})


def untouched(folder: Path) -> None:
    pass


FOLDERS = [untouched, as_text, as_list, as_files, file_over_config, marks_and_loops, eos_in_the_map, eos_as_added_token,
           eos_in_the_map_as_added_token, the_map_over_the_config, several_eos, several_eos_in_config,
           no_generation_eos, tokenizer_json_alone, pad_that_is_no_token_yet,
           tokens_of_the_config_alone, tokens_of_older_files]  # fmt: skip


@pytest.mark.parametrize("change", FOLDERS)
def test_check_and_loading_read_the_same(tmp_path: Path, base: Path, change: Callable[[Path], None]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    change(folder)
    chat, policy = ChatFormat(folder), load_policy(make_context(tmp_path, folder))
    for tools in (None, TOOLS):
        for asks in (True, False):
            theirs = policy.tokenizer.apply_chat_template(
                TURNS, tools=tools, add_generation_prompt=asks, tokenize=False
            )
            assert chat.render(TURNS, tools=tools, add_generation_prompt=asks) == theirs
    assert chat.eos_token == policy.tokenizer.eos_token
    assert chat.eos_ids == policy.eos_ids
    assert chat.num_tokens == len(policy.tokenizer)
    text = "0+1<tool>[PAD]<|im_end|>"
    assert chat.token_ids(text) == policy.tokenizer(text, add_special_tokens=False)["input_ids"]
    configured = policy.model.generation_config.eos_token_id
    assert chat.eos_ids == tuple(configured if isinstance(configured, list) else [configured])


def test_named_templates_are_chosen_by_whether_there_are_tools(tmp_path: Path, base: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    as_list(folder)
    chat = ChatFormat(folder)
    assert chat.render(TURNS, tools=TOOLS, add_generation_prompt=False).startswith("<user>0+1<assistant>1<user>71")
    assert not chat.render(TURNS, add_generation_prompt=False).startswith("<user>")


def test_templates_without_a_default_are_named(tmp_path: Path, base: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    edit(folder, "tokenizer_config.json", chat_template=[{"name": "rag", "template": in_config(folder)}])
    with pytest.raises(ModelFolderError, match="templates named rag, and none named default"):
        ChatFormat(folder).render(TURNS, add_generation_prompt=False)


def test_what_a_class_has_by_itself_is_asked_of_transformers(tmp_path: Path, base: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    edit(folder, "tokenizer_config.json", eos_token=..., tokenizer_class="GPT2Tokenizer")
    vocabulary = json.loads((folder / "tokenizer.json").read_text())
    eos = next(token for token in vocabulary["added_tokens"] if token["content"] == settings["eos_token"])
    eos["content"] = "<|endoftext|>"
    vocabulary["model"]["vocab"]["<|endoftext|>"] = vocabulary["model"]["vocab"].pop(settings["eos_token"], eos["id"])
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))
    tokenizer = load_tokenizer(folder, make_context(tmp_path, folder).facts)
    assert ChatFormat(folder).eos_token == tokenizer.eos_token == "<|endoftext|>"


def test_a_tokenizer_that_transformers_cannot_convert_is_named(tmp_path: Path, base: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("tokenizer.json"))
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    with pytest.raises(ModelFolderError, match=r"has no tokenizer\.json that it could be read from, and transformers"):
        ChatFormat(folder)


def test_several_templates_are_one_identity_in_whatever_order_they_lie(tmp_path: Path, base: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(base, folder)
    as_list(folder)
    context = make_context(tmp_path, folder)
    policy = load_policy(context)
    save_policy(context, policy, version=0, data=[], probes=[[1, 2, 3]])
    loaded = load_policy(make_context(tmp_path, Path("none"), name="next", inputs={"policy": context.output}))
    assert loaded.tokenizer.chat_template == policy.tokenizer.chat_template
