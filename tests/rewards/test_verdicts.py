"""Answers judged by mathematics, and what the math reward says of each: the tables lie in `verdicts/`."""

import json
from pathlib import Path

from rewards.math_answer import equals

TABLES = sorted((Path(__file__).parent / "verdicts").glob("*.jsonl"))


def judged(table: Path) -> list[dict]:
    return [json.loads(line) for line in table.read_text().splitlines()]


def mismatches(rows: list[dict]) -> list[str]:
    found = []
    for row in rows:
        is_equal = equals(row["answer"], row["gold"])
        if is_equal is not row["right"]:
            what = "full marks" if is_equal else "zero"
            found.append(f"false {what}: gold {row['gold']!r}, answer {row['answer']!r} ({row['kind']})")
    return found


def test_the_math_reward_agrees_with_every_row_of_the_tables() -> None:
    rows = [row for table in TABLES for row in judged(table)]
    found = mismatches(rows)
    rates = [sum(one.startswith(f"false {what}") for one in found) / len(rows) for what in ("full marks", "zero")]
    assert not found, "\n".join([f"{rates[0]:.1%} false full marks, {rates[1]:.1%} false zeros", *found])


def test_the_tables_are_large_and_half_of_their_rows_are_wrong() -> None:
    rows = [row for table in TABLES for row in judged(table)]
    share = sum(row["right"] for row in rows) / len(rows)
    assert len(rows) >= 250 and 0.4 <= share <= 0.6
