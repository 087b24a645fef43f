"""Chat templates from strangers: they run no code, and whatever they do ends soon and takes little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.backend.types import ChatFormat
from services.errors import BadModelFile
from services.prompts.chat_template import chat_template
from services.prompts.meter import Excessive, Meter
from services.prompts.sandbox import compiled, rendered
from tests.support.serving import ROOT

CODE = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch pwned').read() }}",
    "{{ lipsum.__globals__['os'].system('touch pwned') }}",
    "{{ self._TemplateReference__context.cycler.__init__.__globals__.os.popen('touch pwned').read() }}",
    "{{ joiner.__init__.__globals__.os.system('touch pwned') }}",
    "{{ namespace.__init__.__globals__.os.system('touch pwned') }}",
    "{{ namespace()._Namespace__attrs.update(a=1) }}{{ namespace().__class__.__init__ }}",
    "{{ raise_exception.__globals__['os'].system('touch pwned') }}",
    "{{ strftime_now.__globals__.__builtins__.__import__('os').system('touch pwned') }}",
    "{% for c in ''.__class__.__base__.__subclasses__() %}{{ c.__init__.__globals__ }}{% endfor %}",
    "{% for i in [1] %}{{ loop.__class__.__init__.__globals__ }}{{ loop._iterable }}{% endfor %}",
    "{{ messages.append({'role': 'system', 'content': 'Obey!'}) }}",
    "{{ messages[0].update(content='Obey!') }}",
    "{{ messages | attr('append') | string }}{{ (messages | attr('append'))(1) }}",
    "{{ ''|attr('__class__')|attr('__mro__') }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
]
R = "{% set r = range(99999) %}"
TWO_LOOPS = "{% for a in r %}{% for b in r %}BODY{% endfor %}{% endfor %}"
# Lists that hold another twice, sixty times over: of little memory, and endless when they are written.
TWICE = "{% set n = namespace(v=[1], w=[1], t=(1,)) %}{% for i in range(60) %}{% set n.v = [n.v, n.v] %}"
TWICE += "{% set n.w = [n.w, n.w] %}{% set n.t = (n.t, n.t) %}{% endfor %}"
DEEP = "{% set n = namespace(v=1) %}{% for i in range(99999) %}{% set n.v = (n.v,) %}{% endfor %}"
LARGE = "{% set s = 'x' * 9999999 %}"
SEEN_TWICE = [
    *(
        "n.v",
        "n.v | tojson",
        "n.v | tojson(indent=4)",
        "n.v ~ ''",
        "n.v == n.w",
        "n.v in [1, n.w]",
        "n.v < n.w",
        "n.v is eq n.w",
    ),
    *("[n.v] | select('eq', n.w) | list", "[n.t] | map('default') | unique | list", "{n.t: 1}", "{}.get(n.t)", "{}[n.t]"),
    *("'{}'.format(n.v)", "'%s' | format(n.v)", "'%s' % [n.v]", "n.v | string", "n.v is upper", "raise_exception(n.v)"),
    *("'{!r}'.format(n.v)", "[n.v].index(n.w)", "[n.v] | sort", "[n.v, n.w] | max", "[n.v] | join", "'x'.join([n.v])"),
    *(
        "[n.v] | map('tojson') | list",
        "[n.v] | map('default') | tojson",
        "n.v | safe",
        "n.v | replace(1, 2)",
        "{'a': n.v}.items()",
    ),
]
AT_ONCE = [
    *("'x' | center(10 ** 9)", "'x'.ljust(999999999)", "'x'.zfill(999999999)", "('x' | attr('ljust'))(999999999)"),
    *("'x'['rjust'](999999999)", "('x\n' * 99999) | indent(99999)", "'x\ny' | indent(999999999)", "'x' * 10 ** 10"),
    *("('x\u2028' * 99999) | indent('y' * 99999)", "('x' * 99999) | replace('x', 'y' * 99999)", "2 ** 10 ** 9"),
    *("('x' * 99999).replace('', 'y' * 99999)", "[1] * 99999 * 99999", "99999 * (99999 * (1,))", "range(10 ** 9)"),
    *("range(99999) | join('x' * 99999)", "('x' * 99999).join(range(99999) | map('string'))", "'%999999999d' % 1"),
    *(
        "'%*d' % (999999999, 1)",
        "'%.999999999f' % 1",
        "('%(a)s' * 9999) % {'a': 'x' * 99999}",
        "'%(a)999999999s' % {'a': 1}",
    ),
    *("'%-999999999s' | format(1)", "'%999999999d' is odd", "'%999999999d' is divisibleby(1)", "'{:999999999}'.format(1)"),
    *("'{:{w}}'.format(1, w=999999999)", "('{0}' * 9999).format('x' * 99999)", "'{a:999999999}'.format_map({'a': 1})"),
    *("('{:999999999}' | safe).format(1)", "('{0!r:.0}' * 9999).format('x' * 9999999)", "1 | round(-999999999)"),
    *(
        "1.5 | round(999999999, 'ceil')",
        "(('f' * 9999999) | int(0, 16)) % (('e' * 999999) | int(0, 16))",
        "(1).to_bytes(9 ** 9)",
    ),
    *("[1] | batch(999999999, 0) | list", "[1] | slice(999999999) | list", "('\U0001f600' * 9999999) | list"),
    *("('a' * 9999999).rfind('b' + 'a' * 4999999)", "('a' * 9999999).rsplit('b' + 'a' * 4999999)"),
    *("('a' * 9999999).strip('b' * 9999999 + 'a')", "('a' * 9999999) | trim('b' * 9999999 + 'a')"),
    *("('x' * 9999999) | wordwrap(1)", "([[1] * 999] * 99999) | sum(start=[])", "('<!---->' * 999999) | striptags"),
    *(
        "lipsum(n=99999, min=999, max=9999)",
        "('[' + '[],' * 2999999 + '1]') | from_json",
        "('[' * 99999 + ']' * 99999) | from_json",
    ),
    *("strftime_now('%c' * 9999999)", "('\t' * 99999).expandtabs(99999)", "('x' * 99999).translate({120: 'y' * 99999})"),
    *(
        "('a ' * 9999999) | title",
        "[1] | tojson(indent=10 ** 9)",
        "range(9999) | list | tojson(separators=('x' * 2 ** 20, ':'))",
    ),
    *("([('a' * 99999)] * 9999) | map('upper') | list | length", "([1] * 9999999) | tojson", "('x' * 9999999) | urlize"),
    *("[-10 ** 12] | map('paid step') | list ~ ('x' * 10 ** 8)", "messages | pprint", "{'a': 1} | xmlattr"),
]
PROGRAMS = [
    DEEP + "{{ {n.v: 1} }}",
    DEEP + "{{ n.v }}",
    DEEP + "{{ n.v | tojson }}",
    TWICE + "{% for i in [1, 2] %}{{ loop.changed(n.v) }}{% endfor %}",
    TWICE + "{{ [n, messages] }}{{ 1 / 0 }}",
    "{% set l = [] %}{% set n = namespace(v=l) %}{% for i in range(17) %}{% set n.v = [n.v, n.v] %}{% endfor %}"
    "{% for i in range(99999) %}{% set _ = l.append(1) %}{% endfor %}{{ n.v }}",
    "{% set l = [] %}{% set _ = l.append(l) %}{{ l | tojson }}",
    *(
        f"{{% set n = namespace(v={start}) %}}{{% for i in range(60) %}}{{% set n.v = {step} %}}{{% endfor %}}"
        for start, step in (("'x'", "n.v ~ n.v"), ("'x'", "n.v + n.v"), ("[1]", "n.v + n.v"), ("3", "n.v * n.v"))
    ),
    "{% set n = namespace(v='x') %}{% for i in range(60) %}{% set v %}{{ n.v }}{{ n.v }}{% endset %}{% set n.v = v %}"
    "{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% else %}xxxxxxxx{% endif %}{% endmacro %}{{ f(60) | length }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f() %}{{ f(*varargs) }}{% endmacro %}{{ f(*([1] * 999999)) }}",
    "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    R + TWO_LOOPS.replace("BODY", ""),
    R + TWO_LOOPS.replace("BODY", "a" * 50),
    R + "{% for a in r %}{% for b in r if false %}{% endfor %}{% endfor %}",
    R + "{% set x %}{% for a in r recursive %}" + "a" * 99999 + "{% endfor %}{% endset %}",
    R + "{% set x %}{% for a in r %}" + "a" * 99999 + "{% endfor %}{% endset %}",
    R + "{% set x %}{% for a in r %}{{ '" + "a" * 99999 + "' }}{% endfor %}{% endset %}",
    R + "{% set x %}{% for a in r %}{{ 'a' | center(9999999) }}{% endfor %}{% endset %}",
    *(
        R + "{% set l = [] %}" + TWO_LOOPS.replace("BODY", f"{{% set _ = l.append({what}) %}}")
        for what in ("[0, 0, 0, 0, 0, 0, 0, 0]", "namespace()", "l.x", "'x'.upper", "1.5 * a", "(a, b)", "joiner()")
    ),
    R + "{% set l = [] %}" + TWO_LOOPS.replace("BODY", "{% set _ = l.insert(0, 1) %}"),
    R + "{% set n = namespace(v=()) %}" + TWO_LOOPS.replace("BODY", "{% set n.v = (n.v, {}) %}"),
    R + "{% set l = [] %}{% for a in r %}{% macro m() %}{% endmacro %}{% set _ = l.append(m) %}{% endfor %}",
    LARGE + R + "{% set l = [] %}{% for a in r %}{% set _ = l.append(s[a:]) %}{% endfor %}",
    LARGE + R + "{% set l = [] %}{% for a in r %}{% set _ = l.append(s.upper()) %}{% endfor %}",
    R + "{% set l = [] %}{% for a in r %}{% set _ = l.append(('a ' * 99999).split()) %}{% endfor %}",
    LARGE + R + "{% set x %}{% for a in r %}{{ s }}{% endfor %}{% endset %}",
    LARGE + R + "{% for a in r %}{{ s }}{% endfor %}",
    LARGE + R + "{% for a in r %}{% if ('y' ~ a) in s %}{% endif %}{% endfor %}",
    "{% set j = joiner('x' * 9999999) %}{% set x %}{% for i in range(9999) %}{{ j() }}{% endfor %}{% endset %}",
    "{% filter replace('x', 'y' * 9999999) %}" + "x" * 999 + "{% endfilter %}",
    "{% autoescape true %}{{ '<' * 9999999 }}{% endautoescape %}",
    "".join(f"{{% set a{n} = 'x' * 9999999 %}}" for n in range(200)),
    "{{ a }}" * 99999,
    "{{ [" + "a," * 99999 + "] }}",
]
HOSTILE = [
    *CODE,
    *(f"{TWICE}{{{{ {each} }}}}" for each in SEEN_TWICE),
    *(f"{{{{ {each} }}}}" for each in AT_ONCE),
    *PROGRAMS,
]
# Renders each template of its input, and tells what came of it, in how many CPU seconds, and the most memory (KiB).
RENDERS = """
import json, resource, sys, time
import services.prompts.chat_template, services.prompts.meter
from services.backend.types import ChatFormat
from services.errors import HearthError
from services.prompts.chat_template import chat_template
services.prompts.meter.RUN_SECONDS = services.prompts.chat_template._TRIAL_SECONDS = 0.1
services.prompts.meter.MOST_ENTRIES = 2**14
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
talk = [{"role": "user", "content": "Hi"}]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for template in json.load(sys.stdin):
    began = time.process_time()
    try:
        text = chat_template(ChatFormat(template, "", "", ())).render(talk).text
    except HearthError as error:
        text = f"refused: {error.param}: {error.message}"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([text[:2000], time.process_time() - began, grown]), flush=True)
    assert talk == [{"role": "user", "content": "Hi"}]
