"""Much mail through hosts that misbehave, and an account of all of it. ``tox -e soak``"""
