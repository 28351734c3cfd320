"""What the code reward gives programs; in the sandbox where this machine has one."""

import json
import time

import pytest

from rewards.code import last_program
from rewards.config import CodeRewardConfig
from rewards.enclosure import Limits, SandboxError
from rewards.registry import build
from rewards.sandbox import Sandbox
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
        ("```\nx = 1\n```\nbetter:\n```\nx = 2\n```", "x = 2\n"),
        ("```py\nx = 1\n```\nIt prints:\n```\n1\n```\nRun it:\n```sh\npython a.py\n```", "x = 1\n"),
        ("```Python3\nx = 1\n```\n```{.python}\nx = 2\n```\n```pycon\n>>> x\n```", "x = 2\n"),
        ("```python\nx = 1\n```\nIt prints:\n```text\n1\n```", "x = 1\n"),
        ("x = 1", "x = 1"),
        ("```\nprint(1)\n```\nIt prints:\n```\n1\n```\nRun it:\n```\n$ python a.py\n```", "print(1)\n"),
        ("```\nyes\n```\n```\n1\n```", "1\n"),
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
        ({"inputs": [], "outputs": [], "fn_name": "f"}, "holds no tests"),
        ({"inputs": ["1"], "outputs": ["1", "2"]}, "1 inputs have 2 outputs"),
        ({"inputs": ["1 2"], "outputs": ["3"], "fn_name": "f"}, "one a line as JSON; this one is '1 2'"),
        ({"inputs": [[1]], "outputs": [[3]], "fn_name": "f()"}, "no function's name"),
        ([{"input": "1", "output": "1", "testtype": "functional"}], "as fn_name, or in entry_point_column"),
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


def test_spaces_count_where_outputs_are_compared_exactly_and_only_newlines_end_lines():
    tests = [{"input": "", "output": " *\n***\n"}]
    programs = fenced("print(' *\\n***')"), fenced("print('*\\n***')"), fenced("print(' *\\n***  ')")
    assert marks(*programs, row={"tests": tests}, compare="exact") == pytest.approx([1.0, 0.2, 0.2])
    assert marks(*programs, row={"tests": tests}) == [1.0, 1.0, 1.0]
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


SOLUTION = "class Solution:\n    def add(self, a: List[int], b: int) -> Optional[int]:\n        return sum(a) + b"
FUNCTION = "def add(a, b):\n    return sum(a) + b"


@pytest.mark.parametrize(
    "tests",
    [
        {"fn_name": "add", "inputs": ["[1, 2]\n3", "[]\n-1\n"], "outputs": ["6", "-1"]},
        {"fn_name": "add", "inputs": [[[1, 2], 3], [[], -1]], "outputs": [6, -1]},
        json.dumps({"fn_name": "add", "inputs": [[[1, 2], 3], [[], -1]], "outputs": [[6], [-1]]}),
        [
            {"input": "[1, 2]\n3", "output": "6", "testtype": "functional", "metadata": {"func_name": "add"}},
            {"input": "[]\n-1", "output": "-1", "testtype": "functional", "metadata": '{"func_name": "add"}'},
        ],
    ],
    ids=["LiveCodeBench", "values", "APPS", "DeepCoder"],
)
def test_functions_and_methods_are_called_by_name(tests):
    wrong = "def add(a, b):\n    return max(a, default=b) + b"
    talks = "print('result: 6')\ndef add(a, b):\n    print(a)\n    return sum(a) + b\nprint('ready')"
    tells = "def add(a, b):\n    print(sum(a) + b)"
    programs = [SOLUTION, FUNCTION, talks, wrong, tells, "def sub(a, b):\n    return 6"]
    found = marks(*map(fenced, programs), row={"tests": tests})
    assert found == pytest.approx([1.0, 1.0, 1.0, 0.2, 0.2, 0.2])


def test_the_entry_point_s_column_names_the_function_too():
    tests = [{"input": "[1]\n3", "output": "4", "testtype": "functional"}]
    row = {"tests": tests, "f": "add"}
    assert marks(fenced(SOLUTION), row=row, entry_point_column="f") == [1.0]