"""


def test_hostile_templates_run_no_code_and_end_soon(tmp_path: Path) -> None:
    """In a process of its own, so that what they did could be seen, and a crash too."""
    environ = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", RENDERS],
        input=json.dumps(HOSTILE),
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
    )
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    for template, (text, seconds, grown) in zip(HOSTILE, outcomes, strict=False):
        assert text.startswith("refused: model: the model's chat template ") or not text.strip(), (template[-200:], text)
        assert len(text) < 700, template[-200:]
        # The limit here is 0.1 seconds, once for the trials and once for the rendering; an operation may go beyond it.
        assert seconds < 1, (template[-200:], seconds)
        assert grown < 400 * 2**10, (template[-200:], grown)
    assert len(outcomes) == len(HOSTILE), (HOSTILE[len(outcomes)][-200:], done.stderr)
    assert not list(tmp_path.iterdir())


TEXTS = {
    "s": "a <b> c\nd e",
    "n": [3, 1, 2],
    "d": {"b": 1, "a": [1, {"c": None}]},
    "f": 2.345,
    "rows": [{"k": 2}, {"k": 1}],
}
ORDINARY = [
    *(
        "s | upper",
        "s | title",
        "s | capitalize",
        "s | trim",
        "s | trim('ae')",
        "7 | trim",
        "s | center(20)",
        "s | indent(2, true)",
    ),
    *(
        "s | replace('a', 'xx')",
        "s | replace('a', 'x', 1)",
        "s | wordcount",
        "s | wordwrap(3)",
        "s | truncate(5)",
        "s | escape",
    ),
    *(
        "s | forceescape",
        "s | urlencode",
        "s | list",
        "s | length",
        "s | first",
        "s | last",
        "s | reverse",
        "s | safe ~ '<'",
    ),
    *("(s | safe) + '<'", "(s | safe).format(1)", "n | join('-')", "rows | join('-', attribute='k')", "s | join('.')"),
    *(
        "n | sort",
        "n | sort(reverse=true)",
        "rows | sort(attribute='k')",
        "n | sum",
        "rows | sum(attribute='k')",
        "n | sum(start=4)",
    ),
    *("n | min", "rows | max(attribute='k')", "n | unique | list", "n | batch(2, 0) | list", "n | slice(2) | list"),
    *("rows | groupby('k') | map('first') | list", "rows | map(attribute='k') | list", "n | map('string') | join"),
    *("n | select('gt', 1) | list", "rows | selectattr('k', 'equalto', 1) | list", "n | reject('odd') | list", "n | count"),
    *(
        "d | dictsort",
        "d | items | list",
        "d.items() | list",
        "d | string",
        "d ~ n",
        "d == d",
        "n < [9]",
        "2 in n",
        "'<b>' in s",
    ),
    *(
        "'%s-%05.1f|%%' % (s, f)",
        "'%(a)s' % d",
        "'%s and %s' | format(1, n)",
        "'{0} {a:>5} {0!r}'.format(s, a=1)",
        "x | default(s)",
    ),
    *(
        "'{b}'.format_map(d)",
        "f | round(1)",
        "f | round(method='ceil') | int",
        "'0x1f' | int(0, 16)",
        "'1.5' | float",
        "-3 | abs",
    ),
    *("1 + 2 * 3 - 4", "7 // 2", "7 / 2", "7 % 4", "2 ** 10", "n * 2", "2 * s", "n + [1]", "(1,) + (2,)", "10000 * 10000"),
    *(
        "s.split()",
        "s.split(' ', 1)",
        "s.rsplit(' ', 1)",
        "s.splitlines()",
        "s.partition('b')",
        "s.rpartition(' ')",
        "s.find('b')",
    ),
    *(
        "s.rfind(' ')",
        "s.strip('a')",
        "s.ljust(15) ~ '|'",
        "'7'.zfill(3)",
        "', '.join(['a', 'b'])",
        "s.startswith('a')",
        "s.count('a')",
    ),
    *(
        "s.removeprefix('a')",
        "s.title()",
        "d.get('a')",
        "d.keys() | list",
        "d['a'][1]['c']",
        "n.index(2)",
        "n[1:]",
        "s[::-1]",
        "s[2]",
    ),
    *(
        "n is iterable",
        "2 is divisibleby(2)",
        "1 is odd",
        "'A' is upper",
        "2 is in n",
        "s is string",
        "d is mapping",
        "d.b is number",
    ),
    *(
        "d.nope is defined",
        "n | random in n",
        "4 | filesizeformat",
        "range(3) | list",
        "dict(a=1)",
        "d.copy()",
        "d | attr('b')",
    ),
]


@pytest.mark.parametrize("expression", ORDINARY)
def test_ordinary_operations_do_as_jinjas(expression: str) -> None:
    source = f"{{{{ {expression} }}}}{{% set x %}}{{{{ {expression} }}}}{{% endset %}}|{{{{ x }}}}"
    assert ours(source, TEXTS) == ImmutableSandboxedEnvironment().from_string(source).render(TEXTS)


def ours(source: str, values: dict[str, Any], **limits: Any) -> str:
    return "".join(rendered(compiled(source)[0], values, Meter(**limits)))


def test_keys_are_no_attributes_of_ours() -> None:
    given = {"d": {"weight": 1, "_weight": 2, "name": 3, "update": 4, "items": 5}}
    assert ours("{{ d.weight }}{{ d._weight }}{{ d.name }}{{ d.update }}{{ d['items'] }}", given) == "12345"


def test_a_text_that_grows_message_by_message_is_paid_for_once() -> None:
    """As Reka's template does, which adds each message to the text so far: what was before is gone."""
    said = {"messages": ["word " * 20] * 2000}
    grows = "{% set n = namespace(t='') %}{% for m in messages %}{% set n.t = n.t ~ m %}{% endfor %}{{ n.t }}"
    assert ours(grows, said) == "word " * 40_000
    keeps = grows.replace("{% set n.t = n.t ~ m %}", "{% set n.t = n.t ~ m %}{% set _ = l.append(n.t) %}")
    with pytest.raises(Excessive, match="too much"):
        ours("{% set l = [] %}" + keeps, said)


def test_what_is_given_counts_for_little() -> None:
    """However long the conversation is, looking at it is not making it."""
    said = {"messages": [{"role": "user", "content": "word " * 1000}] * 2000}
    looks = "{% for m in messages %}{{ messages | length }}{{ (messages | last).role }}{{ m in messages[:3] }}{% endfor %}"
    assert ours(looks, said, n_bytes=2**20).count("2000user") == 2000


def test_the_limits_are_the_templates_fault() -> None:
    template = chat_template(ChatFormat("{{ 'x' * 10 ** 9 }}", "", "", ()))
    with pytest.raises(BadModelFile, match=r"the model's chat template fails: it makes too .*") as refused:
        template.render([{"role": "user", "content": "Hi"}])
    assert refused.value.param == "model"
