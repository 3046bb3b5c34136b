"""A project whose mail is sent by task workers and views, run by ``test_workers.py``.

``celeryapp.py`` is for Celery, ``djangotasks.py`` for Django's own tasks. The workers are
processes of their own; mail server and folder come from the environment.
"""
