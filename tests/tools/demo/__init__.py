"""Two mail servers and one Django project that sends through both. ``tox -e demo``"""
