"""Settings of the tests: two hosts that no test may reach."""

import django

SECRET_KEY = "tests"
INSTALLED_APPS = ["email_hosts"]
USE_TZ = True
DEFAULT_FROM_EMAIL = "project@example.com"
SERVER_EMAIL = "root@example.com"
# Pairs until Django 6.0, plain addresses since then.
ADMINS = MANAGERS = (
    ["admin@example.com"] if django.VERSION >= (6, 0) else [("Admin", "admin@example.com")]
)
EMAIL_HOSTS = {
    "shop": "submission://shop:Kx7vQz9@smtp.example.com?_default_from_email=shop@example.com",
    "club": "submission://club:Wj4bYt2@smtp.example.org?_default_from_email=club@example.org",
}
