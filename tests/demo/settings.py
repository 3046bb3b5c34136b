"""A small project with two hosts, whose DSNs come from the environment."""

import os

SECRET_KEY = "demo"
ALLOWED_HOSTS = ["testserver"]
INSTALLED_APPS = ["email_hosts", "demo.shop"]
ROOT_URLCONF = "demo.shop.urls"
USE_TZ = True
DEFAULT_FROM_EMAIL = "project@example.com"
EMAIL_HOSTS = {"shop": os.environ["SHOP_EMAIL_HOST"], "club": os.environ["CLUB_EMAIL_HOST"]}
