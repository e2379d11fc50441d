import json

import jinja2
import pytest

from zsg_jax.data.tokenize.jinja import MARK, MARK_END, ChatTemplate, load
from zsg_jax.data.tokenize.truncation import Unfit
from zsg_jax.runtime.errors import UserError

pytestmark = pytest.mark.references

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TALK = [{"role": "user", "content": "a<b & 'c'"}, {"role": "assistant", "content": "é"}]


def render(source, prompt=False):
    return ChatTemplate(source, "mine.jinja", SPECIAL).render(TALK, prompt)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}{{ eos_token }}{{ pad_token }}|{{ tools }}", "<s></s>|None"),
        ("{{ messages[0].content }}", "a<b & 'c'"),
        ("{{ messages | tojson }}", json.dumps(TALK, ensure_ascii=False)),
        ("{{ {'b': 1, 'a': 2} | tojson(indent=1) }}", '{\n "b": 1,\n "a": 2\n}'),
        # Blocks take their line's white space with them, and a last line break is no text.
        ("  {% if true %}\nx\n  {% endif %}\ny\n", "x\ny"),
        (
            "{% for m in messages %}{{ m.role }}{% if true %}{% break %}{% endif %}{% endfor %}",
            "user",
        ),
        ("{{ 'yes' if add_generation_prompt else 'no' }}", "no"),
        ("{{ 'dated' if strftime_now is defined else 'not' }}", "dated"),
        ("a{% generation %}b{{ 1 }}{% endgeneration %}c", f"a{MARK}b1{MARK_END}c"),
    ],
)
def test_rendering_is_as_in_transformers(source, text):
    assert render(source) == text
    if MARK not in text:
        utils = pytest.importorskip("transformers.utils.chat_template_utils")
        theirs, _ = utils.render_jinja_template([TALK], chat_template=source, **SPECIAL)
        assert theirs == [text]


def test_a_template_that_has_a_date_of_its_own_gives_that():
    # As Llama 3.1's does; transformers would write today's.
    own = "{{ strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' }}."
    assert render(f"Today: {own}\n{own}") == "Today: 26 Jul 2024.\n26 Jul 2024."


def test_the_generation_prompt_and_blocks_are_told():
    assert render("{{ 'yes' if add_generation_prompt else 'no' }}", prompt=True) == "yes"
    marked = "{% for m in messages %}{%- generation -%} x {%- endgeneration -%}{% endfor %}"
    assert ChatTemplate(marked, "m", {}).marks_answers
    assert not ChatTemplate("{% macro f() %}{{ caller() }}{% endmacro %}", "m", {}).marks_answers
    called = "{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}x{% endcall %}"
    assert not ChatTemplate(called, "m", {}).marks_answers


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('no tools\\nhere') }}", "it says: no tools here"),
        ("{{ strftime_now('%d %b %Y') }}", "asks for today's date"),
        ("{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}", "today's"),
        ("a{{ strftime_now('%Y') | int + 1 if strftime_now is defined else 'b' }}", "today's"),
        ("{{ messages[7].content }}", "it fails: "),
        ("{{ 1 / 0 }}", "it fails: ZeroDivisionError"),
        ("{{ messages.append(1) }}", "it fails: access to attribute 'append'"),
        ("{{ ''.__class__.__mro__ }}", "it fails: "),
        ("{{ lipsum() }}", "'lipsum' is undefined"),
        ("{{ [1, 2] | random }}", "No filter named 'random'"),
        ("{{ range(10000000) | list }}", "it fails: OverflowError"),
    ],
)
def test_what_a_template_may_not_do(source, reason):
    with pytest.raises((Unfit, UserError, jinja2.TemplateError), match=reason):
        render(source)


def test_templates_are_found_where_transformers_finds_them(tmp_path):
    def found():
        return load("chat", tmp_path, SPECIAL).render([])

    with pytest.raises(UserError, match=r"data\.template=chat: .* holds no chat template"):
        found()
    config = tmp_path / "tokenizer_config.json"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "json"}))
    assert found() == "json"
    config.write_text(json.dumps({"chat_template": "config"}))
    assert found() == "config"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "named"}]
    config.write_text(json.dumps({"chat_template": named}))
    assert found() == "named"
    config.write_text(json.dumps({"chat_template": named[:1]}))
    with pytest.raises(UserError, match="names the templates tool_use but no default"):
        found()
    config.write_text(json.dumps({"chat_template": 3}))
    with pytest.raises(UserError, match="chat_template is no text"):
        found()
    config.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        found()
    (tmp_path / "chat_template.jinja").write_text("jinja é", encoding="utf-8")
    assert found() == "jinja é"


def test_files_and_typing_errors(tmp_path):
    assert load("study", "bytes", {}) is None
    file = tmp_path / "mine.jinja"
    file.write_text("{{ bos_token }}!")
    assert load(str(file), "bytes", SPECIAL).render([]) == "<s>!"
    with pytest.raises(UserError, match=r"data\.template='chta' is no file.*did you mean chat\?"):
        load("chta", "bytes", SPECIAL)
    file.write_text("a\n{% if %}")
    with pytest.raises(
        UserError, match=r"mine\.jinja: is no Jinja template that can be read: line 2"
    ):
        load(str(file), "bytes", SPECIAL)
    file.write_bytes(b"\xff")
    with pytest.raises(UserError, match="cannot be read"):
        load(str(file), "bytes", SPECIAL)


def test_the_fingerprint_covers_the_text_and_the_tokens():
    prints = {
        ChatTemplate(source, name, special).fingerprint
        for source, name, special in [
            ("a", "x", SPECIAL),
            ("b", "x", SPECIAL),
            ("a", "x", {}),
        ]
    }
    assert len(prints) == 3
    assert ChatTemplate("a", "y", SPECIAL).fingerprint in prints
