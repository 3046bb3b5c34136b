"""Django's tests of mail and CPython's of smtplib, with our classes. ``tox -e django-suite``

``shims.py`` puts our backends in the place of Django's, ``runner.py`` and ``cpython.py`` run
the tests, each in a process of its own. ``expected.ini`` lists what differs, and why: these
are unittest's expected failures.
"""
