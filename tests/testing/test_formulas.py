"""The formulas of every clause can be read in a terminal and in a report."""

import pytest

from refattn.testing.catalogue import clauses
from refattn.testing.formulas import in_html, in_text


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"$\lfloor h / (H / G) \rfloor$", "⌊h / (H / G)⌋"),
        (r"$\sum_t x_t^\top \bar y_t$", "Σ_t x_tᵀ y\u0304_t"),
        (r"$\sqrt{1 + \ln(L_{max}/L_0)/\ln L_0}$", "√(1 + ln(L_max/L_0)/ln L_0)"),
        (r"$(a \cos\phi - b \sin\phi)$", "(a cos φ - b sin φ)"),
        (r"of $2^{-8h/H}$, $h = 1, \ldots, H$.", "of 2^(-8h/H), h = 1, …, H."),
    ],
)
def test_text(latex, text):
    assert in_text(latex) == text


@pytest.mark.parametrize("clause", clauses())
def test_no_clause_shows_its_latex(clause):
    sentence = clauses()[clause][1]
    for written in (in_text(sentence), in_html(sentence)):
        assert not set("$\\{}") & set(written)
    assert in_html(sentence).count("<su") == in_html(sentence).count("</su")
