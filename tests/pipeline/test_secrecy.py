"""What is taken for a secret in a recipe, and what is not. The keys here are made up, and put together so that no
scanner of repositories takes them for real ones."""

import base64
import time
from typing import Any

import pytest
import yaml

from pipeline.secrecy import HIDDEN, secrets_in, without_secrets

A36 = "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xY2zA4"
HEX32 = "0123456789abcdef0123456789abcdef"
HEX40 = HEX32 + "01234567"
JWT = "ey" + "JhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.ey" + "JzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9Pl"
BASIC = base64.b64encode(b"me:open sesame").decode()
BEGIN = "-----BEGIN "

BY_FORM = {
    "OpenAI": "sk-" + A36,
    "OpenAI, of a project": "sk-" + "proj-" + A36,
    "Anthropic": "sk-" + "ant-api03-" + "abcdefghijklmnopqrst",
    "OpenRouter": "sk-" + "or-v1-" + HEX32,
    "Hugging Face": "hf" + "_abcdefghijklmnopqrstuvwxyzabcdefgh",
    "Hugging Face, of an organisation": "api" + "_org_" + "abcdefghijklmnopqrstuvwxyzabcdefgh",
    "GitHub": "ghp" + "_" + A36,
    "GitHub's app": "ghs" + "_" + A36,
    "GitHub, fine-grained": "github" + "_pat_" + "11ABCDEFG0" + A36,
    "GitLab": "glpat" + "-" + "abcdefghij0123456789",
    "GitLab's runner": "glrt" + "-" + "abcdefghij0123456789",
    "Amazon": "AK" + "IA" + "IOSFODNN7EXAMPLE",
    "Amazon, for a session": "AS" + "IA" + "IOSFODNN7EXAMPLE",
    "Google's API": "AI" + "za" + A36[:35],
    "Google's OAuth": "ya" + "29." + A36,
    "Google's client": "GOC" + "SPX-" + A36[:28],
    "Azure's storage": "DefaultEndpointsProtocol=https;AccountName=me;Account" + "Key=" + A36 + "==",
    "Azure's bus": "Endpoint=sb://x/;SharedAccess" + "Key=" + A36,
    "Slack's bot": "xoxb" + "-123456789012-" + A36[:24],
    "Slack's app": "xapp" + "-1-A0123456789-" + A36,
    "Slack's hook": "https://hooks.slack.com/services/" + "T00000000/B00000000/" + A36[:24],
    "Discord's hook": "https://discord.com/api/webhooks/" + "123456789012345678/" + A36,
    "Telegram's bot": "123456789:" + "AA" + A36[:33],
    "Stripe": "sk" + "_live_" + A36[:24],
    "Stripe, restricted": "rk" + "_test_" + A36[:24],
    "W&B": "wandb" + "_v1_" + A36,
    "W&B, as a shell is told": "export WANDB_API_KEY=" + HEX40,
    "W&B, in a sentence": "wandb login: " + HEX40,
    "a web token": JWT,
    "a web token in a header": f"Authorization: Bearer {JWT}",
    "npm": "npm" + "_" + A36,
    "PyPI": "pypi" + "-AgEIcHlwaS5vcmc" + A36,
    "Docker Hub": "dckr" + "_pat_" + A36[:27],
    "SendGrid": "SG" + "." + A36[:22] + "." + A36,
    "Databricks": "dapi" + HEX32,
    "Replicate": "r8" + "_" + A36,
    "Groq": "gsk" + "_" + A36,
    "Nvidia": "nvapi" + "-" + A36 + A36,
    "Vault": "hvs" + "." + A36,
    "a private key": f"{BEGIN}PRIVATE KEY-----",
    "OpenSSH's private key": f"{BEGIN}OPENSSH PRIVATE KEY-----",
    "PGP's private key": f"{BEGIN}PGP PRIVATE KEY BLOCK-----",
    "a user and password in an address": "https://me:open-sesame@host.example/v1",
    "a password alone in an address": "redis://:open-sesame@host.example:6379/0",
    "a data base": "postgresql+psycopg://me:p%40ss@host.example/db",
    "a data base in words": "host=h dbname=d user=me password=open-sesame",
    "a data base of Microsoft's": "Server=h;Database=d;User Id=me;pwd=open-sesame;",
    "Azure's shared address": "https://a.blob.core.windows.net/c/f?sv=2023&sp=r&sig=" + "abc%2Fdef%3D" + A36,
    "Amazon's shared address": "https://b.s3.amazonaws.com/f?X-Amz-Date=1&X-Amz-Signature=" + HEX32,
    "a token in an address": "https://host.example/v1?access_token=open-sesame",
    "a key in an address": "https://host.example/v1?v=1&api-key=open-sesame",
    "Basic": f"Basic {BASIC}",
    "Bearer": "bearer 0123456789abcdef01",
    "a shell's variable": "# export MY_SERVICE_TOKEN='open-sesame'",
}
BY_NAME = {
    "api_key": "open-sesame",
    "apiKey": "open-sesame",
    "x-api-key": "open-sesame",
    "openai_api_key": "open-sesame",
    "wandb_api_key": HEX40,
    "WANDB_API_KEY": HEX40,
    "aws_secret_access_key": A36 + "+/aB",
    "secret": "open-sesame",
    "clientSecret": "open-sesame",
    "client_secret": "open-sesame",
    "password": "open-sesame",
    "db_passwd": "open-sesame",
    "passphrase": "open sesame",
    "Authorization": "open-sesame",
    "access_token": "open-sesame",
    "authToken": "open-sesame",
    "token": "open-sesame",
    "hf_token": "open-sesame",
    "bearer": "open-sesame",
    "private_key": "open-sesame",
    "accountKey": "open-sesame",
    "connection_string": "open-sesame",
    "credentials": "open-sesame",
    "cookie": "a=open-sesame",
    "signing_key": "open-sesame",
    "session_token": "open-sesame",
    "github_token": "open-sesame",
    "pin_password": 12345678,
}
NESTED: list[Any] = [
    {"headers": {"Authorization": "open-sesame"}},
    {"headers": [{"name": "Authorization", "value": "open-sesame"}]},
    {"env": [{"key": "API_KEY", "value": "open-sesame"}]},
    {"api_keys": ["open-sesame"]},
    {"credentials": {"user": {"first": "open-sesame"}}},
    {"deep": [[{"x": "hf" + "_" + A36}]]},
    {"ghp" + "_" + A36: 1},
]
NONE: list[Any] = [
    {"revision": HEX40},
    {"commit": HEX40},
    {"sha256": HEX32 * 2},
    {"md5": HEX32},
    {"digest": "sha256:" + HEX32 * 2},
    {"model": "Qwen/Qwen3-0.6B"},
    {"model": "meta-llama/Llama-3.1-8B-Instruct"},
    {"model": "hf-internal-testing/tiny"},
    {"model": "HuggingFaceTB/SmolLM2-135M-Instruct"},
    {"model": "/home/me/models/base-0123456789abcdef0123456789abcdef"},
    {"model": "~/.cache/huggingface/hub/models--a--b/snapshots/" + HEX40},
    {"id": "8c7f6f0e-3b0e-4e0a-9a44-0d5c0a5d8f11"},
    {"eos_token": "<|endoftext|>"},
    {"eos_token": "a-long-end"},
    {"pad_token": "[PADDING]"},
    {"bos_token": "beginning"},
    {"token": "<|im_end|>"},
    {"stop_tokens": ["endofturn"]},
    {"max_tokens": 123456789},
    {"num_tokens": 123456789},
    {"max_completion_tokens": 4096},
    {"tokens_per_step": 12345678},
    {"tokenizer": "a-long-tokenizer"},
    {"api_key_variable": "OPENAI_API_KEY"},
    {"api_key": "OPENAI_API_KEY"},
    {"api_key": "${MY_OWN_KEY}"},
    {"password": "$PASSWORD_OF_MINE"},
    {"password": "<your password>"},
    {"secret": "short"},
    {"secret": "********"},
    {"token": "{{ env.TOKEN }}"},
    {"password": "xxxxxxxxxx"},
    {"secret_column": "hidden_number"},
    {"use_secrets": True},
    {"columns": {"secret": "the_hidden_number", "password": "their_password"}},
    {"answer_column": "secret_number"},
    {"answer_column": "hf_some_column_of_theirs"},
    {"name": "sk-learn-like-pipelines-of-ours"},
    {"name": "risk-assessment-of-the-year-2024-report"},
    {"name": "task-0123456789abcdef"},
    {"key": "a-long-key-of-a-map"},
    {"keys": ["question", "passage_text"]},
    {"keyboard": "dvorak-layout"},
    {"monkey": "banana-split"},
    {"tokenization": "byte-level-bpe"},
    {"bearer_of_news": "the-messenger"},
    {"passage": "a-long-passage"},
    {"passes": 12345678},
    {"secretary": "ms-moneypenny"},
    {"base_url": "http://127.0.0.1:8000/v1"},
    {"base_url": "https://host.example:8443/v1?keys=many&monkey=banana"},
    {"base_url": "https://me@host.example/v1"},
    {"base_url": "https://me:$PASSWORD@host.example"},
    {"base_url": "https://me:{password}@host.example"},
    {"base_url": "https://host.example/v1?config=abcdefghij&design=abcdefghij&max_tokens=1234567"},
    {"base_url": "https://host.example/v1?token=$TOKEN_OF_MINE"},
    {"address": "10.0.0.1:6379"},
    {"rubric": "Basic arithmetic, and bearer bonds explained; password = is what the user types."},
    {"rubric": "Bearer authentication-tokens-are-described in words"},
    {"rubric": "An answer with 2+2=4 and x=1234567890."},
    {"rubric": "Ask for the password: it is never told."},
    {"template": "{question}\n{answer}"},
    {"pattern": r"(?:sk|hf|ghp)_\w{20,}"},
    {"pattern": r"^[A-Za-z0-9+/=]{40}$"},
    {"path": "data/eyJ_notes.jsonl"},
    {"path": "s3://bucket/0123456789abcdef/part-00000.jsonl"},
    {"import_path": "my_rewards:has_api_key"},
    {"text": "EOS_TOKEN=end-of-turn and MAX_TOKENS=4096"},
    {"uuid": HEX32},
    {"seed": 1234567890},
    {"date": "2024-01-02"},
    {"learning_rate": 1e-05},
    {"data": "openai/gsm8k"},
    {"data": "HuggingFaceH4/ultrafeedback_binarized"},
    {"gpu": "GPU-0123456789ab-cdef-0123"},
    {"wandb_project": "a-long-project-of-ours"},
    {"label": "public key of the lock"},
    {"certificate": f"{BEGIN}CERTIFICATE-----"},
    {"public": f"{BEGIN}PUBLIC KEY-----"},
    {"image": "nvcr.io/nvidia/pytorch:24.01"},
]


