"""The report of one run, which several files of tests read."""

import pytest


@pytest.fixture(scope="session")
def report_page(tmp_path_factory):
    """The report of a run that has everything, with hostile text in it; tests only read it."""
    from support.runs import write_full_run

    from mtcpo.report.page import write_report

    return write_report(write_full_run(tmp_path_factory.mktemp("run") / "garden"))


@pytest.fixture(scope="session")
def report_html(report_page):
    """The text of `report_page`."""
    return report_page.read_text(encoding="utf-8")