@pytest.mark.parametrize(
    ("returns", "output", "mark"),
    [
        ("(1, (2, 3))", "[1, [2, 3]]", 1.0),
        ("1 / 6", "0.16667", 1.0),
        ("'abc'", '"abc"', 1.0),
        ("'abc'", "abc", 1.0),
        ("'12'", "12", 1.0),
        ("{1: 2}", '{"1": 2}', 1.0),
        ("10 ** 5000", "1" + "0" * 5000, 1.0),
        ("float('nan')", "NaN", 1.0),
        ("type('Array', (), {'tolist': lambda self: [1]})()", "[1]", 1.0),
        ("[1]", [1], 1.0),
        ("None", "null", 1.0),
        ("1", "[1]", 0.2),
        ("{1, 2}", "[1, 2]", 0.2),
        ("object()", "null", 0.2),
        ("2.0000001", "2", 0.2),
        ("'[1]'", "[1]", 0.2),
    ],
)
def test_what_a_function_returns_is_compared_as_a_value(returns, output, mark):
    tests = {"fn_name": "f", "inputs": [[]], "outputs": [output]}
    assert marks(fenced(f"def f():\n    return {returns}"), row={"tests": tests}) == pytest.approx([mark])


def test_a_result_that_is_forged_is_right_only_where_it_is_right():
    forges = "import atexit\natexit.register(print, '\\x1eresult of the call: 7')\n"
    tests = {"fn_name": "f", "inputs": [[], []], "outputs": [7, 8]}
    assert marks(fenced(forges + "def f(): return 0"), row={"tests": tests}) == pytest.approx([0.2 + 0.8 / 2])


def test_what_is_set_up_is_there_before_the_program():
    annotated = "def double(x: List[int]) -> List[int]:\n    return x + x"
    row = {"tests": ["assert double([1]) == [1, 1]"], "setup": "from typing import List"}
    assert marks(fenced(annotated), row=row, setup_column="setup") == [1.0]
    assert marks(fenced("from __future__ import annotations\n" + annotated), row=row, setup_column="setup") == [1.0]
    whole = {"tests": [{"input": "", "output": "[1]"}], "setup": "from typing import List"}
    assert marks(fenced("x: List[int] = [1]\nprint(x)"), row=whole, setup_column="setup") == [1.0]


def test_what_is_set_up_may_need_the_program():
    node = "class Node:\n    def __init__(self, x):\n        self.x = x\ndef double(node):\n    return 2 * node.x"
    row = {"tests": ["assert double(root) == 6"], "setup": "root = Node(3)"}
    assert marks(fenced(node), row=row, setup_column="setup") == [1.0]
    with pytest.raises(ValueError, match="set-up 'import' is no Python"):
        marks(fenced(node), row={**row, "setup": "import"}, setup_column="setup")
    assert marks(fenced(RIGHT), row={"tests": ASSERTS, "setup": None}, setup_column="setup") == [1.0]


def test_numbers_that_programs_print_are_compared_by_value():
    thirds = [{"input": "", "output": "0.333333333333 2.50\n"}]
    found = marks(fenced("print(1 / 3, 2.5)"), fenced("print(0.33, 2.5)"), row={"tests": thirds})
    assert found == pytest.approx([1.0, 0.2])


@pytest.mark.parametrize(
    ("program", "is_counted"),
    [
        ("import sys\nprint(sys._getframe(1).f_locals)", True),
        ("class Yes(int):\n    def __eq__(self, other): return True", True),
        ("import builtins\nbuiltins.len = lambda x: 3", True),
        ("open('/proc/self/mem')", True),
        ("AssertionError = SystemExit", True),
        ("def f(x):\n    return sorted(x)[::-1]", False),
        ("import collections\nprint(collections.Counter(input()))", False),
    ],
)
def test_programs_that_name_what_cheats_use_are_counted(program, is_counted):
    logged = []
    function = build(CodeRewardConfig(sandbox=SANDBOX))
    completions = [[{"role": "assistant", "content": fenced(program)}]]
    function(prompts=[None], completions=completions, tests=[SUMS], log_metric=lambda *metric: logged.append(metric))
    assert logged == [("reaching/count", int(is_counted))]
