"""The schemes of DSNs, and the options that each one sets. ``dsn`` makes hosts of them."""

from __future__ import annotations

from typing import Any

SMTP_PORT, SUBMISSION_PORT, IMPLICIT_TLS_PORT = 25, 587, 465  # RFC 8314, 7.3

# Options that a scheme stands for.
STARTTLS, IMPLICIT_TLS = {"use_tls": True}, {"use_ssl": True}
SMTP_SCHEMES: dict[str, dict[str, Any]] = {
    "smtp": {},
    "submission": STARTTLS,
    "smtp+tls": STARTTLS,
    "smtps": IMPLICIT_TLS,
    "submissions": IMPLICIT_TLS,
    "smtp+ssl": IMPLICIT_TLS,
}
SEVERAL_SCHEMES: dict[str, dict[str, Any]] = {"failover": {}, "roundrobin": {"rotate": True}}
BUILTIN_SCHEMES = ("console", "locmem", "dummy")
LOCAL_SCHEMES = (*BUILTIN_SCHEMES, "file")  # nothing leaves the machine
ANYMAIL = "anymail+"  # the name of the provider follows
PROVIDERS = (  # of django-anymail 15, only for hints: others work, too
    *("amazon-ses", "brevo", "mailersend", "mailgun", "mailjet", "mailtrap", "mandrill"),
    *("postal", "postmark", "resend", "scaleway", "sendgrid", "sparkpost", "unisender-go"),
)
SCHEMES = (*SMTP_SCHEMES, *LOCAL_SCHEMES, *SEVERAL_SCHEMES, "backend")

# Our schemes for those of Symfony, dj-email-url and django-environ.
OTHER_SCHEMES = {
    **{provider: ANYMAIL + provider for provider in PROVIDERS},
    **dict.fromkeys(("ses", "amazonses"), "anymail+amazon-ses"),
    **dict.fromkeys(("submit", "starttls", "smtptls", "gmail"), "submission"),
    **dict.fromkeys(("sendmail", "native"), "smtp"),
    **dict.fromkeys(("null", "dummymail"), "dummy"),
    **dict.fromkeys(("memory", "memorymail"), "locmem"),
    "sendinblue": "anymail+brevo",
    "fallback": "failover",
    "anymail": "anymail+mailgun",
    "consolemail": "console",
    "filemail": "file",
}

DJANGO_BACKENDS = "django.core.mail.backends"
FILE_BACKEND = f"{DJANGO_BACKENDS}.filebased.EmailBackend"
DJANGO_SMTP_BACKEND = f"{DJANGO_BACKENDS}.smtp.EmailBackend"
