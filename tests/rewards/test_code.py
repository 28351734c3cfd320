"""What the code reward gives programs; in the sandbox where this machine has one."""

import json
import time

import pytest

from rewards.code import last_program
from rewards.config import CodeRewardConfig
from rewards.registry import build
from rewards.sandbox import Limits, Sandbox, SandboxError
from rewards.scorer import Scorer
from rewards.scoring_config import ScoringConfig
from rewards.types import RewardError
from tests.rewards.attempts import group

pytestmark = pytest.mark.processes

RIGHT = "def double(x):\n    return 2 * x"
ASSERTS = ["assert double(1) == 2", "assert double(-3) == -6", "assert double(0) == 0", "assert double('a') == 'aa'"]
SUMS = [{"input": "1 2\n", "output": "3"}, {"input": "5 -5\n", "output": "0\n"}]
ADDS = "a, b = map(int, input().split())\nprint(a + b)"
SANDBOX = "bubblewrap"
try:
    Sandbox(
        "bubblewrap",
        Limits(
            seconds=5.0, seconds_a_trial=5.0, memory_bytes=1 << 29, processes=4, output_bytes=1024, disk_bytes=1 << 20
        ),
    )
except SandboxError:
    SANDBOX = "none"


def fenced(program):
    return f"Here it is:\n```python\n{program}\n```\nThat is all."


def marks(*texts, row, **config):
    function = build(CodeRewardConfig(**{"sandbox": SANDBOX, **config}))
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    columns = {name: [value] * len(texts) for name, value in row.items()}
    return function(prompts=[None] * len(texts), completions=completions, **columns)


def test_credit_comes_in_stages():
    found = marks(
        fenced(RIGHT),
        fenced("def double(x):\n    return x + x if x else 1"),
        fenced("def double(x):\n    return None"),
        fenced("def double(x):\n    return 2 * x\n1 / 0"),
        fenced("def double(x) return"),
        "I cannot do that.",
        fenced("\n"),
        row={"tests": ASSERTS},
        parses=0.1,
        runs=0.2,
    )
    assert found == pytest.approx([1.0, 0.3 + 0.7 * 3 / 4, 0.3, 0.1, 0.0, 0.0, 0.0])


def test_all_or_nothing_gives_nothing_for_a_share():
    nearly = fenced("def double(x):\n    return x + x if x else 1")
    assert marks(fenced(RIGHT), nearly, row={"tests": ASSERTS}, all_or_nothing=True) == pytest.approx([1.0, 0.2])


@pytest.mark.parametrize(
    "tests",
    [SUMS, json.dumps(SUMS), {"inputs": ["1 2", ["5 -5"]], "outputs": ["3", ["0", ""]]}],
)
def test_whole_programs_are_judged_by_what_they_print(tests):
    shouts = "a, b = map(int, input().split())\nprint('sum:', a + b)"
    found = marks(fenced(ADDS), fenced(shouts), fenced("print(3)"), fenced("input()"), row={"tests": tests})
    assert found == pytest.approx([1.0, 0.2, 0.6, 0.2])


def test_a_test_of_humaneval_calls_its_check_with_the_entry_point():
    test = "def check(candidate):\n    assert candidate(2) == 4"
    row = {"tests": test, "entry_point": "double"}
    wrong = fenced("def double(x):\n    return 0")
    assert marks(fenced(RIGHT), wrong, row=row, entry_point_column="entry_point") == pytest.approx([1.0, 0.2])


def test_what_tests_need_is_executed_before_each():
    row = {"tests": ["assert math.isclose(double(0.1), 0.2)"], "imports": ["import math", "import os"]}
    assert marks(fenced(RIGHT), row=row, setup_column="imports") == [1.0]


