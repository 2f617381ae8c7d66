# SPDX-License-Identifier: Apache-2.0
"""Small templates for chat_template_equality.py, one or more for each supported construct."""
import itertools

CONTEXT = {
    "s": "Hello World", "empty": "", "u": "äÖß 世界 🌍é", "lines": "a\n\n  b\nc\n", "n": 7, "m": -3,
    "z": 0, "x": 2.5, "big": 1e22, "t": True, "f": False, "none_": None, "l": [3, 1, 2],
    "words": ["pear", "Apple", "fig", "apple"], "nested": [[1, [2]], {"a": None}], "e": [],
    "d": {"b": 1, "a": "x", "C": [1.0, None, True], "items": "shadow", "ünï": "ö"}, "ed": {},
    "rows": [{"k": "b", "v": 2, "o": {"p": 5}}, {"k": "a", "v": 1, "o": {"p": 4}},
             {"k": "c", "v": 3, "o": {}}, {"v": 0, "k": "B", "q": True, "o": {"p": 0}}],
    "pairs": [["a", 1], ["b", 2]], "quote": "it's", "both": "it's \"x\"", "ctl": "\x01\x7f\u200b\t",
    "floats": [0.1, 1.0, 1e-5, 123456789012345680.0, 1e16, 1e15, -0.0, 3.14159, 5e-324],
}

