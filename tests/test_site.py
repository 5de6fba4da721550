"""The pieces of the site: code is cut and copied as code, references are links, names break where they may.

The site itself is judged by `python docs/build.py --site`. What needs its packages is left out where they are missing.
"""

import json
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(autouse=True)
def _generator(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))


@pytest.fixture
def _packages():
    for name in ("markdown", "math_core", "pygments"):
        pytest.importorskip(name)


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ("def f(\n    a,\n    b=1,  # twice\n):  # fmt: skip", "def f(a, b=1):"),
        ("def f(\n    a,\n    *,\n    b={1: 2},\n) -> dict[str, int]:", "def f(a, *, b={1: 2}) -> dict[str, int]:"),
        ("@staticmethod\ndef f(a,\n      b):", "@staticmethod\ndef f(a, b):"),
        ("def f(a, b):  # fmt: skip", "def f(a, b):  # fmt: skip"),
    ],
)
@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ('\n    """One line."""\n    return a', '\n    """One line."""\n    return a'),
        ('\n    """Two\n\n    lines.\n    """\n\n    # why\n    return a', "\n    # why\n    return a"),
        ("\n    # why\n    x = '''\n  :\n'''\n    return x", "\n    # why\n    x = '''\n  :\n'''\n    return x"),
    ],
)
@pytest.mark.usefixtures("_packages")
def test_signatures_are_cut_to_one_line(tmp_path, header, shown, body, kept):
    from generator.code import Source

    path = tmp_path / "module.py"
    path.write_text(f"{header}{body}\n")
    assert Source(path).text("f") == shown + kept


@pytest.mark.usefixtures("_packages")
def test_a_function_on_one_line_stays(tmp_path):
    from generator.code import Source

    path = tmp_path / "module.py"
    path.write_text("def f(x): return x\n\n\nclass A:\n    def g(\n        self,\n    ):  # fmt: skip\n        pass\n")
    assert Source(path).text("f") == "def f(x): return x"
    assert Source(path).text("A.g") == "def g(self):\n    pass"


@pytest.mark.usefixtures("_packages")
def test_a_doctest_is_copied_without_prompts_and_results():
    from generator.check import _Reader, no_code
    from generator.code import highlight
    from generator.text import Book, Page

    source = '>>> for x in (1, 2):\n...     print(x, "<&>")\n1 <&>\n2 <&>\n>>> x  # see arXiv 1706.03762\n2\n'
    html = highlight(source, Page(Book(), "a.md"), "pycon")
    reader = _Reader()
    reader.feed(html)
    ((language, text, copied),) = reader.blocks
    assert (language, text) == ("pycon", source)
    assert copied == 'for x in (1, 2):\n    print(x, "<&>")\nx  # see arXiv 1706.03762\n'
    assert no_code(language, text, copied) is None
    assert '<a class="paper" href="https://arxiv.org/abs/1706.03762">arXiv 1706.03762</a>' in html


@pytest.mark.usefixtures("_packages")
def test_papers_and_threads_are_links():
    from generator.text import Book, Page

    page = Page(Book(), "a.md")
    for written, number in [
        ("arXiv 1706.03762", "1706.03762"),
        ("arXiv\n2405.04434v2", "2405.04434v2"),
        ("arXiv:0704.0001", "0704.0001"),
    ]:
        link = f'<a class="paper" href="https://arxiv.org/abs/{number}">{written}</a>'
        assert page.plain(f"Somebody 2017, {written}, eq. 1") == f"Somebody 2017, {link}, eq. 1"
        assert page.markdown(f"*Title*, {written}.") == f"*Title*, {link}."
        assert page.markdown(f"`{written}`") == f"`{written}`"
    link = '<a class="thread" href="https://github.com/a-b/c.d/issues/12">a-b/c.d#12</a>'
    assert page.plain("see a-b/c.d#12.") == page.markdown("see a-b/c.d#12.") == page.references("see a-b/c.d#12.")
    assert page.plain("see a-b/c.d#12.") == f"see {link}."


