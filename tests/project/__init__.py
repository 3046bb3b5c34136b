"""A project with hosts and tests of its own, run by ``test_project.py`` without a network.

``mail_tests.py`` is what a user might write. Each run is a process of its own, for
Django's test runner and pytest-django, with and without ``MAILERS``.
"""