EXPRESSIONS = """
1|1.5|-2|1e3|1_000|'a'|"b"|'a' 'b'|'\\n\\t\\\\'|'\\x41\\u00e9\\U0001F30D'|'\\101\\q'|true|True|false|none|None
[]|[1]|[1, 'a', none, 2.0,]|()|(1,)|(1, 2)|1, 2|{}|{'a': 1, 2: [3]}|{'a': {'b': (1,)}}|{1: 'x', true: 'y'}
s|u|n|x|t|none_|l|d|rows|nested|quote|[quote]|[both]|[ctl]|floats|big|undefined_name|[undefined_name]
1 + 2|1 - 2 - 3|2 * 3 + 4|2 + 3 * 4|7 / 2|6 / 3|7 // 2|-7 // 2|7 % 3|-7 % 3|7 % -3|2 ** 10|2 ** -1|2 ** 3 ** 2|-2 ** 2
7.5 // 2|-7.5 % 2|7.5 % -2|1.5 + 1|true + true|x * 2|0.1 + 0.2|1 / 3|10 ** 15 / 1|(2 + 3) * 4|+n|-n|- -n|-x|+true
'a' + 'b'|'ab' * 3|3 * 'ab'|'ab' * -1|[1] + [2]|[1] * 2|(1,) + (2,)|(1, 2) * 2|1 ~ 2|'a' ~ none ~ 1.0 ~ true|s ~ undefined_name ~ l
1 + 'a'|'a' + 1|none + 1|[1] + (2,)|undefined_name + 1|1 + undefined_name|'a' * 1.5|1 / 0|1 % 0|1 // 0|1.0 / 0|-s|-undefined_name|{} + {}
1 < 2|1 < 2 < 3|1 < 3 < 2|3 > 2 >= 2|1 == 1.0|1 == true|'a' < 'b'|'B' < 'a'|[1, 2] < [1, 3]|(1,) < (1, 0)|1 != 2|'1' == 1
1 < 'a'|none < 1|[1] < (2,)|d < d|d == d|l == [3, 1, 2]|l == (3, 1, 2)|{'a': 1} == {'a': 1.0}|undefined_name == undefined_other|undefined_name == none|undefined_name < 1
x <= 2.5|n >= 7|'a' <= 'a'|l <= l|l >= [3]|none >= none
1 in l|4 not in l|'ell' in s|'a' in d|'zz' not in d|1 in 'a'|'a' in undefined_name|1 in none_|none in [none]|1 in (1, 2)|'' in s|[1] in [[1]]|1.0 in l|l in d
t and s|f and s|f or s|empty or none_|not t|not empty|not not l|t and not f or f|1 and 0 or 2|undefined_name or 'x'|undefined_name and 1|not undefined_name
'a' if t else 'b'|'a' if f else 'b'|'a' if f|('a' if f) is defined|1 if f else 2 if f else 3|'a' if t and f else 'b'|(1 if t else 2) + 1|1 if t if f else 3
l[0]|l[-1]|l[5]|l[5] is defined|l[true]|l[1.0]|l['0']|l.0|d['a']|d.a|d['zz']|d.zz is defined|d.zz.y|d['zz']['y']|undefined_name.a|undefined_name['a']|none_.a|none_[0]|n.a|s[0]|s[-1]|s[99]|u[1]|u[-2]|u[8]
rows[0].k|rows[0]['o'].p|rows[2].o.p is defined|d[1]|d[[1]]|d[(1,)]|d.C[0]|'abc'['upper']()|(1, 2)[1]|{1: 'x'}[1.0]|{none: 1}[none]
l[1:]|l[:-1]|l[::-1]|l[::2]|l[-2:]|l[5:]|l[:99]|l[-99:2]|s[1:4]|s[::-1]|s[:-3]|u[1:5]|u[::-1]|u[-3:]|s[::2]|s[8:2:-2]|l[2:0:-1]|(1, 2, 3)[1:]|l[none:2]|l[1:none]|l[true:]
l[::0]|d[1:]|n[1:]|l['a':]|l[1.0:]|undefined_name[1:]|none_[::-1]|l[undefined_name:]
s.upper()|s.lower()|s.title()|s.capitalize()|u.upper()|u.lower()|u.capitalize()|'hello wOrld x1y2'.title()|"it's".title()|s.strip('Hd')|'  a '.strip()|'  a '.lstrip() ~ '|'|'  a '.rstrip() ~ '|'|'xxaxx'.strip('x')|'\\u00a0a\\u2003'.strip()|'xya'.lstrip('yx')|'axy'.rstrip('yx')|'a'.strip(none)
'a,b,,c'.split(',')|' a  b '.split()|'a,b,c'.split(',', 1)|'a b  c'.split(none, 1)|'a,b,c'.rsplit(',', 1)|' a b  c '.rsplit(none, 1)|'abc'.split('')|''.split()|''.split(',')|'a1b1c'.split('1')[-1]|'a b c'.split(maxsplit=1)|'a--b'.split(sep='--')|lines.splitlines()|lines.splitlines(true)|'a\\r\\nb\\x0bc'.splitlines()
s.startswith('He')|s.endswith('ld')|s.startswith(('x', 'H'))|s.startswith(1)|s.find('o')|s.find('zz')|u.find('界')|s.rfind('o')|s.count('l')|s.count('')|s.replace('o', '0')|s.replace('o', '0', 1)|'abc'.replace('', '-')|'abc'.replace('', '-', 2)|'abc'.replace('', '-', 0)|''.replace('', 'x')|s.replace('l', '')|', '.join(words)|'-'.join('abc')|''.join([])|','.join(l)|','.join(d)
'{} {}'.format(1, 'a')|'{0}{1}{0}'.format('a', 'b')|'{x}{{}}'.format(x=[1])|'{}'.format()|'{'.format()|'%s-%s' % ('a', 1)|'%s' % 'a'|'%d%%' % 5|'%r' % 'a'|'%s %s' % 'a'|'%s' % [1, 2]|'%d' % 'a'|'a' % 1|'%s' % undefined_name|'%s' % none
'123'.isdigit()|''.isdigit()|'12a'.isdigit()|'abc'.isalpha()|'ä'.isalpha()|' \\n'.isspace()|'AB1'.isupper()|'ab1'.islower()|'1'.isupper()|'prefix-x'.removeprefix('prefix-')|'x.txt'.removesuffix('.txt')|'x'.removesuffix('')
d.get('a')|d.get('zz')|d.get('zz', 5)|d.get('zz', default=5)|d.get()|d.get([1])|d.keys()|d.values()|d.items()|d.keys()[0]|d.keys()[0] is defined|ed.items()|'b' in d.keys()|l.count(1)|l.index(2)|l.index(9)|(1, 1).count(1)
l.append(4)|d.update({})|d.pop('a')|l.append is defined|d.pop is defined|d.pop|l.sort()|d.clear()|l.pop()|s.nope|s.nope()|n.nope()|s()|n(1)|undefined_name()|d.nope()|l.nope is defined
range(3)[1]|range(3)[-1]|range(200000)|range('a')|range()|range(1, 2, 0)|2 in range(3)|dict(a=1, b='x')|dict({'a': 1}, b=2)|dict()|namespace(a=1).a|namespace(a=1).b is defined|namespace({'x': 2}).x|namespace()['a'] is defined
raise_exception('no')|raise_exception(1)|raise_exception()|strftime_now('%Y-%m-%d')|strftime_now('%d %b %Y')|strftime_now('')
"""

