"""Django's tests of mail and CPython's of smtplib, with our classes. ``tox -e django-suite``

``source.py`` gets Django's tests, ``shims.py`` puts our backends in the place of Django's,
``runner.py`` and ``cpython.py`` run the tests, each in a process of its own. ``expected.py``
lists what differs, and why; ``verdict.py`` makes these unittest's expected failures.
"""
