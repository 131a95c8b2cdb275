"""Chat templates as transformers renders them: every one that the wheel of trl carries, over many conversations."""
import importlib.util
import json
import os
import pathlib

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

import runs

os.environ["HF_HUB_OFFLINE"] = "1"
trl = importlib.util.find_spec("trl")
TEMPLATES = sorted(pathlib.Path(trl.submodule_search_locations[0]).glob("chat_templates/*.jinja"))
TOKENS = {"bos_token": "<s>", "eos_token": "<|end|>", "pad_token": "<pad>"}


def message(role, content, **more):
    return {"role": role, "content": content, **more}


ASK, TELL = message("user", "What is a forge?"), message("assistant", "A hearth, and who works at it.")
UNICODE = message("user", "\u00a0 Grüße, 世界! \"quoted\" 'single' <b>&amp; \\n \U0001f525\u3000\n\n")
THOUGHT = message("assistant", "<think>\nIt is hot.\n</think>\n\nStrike.")
SYSTEM = message("system", "You are a smith.\n")
PARTS = message("user", [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": " iron"}])
CALL = message("assistant", "", tool_calls=[{"type": "function", "id": "c1", "function": {
    "name": "heat", "arguments": {"degrees": 1200.5, "metals": ["iron", "Zinn \u00fc"], "now": True, "who": None}}}])
ANSWER = message("tool", "{\"done\": true}", name="heat", tool_call_id="c1")
TOOLS = [{"type": "function", "function": {
    "name": "heat", "description": "Heats <metal> to a temperature.",
    "parameters": {"type": "object", "required": ["degrees"], "properties": {
        "degrees": {"type": "number", "description": "in °C", "default": 900},
        "metals": {"type": "array", "items": {"type": "string", "enum": ["iron", "tin"]}},
        "deep": {"type": "object", "properties": {"a": {"type": ["string", "null"]}, "B": {"type": "integer"}}},
        "now": {"type": "boolean", "nullable": True}}}}}]
ROWS = [
    {"messages": [ASK]},
    {"messages": [ASK, TELL]},
    {"messages": [SYSTEM, ASK, TELL]},
    {"messages": [SYSTEM, ASK, TELL, UNICODE, message("assistant", "")]},
    {"messages": [ASK, TELL] * 4 + [UNICODE]},
    {"messages": [ASK, THOUGHT, ASK, THOUGHT]},
    {"messages": [message("user", ""), message("assistant", "  spaces  \n")]},
    {"messages": [ASK, message("assistant", "Hm.", reasoning_content="Think, and think again.")]},
    {"messages": [SYSTEM]},
    {"messages": [TELL]},
    {"messages": [ASK, ASK]},
    {"messages": [message("developer", "Be brief."), ASK, TELL]},
    {"messages": [message("stranger", "Who?"), ASK, TELL]},
    {"messages": [PARTS, TELL]},
    {"messages": [ASK, message("assistant", None)]},
    {"messages": [SYSTEM, ASK, CALL, ANSWER, TELL], "tools": TOOLS},
    {"messages": [ASK, CALL, ANSWER, CALL, ANSWER], "tools": TOOLS},
    {"messages": [ASK, TELL], "tools": TOOLS},
    {"messages": [ASK, TELL, ASK], "chat_template_kwargs": {"enable_thinking": False}},
    {"messages": [ASK, TELL], "chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": "low"}},
    {"messages": []},
]
# The language itself; `x` is a dict, `s` a string, `l` a list.
VARIABLES = {"messages": [], "chat_template_kwargs": {"s": " Größe, a b  a\n", "l": ["b", "a", "c", "a"], "n": -7, "f": 1e16, "g": 0.1, "e": [],
             "x": {"b": 1, "A": None, "items": [1, 2], "c": {"d": [True, 1.5, "it's \"x\" \u00e9\n"]}},
             "p": [{"k": "v", "r": 1}, {"k": "w", "r": 0}, {"k": "v"}], "bad": "<&>'\"", "none": None}}
SNIPPETS = r"""
a {{ 1 }} b {{ -1 }}{{ 2.50 }} {{ f }} {{ g }}
{{ s }}|{{ s | trim }}|{{ s.strip() }}|{{ s.strip(' a\n') }}|{{ s.lstrip() }}|{{ s.rstrip('\n ') }}
{{ s[0] }}{{ s[-1] }}{{ s[1:4] }}{{ s[::-1] }}{{ s[::2] }}{{ s[-5:-2] }}{{ s[99] }}{{ s | length }}{{ s[3:1] }}
{{ l[::-1] }}{{ l[1:] }}{{ l[:-1] }}{{ l[-2] }}{{ l[9] }}{{ l[True] }}{{ l[3:0:-2] }}
{{ n % 3 }} {{ n // 2 }} {{ n / 2 }} {{ n * n - 1 }} {{ 7 % -3 }} {{ -n }} {{ +n }} {{ - n | string }} {{ 2 * 3 ~ 4 * 5 }}
{{ 'a' 'b' ~ 1 ~ none ~ true }} {{ "q\"\x41\u00e9\n\d" }} {{ 'it''s' }} {{ ('a',) }} {{ (1, 'b') }} {{ [1, [2, {}], ()] }}
{{ x }} {{ x.c.d }} {{ x | tojson }} {{ x | tojson(indent=2) }} {{ x | tojson(sort_keys=true) }} {{ bad | tojson }}
{{ s | tojson(ensure_ascii=True) }} {{ '\U0001f525\x7f' | tojson(true) }} {{ x | tojson(separators=(',', ':')) }} {{ {} | tojson(indent=1) }}
{{ x.b }} {{ x['A'] }} {{ x.zz }}{{ x['zz'] }} {{ x.zz is defined }} {{ x.get('zz', 5) }} {{ x.get('b') }} {{ x['items'] }} {{ x.items is defined }}
{% for k, v in x.items() %}{{ k }}={{ v }};{% endfor %}{% for k in x %}{{ k }}{% endfor %}{{ x.keys() | list }}{{ x.values() | list }}
{% for k, v in x | dictsort %}{{ k }}{% endfor %}{% for k, v in x | items %}{{ loop.index }}{{ k }}{% endfor %}{{ x | length }}
{% for i in range(3) %}{{ i }}{{ loop.first }}{{ loop.last }}{{ loop.revindex }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{% endfor %}
{% for i in range(5, 0, -2) if i != 3 %}{{ loop.index0 }}{{ i }}{% else %}none{% endfor %}{% for i in e %}x{% else %}none{% endfor %}
{% for i in l %}{% if i == 'c' %}{% break %}{% elif i == 'a' %}{% continue %}{% endif %}{{ i }}{% endfor %}
{% set a = 1 %}{% for i in l %}{% set a = a + 1 %}{{ a }}{% endfor %}{{ a }}{% if true %}{% set a = 9 %}{% endif %}{{ a }}
{% set ns = namespace(a=1, b='x') %}{% for i in l %}{% set ns.a = ns.a + 1 %}{% endfor %}{{ ns.a }}{{ ns.zz is defined }}{{ ns['b'] }}
{% macro m(a, b=2, c='z') %}[{{ a }}{{ b }}{{ c }}{{ n }}]{% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m('x', 'y') ~ '!' }}{{ m() }}
{% set late = 1 %}{% macro m2() %}{{ late }}{% endmacro %}{% set late = 2 %}{{ m2() }}{% for late in [3] %}{{ m2() }}{% endfor %}
{% macro r(n) %}{{ n }}{% if n > 0 %}{{ r(n - 1) }}{% endif %}{% endmacro %}{{ r(5) }}
{% set a, b = 1, 'c' %}{{ a }}{{ b }}{% set c %} block {{ a }}{% endset %}{{ c }}|{% set (d, e2) = [3, 4] %}{{ d }}{{ e2 }}
{{ 'a' in s }} {{ 'z' not in s }} {{ 'a' in l }} {{ 'b' in x }} {{ 1 in [1.0] }} {{ 'q' in undefined_name }} {{ not 1 }} {{ not '' }}
{{ 1 == 1.0 }} {{ 'a' == 1 }} {{ none == none }} {{ l == l }} {{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }} {{ 'a' < 'b' }} {{ true == 1 }} {{ (1,) == [1] }}
{{ 1 or 2 }} {{ 0 or '' }} {{ 1 and 2 }} {{ none and 1 }} {{ 'a' if 0 }} {{ 'a' if 0 else 'b' if 1 else 'c' }} {{ undefined_name }}
{{ undefined_name | default('d') }} {{ '' | default('d') }} {{ '' | default('d', true) }} {{ none | d(4, boolean=True) }} {{ undefined_name | length }}
{{ l | join }} {{ l | join(', ') }} {{ [1, none, 'x'] | join('-') }} {{ ', '.join(l) }} {{ l | first }}{{ l | last }}{{ e | first }} {{ s | first }}
{{ p | map(attribute='k') | join(',') }} {{ l | map('upper') | list }} {{ p | selectattr('r') | list | length }} {{ p | selectattr('k', 'equalto', 'v') | map(attribute='k') | list }}
{{ l | reject('equalto', 'a') | list }} {{ l | select('in', ['a', 'c']) | list }} {{ p | rejectattr('r', 'defined') | list }} {{ [0, 1] | select | list }}
{{ s.split() }} {{ s.split('a') }} {{ s.split(' ', 1) }} {{ ''.split('x') }} {{ ' '.split() }} {{ s.split('a')[-1] | trim }} {{ 'a b c'.split(None, 1) }}
{{ s.replace('a', 'X') }} {{ s | replace('a', 'X', 1) }} {{ l | replace("'", '') }} {{ 'aXbX'.find('X') }} {{ 'aXbX'.count('X') }} {{ s.find('b') }}
{{ s.startswith(' G') }} {{ s.endswith('a') }} {{ s.endswith(('x', '\n')) }} {{ 'aBc' | upper }}{{ 'aBc'.lower() }}{{ 'aBC dE' | capitalize }}{{ 'abC'.capitalize() }}
{{ '12' | int + 1 }} {{ 'x' | int }} {{ '3.9' | int }} {{ 3.9 | int }} {{ 'x' | int(7) }} {{ '1.5' | float }} {{ 2 | float }} {{ 1.0 }} {{ 100000.0 * 1000000 }} {{ 0.00001 }}
{{ 1 is number }}{{ true is number }}{{ true is integer }}{{ 1 is integer }}{{ 1.0 is float }}{{ 'a' is string }}{{ l is sequence }}{{ x is sequence }}{{ 1 is iterable }}
{{ x is mapping }}{{ none is none }}{{ undefined_name is undefined }}{{ undefined_name is iterable }}{{ false is false }}{{ 0 is false }}{{ true is boolean }}{{ 1 is sameas true }}{{ none is sameas none }}
{{ 1 is not none }} {{ not 1 is none }} {{ 'a' is in l }} {{ 1 is eq 1 }} {{ 1 is ne(2) }} {{ 2 is equalto 2 and true }} {{ x.b is defined and x.b is none }}
{%- if 1 -%}  a  {%- endif %}   b {{- ' c ' -}} d  {%- set q = 1 %}  e {#- c -#} f {#+ c +#} g
  {% if 1 %}  a\n  {% endif %}\n\n  {{ 1 }}\n\t{# c #}\n x {% if 1 %}\n y{% endif %}\n
a\n  {%+ if 1 %}\nb{% endif +%}\nc\n{{ 1 }}\nd\u00a0\u3000{%- if 1 -%}\u00a0e{% endif %}\n\n
{{ {'a': {'b': 1}}['a']['b'] }} {{ {'a': 1}.a }} {{ [1, 2,] }} {{ {'a': 1,} }} {{ dict(a=1, b='c') }} {{ range(3) | list }} {{ range(2) | length }}
{{ (s | trim).split(',')[0] | upper if false else 'x' | upper }} {{ ('a' ~ 1) | length }} {{ l | length > 2 and l[0] is string }}
{{ bad | safe }} {{ 'x' ~ (bad | safe) ~ '<' }} {{ bad | safe | length }} {% set t = bad | tojson | safe %}{{ t }} {{ 'a' in (bad | safe) }}
{% generation %}{{ s }}{% set in_generation = 1 %}{% endgeneration %}{{ in_generation is defined }} {{ strftime_now('%Y') }} {{ strftime_now is defined }}
{% for a in [1, 2] %}{% for b in [3, 4] %}{{ loop.index }}{{ a }}{{ b }}{% endfor %}{{ loop.index }}{% set outer = loop %}{% endfor %}{{ outer is defined }}
{% for a in l %}{% if loop.previtem is defined and loop.previtem == a %}={% endif %}{{ a }}{% endfor %}
{{ messages | length == 0 }} {{ none.a is defined }} {{ s.zz is defined }} {{ [] == [] }} {{ {} == {} }} {{ l[0:2] + ['z'] }}
"""
# What jinja2 renders but the engine refuses, and what it says.
REFUSED = {
    "a\n {% include 'x' %}": "2:5: the tag {% include %} is not supported",
    "{% block a %}{% endblock %}": "1:4: the tag {% block %} is not supported",
    "{{ l | groupby('a') }}": "1:8: the filter `groupby` is not supported",
    "{{ 1 is divisibleby 3 }}": "1:9: the test `divisibleby` is not supported",
    "{{ 'é' | upper }}": "1:4: upper and lower case beyond ASCII is not supported",
    "{{ 'a' * 3 }}": "1:4: `*` of a string and a integer is not supported",
    "{{ '%s' % 3 }}": "1:4: `%` of a string and a integer is not supported",
    "{{ bad | safe + 'x' }}": "`+` with what `safe` made is not supported",
    "{{ x.items() }}": "printing a generator or a view is not supported",
    "{{ 2 ** 3 }}": "`**` is not supported",
    "{{ s.title() }}": "the method title of a string is not supported",
    "{{ cycler('a') }}": "the function cycler is not supported",
    "{% macro m() %}{{ caller() }}{% endmacro %}": "the name `caller` is not supported",
    "{% for a in l recursive %}{% endfor %}": "`recursive` is not supported",
    "{{ loop_ }}{{ range(99).__class__ }}": "the attribute __class__ is not allowed",
}
# What no template may do, and what it is told.
ENDLESS = {
    "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}": "too many steps",
    "{% set ns = namespace(s='0123456789abcdef') %}{% for a in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}":
        "too many steps",
    "{% set ns = namespace(l=[1]) %}{% for a in range(100) %}{% set ns.l = ns.l + ns.l %}{% endfor %}": "too many steps",
    "{% macro r() %}{{ r() }}{% endmacro %}{{ r() }}": "recurs too deep",
    "{% set ns = namespace(l=[]) %}{% for a in range(1000) %}{% set ns.l = [ns.l] %}{% endfor %}": "100 levels",
    "{% set ns = namespace() %}{% set ns.me = ns %}": "a namespace cannot be put into another value",
    "{{ range(100001) }}": "range is too long",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}": "more than 100 levels",
    "{% if 1 %}" * 5000: "more than 100 levels",
    "{{ x.c.__init__ }}": "the attribute __init__ is not allowed",
    "{{ x.update({'a': 1}) }}": "the method update of a dict is not supported",
    "{{ raise_exception('no ' ~ 'system') }}": "1:4: the template refuses: no system",
    "{{ undefined_name.a }}": "1:4: undefined_name is undefined, so it has no a",
    "{{ x.zz.a }}": "the dict's zz is undefined, so it has no a",
    "{{ 1 // 0 }}": "a division by 0",
    "{{ none + 'a' }}": "`+` of a None and a string is not supported",
    "\n\n{% if x %}": "3:11: the template ends before {% endif %}",
    "{% endif %}": "{% endif %} without its beginning",
    "{{ 'a }}": "1:4: a string without its end",
    "{{ a": "1:1: a tag without its end }}",
    "{# a": "1:1: a comment {# without its end #}",
    "{{ a b }}": "1:6: wanted `}}`, found `b`",
}


