"""Code on pages: what belongs to a function, found in the sources and shown without its long docstrings."""

import ast
import doctest
import functools
import importlib
import inspect
import re
from html import escape
from pathlib import Path

from pygments import lex
from pygments.lexers import PythonConsoleLexer, PythonLexer
from pygments.token import STANDARD_TYPES

_SIGN = re.compile(r'<span class="o">-</span><span class="[^"]*">\w+</span>')


def highlight(source, page, language="python"):
    """Highlighted HTML in which long lines wrap under their own indentation and references in comments are links.

    The language is python, pycon (a doctest, of which one copies the examples alone) or signature (`name(arguments)`).
    """
    lexer = PythonConsoleLexer() if language == "pycon" else PythonLexer()
    copied = f' data-copy="{escape(examples(source))}"' if language == "pycon" else ""
    lines, line = [], []
    for kind, value in lex(source, lexer):
        css = _css(kind)
        for part in value.splitlines(keepends=True):
            text = escape(part.rstrip("\n"), quote=False)
            if css.startswith("c"):
                text = page.references(text)
            line.append(f'<span class="{css}">{text}</span>' if css and text else text)
            if part.endswith("\n"):
                lines.append(_SIGN.sub(r'<span class="unbroken">\g<0></span>', "".join(line)))
                line = []
    raw = source.rstrip("\n").split("\n")
    html = "".join(
        f'<span class="line" style="--i:{_hang(text)}">{line}\n</span>' for text, line in zip(raw, lines, strict=False)
    )
    return f'<div class="language-{language} highlight wrapped"{copied}><pre><code>{html}</code></pre></div>'


def examples(source):
    """The code of a doctest, without prompts and results."""
    return "".join(example.source for example in doctest.DocTestParser().get_examples(source))


def _css(kind):
    while kind not in STANDARD_TYPES:
        kind = kind.parent
    return STANDARD_TYPES[kind]


def _indentation(text):
    return len(text) - len(text.lstrip(" "))


def _hang(text):
    """Where the rest of a long line starts, less four: deeper under a signature, whose body starts there."""
    return _indentation(text) + 4 * text.lstrip().startswith(("def ", "class "))