# The remaining ones use filters, so that the bar cannot separate them: one a line.
FILTERED = """
range(3)|list
range(1, 4)|list
range(5, 0, -2)|list
range(0)|list
range(3)|length
range(5)[1:3]|list
d.items()|length
d.items()|list
d.keys()|list
d.values()|list
undefined_name|reverse|list
d.items()|last
'  a '|trim
'xax'|trim('x')
1|trim
undefined_name|trim
l|length
s|length
u|length
d|count
none_|length
n|length
undefined_name|length
d|tojson
rows|tojson
rows|tojson(indent=2)
d|tojson(indent=4)
nested|tojson(indent=1)
e|tojson(indent=2)
ed|tojson(indent=2)
d|tojson(sort_keys=true)
d|tojson(separators=(',', ':'))
d|tojson(indent=2, separators=(', ', ' = '))
u|tojson
u|tojson(ensure_ascii=true)
u|tojson(true)
ctl|tojson
ctl|tojson(ensure_ascii=true)
both|tojson
'\\\\/<>&'|tojson
floats|tojson
(1, (2,))|tojson
{1: 2, none: 3, true: 4, 1.5: 5}|tojson
{(1,): 2}|tojson
undefined_name|tojson
d.items()|tojson
range(3)|tojson
[undefined_name]|tojson
l|tojson(indent='--')
undefined_name|default('x')
undefined_name|default
undefined_name|d(1)
empty|default('x')
empty|default('x', true)
empty|default('x', boolean=true)
none_|default('x')
none_|default(default_value='x', boolean=true)
d.zz|default('y')
d.zz.yy|default('y')
s|upper
s|lower
u|upper
'hello wOrld-foo (bar) [b {c <d'|title
"it's a x1y"|title
s|capitalize
1|upper
none_|lower
undefined_name|upper
l|join
l|join(', ')
words|join('-')
rows|join(',', attribute='k')
rows|map(attribute='k')|join(',')
s|join('.')
d|join(' ')
none_|join
undefined_name|join(',')
[1, none, 2.0, true]|join(d='|')
l|first
l|last
e|first
e|last
e|first is defined
s|first
s|last
d|first
d|last
rows|map(attribute='v')|first
rows|map(attribute='v')|last
undefined_name|first
undefined_name|last
n|first
s|list
u|list
d|list
(1, 2)|list
none_|list
undefined_name|list
n|string
none_|string
l|string ~ 'x'
'<b>'|safe
'42'|int
'42.7'|int
' 12 '|int
'1_000'|int
'1__0'|int
'x'|int
'x'|int(5)
'x'|int(default=-1)
''|int
x|int
-2.7|int
true|int
none_|int
l|int
undefined_name|int
'+5'|int
'-5'|int
'+-5'|int
'1e3'|int
'nan'|int
'inf'|int
'1.5'|float
'x'|float
'x'|float(2.5)
3|float
none_|float
' 2e3 '|float
'inf'|float
'.5'|float
'5.'|float
undefined_name|float
s|replace('l', 'L')
s|replace('l', 'L', 1)
s|replace('l', 'L', count=2)
n|replace(7, 8)
s|replace('', '.')
words|map('upper')|list
words|map('replace', 'p', 'P')|join(' ')
rows|map(attribute='o.p')|list|length
rows|map(attribute='o.p', default=9)|list
rows|map(attribute='zz', default='-')|list
pairs|map(attribute=0)|list
pairs|map('first')|list
pairs|map(attribute='1')|list
['1', 'x']|map('int', default=4)|list
rows|selectattr('v')|map(attribute='k')|list
rows|selectattr('v', 'equalto', 2)|map(attribute='k')|list
rows|selectattr('v', '==', 2)|list|length
rows|selectattr('v', 'gt', 1)|map(attribute='v')|list
rows|selectattr('q', 'defined')|list|length
rows|selectattr('k', 'in', ['a', 'b'])|map(attribute='k')|list
rows|rejectattr('v')|map(attribute='k')|list
rows|rejectattr('k', 'eq', 'a')|map(attribute='k')|list
rows|rejectattr('q', 'defined')|list|length
l|select|list
[0, 1, '', 'a', none]|select|list
[0, 1, '', 'a', none]|reject|list
l|select('odd')|list
l|reject('odd')|list
l|select('gt', 1)|list
l|select('divisibleby', 3)|list
words|reject('equalto', 'fig')|list
words|select('in', ['fig'])|list
e|select('odd')|list
rows|selectattr('q')|length
'yes' if e|select else 'no'
d|items|list
ed|items|list
undefined_name|items|list
l|items|list
d|items|length
d|items|first
d|dictsort
{'b': 2, 'A': 3, 'c': 1}|dictsort
{'b': 2, 'A': 3, 'c': 1}|dictsort(true)
{'b': 2, 'A': 3, 'c': 1}|dictsort(false, 'value')
{'b': 2, 'A': 3, 'c': 1}|dictsort(by='value', reverse=true)
{'b': 2, 1: 3}|dictsort
{'b': 2}|dictsort(by='x')
words|unique|list
words|unique(true)|list
words|unique(case_sensitive=true)|list
[1, 1.0, true, '1']|unique|list
rows|unique(attribute='k')|map(attribute='v')|list
[[1]]|unique|list
l|sort
l|sort(reverse=true)
l|sort(true)
words|sort
words|sort(case_sensitive=true)
words|sort(false, true)
rows|sort(attribute='k')|map(attribute='v')|list
rows|sort(attribute='v', reverse=true)|map(attribute='k')|list
rows|sort(attribute='o.p')
[1, 'a']|sort
d|sort
l|reverse|list
s|reverse
u|reverse
d|reverse|list
l|reverse|first
(1, 2)|reverse|list
none_|reverse
lines|indent
lines|indent(2)
lines|indent(2, true)
lines|indent(2, first=true, blank=true)
lines|indent(blank=true)
lines|indent('> ')
lines|indent(width='> ', first=true)
''|indent
n|indent
undefined_name|indent
2.5|round
3.5|round
-2.5|round
2.675|round(2)
3.14159|round(3)
7|round
3.14159|round(2, 'floor')
3.14159|round(2, 'ceil')
3.2|round(method='ceil')
3.7|round(0, 'floor')|int
2.5|round(1, 'nope')
1234.5|round(-2)
0.5|round
1e300|round(2)
'a'|round
-3|abs
-2.5|abs
'a'|abs
l|sum
e|sum
rows|sum(attribute='v')
rows|sum('v', 10)
words|sum
l|max
l|min
words|max
words|min
words|max(case_sensitive=true)
e|max
rows|max(attribute='v')
[1, 2, 3, 4, 5]|batch(2)|list
[1, 2, 3]|batch(2, 0)|list
[1, 2, 3]|batch(2, fill_with='x')|list
'%s and %s'|format('a', 1)
'%d'|format(3)
l|length > 2
l|length + 1
-1|abs
-n|abs
2 * l|length
s|upper|lower|trim('h')
(s ~ 'x')|upper
s ~ 'x'|upper
'a'|upper ~ 'b'
[1, 2]|map('string')|join('+')
s|length is odd
words|map('length')|list
words|map('upper')|map('lower')|list
words|map('default', 'x')|list
s|upper(1)
l|first(1)
s|replace('a')
l|map|list
l|map('nope')|list is defined or true
l|select('odd', 1)|list
rows|selectattr|list
s|trim(chars='Hd')
s|trim(none)
"""

