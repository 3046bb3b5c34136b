"""A project with hosts and tests of its own, run by ``test_capture.py`` without a network."""