class Source:
    """The module-level functions, classes and constants of a Python file, and what each of them uses."""

    def __init__(self, path):
        self.path = Path(path)
        text = self.path.read_text(encoding="utf-8")
        self.lines = text.splitlines()
        self.nodes, self.methods = {}, {}
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.nodes[node.name] = node
                if isinstance(node, ast.ClassDef):
                    for method in node.body:
                        if isinstance(method, ast.FunctionDef):
                            self.methods[f"{node.name}.{method.name}"] = method
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.nodes[node.targets[0].id] = node
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                self.nodes[node.target.id] = node

    def node(self, name):
        return self.methods[name] if "." in name else self.nodes[name]

    def uses(self, name):
        """The names that the code under a name refers to, without those that it binds itself."""
        used, bound = set(), set()
        for node in ast.walk(self.node(name)):
            if isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
            elif isinstance(node, ast.arg):
                bound.add(node.arg)
            elif isinstance(node, ast.FunctionDef):
                bound.add(node.name)
            elif "." in name and isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "self":
                used.add(f"{name.partition('.')[0]}.{node.attr}")
        return used - bound

    def text(self, name):
        """The code under a name with its decorators: dedented, without long docstrings, its signature on one line."""
        node = self.node(name)
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        dropped = set()
        for inner in ast.walk(node):
            if isinstance(inner, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(inner) is not None:
                doc = inner.body[0]
                if doc.end_lineno > doc.lineno and len(inner.body) > 1:
                    dropped |= set(range(doc.lineno, doc.end_lineno + 1))
                    if not self.lines[doc.end_lineno].strip():
                        dropped.add(doc.end_lineno + 1)
        indentation = _indentation(self.lines[first - 1])
        shown = {n: self.lines[n - 1][indentation:] for n in range(first, node.end_lineno + 1) if n not in dropped}
        if isinstance(node, ast.FunctionDef) and (last := self._end_of_signature(node)) > node.lineno:
            returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            shown[node.lineno] = f"def {node.name}({ast.unparse(node.args)}){returns}:"
            for n in range(node.lineno + 1, last + 1):
                del shown[n]
        return "\n".join(shown[n] for n in sorted(shown))

    def _end_of_signature(self, node):
        """The number of the line on which the signature of a function ends."""
        for last in range(node.lineno, node.body[0].lineno):
            lines = [line[node.col_offset :] for line in self.lines[node.lineno - 1 : last]]
            try:
                ast.parse("\n".join([*lines, "    pass"]))
            except SyntaxError:
                continue
            return last
        return node.lineno  # the body begins on the line of the signature

    def touches_arrays(self, name):
        """Whether the code under a name is more than checks of arguments: it is a constant, or has the array library."""
        node = self.node(name)
        return not isinstance(node, ast.FunctionDef) or any(
            isinstance(inner, ast.Name | ast.arg) and (getattr(inner, "id", "") or getattr(inner, "arg", "")) == "xp"
            for inner in ast.walk(node)
        )


@functools.cache
def source_of(path):
    return Source(path)


class Shelf:
    """The code of one mechanism, handed out so that nothing is shown twice."""

    def __init__(self, modules):
        self.sources = {name: source_of(inspect.getsourcefile(importlib.import_module(name))) for name in modules}
        self.shown = set()

    def home(self, module, name):
        """Where a name that a module uses is defined: (module, name), or None where it is not of this mechanism."""
        if "." in name:
            return (module, name) if name in self.sources[module].methods else None
        if name in self.sources[module].nodes:
            return module, name
        found = getattr(importlib.import_module(module), name, None)
        found = inspect.unwrap(found) if inspect.isfunction(found) else found
        home = getattr(found, "__module__", None)
        if home in self.sources and getattr(found, "__name__", "") in self.sources[home].nodes:
            return home, found.__name__
        return None

    def closure(self, roots, stop=()):
        """Everything that the roots use, in the order in which it is met; names in `stop` are not entered."""
        found, waiting = [], list(roots)
        while waiting:
            place = waiting.pop(0)
            if place in found or (place in stop and place not in roots):
                continue
            found.append(place)
            module, name = place
            used = [self.home(module, n) for n in self.sources[module].uses(name)]
            waiting += sorted((p for p in used if p), key=lambda p: (p[0] != module, self.line(p)))
        return found

    def line(self, place):
        return self.sources[place[0]].node(place[1]).lineno

    def take(self, places):
        """Those of the places that no earlier block has shown, which from now on count as shown."""
        new = [place for place in places if place not in self.shown]
        self.shown |= set(new)
        return new

    def text(self, places):
        """The code of some places; functions are set apart by a blank line, constants stay together."""
        blocks = [(self.sources[m].text(n), "\n" in self.sources[m].text(n)) for m, n in places]
        out = ""
        for k, (block, long) in enumerate(blocks):
            out += ("\n\n" if k and (long or blocks[k - 1][1]) else "\n" if k else "") + block
        return out + "\n"


def roots_of(call, module):
    """The module-level names behind a callable that a factory made: what its code names and what its closure holds."""
    own = vars(module)
    names = {
        id(value): name for name, value in own.items() if inspect.isfunction(value) or isinstance(value, dict | tuple)
    }
    found, seen = [], set()

    def visit(value):
        if id(value) in seen:
            return
        seen.add(id(value))
        if id(value) in names:
            found.append(names[id(value)])
        elif inspect.isfunction(value):
            enter(value.__code__)
            for cell in value.__closure__ or ():
                visit(cell.cell_contents)

    def enter(code):
        found.extend(
            n for n in code.co_names if n in own and getattr(own[n], "__module__", module.__name__) == module.__name__
        )
        for constant in code.co_consts:
            if inspect.iscode(constant):
                enter(constant)

    visit(call)
    return list(dict.fromkeys(found))
