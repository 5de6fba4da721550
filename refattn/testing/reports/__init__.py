"""A report as text for a terminal, as versioned JSON, as JUnit XML and as one HTML page."""

from refattn.testing.reports.document import SCHEMA, as_document, as_json, environment
from refattn.testing.reports.html import as_html
from refattn.testing.reports.junit import as_junit
from refattn.testing.reports.matrix import as_matrix
from refattn.testing.reports.progress import progress_on
from refattn.testing.reports.text import as_text

__all__ = [
    "SCHEMA", "as_document", "as_html", "as_json", "as_junit", "as_matrix", "as_text", "environment", "progress_on",
]  # fmt: skip
