"""A project whose mail is sent by task workers, run by ``test_tasks.py``.

``celeryapp.py`` is for Celery, ``djangotasks.py`` for Django's own tasks. The workers are
processes of their own; mail server and folder come from the environment.
"""
