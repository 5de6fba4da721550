"""A report as JUnit XML."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from refattn.testing.report import Report

import xml.etree.ElementTree as ET


def as_junit(report: Report) -> str:
    """JUnit XML: one test a case; known deviations and missing features are skipped tests."""
    suite = ET.Element(
        "testsuite",
        name=f"refattn.{report.target}",
        tests=str(len(report.results)),
        failures=str(report.count("broken")),
        errors=str(report.count("unjudged")),
        skipped=str(report.count("known") + report.count("unsupported")),
        time=f"{report.seconds:.3f}",
    )
    if report.causes:
        properties = ET.SubElement(suite, "properties")
        for cause in report.causes:
            ET.SubElement(properties, "property", name="cause", value=f"{cause.function}: {cause}")
    for r in report.results:
        test = ET.SubElement(suite, "testcase", classname=f"{report.target}.{r.case.function}", name=r.case.id)
        properties = ET.SubElement(test, "properties")
        for clause in r.case.clauses:
            ET.SubElement(properties, "property", name="clause", value=clause)
        if r.status == "broken":
            failure = ET.SubElement(test, "failure", message=f"{r.deviation} ({r.clause})")
            failure.text = f"{r.message}\nReplay: {report.replay(r.case)}"
        elif r.status == "unjudged":
            error = ET.SubElement(test, "error", message=f"could not be judged: {r.reason}")
            error.text = f"Replay: {report.replay(r.case)}"
        elif r.status == "known":
            ET.SubElement(test, "skipped", message=f"known deviation {r.deviation}: {r.reason}")
        elif r.status == "unsupported":
            ET.SubElement(test, "skipped", message=f"not supported: {r.reason}")
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
