"""Softmax, log-sum-exp, and the merge of two parts."""

from __future__ import annotations

from refattn.softmax import logsumexp, merge, softmax
from refattn.testing.mechanisms.softmax import bounds, inputs
from refattn.testing.subject import Subject

SOFTMAX = Subject(
    softmax,
    inputs.logits,
    "SOFTMAX-NORMAL",
    inputs.scores,
    bound=bounds.softmax_bound,
    axes={"out": ("rows", "entries")},
)
LOGSUMEXP = Subject(logsumexp, inputs.logits, "SOFTMAX-NORMAL", inputs.scores, bound=bounds.logsumexp_bound)
MERGE = Subject(merge, inputs.parts, "MERGE-UNION", inputs.pairs_of_parts, bound=bounds.merge_bound)
