"""Django's tests of mail and CPython's of smtplib, with ours. ``tox -e django-suite``"""
