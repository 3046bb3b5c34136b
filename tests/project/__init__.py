"""A project with hosts and tests of its own, run by ``test_project.py`` without a network."""
