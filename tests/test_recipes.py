from pathlib import Path

import pytest

from pipeline.config import load_config
from pipeline.graph import order
from stages.training import SupervisedConfig

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_orders_and_says_what_it_is(path: Path) -> None:
    config = load_config(path)
    assert set(order(config.stages)) == set(config.stages)
    assert path.read_text().startswith("#"), "a recipe begins with a comment: what, on what hardware, how long"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_no_shipped_recipe_trains_on_its_exam(path: Path) -> None:
    config = load_config(path)
    sources = {name: {(d.path, d.split) for d in stage.datasets().values()} for name, stage in config.stages.items()}
    exams = {name for name, stage in config.stages.items() if stage.kind == "evaluate"}
    for exam in exams:
        assert not any(sources[exam] & sources[name] for name in config.stages if name not in exams)


def test_the_gsm8k_recipe_reads_a_local_file_of_the_same_schema(tmp_path: Path) -> None:
    from stages.data.rows import load_rows

    config = load_config(CONFIGS[0].parent / "gsm8k_qwen.yaml")
    stage = config.stages["sft"]
    assert isinstance(stage, SupervisedConfig)
    path = tmp_path / "gsm8k.jsonl"
    path.write_text('{"question": "Half of 48, and 48?", "answer": "48/2 = <<48/2=24>>24\\n24+48 = 72\\n#### 72"}\n')
    [data] = stage.datasets().values()
    [row] = load_rows(data.model_copy(update={"path": str(path)}), ("prompt", "completion", "answer"))
    assert row["answer"] == "72" and row["prompt"][0]["role"] == "system"