TESTED = ["s", "empty", "n", "m", "z", "x", "t", "f", "none_", "l", "e", "d", "ed", "undefined_name",
          "(1, 2)", "range(2)", "d.items()", "rows|map('upper')", "namespace(a=1)", "'ABC'", "'abc'"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "mapping",
         "iterable", "sequence", "boolean", "true", "false", "callable", "upper", "lower", "even",
         "odd", "divisibleby 3", "divisibleby(2)", "in [1, 7]", "in(['a'])", "equalto 7", "eq 'abc'",
         "ne 7", "lt 5", "gt(5)", "le 7", "ge 7", "sameas true", "sameas none", "lessthan 9",
         "greaterthan 1"]

STATEMENTS = [
    # if
    "{% if t %}a{% endif %}", "{% if f %}a{% else %}b{% endif %}",
    "{% if f %}a{% elif t %}b{% elif t %}c{% else %}d{% endif %}",
    "{% if f %}a{% elif f %}b{% else %}d{% endif %}", "{% if l and (n > 3) %}y{% endif %}",
    "{% if t: %}a{% endif %}", "{% if 'a' if f else 'b' %}x{% endif %}", "{% if %}a{% endif %}",
    "{% if t %}a", "{% endif %}", "{% else %}", "{% if t %}{% endfor %}", "{% if t, f %}a{% endif %}",
    # for
    "{% for x in l %}{{ x }},{% endfor %}", "{% for x in l %}{{ x }}{% else %}none{% endfor %}",
    "{% for x in e %}{{ x }}{% else %}none{% endfor %}", "{% for x in undefined_name %}a{% else %}b{% endfor %}",
    "{% for x in none_ %}a{% endfor %}", "{% for x in n %}a{% endfor %}", "{% for c in u %}{{ c }}.{% endfor %}",
    "{% for k in d %}{{ k }} {% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d|items %}{{ k }}={{ v }}{{ ', ' if not loop.last }}{% endfor %}",
    "{% for a, b in pairs %}{{ a }}{{ b }}{% endfor %}", "{% for (a, b) in pairs %}{{ a }}{{ b }}{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for a, b in l %}{% endfor %}",
    "{% for a, b in [[1, 2, 3]] %}{% endfor %}", "{% for a, in [[1]] %}{{ a }}{% endfor %}",
    "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}", "{% for x in l if x > 1 %}{{ loop.index }}{{ x }}{{ loop.last }}{% endfor %}",
    "{% for x in l if x > 9 %}{{ x }}{% else %}none{% endfor %}", "{% for x in (l if t else e) %}{{ x }}{% endfor %}",
    "{% for x in l if x > 1 %}{{ loop.length }}{{ loop.revindex }} {% endfor %}",
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }};{% endfor %}",
    "{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}",
    "{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}",
    "{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for x in [1, 1, 2, 2] %}{{ loop.changed(x) }}{% endfor %}",
    "{% for x in l %}{{ loop.nope is defined }}{{ loop.depth }}{% endfor %}", "{% for x in l %}{% for y in l %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% for x in l %}{% set o = loop %}{% for y in pairs %}{{ o.index }}{{ loop.index }} {% endfor %}{% endfor %}",
    "{{ loop is defined }}{% for x in l %}{% endfor %}{{ x }}{{ loop is defined }}", "{% for loop in l %}{% endfor %}",
    "{% for x in l %}{% set loop = 1 %}{% endfor %}", "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in l %}{% break %}{% else %}none{% endfor %}",
    "{% for x in l %}{% for y in l %}{% if y == 1 %}{% break %}{% endif %}{{ y }}{% endfor %}{{ x }}{% endfor %}", "{% break %}", "{% continue %}",
    "{% for x in l[::-1] %}{{ x }}{% endfor %}", "{% for i in range(3) %}{{ i }}{% endfor %}", "{% for x in rows|selectattr('v', 'gt', 0) %}{{ x.k }}{{ loop.last }}{{ loop.length }}{% endfor %}",
    "{% for x in l %}{{ l[loop.index0 - 1] }}{{ l[loop.index0 + 1] is defined }}{% endfor %}", "{% for x in l | sort %}{{ x }}{% endfor %}",
    "{% for in l %}{% endfor %}", "{% for x of l %}{% endfor %}", "{% for x in l %}", "{% for d.a in l %}{% endfor %}",
    "{% set ns = namespace(done=false) %}{% for x in l if not ns.done %}{{ x }}{% if x == 1 %}{% set ns.done = true %}{% endif %}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for x in l if ns.n < 2 %}{% set ns.n = ns.n + 1 %}{{ loop.last }}{{ x }}{% endfor %}",
    # set and scopes
    "{% set a = 1 %}{{ a }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set (a, b) = (1, 2) %}{{ a }}{{ b }}", "{% set a, b = l %}", "{% set a = 1, 2 %}{{ a }}",
    "{% set a = 1 %}{% for x in l %}{% set a = x %}{{ a }}{% endfor %}{{ a }}", "{% if t %}{% set a = 1 %}{% endif %}{{ a }}", "{% if f %}{% set a = 1 %}{% endif %}{{ a }}",
    "{% for x in l %}{{ y }}{% set y = x %}{{ y }}{% endfor %}{{ y }}", "{% for x in l %}{% if x == 1 %}{% set s = 'in' %}{% endif %}{{ s }}{% endfor %}{{ s }}",
    "{% set a %}x{{ n }}y{% endset %}[{{ a }}]", "{% set a | upper %}x{{ n }}y{% endset %}[{{ a }}]", "{% set a | upper | replace('X', '_') %}x{% endset %}{{ a }}",
    "{% set a %}{% set b = 2 %}{{ b }}{% endset %}{{ a }}{{ b }}", "{% set n = n + 1 %}{{ n }}", "{% set messages = l[1:] %}{{ messages }}",
    "{% set ns = namespace(a=1, b='x') %}{% for x in l %}{% set ns.a = ns.a + x %}{% endfor %}{{ ns.a }}{{ ns.b }}", "{% set ns = namespace() %}{% set ns.q = [1] %}{{ ns.q }}",
    "{% set d.a = 1 %}", "{% set undefined_name.a = 1 %}", "{% set ns = namespace(a=1) %}{% set ns.a, ns.b = 2, 3 %}{{ ns.a }}{{ ns.b }}", "{% set true = 1 %}", "{% set none = 1 %}", "{% set 1 = 1 %}", "{% set a %}x", "{% set a = %}",
    "{% set ns = namespace(x=none) %}{% set ns.x %}block{% endset %}{{ ns.x }}", "{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a }}", "{% with n = 1, b = n %}{{ b }}{% endwith %}", "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}",
    # macros
    "{% macro m(a, b=2, c='z') %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c='q') }}{{ m(a=5) }}{{ m() }}", "{% macro m(a) %}{{ a is defined }}{% endmacro %}{{ m() }}{{ m(none) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}",
    "{% macro m(n) %}{{ n }}{% if n > 0 %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(5) }}", "{% macro m() %}{{ n }}{% set n2 = 1 %}{% endmacro %}{{ m() }}{{ n2 }}", "{% macro m() %}  x  {% endmacro %}[{{ m()|trim }}]{{ m() ~ 'y' }}{{ m()|length }}",
    "{% macro m(a, b=a) %}{{ b }}{% endmacro %}{{ m(3) }}", "{% macro m(a=1, b) %}{% endmacro %}", "{% set q = 1 %}{% macro m() %}{{ q }}{% endmacro %}{% set q = 2 %}{{ m() }}", "{% for x in l %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% macro m() %}a{% endmacro %}{{ m is defined }}{{ m is callable }}{{ 'x' if m else 'y' }}", "{% macro m(x) -%}\n  {{ x }}\n{%- endmacro %}{{ m('q') }}", "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}", "{% macro m() %}x", "{% macro m(loop) %}{{ loop }}{% endmacro %}{{ m(1) }}",
    # blocks of other kinds
    "{% filter upper %}a{{ s }}b{% endfilter %}", "{% filter replace('a', 'b')|upper %}aab{% endfilter %}", "{% generation %}x{{ n }}{% endgeneration %}", "{% generation %}{% set g = 1 %}{{ g }}{% endgeneration %}{{ g }}",
    "{% raw %}{{ x }}{% if %}{% endraw %}", "{% raw %}a{# b #}{% endraw %}c", "a {%- raw -%} {{ b }} {%- endraw -%} c", "{% raw %}x", "  {% raw %}\nx\n  {% endraw %}\ny",
    "{# comment #}a", "a{# {{ x }} {% if %} #}b", "{# multi\nline #}\nx", "a {#- b -#} c", "{# open", "x{##}y", "{#- -#}x", "a\n  {# c #}\nb", "a\n  {#+ c #}\nb",
    # text and errors
    "", "plain", "a\n", "a\n\n", "\n", "\r\na\r\nb\r", "{", "}", "{ {", "}}", "%}", "{{", "{{ }}", "{{ 1", "{{ 1 2 }}", "{{ 'a }}", "{{ (1 }}", "{{ 1) }}", "{{ [1 }}", "{{ [1) }}", "{% %}", "{%", "{{ a b }}", "{{ ! }}",
    "{{ 1 is }}", "{{ 1 | }}", "{{ .a }}", "{{ d. }}", "{{ l[ }}", "{{ l[] }}", "{{ f(a=1, 2) }}", "{{ x is string is string }}", "{{ 1 if }}", "{{ 1 + }}", "{{ not }}", "{{ a = 1 }}", "{{ {1} }}", "{{ {1:} }}", "{{ 'a' 1 }}", "{{ 012 }}", "{{ 00 }}", "{{ 1__0 }}", "{{ 1.e }}",
    "{{ {'a': {'b': 1}}.a.b }}", "{{{'a': 1}['a']}}", "{{ {'a': {'b': {}}} }}", "{{ '}}' }}", "{{ '%}' }}", "{% if '%}' %}x{% endif %}", "{{'a'}}{{'b'}}", "{{-1}}", "x {{-1}}", "x {{- 1 -}} y", "x {{+1}} y", "{{ 1 -}}\n\n  y", "{{ 1 }}\ny", "{{ 1 }}\n", "{{ s }}\n\n",
    "{{ 'multi\nline' }}", "{{ 'a\\\nb' }}", "{{ \"\\u4e16\" }}", "{{ '\\'' }}", "{{ \"'\" }}", "{{ '\\\"' }}", "{{ ['\\x07', '\\xad', '\\u3000'] }}", "{{ l.0 }}{{ l.1 }}", "{{ nested.0.1.0 }}", "{{ d.C.1 }}", "{{ 1.5.a }}",
]

