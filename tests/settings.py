"""Settings of the tests. Each test names the hosts that it needs."""

SECRET_KEY = "tests"
INSTALLED_APPS = ["email_hosts"]
USE_TZ = True
DEFAULT_FROM_EMAIL = "project@example.com"
SERVER_EMAIL = "root@example.com"
ADMINS = MANAGERS = ["admin@example.com"]
EMAIL_HOSTS = {
    "shop": "submission://shop:shop-secret@smtp.example.com?_default_from_email=shop@example.com",
    "club": "submission://club:club-secret@smtp.example.org?_default_from_email=club@example.org",
}
