"""Measure what an error report costs, beside one with Django's own filter.

``python -m tools.benchmarks.reports``, in the folder of the tests.

Each report is made with one filter and then with the other, in turns, so that whatever else
the machine does falls on both.
"""

from __future__ import annotations

import argparse
import sys
from statistics import median
from time import process_time
from typing import Any

import django
from django.conf import settings
from django.test import RequestFactory
from django.views.debug import ExceptionReporter, SafeExceptionReporterFilter

from email_hosts.debug import EmailHostsReporterFilter

HOSTS = {
    f"shop-{number}": f"submission://shop:secret{number}@smtp{number}.example.com?timeout=5"
    for number in range(1000)
}

# runserver lists it in request.META.
ENVIRONMENT: dict[str, Any] = {
    f"HOST_{number}": dsn for number, dsn in enumerate(HOSTS.values())
}

urlpatterns: list[object] = []

# The variables of the frame that fails.
PAGES: dict[str, dict[str, object]] = {
    "120 texts of 10 kB": {f"text_{i}": f"{i} lorem ipsum dolor " * 500 for i in range(120)},
    "120 lists of 1,000": {f"list_{i}": [f"{i}.{j}" for j in range(1000)] for i in range(120)},
    "1,000 short texts": {f"text_{i}": f"{i}" for i in range(1000)},
    "'backend:' * 200,000": {"body": "backend:" * 200_000},
    "a text of 1 MB": {"body": "x" * 1_000_000},
    "smtp:// and 1 MB": {"body": "smtp://" + "x" * 1_000_000},
}


def main() -> None:
    """Print the processor time that a report takes, and the ratio to Django's own filter."""
    parser = argparse.ArgumentParser(prog="tools.benchmarks.reports", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="how often each report is made")
    rounds = parser.parse_args().rounds
    settings.configure(
        SECRET_KEY="tests", USE_TZ=True, ROOT_URLCONF=__name__, EMAIL_HOSTS=HOSTS
    )
    django.setup()
    print(f"Django {django.__version__}, {len(HOSTS):,} hosts, {rounds} rounds, medians")
    for page, variables in PAGES.items():
        times: dict[Any, list[float]] = {SafeExceptionReporterFilter: []}
        times[EmailHostsReporterFilter] = []
        for _ in range(rounds):
            for chosen, taken in times.items():
                taken.append(seconds(variables, chosen))
        djangos, ours = map(median, times.values())
        print(
            f"{page:20} Django {djangos * 1000:8.1f} ms   email_hosts {ours * 1000:8.1f} ms"
            f"   ratio {ours / djangos:.2f}"
        )


def seconds(variables, chosen):
    """Return the processor time that the report of an error in such a frame takes."""
    try:
        exec("1 / 0", {"__name__": "shop.views"}, dict(variables))
    except ZeroDivisionError:
        reporter = ExceptionReporter(RequestFactory(**ENVIRONMENT).get("/"), *sys.exc_info())
    reporter.filter = chosen()
    start = process_time()
    reporter.get_traceback_html()
    return process_time() - start


if __name__ == "__main__":
    main()