def test_a_program_that_never_ends_or_leaves_early_or_kills_passes_nothing():
    bad = ["while True: pass", "import os; os._exit(0)", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"]
    found = marks(*map(fenced, bad), fenced(RIGHT), row={"tests": ASSERTS}, seconds=1.0, seconds_a_test=0.3)
    outlived = 0.2 if SANDBOX == "bubblewrap" else 0.1  # in the jail nobody can kill who reports
    assert found == pytest.approx([0.1, 0.1, outlived, 1.0])


def test_findings_cost_their_price_up_to_the_most():
    shell = "import subprocess\ndef double(x):\n    subprocess.run('true', shell=True)\n    return 2 * x"
    unused = "import os\n" + RIGHT
    found = marks(fenced(RIGHT), fenced(unused), fenced(shell), row={"tests": ASSERTS}, deduct={"S602": 0.1, "F": 0.05})
    assert found == pytest.approx([1.0, 0.95, 0.9])
    hidden = "# ruff: noqa\nimport os  # noqa\n" + RIGHT
    assert marks(fenced(hidden), row={"tests": ASSERTS}, deduct={"F": 0.05}) == pytest.approx([0.95])
    many = "\n".join(f"import a{n}" for n in range(40))
    assert marks(fenced(many), row={"tests": ASSERTS}, deduct={"F": 0.05}) == [0.0]


def test_the_longest_prefix_sets_the_price():
    runs_text = "def double(x):\n    return eval('2 * x')"
    prices = {"S": 0.5, "S307": 0.25}
    assert marks(fenced(runs_text), row={"tests": ASSERTS}, deduct=prices) == pytest.approx([0.75])


def test_an_unknown_rule_is_refused_when_the_reward_is_loaded():
    with pytest.raises(RewardError, match="XYZ"):
        build(CodeRewardConfig(sandbox=SANDBOX, deduct={"XYZ": 0.1}))


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```py\nx = 1\n```\nbetter:\n```\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1\n```\nIt prints:\n```text\n1\n```", "x = 1\n"),
        ("x = 1", "x = 1"),
        ("```python\nnever closed", "```python\nnever closed"),
        ("```bash\npip install x\n```\nThen:\n```python\nx = 1\n```", "x = 1\n"),
        ("1. so:\n   ```python\n   if x:\n       y\n   ```", "if x:\n    y\n"),
        ("```python\r\nx = 1\r\n```\r\n", "x = 1\n"),
        ("~~~ Python title=a.py\nx = '```'\n~~~", "x = '```'\n"),
    ],
)
def test_the_last_fenced_block_of_python_is_the_program(text, program):
    assert last_program(text) == program


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        ([], "holds no tests"),
        ([3], "has an input and an output; this one is 3"),
        ({"inputs": [], "outputs": [], "fn_name": "f"}, "must be given as asserts"),
        ({"inputs": "12", "outputs": "12"}, "are lists, one a test"),
        ([{"input": "1", "output": None}], "are text; this one is None"),
        ("", "tests nothing"),
        (["import math", "# nothing"], "tests nothing"),
        (["def check(candidate):\n    assert candidate(2) == 4"], "entry_point_column"),
        (["assert ("], "is no Python"),
    ],
)
def test_tests_without_a_known_form_say_so(tests, said):
    reward = CodeRewardConfig(sandbox=SANDBOX)
    with Scorer([reward], ScoringConfig()) as scorer:
        (score,) = scorer.submit(group(fenced(RIGHT), tests=tests)).result(30)
    assert score.cause == "error"
    assert said in score.detail


def test_the_scorers_worker_can_run_it_within_its_own_limits():
    with Scorer([CodeRewardConfig(sandbox=SANDBOX)], ScoringConfig(max_memory_gb=1.0)) as scorer:
        scores = scorer.submit(group(fenced(RIGHT), fenced("x = bytearray(1 << 34)"), tests=ASSERTS)).result(30)
    assert [score.value for score in scores] == pytest.approx([1.0, 0.1])


def test_test_functions_that_nobody_calls_are_called():
    tests = ["def test_double():\n    assert double(2) == 4"]
    assert marks(fenced(RIGHT), fenced("def double(x): return 7"), row={"tests": tests}) == pytest.approx([1.0, 0.2])


def test_spaces_at_the_start_of_a_line_are_output_and_other_separators_end_no_line():
    tests = [{"input": "", "output": " *\n***\n"}]
    found = marks(fenced("print(' *\\n***  \\n')"), fenced("print('*\\n***')"), row={"tests": tests})
    assert found == pytest.approx([1.0, 0.2])
    assert marks(fenced(r"print('1\x0c2')"), row={"tests": [{"input": "", "output": "1\n2"}]}) == pytest.approx([0.2])


def test_classes_of_the_program_are_found_again_and_what_it_prints_at_its_exit_counts():
    dataclass = (
        "from __future__ import annotations\nimport dataclasses, pickle\n@dataclasses.dataclass\nclass A:\n    x: int\n"
    )
    assert marks(fenced(dataclass + RIGHT), row={"tests": ASSERTS}) == [1.0]
    pickles = dataclass + "print(pickle.loads(pickle.dumps(A(3))).x)"
    late = "import atexit, sys\natexit.register(print, 3)"
    closed = "import sys\nprint(3)\nsys.stdout.close()"
    found = marks(fenced(pickles), fenced(late), fenced(closed), row={"tests": [{"input": "", "output": "3"}]})
    assert found == [1.0, 1.0, 1.0]


def test_every_test_finds_an_empty_folder():
    makes = "import os\nos.mkdir('d')\nopen('d/f', 'w').write('x')\n" + ADDS
    assert marks(fenced(makes), row={"tests": SUMS}) == [1.0]


def test_spaces_by_the_hundred_thousand_cost_nothing():
    start = time.monotonic()
    assert last_program("```" + " " * 300_000 + "x").startswith("```")
    assert last_program("```\n" * 50_000) == ""  # empty blocks, one after the other
    assert time.monotonic() - start < 2.0


def test_all_rules_may_have_one_price_and_a_rule_by_its_old_name_is_refused():
    assert (
        marks(
            fenced("import os\n" + RIGHT), row={"tests": ASSERTS}, deduct={"ALL": 0.1, "D": 0.0, "ANN": 0.0, "INP": 0.0}
        )[0]
        < 1.0
    )
    with pytest.raises(RewardError, match="remapped"):
        build(CodeRewardConfig(sandbox=SANDBOX, deduct={"PGH001": 0.1}))