@pytest.mark.parametrize("what", BY_FORM)
def test_a_secret_is_noticed_by_its_form_wherever_it_stands_and_hidden_in_a_warning(what: str) -> None:
    secret = BY_FORM[what]
    for tree in ({"note": secret}, {"notes": [{"deep": [secret]}]}, {"note": f"first {secret} then"}):
        assert list(secrets_in(tree)), tree
    assert list(secrets_in({}, f"name: r\n# {secret}\nseed: 1\n")) == ["line 2"]
    hidden = without_secrets(f"first {secret} then")
    assert HIDDEN in hidden and secret not in hidden and hidden.startswith("first ") and hidden.endswith(" then")


@pytest.mark.parametrize("name", BY_NAME)
def test_a_secret_is_noticed_by_the_name_that_it_goes_by(name: str) -> None:
    assert list(secrets_in({"rewards": [{"kwargs": {name: BY_NAME[name]}}]})) == [f"rewards.0.kwargs.{name}"]


@pytest.mark.parametrize("tree", NESTED, ids=str)
def test_a_secret_is_noticed_in_lists_headers_and_keys(tree: Any) -> None:
    assert list(secrets_in(tree))


@pytest.mark.parametrize("tree", NONE, ids=str)
def test_what_is_no_secret_is_let_be(tree: Any) -> None:
    assert list(secrets_in(tree, yaml.safe_dump(tree))) == []
    text = f"first {next(iter(tree.values()))} then"
    assert without_secrets(text) == text


def test_there_are_enough_of_both() -> None:
    assert len(BY_FORM) + len(BY_NAME) + len(NESTED) >= 40 and len(NONE) >= 60


@pytest.mark.parametrize(
    "text",
    [
        "://" * 80_000,
        "?a_" * 80_000,
        "sk-" * 80_000,
        "eyJaaaaaaaa." * 20_000,
        "a" * 250_000,
        "wandb " * 40_000,
        "A_" * 120_000,
    ],
    ids=lambda text: text[:8],
)
def test_long_texts_are_looked_through_in_little_time(text: str) -> None:
    start = time.process_time()
    list(secrets_in({"x": text}, text))
    without_secrets(text)
    assert time.process_time() - start < 5
