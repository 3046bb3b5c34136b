"""A small project: two hosts whose DSNs come from the environment, and two made of them."""

import os

SECRET_KEY = "demo"
ALLOWED_HOSTS = ["testserver"]
INSTALLED_APPS = ["email_hosts"]
ROOT_URLCONF = "tools.demo.urls"
USE_TZ = True
DEFAULT_FROM_EMAIL = "project@example.com"
EMAIL_HOSTS = {
    "shop": os.environ["SHOP_EMAIL_HOST"],
    "club": os.environ["CLUB_EMAIL_HOST"],
    "orders": "failover:shop,club",
    "staging": os.environ["CLUB_EMAIL_HOST"] + "&_redirect_to=qa@example.org",
}
