"""Every message names a key of a config as the command that tells it takes it."""

import ast
import re
from pathlib import Path

from zsg_jax.config import default_config, flatten
from zsg_jax.runtime.settings import named_by, setting

PACKAGE = Path(__file__).parents[2] / "zsg_jax"
# What only studies and plans of them run, which have no other flags than the config's.
OF_A_STUDY = ("config", "main.py", "plan", "report/", "runtime/cli.py", "runtime/settings.py")
OF_A_STUDY += tuple(f"workflows/{name}" for name in ("study.py", "study_data.py", "diversity.py"))
OF_A_STUDY += ("workflows/selection.py", "workflows/rearranged.py", "workflows/plan")
OF_A_STUDY += ("workflows/validate.py",)


def test_a_key_is_named_by_the_flags_of_the_command_that_runs():
    assert setting("data.max_length", 512) == "--config.data.max_length=512"
    assert setting("workdir") == "--workdir"
    flags = {"data.max_length": "--max-length", "data.natural_instructions": "--instructions"}
    with named_by(flags):
        assert setting("data.max_length") == "--max-length"
        assert setting("data.natural_instructions.seed", 1) == "--instructions=seed=1"
        assert setting("data.workers", 2) == "data.workers=2 in the study"
    assert setting("data.workers") == "--config.data.workers"


def words(tree):
    """The texts of a module but for docstrings, whole or between the braces of an f-string."""
    about = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in about:
            yield node.lineno, node.value


def test_no_message_that_another_command_may_tell_writes_a_key_itself():
    keys = "|".join(re.escape(key) for key in flatten(default_config()) if "." in key)
    named = re.compile(rf"--config\.|(?<![\w./])config\.(?!json)|(?<![\w./-])({keys})(?![\w(])")
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {text!r}"
        for path in PACKAGE.rglob("*.py")
        if not str(path.relative_to(PACKAGE)).startswith(OF_A_STUDY)
        for line, text in words(ast.parse(path.read_text()))
        # A key alone is looked up, or handed to `setting`.
        if named.search(text) and not re.fullmatch(keys, text)
    ]
    assert wrong == []
