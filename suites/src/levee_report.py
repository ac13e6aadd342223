"""A plugin of pytest: writes a line of JSON for each phase of each test."""

import inspect
import json
import os

import pytest


def _write(test, when, outcome, says):
    line = {"test": test, "when": when, "outcome": outcome, "says": says}
    with open(os.environ["LEVEE_SUITES_REPORT"], "a") as file:
        file.write(json.dumps(line) + "\n")


def _says(report):
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr or "")
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[0] if lines else ""


def pytest_runtest_logreport(report):
    _write(report.nodeid, report.when, report.outcome, _says(report))


def pytest_collectreport(report):
    if report.failed:
        _write(report.nodeid, "collect", "failed", str(report.longrepr).strip().splitlines()[-1])


def pytest_sessionfinish(session, exitstatus):
    _write("", "end", "", str(int(exitstatus)))


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector, name, obj):
    """Removes an argument by which redis-py marks tests, and which pytest-asyncio refuses."""
    if inspect.isfunction(obj):
        for mark in getattr(obj, "pytestmark", []):
            mark.kwargs.pop("forbid_global_loop", None)
