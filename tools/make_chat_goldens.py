#!/usr/bin/env python3
"""Writes what transformers renders for chat templates.

    python tools/make_chat_goldens.py TEMPLATES OUT

needs transformers and jinja2. TEMPLATES is a folder of .jinja files; OUT gets `rendered.json` (each template over the
conversations below) and `snippets.json` (single constructs). tests/chat_template.rs compares them with ours; point
APRGPU_CHAT_GOLDENS at a folder made this way to check other templates (the folder must also hold `templates/`).
"""
import datetime
import json
import sys
from pathlib import Path

import jinja2
from transformers.utils import chat_template_utils

NOW = datetime.datetime(2025, 3, 7, 9, 5, 2)


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = Clock

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather <now> & \"here\"; naïve, 天気",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "A city's name"},
        "days": {"type": "integer", "minimum": 1, "default": 3, "enum": [1, 3, 7]},
        "exact": {"type": "boolean", "default": False}, "scale": {"type": "number", "default": 1.0, "nothing": None},
        "empty": {}, "none": []}, "required": ["city"]}}}
TIME = {"type": "function", "function": {"name": "time", "description": "", "parameters": {"type": "object", "properties": {}},
                                         "return": {"type": "string"}}}


def call(name, arguments, ident="abcdefghi"):
    return {"type": "function", "id": ident, "function": {"name": name, "arguments": arguments}}


def m(role, content, **more):
    return {"role": role, "content": content, **more}


HI = [m("user", "Hi")]
TURNS = [m("user", "What is 2+2?"), m("assistant", " 4\n"), m("user", "  and 3+3? ")]
CALLS = [m("user", "Weather in Paris?"),
         {"role": "assistant", "content": "", "tool_calls": [call("get_weather", {"city": "Paris", "days": 2, "exact": True, "x": None})]},
         m("tool", '{"temp": 21.5}', tool_call_id="abcdefghi", name="get_weather"), m("assistant", "It is 21.5 degrees."), m("user", "Thanks")]
CONVERSATIONS = [
    ("user only", HI, True, {}),
    ("no generation prompt", HI, False, {}),
    ("system", [m("system", "You are terse.\n"), *HI], True, {}),
    ("several turns", TURNS, True, {}),
    ("system and several turns", [m("system", " Be kind. "), *TURNS, m("assistant", "6")], False, {}),
    ("unicode", [m("user", "naïve café 🦙 日本語 \u200b\u00a0 Ω")], True, {}),
    ("quotes and markup", [m("user", "it's \"quoted\" <b>&amp;</b> \\n {{ x }} {% if %} \t tab\r\nend"), m("assistant", "`code`\n```py\nx\n```"), *HI], True, {}),
    ("empty content", [m("user", ""), m("assistant", ""), m("user", "")], True, {}),
    ("tools", HI, True, {"tools": [WEATHER, TIME]}),
    ("tools and system", [m("system", "Use tools."), *HI], True, {"tools": [WEATHER]}),
    ("tool calls", CALLS, True, {"tools": [WEATHER]}),
    ("tool call last", CALLS[:3], True, {"tools": [WEATHER, TIME]}),
    ("two tool calls", [m("user", "Both"), {"role": "assistant", "content": "Sure.", "tool_calls": [
        call("get_weather", {"city": "Köln"}), call("time", {}, "123456789")]}, m("tool", "1"), m("tool", "2")], True, {"tools": [WEATHER, TIME]}),
    ("tool result as data", [*CALLS[:2], m("tool", {"content": {"a": [1, 2.5, True, None, "x'y"]}}), m("assistant", "ok")], False, {}),
    ("arguments as text", [m("user", "Go"), {"role": "assistant", "content": None, "tool_calls": [call("time", "{\"zone\": \"UTC\"}")]}], False, {}),
    ("thinking off", TURNS, True, {"enable_thinking": False}),
    ("thinking on", TURNS, True, {"enable_thinking": True}),
    ("thoughts in content", [m("user", "Why?"), m("assistant", "<think>\nhmm\n</think>\n\nBecause."), m("user", "Really?"),
                             m("assistant", "<think>\nyes\n</think>\n\nYes.")], False, {}),
    ("thoughts apart", [m("user", "Why?"), m("assistant", "Because.", reasoning_content="let me think"), m("user", "And?"),
                        m("assistant", "So.", reasoning="more thought")], False, {}),
    ("date", HI, True, {"date_string": "1 Jan 2026"}),
    ("built-in tools", [m("user", "Search"), {"role": "assistant", "content": "", "tool_calls": [call("brave_search", {"query": "x", "page": "2"})]},
                        m("ipython", {"result": "<none>"})], True, {"builtin_tools": ["brave_search", "code_interpreter", "wolfram_alpha"]}),
    ("tools in the system turn", HI, True, {"tools": [WEATHER], "tools_in_user_message": False, "tools_for_user": False}),
    ("two users in a row", [m("user", "a"), m("user", "b")], True, {}),
    ("unknown role", [m("user", "a"), m("critic", "b")], True, {}),
    ("assistant first", [m("assistant", "a")], True, {}),
    ("no messages", [], True, {}),
    ("content in parts", [m("user", [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])], True, {}),
]

