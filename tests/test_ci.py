"""What continuous integration runs installs bubblewrap where it may, and goes on where it may not."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / ".ci" / "run"


@pytest.fixture
def told(tmp_path):
    """Run it among programs of ours, which write down how they were called; return those lines and what it said."""

    def run(*, with_apt, installed=False, user=0):
        called = tmp_path / "called"
        called.write_text("")
        for name in ("bash", "dirname", "env"):
            (tmp_path / name).symlink_to(shutil.which(name))
        programs = {"make": "", "id": f"echo {user}", "sudo": "exit 1"}
        programs |= {"bwrap": ""} if installed else {}
        programs |= {"apt-get": "echo noise"} if with_apt else {}
        for name, does in programs.items():
            (tmp_path / name).write_text(f'#!{shutil.which("bash")}\necho {name} "$@" >> {called}\n{does}\n')
            (tmp_path / name).chmod(0o755)
        done = subprocess.run([RUN], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        lines = [line for line in called.read_text().splitlines() if not line.startswith("id ")]
        return lines, done.stderr

    assert os.access(RUN, os.X_OK)
    return run


def test_bubblewrap_is_installed_quietly_before_the_tests(told):
    lines, said = told(with_apt=True)
    install = "apt-get install -qq --yes --no-install-recommends bubblewrap"
    assert [lines[0], lines[-2], lines[-1]] == ["apt-get update -qq", install, "make lint types test"]
    assert said == ""


def test_what_is_there_is_not_installed(told):
    assert told(with_apt=True, installed=True) == (["make lint types test"], "")


@pytest.mark.parametrize("machine", [{"with_apt": False}, {"with_apt": True, "user": 1000}])
def test_where_it_cannot_be_had_the_tests_run_and_this_is_said(told, machine):
    lines, said = told(**machine)
    assert lines[-1] == "make lint types test"
    assert "tests of the sandbox will be skipped" in said
