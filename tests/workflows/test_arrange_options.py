import numpy as np
import pytest

from zsg_jax import arrange as arrange_command
from zsg_jax.runtime import cli
from zsg_jax.runtime.errors import UserError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "tmta-mni"}, "--method: 'tmta-mni' is unknown.*did you mean tmta-min"),
        ({"method": "tmta-turns-1-99"}, "ends with turn 98, but there are"),
        ({"w_min": 0.0, "w_avg": 0.0}, "--w-min and --w-avg are both 0"),
        ({"w_avg": np.inf}, "--w-min 1.0 and --w-avg inf must be finite"),
        ({"budget": 0}, "--budget 0: it must be at least 1"),
        ({"leak_similarity": 1.5}, "--leak-similarity 1.5: it must be a cosine"),
        ({"leak_words": 0}, "--leak-words 0"),
        ({"leak_words": 10**12}, "--leak-words 1000000000000: it must be at most 10000"),
        ({"report_split": 1.0}, "--report-split 1.0: it must be a share"),
        ({"train_embeddings": "a.npy"}, "--train-embeddings and --test-embeddings go together"),
        ({"output": "x", "embeddings": "./x"}, "--embeddings ./x: is the --output too"),
        ({"train": "nowhere.jsonl"}, r"nowhere\.jsonl: no such file"),
        ({"encoder": "nowhere"}, "nowhere"),
        ({"format": "csv"}, "csv"),
        ({"data_format": "alpacka"}, "--data-format='alpacka' is unknown.*did you mean alpaca"),
    ],
)
def test_requests_that_nothing_can_serve(run, tmp_path, options, message):
    with pytest.raises(UserError, match=message) as caught:
        run(**options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "arrangement.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--bugdet=9"], "unrecognized arguments: --bugdet=9; did you mean --budget?"),
        (["--budget", "many"], "argument --budget: invalid int value: 'many'"),
        (["--method", "tmta-mni"], "--method: 'tmta-mni' is unknown"),
    ],
)
def test_wrong_flags_end_in_one_line(sides, tmp_path, capsys, flags, message):
    given = ["arrange", "--train", sides["train"], "--test", sides["test"]]
    with pytest.raises(SystemExit) as caught:
        cli.guard(arrange_command.main)([*given, "--output", str(tmp_path / "out"), *flags])
    line = capsys.readouterr().err
    assert caught.value.code == 1
    assert line.startswith(f"zsg_jax: {message}")
    assert line.count("\n") == 1


def test_what_a_task_list_cannot_have_is_refused(run, tmp_path):
    (tmp_path / "tasks.txt").write_text("one\n")
    with pytest.raises(UserError, match=r"tasks\.txt: lists tasks .* leave --data-format out"):
        run(train=str(tmp_path / "tasks.txt"), data_format="alpaca")
    with pytest.raises(UserError, match="max_source=9 counts tokens of a study's tokenizer"):
        run(natural_instructions="max_source=9")
