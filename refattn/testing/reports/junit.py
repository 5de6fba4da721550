"""A report as JUnit XML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refattn.testing.coverage import WEAK, summed

if TYPE_CHECKING:
    from refattn.testing.report import Report

import xml.etree.ElementTree as ET


def as_junit(report: Report) -> str:
    """JUnit XML: one test a case; known deviations and missing features are skipped tests."""
    suite = ET.Element(
        "testsuite",
        name=f"refattn.{report.target}",
        tests=str(len(report.results) + len(report.weak)),
        failures=str(report.count("broken") + len(report.weak)),
        errors=str(report.count("unjudged")),
        skipped=str(report.count("known") + report.count("unsupported")),
        time=f"{report.seconds:.3f}",
    )
    said = [("cause", f"{cause.function}: {cause}") for cause in report.causes]
    said += [("coverage", summed(report.coverage))] if report.coverage else []
    said += [("unasked", text) for text in report.unasked]
    if said:
        properties = ET.SubElement(suite, "properties")
        for name, value in said:
            ET.SubElement(properties, "property", name=name, value=value)
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
    for found in report.weak:
        test = ET.SubElement(suite, "testcase", classname=f"{report.target}.{found.function}", name=WEAK)
        ET.SubElement(test, "failure", message=found.told(report.at_least))
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
