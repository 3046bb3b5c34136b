"""Its settings: one host that keeps its connections, views, and a queue in a folder."""

import os
from importlib.util import find_spec
from pathlib import Path

import django

FOLDER = Path(os.environ["WORKER_FOLDER"])
HAS_TASKS = django.VERSION >= (6, 0) and find_spec("django_tasks_db") is not None

SECRET_KEY = "worker"
INSTALLED_APPS = ["email_hosts", *HAS_TASKS * ["django_tasks_db"]]
USE_TZ = True
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "worker.urls"
EMAIL_HOSTS = {"shop": f"smtp://127.0.0.1:{os.environ['WORKER_PORT']}?conn_max_age=600"}
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / "sqlite3"}}
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