PROGRAM = """{{- s }}
{%- for row in rows %}
    {%- if row.v is even %}
        {{- '\\n' + row.k }}
    {%- else %}
  odd {{ row.k }}
    {% endif %}
{% endfor %}
end
"""


def whitespace():
    """All signs at both ends of all kinds of tags, at several places of a line."""
    tags = ["{{%s 1 %s}}", "{%%%s if t %s%%}", "{#%s c %s#}", "{%%%s set q = 1 %s%%}"]
    around = [("a ", " b"), ("a\n  ", "\n  b"), ("", "\n\n b"), ("a\n\n \t", "  \nb"), ("a  x ", "\n")]
    for tag, (before, after), left, right in itertools.product(
            tags, around, ["", "-", "+"], ["", "-", "+"]):
        end = "{% endif %}" if "if" in tag else ""
        yield before + tag % (left, right) + after + end


# What jinja2 renders and the program must refuse by name: (template, part of the message).
UNSUPPORTED = [
    ("{% include 'x' %}", "'include'"), ("\n{% block a %}{% endblock %}", "line 2"),
    ("{% extends 'x' %}", "'extends'"), ("{% import 'x' as y %}", "'import'"),
    ("{% call m() %}{% endcall %}", "'call'"), ("{% autoescape true %}{% endautoescape %}", "'autoescape'"),
    ("{% for x in [] recursive %}{% endfor %}", "recursive"), ("{{ s|urlencode }}", "'|urlencode'"),
    ("{{ s|groupby('a') }}", "'|groupby'"), ("{{ s is escaped }}", "'is escaped'"),
    ("{{ dict(*l) }}", "'*arguments'"), ("{{ dict(**d) }}", "'**arguments'"),
    ("{% macro m() %}{{ varargs }}{% endmacro %}", "'varargs'"), ("{{ s.zfill(3) }}", "'.zfill()'"),
    ("{{ 0x10 }}", "'0x'"), ("{{ 99999999999999999999 }}", "'99999999999999999999'"),
    ("{{ 9223372036854775807 + 1 }}", "64 bits"), ("{{ 2 ** 64 }}", "64 bits"), ("{{ range(3) }}", "range"),
    ("{{ s|map('upper') }}", "generator"), ("{{ namespace() }}", "'Namespace'"), ("{{ joiner() }}", "'joiner()'"),
    ("{{ '%05d' % 3 }}", "'%0'"), ("{{ '{:>3}'.format(1) }}", "'{:>3}'"), ("{{ d.copy() }}", "'.copy()'"),
]


def snippets():
    for line in EXPRESSIONS.strip().splitlines():
        for expression in line.split("|"):
            yield "expression", "{{ " + expression + " }}", CONTEXT
    for line in FILTERED.strip().splitlines():
        yield "filter", "{{ " + line + " }}", CONTEXT
    addresses = ("range", "rows|", "namespace")  # their text is not reproducible
    for value, test in itertools.product(TESTED, TESTS):
        if test in ("upper", "lower") and value.startswith(addresses):
            continue
        yield "test", "{{ " + value + " is " + test + " }}", CONTEXT
    for test in TESTS[:16]:
        yield "test", "{{ s is not " + test + " }}{{ not x is " + test + " }}", CONTEXT
    for source in STATEMENTS:
        yield "statement", source, CONTEXT
    for source in whitespace():
        yield "whitespace", source, CONTEXT
    yield "program", PROGRAM, CONTEXT