VALUES = {"t": True, "f": False, "n": None, "i": 42, "neg": -7, "big": 12345678901234567, "x": 1.0, "y": 0.1, "e": 1e20, "s": 1e-7,
          "pi": 3.141592653589793, "mid": 123456789012345680.0, "small": 0.0001, "tiny": 0.00001234, "wide": 1e16, "less": 1e15,
          "text": "Hello, wörld", "pad": "  \n padded \t", "list": [1, "a", None, True, 2.5, "it's", "\"", "\n\u00a0é🙂\x07\\"],
          "map": {"b": 1, "a": [None, {"k": "v"}], "it's": "q"}, "nested": [[1, 2], {"x": {}}], "none_list": [], "words": ["b", "A", "c"],
          "people": [{"name": "Ann", "age": 30}, {"name": "Bob", "age": 25}, {"name": "Cy"}]}
SNIPPETS = [
    "{{ t }} {{ f }} {{ n }} {{ i }} {{ neg }} {{ big }}", "{{ x }} {{ y }} {{ e }} {{ s }} {{ pi }} {{ mid }} {{ small }}", "{{ list }}", "{{ map }}", "{{ nested }} {{ none_list }} {{ {} }}",
    "{{ missing }}|{{ missing is defined }}|{{ missing is none }}|{{ missing|length }}|{{ missing|default('d') }}", "{{ missing.attr }}", "{{ n.attr }}|{{ map.nope }}|{{ map['nope'] is defined }}",
    "{{ n + 1 }}", "{{ missing + 'x' }}", "{{ 'a' + 1 }}", "{{ 'a' ~ 1 ~ 'b' }}", "{{ 'abc'[0] }} {{ 'abc'[-1] }} {{ 'abcdef'[1:4] }} {{ 'abc'[::-1] }} {{ list[-3] }} {{ words[::-1] }}",
    "{{ tiny }} {{ wide }} {{ less }} {{ [tiny, wide]|tojson }}", "{{ map|tojson }}", "{{ list|tojson }}", "{{ map|tojson(indent=2) }}", "{{ nested|tojson(indent=4) }}", "{{ 'é<&>\\'\"'|tojson }}", "{{ 'é🙂'|tojson(ensure_ascii=True) }}",
    "{{ map|tojson(separators=(',', ':')) }}", "{{ map|tojson(sort_keys=true) }}", "{{ [x, e, s, t, n]|tojson }}", "{{ none_list|tojson(indent=2) }}{{ {}|tojson(indent=2) }}", "{{ missing|tojson }}",
    "{{ list|string }} {{ n|string }} {{ t|string }} {{ i|string + '!' }}", "{{ words|join(', ') }} {{ list|join('-') }} {{ 'abc'|join('.') }} {{ people|join(',', attribute='name') }}",
    "{{ pad|trim }}|{{ pad.strip() }}|{{ pad.lstrip() }}|{{ pad.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ '__a'|trim('_') }}",
    "{{ text.upper() }} {{ text.lower() }} {{ text.title() }} {{ 'hello'.capitalize() }} {{ text.startswith('Hell') }} {{ text.endswith('x') }} {{ text.startswith(('x', 'H')) }}",
    "{{ 'a,b,,c'.split(',') }} {{ ' a  b c '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'a b c'.split(None, 1) }} {{ 'a b c'.rsplit(maxsplit=1) }} {{ ''.split() }} {{ ''.split(',') }}",
    "{{ 'wörld'.find('l') }} {{ 'wörld'.find('z') }} {{ 'aXbX'.rfind('X') }} {{ 'aaa'.count('a') }} {{ 'abc'.count('') }} {{ 'abc'.index('c') }}",
    "{{ 'abc'.replace('b', 'X') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.py'.removesuffix('.py') }} {{ 'a=b=c'.partition('=')[2] }} {{ 'a=b=c'.rpartition('=')[0] }}",
    "{{ ''.isdigit() }} {{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ 'ab'.isalpha() }} {{ ' '.isspace() }} {{ 'aB'.islower() }} {{ 'AB1'.isupper() }} {{ ''.islower() }}",
    "{{ ','.join(words) }} {{ 'a\\nb'.splitlines() }}", "{{ '%s and %d' | format('x', 3) }}", "{{ '{} {}'.format('a', 1) }}",
    "{% for k, v in map.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in map %}{{ k }}{% endfor %}", "{{ map.keys()|list }} {{ map.values()|list }} {{ map.get('b') }} {{ map.get('z') }} {{ map.get('z', 'd') }} {{ map|length }}",
    "{% for k, v in map|dictsort %}{{ k }};{% endfor %}", "{% for k, v in map|items %}{{ k }};{% endfor %}", "{{ 'b' in map }} {{ 'z' not in map }} {{ 'ell' in text }} {{ 1 in list }} {{ 'x' in missing }}",
    "{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for p in people if p.age is defined %}{{ loop.index }}{{ p.name }}{% if not loop.last %}, {% endif %}{% else %}none{% endfor %}", "{% for p in [] %}x{% else %}none{% endfor %}",
    "{% for w in words %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}",
    "{% set ns = namespace(a=1, found=false) %}{% for w in words %}{% set ns.a = ns.a + 1 %}{% if w == 'A' %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.a }}{{ ns.found }}",
    "{% set v = 1 %}{% for w in words %}{% set v = v + 1 %}{{ v }}{% endfor %}{{ v }}", "{% if true %}{% set v = 5 %}{% endif %}{{ v }}",
    "{% set block %}a{{ i }}\nb{% endset %}[{{ block }}]", "{% macro hi(name, greeting='Hi') %}{{ greeting }} {{ name }}{% endmacro %}{{ hi('Ann') }} {{ hi('Bob', greeting='Yo') }}",
    "{% macro wrap() %}<{{ caller() }}>{% endmacro %}{% call wrap() %}x{% endcall %}", "{% filter upper %}abc{% endfilter %}", "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}",
    "{{ people|map(attribute='name')|list }} {{ people|selectattr('age', 'defined')|map(attribute='age')|list }} {{ people|selectattr('name', 'equalto', 'Bob')|list|length }}",
    "{{ people|rejectattr('age')|list }} {{ words|select('equalto', 'A')|list }} {{ words|reject('in', ['A', 'b'])|list }} {{ words|map('upper')|join }}", "{{ words|sort }} {{ words|first }} {{ words|last }} {{ words|reverse|list }} {{ [3,1,2]|max }} {{ [3,1]|min }} {{ [1,2]|sum }} {{ [1,1,2]|unique|list }}",
    "{{ list is sequence }} {{ text is sequence }} {{ map is sequence }} {{ i is sequence }} {{ text is iterable }} {{ map is iterable }} {{ i is iterable }} {{ n is iterable }} {{ missing is iterable }}",
    "{{ map is mapping }} {{ list is mapping }} {{ text is string }} {{ i is number }} {{ x is number }} {{ t is number }} {{ t is boolean }} {{ i is integer }} {{ t is integer }} {{ x is float }} {{ n is none }} {{ t is true }} {{ f is false }} {{ n is false }} {{ i is odd }} {{ i is even }} {{ i is divisibleby(7) }}",
    "{{ raise_exception is callable }} {{ i == 42.0 }} {{ 1 == true }} {{ 'a' < 'b' }} {{ not n }} {{ not '' }} {{ not missing }} {{ n is not none }} {{ not n is none }}",
    "{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 4 / 2 }} {{ 2 ** 3 }} {{ 1 + 2 * 3 }} {{ 'ab' * 3 }} {{ [1] + [2] }} {{ 1.5 + 1 }} {{ 10 - 2.0 }}",
    "{{ '12'|int }} {{ 'x'|int }} {{ 'x'|int(5) }} {{ 3.9|int }} {{ '1.5'|float }} {{ 'x'|float }} {{ 2.567|round(1) }} {{ 3|abs }} {{ -3|abs }}",
    "{{ missing|default('d') }} {{ n|default('d') }} {{ n|default('d', true) }} {{ ''|default('e', boolean=true) }} {{ missing or 'o' }} {{ n and 'x' }} {{ '' or none_list or 'z' }} {{ 'yes' if t else 'no' }} {{ 'yes' if f }}",
    "{{ 'abc'|upper }} {{ 'ABC'|lower }} {{ 'abc def'|title }} {{ 'abc'|capitalize }} {{ 'abc'|replace('b', 'x') }} {{ 'a\nb'|indent(2) }} {{ 'a\nb'|indent(2, true) }} {{ '<a>'|e }} {{ '<a>'|safe }} {{ 'abc'|length }} {{ 'a b'|wordcount }} {{ 'abc'|list }} {{ 'abc'|first }} {{ 'abc'|last }} {{ 'abc'|reverse }}",
    "a\n{% if true %}\nb\n{% endif %}\nc", "  {% if true %}\n  x\n  {% endif %}\n  y", "a {%- if true -%} b {%- endif -%} c", "a\n  {#- comment -#}\n  b", "{# c #}\nx\n", "x\n\n", "{%+ if true %}  y{% endif %}", "  {{ i }}\n  {{ i }}\n", "a\r\n{% if true %}\r\nb\r\n{% endif %}\r\nc",
    "{% generation %}said{% endgeneration %}|{%- generation -%} x {%- endgeneration -%}|", "{% generation %}\nsaid\n{% endgeneration %}\n|", "{% raw %}{{ x }}{% endraw %}", "{{ '\\n\\t\\x41\\u00e9\\d' }}|{{ \"it's\" }}|{{ 'a' 'b' }}",
    "{{ raise_exception('no ' + text) }}", "{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d %H:%M:%S %A %j %-d %I%p') }}", "{{ strftime_now is defined }}", "{{ bos_token }}{{ eos_token }}{{ pad_token }}",
    "{{ range(3)|list }} {{ range(1, 6, 2)|list }} {{ dict(a=1)|tojson }} {{ dict(a=1).a }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set m = {'k': [1, {'z': true}]} %}{{ m.k[1].z }} {{ m['k'][0] }} {{ m }}", "{{ [1, 2][5] is defined }}", "{{ (1, 2)|list }}",
    "{{ people[0]['name'] + people[-1].name }}", "{{ people[1:]|length }} {{ people[1:][0].name }} {{ people[:-1]|length }} {{ people[1:] is sequence }}", "{% for a, b in [[1, 2], [3, 4]] %}{{ a }}{{ b }}{% endfor %}", "{% for p in people|selectattr('age') %}{{ loop.last }}{% endfor %}",
    "{{ people == people[0:] }} {{ people[0] == {'name': 'Ann', 'age': 30} }} {{ people[0] == people[-1] }} {{ [1, 2] == [1, 2] }}", "{{ loop is defined }} {{ none }} {{ None }} {{ True }} {{ true }}", "{{ words.append('x') }}", "{{ 'x' if missing is defined and missing else 'y' }}", "{{ missing[0] }}", "{{ missing() }}", "{% for x in missing %}a{% endfor %}b", 
    "{{ 'a' if 'b' in 'abc' and not 'z' in 'abc' }} {{ 1 < 2 < 3 }} {{ 'a' not in ['a'] }}", "{{ text|length > 3 and text|length < 100 }}", "{{ i|tojson }} {{ text|tojson }} {{ t|tojson }} {{ n|tojson }}", "{{ '\u2028 \x7f \x1f'|tojson }}",
    "{% for pair in {'a': 1}.items() %}{{ pair[0] }}{{ pair[1] }}{% endfor %}", "{{ {'a': none, 'b': true, 3: 'x'} }}", "{{ 'x'.foo }}|{{ list.foo }}", "{{ 'x'.foo() }}", "{% if x is undefined %}a{% elif y %}b{% else %}c{% endif %}",
]