@pytest.mark.usefixtures("_packages")
def test_defaults_are_shown_as_code():
    from dataclasses import dataclass, field

    from generator.check import no_code
    from generator.docstrings import signature

    @dataclass
    class Report:
        limit: float = 2**-20
        found: list = field(default_factory=list)

    def f(x, *, activation=no_code, kind=dict):
        pass

    assert signature("Report", Report) == "Report(limit=2**-20, found=[])"
    assert signature("a.f", f) == "a.f(x, *, activation=no_code, kind=dict)"


def test_what_is_no_code_is_a_fault():
    from generator.check import no_code

    for fine in [
        ("python", "def f(x):\n    return x\n"),
        ("signature", "refattn.f(x, /, *, scale=None)\n"),
        ("pycon", ">>> 1 + 1\n2\n", "1 + 1\n"),
        ("text", "def f(...): skip\n"),
    ]:
        assert no_code(*fine) is None
    for wrong in [
        ("python", "def f(x): skip\n    return x\n"),
        ("python", ">>> 1\n1\n"),
        ("signature", "f(x, *, activation=<function relu at 0x7fa4>)\n"),
        ("signature", "f\n"),
        ("pycon", ">>> 1 +\n2\n", "1 +\n"),
        ("pycon", ">>> 1\n1\n", None),
        ("pycon", ">>> 1\n1\n", ">>> 1\n1\n"),
        ("pycon", ">>>1\n1\n", "1\n"),
        ("pycon", "1\n", ""),
    ]:
        assert no_code(*wrong) is not None, wrong


def test_colours_of_code_are_legible():
    from generator.check import _luminance, illegible

    css = (DOCS / "assets" / "refattn.css").read_text(encoding="utf-8")
    assert illegible(css) == []
    assert (1.05) / (_luminance("#767676") + 0.05) == pytest.approx(4.54, abs=0.005)  # the guidelines' own example
    (found,) = illegible(css.replace("keyword-color: #769ce3", "keyword-color: #6791e0"))
    assert found == "--md-code-hl-keyword-color of the scheme slate has a contrast of 4.43, not 4.5"
    (found,) = illegible(css.replace("--md-code-hl-string-color: #1b784a;", ""))
    assert found == "the scheme default gives no six-digit --md-code-hl-string-color"


def test_search_cuts_names(tmp_path):
    from generator.check import unsearchable

    settings = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    separator = settings.partition("separator: '")[2].partition("'")[0]
    index = tmp_path / "search_index.json"
    for given, found in [(separator, []), (separator.replace("_", ""), ["the search does not cut 'a_b'"])]:
        index.write_text(json.dumps({"config": {"separator": given}}))
        assert unsearchable(index) == found


@pytest.mark.parametrize(
    ("html", "marked"),
    [
        ("<p>at −∞ or -infinity</p>", "<p>at ~−∞~ or ~-infinity~</p>"),
        ("<p>(-inf) a - b, x-y, 1−2</p>", "<p>(~-inf~) a - b, x-y, 1−2</p>"),
        ("<p><code>run --any -x</code></p>", "<p><code>run ~--any~ ~-x~</code></p>"),
        ('<p title="-inf"><math><mo>−</mo><mi>-a</mi></math> -a</p>', None),
        ("<table><td><code>a_b.c/d.0001 f()</code></td></table>", "a_|b.|c/|d.|0001 f()"),
        ("<table><td><code>1.5 a-b_c</code> a_b</td></table>", "1.5 ~a-b_|c~</code> a_b"),
        ("<table><td><pre><code>a_b</code></pre></td></table><code>a_b</code>", "<pre><code>a_b</code></pre>"),
    ],
)
def test_lines_break_where_they_may(html, marked):
    from generator.breaks import mark

    got = mark(html).replace("<wbr>", "|").replace('<span class="unbroken">', "~").replace("</span>", "~")
    if marked is None:
        marked = html.replace(" -a<", " ~-a~<")
    assert marked in got
    assert got.replace("|", "").replace("~", "") == html


def test_cells_are_words_of_their_own():
    from generator.breaks import on_page_content

    assert on_page_content("<td>a<br>b</td><td>c</td>\n<dt>d</dt><dd>e</dd>") == (
        "<td>a<br>\nb</td>\n<td>c</td>\n<dt>d</dt>\n<dd>e</dd>"
    )