def expected(source, row, with_prompt):
    """The text, or None where jinja2 fails."""
    messages, tools = row["messages"], row.get("tools")
    try:
        texts, _ = render_jinja_template([messages], tools=tools, chat_template=source,
                                         add_generation_prompt=with_prompt, **TOKENS, **row.get("chat_template_kwargs", {}))
        return texts[0]
    except Exception:  # whatever jinja2 and Python raise
        return None


def rendered(directory, source, rows, with_prompt):
    (directory / "template.jinja").write_text(source)
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "tokenizer_config.json").write_text(json.dumps(TOKENS))
    done = runs.run("data", "preview", directory / "rows.jsonl", "--tokenizer", directory / "tokenizer.json",
                    "--chat-template", directory / "template.jinja", "--rows", len(rows), "--render", "--json",
                    *(["--generation-prompt"] if with_prompt else []))
    if done.returncode == 3:  # it does not parse
        return [{"error": done.stderr.removeprefix("error: ").removesuffix("\n")}]
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("with_prompt", [False, True])
@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_templates_of_trl(path, with_prompt, tmp_path):
    source = path.read_text()
    for row, got in zip(ROWS, rendered(tmp_path, source, ROWS, with_prompt), strict=True):
        want = expected(source, row, with_prompt)
        if want is None:
            assert "error" in got, (row, got)
        else:
            assert got.get("text") == want, (row, got)


def test_the_language(tmp_path):
    # White space is written out in lines that begin with it.
    lines = [line.encode().decode("unicode_escape") if line.startswith((" ", "a\\n")) else line
             for line in SNIPPETS.split("\n") if line]
    for snippet in lines:
        want = expected(snippet, VARIABLES, False)
        got, = rendered(tmp_path, snippet, [VARIABLES], False)
        assert want is not None, f"jinja2 does not take {snippet}"
        assert got.get("text") == want, (snippet, got, want)


@pytest.mark.parametrize("table", [REFUSED, ENDLESS], ids=["refused", "endless"])
def test_what_is_beyond_it_is_refused(table, tmp_path):
    for snippet, message in table.items():
        got, = rendered(tmp_path, snippet, [VARIABLES], False)
        assert message in got.get("error", ""), (snippet, got)
        assert got["error"].count(str(tmp_path / "template.jinja")) == 1 and "\n" not in got["error"]
