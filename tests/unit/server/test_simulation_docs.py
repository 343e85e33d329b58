"""The notebook of docs/simulation.md does what it says."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "simulation.md"


def test_the_notebook_of_the_page_ends_at_the_number_that_it_names(capsys) -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code) == 1
    exec(compile(code[0], str(PAGE), "exec"), {})
    assert "[2. 2. 2.]" in capsys.readouterr().out