REASONING = [m("user", "?"), m("assistant", "a", reasoning="first"), m("assistant", "b", thinking="second"), m("assistant", "c", reasoning_content=None)]
REASONING_TEMPLATE = "{% for message in messages %}{{ message }} {{ message.thinking }} {{ message.reasoning_content }}\n{% endfor %}"


def special(name):
    if name.startswith("mistral"):
        return {"bos_token": "<s>", "eos_token": "</s>"}
    if name.startswith("llama"):
        return {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    if name.startswith("qwen"):
        return {"eos_token": "<|im_end|>"}
    return {"bos_token": "<bos>", "eos_token": "<eos>"}


def render(source, messages, add_generation_prompt, extra):
    extra = dict(extra)
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            [json.loads(json.dumps(messages))], tools=extra.pop("tools", None), chat_template=source,
            add_generation_prompt=add_generation_prompt, **extra)
        return {"text": rendered[0]}
    except jinja2.exceptions.TemplateSyntaxError as error:
        return {"syntax": str(error)}
    except jinja2.exceptions.TemplateError as error:
        if type(error) is jinja2.exceptions.TemplateError:
            return {"refused": str(error)}
        return {"error": str(error)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    templates, out = Path(sys.argv[1]), Path(sys.argv[2])
    rows = []
    for path in sorted(templates.glob("*.jinja")):
        source = path.read_bytes().decode()
        tokens = special(path.stem)
        rows.append({"template": path.name, **tokens,
                     "rendered": [render(source, c[1], c[2], {**tokens, **c[3]}) for c in CONVERSATIONS]})
    conversations = [dict(zip(("name", "messages", "add_generation_prompt", "extra"), c)) for c in CONVERSATIONS]
    dump = lambda value: json.dumps(value, ensure_ascii=False, indent=0, separators=(",", ":")) + "\n"
    (out / "rendered.json").write_text(dump({"conversations": conversations, "templates": rows}))
    snippets = [{"source": s, **render(s, [], False, {**VALUES, "bos_token": "<bos>", "eos_token": "<eos>"})} for s in SNIPPETS]
    reasoning = {"source": REASONING_TEMPLATE, "messages": REASONING, **render(REASONING_TEMPLATE, REASONING, False, {})}
    (out / "snippets.json").write_text(dump({"values": VALUES, "snippets": snippets, "reasoning": reasoning}))


main()
