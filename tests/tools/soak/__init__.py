"""Much mail through three hosts that misbehave, and an account of all of it. ``tox -e soak``

``chaos.py`` has the servers.
"""
